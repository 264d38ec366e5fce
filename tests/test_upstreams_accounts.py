"""Which accounts the API keys have, and what those can pay for."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.caching.background import inline
from horde_proxy.errors import InvalidApiKey, UpstreamFailed
from horde_proxy.upstreams.horde.accounts import Account, Accounts
from tests.support import CLIENT_KEY, Clock, World


class StubHorde:
    """Answers find_user and status/performance, and counts."""

    def __init__(self, user: Any = None, performance: Any = None) -> None:
        self.user, self.load, self.calls = user, performance or {}, 0

    def find_user(self, api_key: str) -> dict[str, Any]:
        self.calls += 1
        if isinstance(self.user, Exception):
            raise self.user
        return dict(self.user)

    def performance(self) -> dict[str, Any]:
        self.calls += 1
        if isinstance(self.load, Exception):
            raise self.load
        return dict(self.load)


RICH = {"username": "ann#1", "kudos": 5000.0, "concurrency": 30, "trusted": True}


def accounts(horde: StubHorde) -> Accounts:
    return Accounts(horde, timer=Clock(), run=inline)  # type: ignore[arg-type]


def test_an_account_is_loaded_once_a_minute() -> None:
    clock, horde = Clock(), StubHorde(RICH)
    known = Accounts(horde, timer=clock, run=inline)  # type: ignore[arg-type]
    assert known.of("key") == known.of("key") == Account("ann#1", 5000.0, 30, True, 0)
    assert horde.calls == 1
    clock.seconds += 61
    known.of("key")
    assert horde.calls == 2


@pytest.mark.parametrize("trouble", [InvalidApiKey("no"), UpstreamFailed("down"), {}])
def test_an_account_that_cannot_be_loaded_has_no_kudos(trouble: Any) -> None:
    assert accounts(StubHorde(trouble)).of("key").kudos == 0


def test_kudos_buy_long_jobs_and_without_them_the_free_length_remains() -> None:
    load = {"text_thread_count": 10, "queued_text_requests": 100}
    assert accounts(StubHorde(RICH, load)).max_length("key", 8.0, 1) == int(4975 * 21 / 8)
    assert accounts(StubHorde({**RICH, "kudos": 100.0}, load)).max_length("key", 8.0, 1) == 472
    assert accounts(StubHorde(RICH, load)).max_length("0000000000", 8.0, 1) == 472


def test_kudos_that_are_held_for_one_request_are_not_spent_on_another() -> None:
    known = accounts(StubHorde(RICH))
    known.hold_kudos("key", 4900.0)
    assert known.max_length("key", 8.0, 1) == 512
    known.hold_kudos("key", -4900.0)
    assert known.max_length("key", 8.0, 1) == int(4975 * 21 / 8)


def test_a_horde_whose_load_is_unknown_counts_as_full() -> None:
    assert accounts(StubHorde(RICH, UpstreamFailed("down"))).free_length() == 256


def test_after_a_refusal_jobs_are_short_for_a_while() -> None:
    known = accounts(StubHorde(RICH))
    known.note_refusal("key")
    assert known.max_length("key", 8.0, 1) == 256


def test_only_accounts_with_kudos_get_fast_workers_only() -> None:
    assert accounts(StubHorde(RICH)).fast_only_affordable("key", 512, 8.0, 1)
    assert not accounts(StubHorde({**RICH, "kudos": 30.0})).fast_only_affordable("key", 512, 8.0, 1)
    assert not accounts(StubHorde(RICH)).fast_only_affordable("0000000000", 512, 8.0, 1)


def test_a_real_account_is_read(world: World) -> None:
    known = Accounts(world.client, timer=world.clock, run=inline).of(CLIENT_KEY)
    assert (known.name, known.kudos, known.concurrency) == ("client#2", 10_000.0, 30)


def test_an_account_stays_known_when_it_cannot_be_loaded_anew() -> None:
    clock, horde = Clock(), StubHorde(RICH)
    known = Accounts(horde, timer=clock, run=inline)  # type: ignore[arg-type]
    known.of("key")
    horde.user = UpstreamFailed("down")
    clock.seconds += 61
    assert known.of("key").kudos == 5000.0
    assert horde.calls == 2


def test_an_unknown_key_is_asked_about_once_a_minute() -> None:
    clock, horde = Clock(), StubHorde(InvalidApiKey("no"))
    known = Accounts(horde, timer=clock, run=inline)  # type: ignore[arg-type]
    for _ in range(3):
        known.of("key")
    assert horde.calls == 1
    clock.seconds += 61
    known.of("key")
    assert horde.calls == 2

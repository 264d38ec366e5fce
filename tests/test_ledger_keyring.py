"""Which keys may come in, and how soon a change of the store is seen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from horde_proxy.caching.background import inline
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable
from horde_proxy.key_digest import digest_of_setting, key_digest
from horde_proxy.ledger.keyring import KeyRing
from horde_proxy.ledger.keys import ClientKey
from tests.support import Clock

ANN, BOB = ClientKey("ann"), ClientKey("bob")


class Loading:
    """A database's keys; a reading runs at once, or when a test calls what is in `started`."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.keys: dict[str, ClientKey] = {key_digest("hp-bob"): BOB}
        self.fails, self.inline, self.has_threads, self.times = False, True, True, 0
        self.begun: list[Callable[[], None]] = []
        self.ring = KeyRing(
            {key_digest("hp-ann"): ANN}, self.load, clock=self.clock, ttl=5, run=self.run
        )

    def load(self) -> Mapping[str, ClientKey]:
        self.times += 1
        if self.fails:
            raise DatabaseError("gone")
        return dict(self.keys)

    def run(self, call: Callable[[], None]) -> None:
        if not self.has_threads:
            raise RuntimeError("can't start new thread")
        self.begun.append(call)
        if self.inline:
            call()


@pytest.fixture
def loading() -> Loading:
    return Loading()


def test_a_configured_key_is_found_and_another_is_not() -> None:
    ring = KeyRing({key_digest("hp-ann"): ANN})
    assert ring.find("hp-ann") == ANN
    assert ring.find("hp-eve") is None


def test_a_key_may_be_configured_as_its_digest_but_not_sent_as_one() -> None:
    written = "sha256:" + key_digest("hp-ann")
    ring = KeyRing({digest_of_setting(written): ANN})
    assert ring.find("hp-ann") == ANN
    assert ring.find(written) is None


def test_a_key_of_the_database_is_found(loading: Loading) -> None:
    assert loading.ring.find("hp-bob") == BOB
    assert loading.ring.find("hp-eve") is None
    assert loading.times == 1


def test_a_configured_key_does_not_need_the_database(loading: Loading) -> None:
    loading.fails = True
    assert loading.ring.find("hp-ann") == ANN
    assert loading.times == 0


def test_the_configuration_goes_before_the_database(loading: Loading) -> None:
    loading.keys[key_digest("hp-ann")] = BOB
    assert loading.ring.find("hp-ann") == ANN


def test_a_revoked_key_is_not_found_when_the_time_to_live_has_passed(loading: Loading) -> None:
    assert loading.ring.find("hp-bob") == BOB
    loading.keys.clear()
    loading.clock.seconds += 2
    assert loading.ring.find("hp-bob") == BOB
    loading.clock.seconds += 3
    assert loading.ring.find("hp-bob") is None


def test_keys_are_read_again_early_and_no_request_waits(loading: Loading) -> None:
    loading.ring.find("hp-bob")
    loading.inline = False
    loading.keys.clear()
    loading.clock.seconds += 3
    assert loading.ring.find("hp-bob") == BOB
    assert len(loading.begun) == 2
    loading.begun[1]()
    assert loading.ring.find("hp-bob") is None


def test_keys_are_read_once_at_a_time(loading: Loading) -> None:
    loading.ring.find("hp-bob")
    loading.inline = False
    loading.clock.seconds += 3
    for _ in range(5):
        loading.ring.find("hp-bob")
    loading.clock.seconds += 60
    assert loading.ring.find("hp-bob") == BOB
    assert (len(loading.begun), loading.times) == (2, 1)


def test_the_last_keys_are_used_while_the_database_fails_which_is_logged_once(
    loading: Loading, caplog: pytest.LogCaptureFixture
) -> None:
    loading.ring.find("hp-bob")
    loading.fails = True
    for _ in range(3):
        loading.clock.seconds += 6
        assert loading.ring.find("hp-bob") == BOB
    assert caplog.messages == [
        "the database's keys cannot be read, the last ones stay valid: gone",
    ]
    loading.fails = False
    loading.keys.clear()
    loading.clock.seconds += 6
    assert loading.ring.find("hp-bob") is None


def test_a_ring_with_new_configured_keys_knows_the_stored_ones(loading: Loading) -> None:
    loading.ring.find("hp-bob")
    loading.fails = True
    loading.clock.seconds += 6
    ring = loading.ring.with_configured({}, loading.load)
    assert (ring.find("hp-bob"), ring.find("hp-ann")) == (BOB, None)


def test_keys_that_could_never_be_read_are_unavailable_not_wrong(loading: Loading) -> None:
    loading.fails = True
    with pytest.raises(Unavailable) as caught:
        loading.ring.find("hp-bob")
    assert (caught.value.code, caught.value.retry_after) == ("keys_unavailable", 5)
    loading.fails = False
    loading.clock.seconds += 5
    assert loading.ring.find("hp-bob") == BOB


def test_the_last_keys_are_used_when_no_thread_can_start(loading: Loading) -> None:
    loading.ring.find("hp-bob")
    loading.clock.seconds += 6
    loading.has_threads = False
    assert loading.ring.find("hp-bob") == BOB
    loading.has_threads = True
    loading.keys.clear()
    assert loading.ring.find("hp-bob") is None


def test_the_first_requests_wait_for_one_reading() -> None:
    times = []
    all_find = threading.Barrier(8)

    def load() -> Mapping[str, ClientKey]:
        times.append(threading.current_thread())
        return {key_digest("hp-bob"): BOB}

    ring = KeyRing({}, load, clock=Clock())

    def find(number: int) -> ClientKey | None:
        all_find.wait()
        return ring.find("hp-bob")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(find, range(8))) == [BOB] * 8
    assert len(times) == 1
    assert times[0] is not threading.current_thread()


def test_a_ring_without_any_key_says_how_to_make_one(caplog: pytest.LogCaptureFixture) -> None:
    clock, stored = Clock(), dict[str, ClientKey]()
    rings = [
        KeyRing(configured, lambda: dict(stored), clock=clock, run=inline)
        for configured in ({}, {key_digest("hp-ann"): ANN})
    ]
    for _ in range(3):
        for ring in rings:
            assert ring.find("hp-bob") is None
        clock.seconds += 10
    assert caplog.messages == [
        "access.mode is 'keys', and there is no key, so that no client can use this proxy; "
        "`horde-proxy keys add NAME` makes one"
    ]
    stored[key_digest("hp-bob")] = BOB
    assert rings[0].find("hp-bob") == BOB
    assert len(caplog.records) == 1

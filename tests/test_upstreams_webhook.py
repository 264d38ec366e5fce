"""Where pushed results arrive."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from horde_proxy.upstreams.base import Sleeper
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.jobs import JobKind
from horde_proxy.upstreams.horde.webhook import Webhook
from tests.support import World
from tests.test_upstreams_lifecycle import CHECK, DONE, PICTURE, Client, Job, lifecycle


def webhook() -> Webhook:
    return Webhook("https://proxy.invalid/", lambda: "secret")


def test_the_horde_gets_a_url_with_a_secret() -> None:
    mailbox = webhook().mailbox(lambda: None)
    assert mailbox.url == "https://proxy.invalid/horde/webhook/secret"


def test_a_delivery_wakes_the_thread_that_waits() -> None:
    sleeper, hook = Sleeper(sleep=lambda seconds: None), webhook()
    mailbox = hook.mailbox(sleeper.wake)
    mailbox.expect("request")
    assert hook.deliver("secret", {"id": "job", "request": "request"})
    assert sleeper.wait(1)
    assert mailbox.take_news()
    assert not mailbox.take_news()


def test_a_delivery_that_comes_before_the_submit_was_answered_is_kept() -> None:
    hook = webhook()
    mailbox = hook.mailbox(lambda: None)
    assert hook.deliver("secret", {"id": "job", "request": "request"})
    assert not mailbox.take_news()
    mailbox.expect("request")
    assert mailbox.take_news()


def test_a_delivery_for_another_request_is_refused() -> None:
    hook = webhook()
    mailbox = hook.mailbox(lambda: None)
    mailbox.expect("request")
    assert not hook.deliver("secret", {"id": "job", "request": "other"})
    assert not hook.deliver("guess", {"id": "job", "request": "request"})
    assert not hook.deliver("secret", {"id": 1, "request": "request"})
    assert not mailbox.take_news()


def test_a_job_is_delivered_once() -> None:
    hook = webhook()
    hook.mailbox(lambda: None).expect("request")
    assert hook.deliver("secret", {"id": "job", "request": "request"})
    assert not hook.deliver("secret", {"id": "job", "request": "request"})


def test_a_closed_mailbox_takes_nothing() -> None:
    hook = webhook()
    hook.mailbox(lambda: None).close()
    assert not hook.deliver("secret", {"id": "job", "request": "request"})


# What a webhook costs, and brings

URL = "https://proxy.invalid"


class Pushing(Client):
    """A horde whose jobs take `seconds`; it pushes results while `pushes`, and notes lateness."""

    def __init__(self, world: World, seconds: float) -> None:
        super().__init__([])
        self.clock, self.seconds, self.pushes = world.clock, seconds, True
        self.end, self.polls = 0.0, 0
        self.pushed: dict[str, Any] | None = None
        self.webhook: Webhook | None = None
        world.clock.every_sleep.append(self.push)

    def submit(self, kind: JobKind, payload: Mapping[str, Any], api_key: str) -> str:
        self.end, self.polls = self.clock() + self.seconds, 0
        request_id = super().submit(kind, payload, api_key)
        secret = payload["webhook"].rpartition("/")[2]
        self.pushed = {"secret": secret, "id": f"job of {request_id}", "request": request_id}
        return request_id

    def push(self) -> None:
        if self.pushes and self.pushed and self.clock() >= self.end and self.webhook:
            self.webhook.deliver(self.pushed["secret"], self.pushed)
            self.pushed = None

    def answer(self, path: str, of: str) -> Any:
        self.polls += 1
        return {**DONE, "generations": [PICTURE]} if self.clock() >= self.end else CHECK


def run(world: World, horde: Pushing, context: HordeContext | None = None) -> float:
    """The lateness of one answer (s), with the webhook of the answers before."""
    made, _, context = lifecycle(world, horde, Job())
    horde.webhook = context.webhook
    list(made.items())
    return world.clock() - horde.end


@pytest.fixture
def pushing(world: World) -> Pushing:
    """A horde whose jobs take 20 s, and a proxy with a webhook."""
    shared = Webhook(URL)
    world.configure(horde={"webhook_url": URL})
    upstream = world.upstream
    world.upstream = lambda: _with_webhook(upstream(), shared)  # type: ignore[method-assign]
    return Pushing(world, 20.3)


def _with_webhook(upstream: Any, webhook: Webhook) -> Any:
    fields = {name: getattr(upstream._horde, name) for name in HordeContext.__dataclass_fields__}
    upstream._horde = HordeContext(**{**fields, "webhook": webhook})
    return upstream


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "webhook_url" in record.getMessage()
    ]


WARNING = (
    "results of the horde do not come to the webhook_url https://proxy.invalid; the horde is "
    "polled until one comes. `horde-proxy check` tries the way there"
)


def test_missing_webhooks_delay_nothing_and_are_logged_once(
    world: World, pushing: Pushing, caplog: pytest.LogCaptureFixture
) -> None:
    pushing.pushes = False
    late = [run(world, pushing) for _ in range(9)]
    assert max(late) <= 1.2
    assert warnings(caplog) == []
    late = [run(world, pushing) for _ in range(9)]
    assert max(late) <= 1.2
    assert warnings(caplog) == [WARNING]


def test_once_a_result_was_pushed_polls_are_rare(world: World, pushing: Pushing) -> None:
    assert run(world, pushing) <= 1.2
    late = [run(world, pushing) for _ in range(3)]
    assert max(late) <= 0.9
    assert pushing.polls == 4


def test_a_missing_push_costs_one_answer_and_the_next_ones_are_polled(
    world: World, pushing: Pushing, caplog: pytest.LogCaptureFixture
) -> None:
    [run(world, pushing) for _ in range(2)]
    pushing.pushes = False
    assert 1.2 < run(world, pushing) <= 15.0
    assert warnings(caplog) == [WARNING]
    assert max(run(world, pushing) for _ in range(20)) <= 1.2
    pushing.pushes = True
    [run(world, pushing) for _ in range(2)]
    assert pushing.polls == 4
    pushing.pushes = False
    [run(world, pushing) for _ in range(2)]
    assert warnings(caplog) == [WARNING]


def test_a_push_that_is_late_by_less_than_a_slow_poll_is_not_missing() -> None:
    hook = webhook()
    hook.note_delivery()
    hook.note_missing(2.0)
    assert hook.is_reliable
    hook.note_missing(15.0)
    assert not hook.is_reliable

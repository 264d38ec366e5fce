"""Where pushed results arrive."""

from __future__ import annotations

from horde_proxy.upstreams.base import Sleeper
from horde_proxy.upstreams.horde.webhook import Webhook


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

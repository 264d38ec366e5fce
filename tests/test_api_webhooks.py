"""Webhooks that tell how background responses and batches end."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import pytest

from horde_proxy.api import batch_jobs
from horde_proxy.app.factory import composition_of
from horde_proxy.config import ConfigError
from horde_proxy.upstreams.webhook_signature import signed_headers
from tests.support import Scripted, World
from tests.test_api_files import upload

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
SETTINGS = {"url": "https://receiver.invalid/hook", "secret": SECRET}
BODY = {"model": "test/model", "input": "Say hello.", "background": True}


class Receiver:
    """A proxy with a receiver, whose answers are those of `failures`, then None."""

    def __init__(self, world: World, *failures: str, **settings: Any) -> None:
        self.calls: list[tuple[float, str, bytes, Mapping[str, str]]] = []
        self.failures = list(failures)
        self.world = world.configure(webhooks={**SETTINGS, **settings})
        world.runtime = replace(world.runtime, post_webhook=self.post)
        world.employ(Scripted("Hello there."))
        self.app = world.app()
        self.http = self.app.test_client()

    def post(self, url: str, content: bytes, headers: Mapping[str, str]) -> str | None:
        self.calls.append((self.world.clock(), url, content, headers))
        return self.failures.pop(0) if self.failures else None

    def step(self) -> None:
        while composition_of(self.app).jobs.step():
            pass

    def begin(self) -> str:
        response = self.http.post("/v1/responses", json=BODY)
        assert response.json is not None
        return str(response.json["id"])

    def restart(self) -> None:
        """A new process; the old one is gone without a word."""
        self.app = self.world.app()
        self.http = self.app.test_client()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(content) for _, _, content, _ in self.calls]


def test_the_end_of_a_response_is_told_and_signed(world: World) -> None:
    receiver = Receiver(world)
    response_id = receiver.begin()
    assert receiver.calls == []
    receiver.step()
    [(at, url, content, headers)] = receiver.calls
    event = json.loads(content)
    assert url == "https://receiver.invalid/hook"
    assert event == {
        "id": event["id"],
        "object": "event",
        "type": "response.completed",
        "created_at": int(at),
        "data": {"id": response_id},
    }
    assert headers["webhook-id"] == event["id"]
    assert event["id"].startswith("evt_")
    signed = f"{event['id']}.{headers['webhook-timestamp']}.".encode() + content
    digest = hmac.new(b"0123456789abcdef0123456789abcdef", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of standard-webhooks.md, "Verifying webhook authenticity".
    headers = signed_headers(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1614265330,
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_cancel_is_told_once(world: World) -> None:
    receiver = Receiver(world)
    response_id = receiver.begin()
    for _ in range(2):
        receiver.http.post(f"/v1/responses/{response_id}/cancel")
    receiver.step()
    assert [event["type"] for event in receiver.events] == ["response.cancelled"]


def test_only_the_events_that_are_wanted_are_sent(world: World) -> None:
    receiver = Receiver(world, events=["response.failed"])
    receiver.begin()
    receiver.step()
    assert receiver.calls == []


def test_an_event_is_sent_again_with_growing_gaps_for_three_days(world: World) -> None:
    receiver = Receiver(world, *["it answered 500"] * 99)
    receiver.begin()
    begin = world.clock()
    while world.clock() < begin + 80 * 3600:
        receiver.step()
        world.clock.seconds += 60
    gaps = [
        round((later[0] - earlier[0]) / 60)
        for earlier, later in zip(receiver.calls, receiver.calls[1:], strict=False)
    ]
    assert gaps[:8] == [1, 5, 30, 120, 300, 600, 840, 1200]
    assert receiver.calls[-1][0] - begin <= 72 * 3600 + 120
    assert len({headers["webhook-id"] for _, _, _, headers in receiver.calls}) == 1
    assert len({headers["webhook-signature"] for _, _, _, headers in receiver.calls}) > 1


def test_an_event_outlives_a_restart(world: World) -> None:
    receiver = Receiver(world, "ConnectTimeout")
    receiver.begin()
    receiver.step()
    assert len(receiver.calls) == 1
    receiver.app = world.app()
    world.clock.seconds += 10
    receiver.step()
    assert len(receiver.calls) == 2


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"url": "https://receiver.invalid"}, "secret"),
        ({"url": "ftp://receiver.invalid", "secret": SECRET}, "http"),
        ({"url": "https://receiver.invalid", "secret": "whsec_short"}, "whsec_"),
        ({"url": "https://receiver.invalid", "secret": "plain"}, "whsec_"),
        ({"url": "https://receiver.invalid", "secret_file": "/no/such/file"}, "secret_file"),
        ({**SETTINGS, "events": ["response.maybe"]}, "events"),
    ],
)
def test_wrong_settings_stop_the_start(
    world: World, settings: dict[str, Any], problem: str
) -> None:
    world.configure(webhooks=settings)
    with pytest.raises(ConfigError, match=problem) as info:
        world.app()
    assert SECRET not in str(info.value)


def test_the_secret_may_be_in_a_file(world: World, tmp_path: Any) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    receiver = Receiver(world, secret=None, secret_file=str(tmp_path / "secret"))
    receiver.begin()
    receiver.step()
    assert len(receiver.calls) == 1


class Killed(BaseException):
    """A kill -9: nothing catches it, and nothing is settled."""


@pytest.mark.parametrize("is_killed", [False, True])
def test_the_end_of_a_batch_is_told(world: World, is_killed: bool) -> None:
    receiver = Receiver(world)
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "test/model", "messages": [{"role": "user", "content": "Hello"}]},
    }

    def batch(content: str) -> str:
        body = {
            "input_file_id": upload(receiver.http, content.encode()).json["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        response = receiver.http.post("/v1/batches", json=body)
        assert response.json is not None
        return str(response.json["id"])

    good, bad = batch(json.dumps(line)), batch("no JSON")
    if is_killed:
        # Each process is killed when it is about to tell of an end.
        kill = Mock(side_effect=Killed)
        for _ in range(5):
            with pytest.MonkeyPatch.context() as patch, suppress(Killed):
                patch.setattr(batch_jobs, "notify", kill)
                receiver.step()
            receiver.restart()
            world.clock.seconds += 31
        assert kill.call_count > 2
    receiver.step()
    ends = sorted([(event["type"], event["data"]["id"]) for event in receiver.events])
    assert ends == [("batch.completed", good), ("batch.failed", bad)]

"""Hundreds of requests that are bound home, under failures of every kind: none leaves the house.

The provider and the horde come before the server at home, have its models and would answer at once.
What they are sent is counted, to the byte.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.places_world import BreaksOff, PlacesWorld
from tests.support import is_thorough
from tests.test_api_failover import ALWAYS, STREAMED, TOO_LONG
from tests.test_api_places import BODIES, CHAT, SECRET, WHOLE, body_of

COUNTING = ("/v1/messages/count_tokens", "/v1/responses/input_tokens")
EVENTS = {"content_type": "text/event-stream"}
BEGUN = b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":"He"}}]}\n\n'
FAILURES: dict[str, dict[str, Any]] = {
    **ALWAYS,
    **STREAMED,
    "too long for its context": {"status": 400, "json": {"error": TOO_LONG}},
    "too long, as the first event": {"body": b'data: {"error": {"message": "Prompt is too long: '
                                     b'40000 tokens, the maximum context length is 32768", '
                                     b'"code": "context_length_exceeded"}}\n\n', **EVENTS},
    "breaks off within a stream": {"body": BEGUN, "stream": BreaksOff, **EVENTS},
    "breaks off within an answer": {"body": b'{"id": "c", "choi', "stream": BreaksOff},
    "hangs up": {"body": requests.exceptions.ChunkedEncodingError("Connection broken")},
}  # fmt: skip
# Everything that leads from one endpoint to another.
SETTINGS: dict[str, Any] = {
    "fallbacks": {"*": ["provider-only", "test/model"], "home-only": ["test/model", "auto"]},
    "routing": {"default_embedding": "embedder", "max_wait": 1, "cooldown": 1, "hedge": True},
    "horde": {"images": True, "describe_images": True},
}


def requests_of(path: str) -> list[dict[str, Any]]:
    """The bodies for a front, streamed and whole, plain and with models of its own."""
    streams = ({},) if path in WHOLE else ({}, {"stream": True})
    further = {"models": ["provider-only", "test/model"]}
    return [
        body_of(path, **stream, **more)
        for stream, more in itertools.product(streams, ({}, further))
        if not more or path == CHAT
    ]


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[PlacesWorld, Any]]:
    """A world and a client, for all failures."""
    world = PlacesWorld(**SETTINGS)
    yield world, world.http()
    assert world.outside == []


@pytest.mark.thorough
@pytest.mark.parametrize("number", range(len(FAILURES)), ids=FAILURES)
def test_nothing_that_is_bound_home_leaves_it(house: tuple[PlacesWorld, Any], number: int) -> None:
    world, http = house
    bodies = [(path, body) for path in BODIES for body in requests_of(path)]
    # With all examples, these are more than 800 requests.
    chosen = bodies if is_thorough() else bodies[number % 2 :: 2]
    world.box.failure = [*FAILURES.values()][number]
    world.box.sent.clear()
    for path, body in chosen:
        response = http.post(path, json={**body, "places": ["home"]}, buffered=True)
        assert response.data is not None
        # The next one is not kept from the box by the circuit breaker.
        world.clock.sleep(4000)
    assert world.outside == []
    assert SECRET.encode() in world.box.bodies


@pytest.mark.parametrize("path", BODIES)
def test_the_same_requests_leave_the_house_without_a_binding(path: str) -> None:
    """Otherwise the test above would show nothing."""
    world = PlacesWorld(**SETTINGS)
    world.http().post(path, json=body_of(path), buffered=True)
    assert SECRET.encode() in world.provider.bodies


@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages", "/api/generate"])
def test_the_horde_would_answer_what_all_servers_fail_on(path: str) -> None:
    world = PlacesWorld(**SETTINGS)
    world.box.failure = world.provider.failure = {"status": 500}
    response = world.http().post(path, json=body_of(path), buffered=True)
    assert response.headers["X-Endpoint"] == "horde"
    assert SECRET.encode() in world.crowd.bodies


def test_a_house_whose_only_server_is_down_stays_closed() -> None:
    """Its models cannot even be listed."""
    world = PlacesWorld(**SETTINGS)
    http: Any = world.http()
    world.session.mount("http://box.invalid", _Down())
    for path in BODIES:
        for places in ("home", ["home", "private"]):
            response = http.post(path, json=body_of(path, places=places), buffered=True)
            # Tokens are counted without a server.
            assert response.status_code >= 400 or path in COUNTING
            world.clock.sleep(4000)
    assert world.outside == []


class _Down(requests.adapters.BaseAdapter):
    """A server that is switched off."""

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        raise requests.ConnectionError("No route to host")

    def close(self) -> None:
        """Nothing is open."""

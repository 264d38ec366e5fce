"""Texts that several processes share through Redis, and what happens while it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from horde_proxy.caching.shared_texts import RedisTexts

redis = pytest.importorskip("redis")


class FakeRedis:
    """Redis as far as texts need it; `is_down` makes each call fail."""

    def __init__(self) -> None:
        self.texts: dict[str, bytes] = {}
        self.seconds: dict[str, int] = {}
        self.is_down = False
        self.calls = 0
        self._results: list[Any] = []

    def _check(self) -> None:
        self.calls += 1
        if self.is_down:
            raise redis.ConnectionError("refused")

    def pipeline(self, transaction: bool) -> FakeRedis:
        assert not transaction
        self._results = []
        return self

    def get(self, key: str) -> None:
        self._results.append(self.texts.get(key))

    def expire(self, key: str, seconds: int) -> None:
        if key in self.texts:
            self.seconds[key] = seconds
        self._results.append(key in self.texts)

    def execute(self) -> list[Any]:
        self._check()
        return self._results

    def set(self, key: str, text: str, ex: int) -> None:
        self._check()
        self.texts[key], self.seconds[key] = text.encode(), ex

    def ping(self) -> None:
        self._check()


class Process:
    """One of the processes, with the test's time and background threads."""

    def __init__(self, server: FakeRedis) -> None:
        self.seconds = 0.0
        self.background: list[Callable[[], None]] = []
        connect: Any = lambda: server  # noqa: E731
        self.texts = RedisTexts(
            connect,
            "p:sessions",
            "sessions are kept",
            seconds=60,
            clock=lambda: self.seconds,
            run=self.background.append,
        )

    def run(self) -> None:
        while self.background:
            self.background.pop()()


def test_a_text_is_shared_and_prolonged_when_it_is_read() -> None:
    server = FakeRedis()
    one, two = Process(server), Process(server)
    one.texts.put("s", "home")
    assert server.texts == {}  # it is written in the background
    one.run()
    assert (server.texts, server.seconds) == ({"p:sessions:s": b"home"}, {"p:sessions:s": 60})
    server.seconds["p:sessions:s"] = 1
    assert two.texts.get("s") == (True, "home")
    assert server.seconds["p:sessions:s"] == 60
    assert two.texts.get("other") == (True, None)


def test_an_outage_costs_one_call_and_is_found_over_in_the_background(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    server = FakeRedis()
    process = Process(server)
    process.texts.put("s", "home")
    process.run()
    server.is_down = True
    assert [process.texts.get("s") for _ in range(5)] == [(False, None)] * 5
    process.texts.put("s", "cloud")
    assert (server.calls, process.background) == (2, [])
    server.is_down = False
    process.seconds += 5
    assert process.texts.get("s") == (False, None)
    process.run()
    assert process.texts.get("s") == (True, "home")
    assert caplog.messages == [
        "Redis fails, so sessions are kept in this process only: refused",
        "Redis works again, so sessions are kept for all processes",
    ]


def test_a_process_without_a_free_thread_goes_on() -> None:
    def no_thread(call: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    connect: Any = FakeRedis
    texts = RedisTexts(connect, "p", "sessions are kept", seconds=60, run=no_thread)
    texts.put("s", "home")
    assert texts.get("s") == (False, None)

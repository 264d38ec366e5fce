"""Each document of the horde is fetched once for all, and kept while the horde is down."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.caching.background import inline
from horde_proxy.errors import Unreachable
from horde_proxy.upstreams.horde.documents import DocumentSource, LiveDocument
from tests.support import Clock


class StubHorde:
    """A list of models, or none while it is gone; counts the calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_gone = False

    def models(self) -> Any:
        self.calls += 1
        if self.is_gone:
            raise Unreachable("gone")
        return [{"name": "text-8B", "count": 1}]


def document(horde: StubHorde, clock: Clock) -> LiveDocument:
    source = DocumentSource("models", horde.models, 30)
    return LiveDocument(source, timer=clock, now=clock, run=inline)


def test_a_document_is_fetched_once_within_its_time_to_live() -> None:
    horde, clock = StubHorde(), Clock()
    live = document(horde, clock)
    assert live.recent() is live.recent()
    clock.seconds += 29
    live.recent()
    assert horde.calls == 1
    clock.seconds += 2
    live.recent()
    assert horde.calls == 2


def test_a_failed_fetch_keeps_the_last_document_for_an_hour_and_is_degraded() -> None:
    horde, clock = StubHorde(), Clock()
    live = document(horde, clock)
    before = live.recent()
    horde.is_gone = True
    clock.seconds += 3599
    assert (live.recent(), live.is_degraded) == (before, True)
    clock.seconds += 10
    assert (live.recent(), live.is_degraded) == (None, True)
    horde.is_gone = False
    clock.seconds += 10
    assert (live.recent() is None, live.is_degraded) == (False, False)


def test_a_failure_is_not_repeated_for_some_seconds_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    horde, clock = StubHorde(), Clock()
    horde.is_gone = True
    live = document(horde, clock)
    for _ in range(3):
        assert live.recent() is None
    assert horde.calls == 1
    clock.seconds += 6
    live.recent()
    assert horde.calls == 2
    assert len(caplog.records) == 1

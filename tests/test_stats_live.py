"""The horde's live data: one snapshot for all, kept warm in the background."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.caching.background import inline
from horde_proxy.errors import ShuttingDown, Unreachable, UpstreamFailed
from horde_proxy.stats.hydration import HydrationSchedule, Hydrator
from horde_proxy.stats.live import LiveHorde
from horde_proxy.stats.reference_loading import References
from horde_proxy.upstreams.horde.documents import HordeDocuments
from tests.support import Clock


class StubHorde:
    """Short answers to the calls of a client, or failures; notes the calls."""

    base = "http://horde.invalid/api/v2"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_gone = False

    def _get(self, name: str, value: Any) -> Any:
        self.calls.append(name)
        if self.is_gone:
            raise Unreachable("gone")
        return value

    def models(self, kind: str) -> Any:
        return self._get(f"models {kind}", [{"name": f"{kind}-8B", "count": 1}])

    def workers(self, kind: str) -> Any:
        return self._get(f"workers {kind}", [])

    def model_stats(self, kind: str) -> Any:
        return self._get(f"stats {kind}", {"day": {}, "month": {}, "total": {}})


def live(horde: Any, clock: Clock) -> LiveHorde:
    return LiveHorde(
        HordeDocuments(horde, ttl=30, stats_ttl=60, timer=clock, now=clock, run=inline)
    )


def test_text_and_image_are_fetched_and_indexed_apart_and_once() -> None:
    horde, clock = StubHorde(), Clock()
    known = live(horde, clock)
    text = known.snapshot("text")
    assert text is known.snapshot("text")
    assert text.status is not None and list(text.status.names()) == ["text-8B"]
    image = known.snapshot("image")
    assert image.status is not None and list(image.status.names()) == ["image-8B"]
    assert sorted(horde.calls) == [
        "models image",
        "models text",
        "stats image",
        "stats text",
        "workers image",
        "workers text",
    ]


def test_a_new_document_makes_a_new_snapshot_with_the_other_indexes_as_they_were() -> None:
    horde, clock = StubHorde(), Clock()
    known = live(horde, clock)
    before = known.snapshot("text")
    clock.seconds += 31
    after = known.snapshot("text")
    assert after is not before
    assert after.status is not before.status
    assert after.stats is before.stats


def test_a_snapshot_distinguishes_missing_documents_from_empty_ones() -> None:
    horde, clock = StubHorde(), Clock()
    snapshot = live(horde, clock).snapshot("text")
    assert snapshot.workers is not None and len(snapshot.workers) == 0
    horde.is_gone = True
    nothing = live(horde, clock).snapshot("text")
    assert (nothing.status, nothing.stats, nothing.workers) == (None, None, None)
    assert (nothing.degraded, nothing.observed_at) == (True, None)


def test_a_snapshot_is_as_old_as_its_oldest_part() -> None:
    horde, clock = StubHorde(), Clock()
    known = live(horde, clock)
    known.snapshot("text")
    clock.seconds += 40
    assert known.snapshot("text").observed_at == 1000
    clock.seconds += 25
    assert known.snapshot("text").observed_at == 1040


class Naps:
    """A sleep that notes its seconds and ends after so many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) > self.most:
            raise ShuttingDown()


def test_hydration_loads_after_the_delay_and_then_at_each_interval() -> None:
    naps, touched = Naps(2), []
    hydrator = Hydrator(
        lambda: touched.append(len(naps.seconds)),
        HydrationSchedule(50, 5, 10),
        sleep=naps,
        chance=lambda: 0.5,
        run=inline,
    )
    hydrator.start()
    hydrator.start()
    assert (naps.seconds, touched) == ([10, 55, 55], [1, 2])


def test_hydration_for_which_no_thread_could_be_started_is_tried_again_until_it_is_stopped() -> (
    None
):
    attempts: list[Any] = []

    def refuse(load: Any) -> None:
        attempts.append(load)
        raise RuntimeError("can't start new thread")

    hydrator = Hydrator(lambda: None, HydrationSchedule(), run=refuse)
    hydrator.start()
    hydrator.start()
    assert len(attempts) == 2
    hydrator.stop()
    hydrator.start()
    assert len(attempts) == 2


def test_hydration_that_is_off_starts_nothing() -> None:
    Hydrator(
        lambda: pytest.fail("it was called"), None, run=lambda load: pytest.fail("it was called")
    ).start()


def test_only_the_leading_proxy_hydrates() -> None:
    seconds_asked: list[float] = []

    def lead(seconds: float) -> bool:
        seconds_asked.append(seconds)
        return False

    Hydrator(
        lambda: pytest.fail("it was called"),
        HydrationSchedule(50, 0, 0),
        try_lead=lead,
        sleep=Naps(1),
        run=inline,
    ).start()
    assert seconds_asked == [100]


def test_hydration_keeps_text_and_the_kinds_that_were_used_warm() -> None:
    horde, clock = StubHorde(), Clock()
    known = live(horde, clock)
    known.load_if_due()
    assert sorted(horde.calls) == ["models text", "stats text", "workers text"]
    known.snapshot("image")
    horde.calls.clear()
    clock.seconds += 61
    known.load_if_due()
    assert sorted(horde.calls) == [
        "models image",
        "models text",
        "stats image",
        "stats text",
        "workers image",
        "workers text",
    ]


def test_a_reference_is_not_waited_for() -> None:
    loads: list[Any] = []
    references = References({"text": lambda: ({"a-8B": {}}, 0.0)}, run=loads.append)
    assert references.get("text") is None
    loads[0]()
    loaded = references.get("text")
    assert loaded is not None and loaded.names() == ["a-8B"]
    assert references.get("image") is None


def test_an_old_copy_of_a_reference_is_renewed_soon_and_survives_a_failure() -> None:
    clock, calls = Clock(), []

    def source() -> tuple[Any, float]:
        calls.append(clock.seconds)
        if len(calls) > 1:
            raise UpstreamFailed("no")
        return {"a-8B": {}}, 90_000.0

    references = References({"text": source}, clock=clock, run=inline)
    references.get("text")
    clock.seconds += 301
    assert references.get("text") is not None
    assert calls == [1000.0, 1301.0]

"""Each document of the horde is fetched once for all who ask, and kept while the horde is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
import responses

from horde_proxy.caching.background import inline
from horde_proxy.caching.disk import CachedDocument
from horde_proxy.caching.redis import Document, SharedDocuments
from horde_proxy.errors import ShuttingDown, Unreachable, UpstreamFailed
from horde_proxy.stats.hydration import HydrationSchedule, Hydrator
from horde_proxy.stats.live import LiveHorde
from horde_proxy.stats.reference import read_reference
from horde_proxy.stats.sources import References
from horde_proxy.upstreams.horde.documents import DocumentSource, HordeDocuments, LiveDocument

URL = "https://reference.invalid/db.json"


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class HordeContext:
    """Stands for a client: gives what it is told, or fails."""

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


def feed(horde: HordeContext, clock: Clock, **options: Any) -> LiveDocument:
    source = DocumentSource("models", lambda: horde.models("text"), 30)
    return LiveDocument(source, timer=clock, now=clock, run=inline, **options)


def live(horde: Any, clock: Clock) -> LiveHorde:
    feeds = HordeDocuments(horde, ttl=30, stats_ttl=60, timer=clock, now=clock, run=inline)
    return LiveHorde(feeds, now=clock)


def test_a_document_is_fetched_once_within_its_time_to_live() -> None:
    horde, clock = HordeContext(), Clock()
    found = feed(horde, clock)
    assert found.known() is found.known()
    clock.seconds += 29
    found.known()
    assert len(horde.calls) == 1
    clock.seconds += 2
    found.known()
    assert len(horde.calls) == 2


def test_a_failed_fetch_keeps_the_last_document_for_an_hour_and_is_degraded() -> None:
    horde, clock = HordeContext(), Clock()
    found = feed(horde, clock)
    before = found.known()
    horde.is_gone = True
    clock.seconds += 3599
    assert (found.known(), found.degraded) == (before, True)
    clock.seconds += 10
    assert (found.known(), found.degraded) == (None, True)
    horde.is_gone = False
    clock.seconds += 10
    assert (found.known() is None, found.degraded) == (False, False)


def test_a_failure_is_not_repeated_for_some_seconds_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    horde, clock = HordeContext(), Clock()
    horde.is_gone = True
    found = feed(horde, clock)
    for _ in range(3):
        assert found.known() is None
    assert len(horde.calls) == 1
    clock.seconds += 6
    found.known()
    assert len(horde.calls) == 2
    assert len(caplog.records) == 1


def test_text_and_image_are_fetched_and_indexed_apart_and_once() -> None:
    horde, clock = HordeContext(), Clock()
    found = live(horde, clock)
    status = found.status("text")
    assert status is found.status("text")
    assert status is not None and list(status.names()) == ["text-8B"]
    image = found.status("image")
    assert image is not None and list(image.names()) == ["image-8B"]
    assert horde.calls == ["models text", "models image"]


def test_a_forced_refresh_fetches_anew() -> None:
    horde, clock = HordeContext(), Clock()
    found = live(horde, clock)
    first = found.snapshot("text")
    second = found.snapshot("text", force_refresh=True)
    assert len(horde.calls) == 6
    assert (first.version, second.version) == ((1, 1, 1), (2, 2, 2))


def test_what_was_not_fetched_is_none_and_what_is_empty_is_not() -> None:
    horde, clock = HordeContext(), Clock()
    found = live(horde, clock).snapshot("text")
    assert found.workers is not None and len(found.workers) == 0
    horde.is_gone = True
    gone = live(horde, clock)
    nothing = gone.snapshot("text")
    assert (nothing.status, nothing.stats, nothing.workers) == (None, None, None)
    assert (nothing.degraded, nothing.observed_at, gone.age("text")) == (True, None, None)


def test_the_age_is_that_of_the_oldest_part() -> None:
    horde, clock = HordeContext(), Clock()
    found = live(horde, clock)
    found.snapshot("text")
    clock.seconds += 40
    assert found.age("text") == 40
    clock.seconds += 25
    assert found.age("text") == 25


class Naps:
    """A sleep that notes its seconds and ends after so many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        if len(self.seconds) > self.most:
            raise ShuttingDown()


def test_hydration_touches_after_the_delay_and_then_at_each_interval() -> None:
    naps, touched = Naps(2), []
    found = Hydrator(
        lambda: touched.append(len(naps.seconds)),
        HydrationSchedule(50, 5, 10),
        sleep=naps,
        chance=lambda: 0.5,
        run=inline,
    )
    found.start()
    found.start()
    assert (naps.seconds, touched) == ([10, 55, 55], [1, 2])


def test_hydration_that_is_off_starts_nothing() -> None:
    Hydrator(
        lambda: pytest.fail("it was called"), None, run=lambda load: pytest.fail("it was called")
    ).start()


def test_only_who_leads_hydrates() -> None:
    asked: list[float] = []

    def lead(seconds: float) -> bool:
        asked.append(seconds)
        return False

    Hydrator(
        lambda: pytest.fail("it was called"),
        HydrationSchedule(50, 0, 0),
        lead=lead,
        sleep=Naps(1),
        run=inline,
    ).start()
    assert asked == [100]


def test_hydration_keeps_text_and_what_was_asked_for_warm() -> None:
    horde, clock = HordeContext(), Clock()
    found = live(horde, clock)
    found.touch()
    assert sorted(horde.calls) == ["models text", "stats text", "workers text"]
    found.status("image")
    horde.calls.clear()
    found.touch()
    assert sorted(horde.calls) == ["stats image", "workers image"]


def test_a_redis_that_is_down_is_logged_once_and_left_alone_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis = pytest.importorskip("redis")
    clock, connects = Clock(), []

    def connect() -> Any:
        connects.append(clock.seconds)
        raise redis.ConnectionError("refused")

    shared, fetched = SharedDocuments(connect, "test", clock=clock), Document([1], 7.0)
    for _ in range(3):
        assert shared.load("name", lambda: fetched, max_age=30, lease=30, is_known=False) is fetched
    clock.seconds += 6
    assert shared.lead(10) is True
    assert connects == [1000.0, 1006.0]
    assert len(caplog.records) == 1


def kept(folder: Path, source: str = URL, now: float = 0) -> CachedDocument:
    return CachedDocument(
        source, folder, requests.Session(), timeout=(1, 1), good=read_reference, now=lambda: now
    )


@responses.activate
def test_a_reference_is_fetched_with_its_etag_and_kept_on_disk(tmp_path: Path) -> None:
    responses.get(URL, json={"a": {}}, headers={"ETag": '"one"'})
    assert kept(tmp_path / "new").load() == ({"a": {}}, 0.0)
    again = kept(tmp_path / "new", now=9e9)
    copy = again.load()
    assert copy.value == {"a": {}}
    assert copy.age > 1e9
    responses.reset()
    sent = responses.get(URL, status=304)
    assert again.load() == ({"a": {}}, 0.0)
    assert sent.calls[0].request.headers["If-None-Match"] == '"one"'


@responses.activate
@pytest.mark.parametrize(
    "answer",
    [
        {"status": 500},
        {"body": "<html>"},
        {"body": requests.ConnectionError("no")},
    ],
)
def test_a_reference_that_cannot_be_fetched_says_so(tmp_path: Path, answer: Any) -> None:
    responses.get(URL, **answer)
    with pytest.raises(UpstreamFailed):
        kept(tmp_path).load()


@responses.activate
@pytest.mark.parametrize("answer", [{"error": "try later"}, [], {}, "down", None])
def test_what_is_no_reference_does_not_take_the_place_of_one(tmp_path: Path, answer: Any) -> None:
    responses.get(URL, json={"a": {}}, headers={"ETag": '"one"'})
    kept(tmp_path).load()
    responses.reset()
    responses.get(URL, json=answer, headers={"ETag": '"two"'})
    later = kept(tmp_path)
    later.load()
    with pytest.raises(UpstreamFailed):
        later.load()
    assert kept(tmp_path).load().value == {"a": {}}


def test_a_reference_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "db.json"
    file.write_text('{"b": {}}')
    assert kept(tmp_path, str(file)).load() == ({"b": {}}, 0.0)
    with pytest.raises(UpstreamFailed):
        kept(tmp_path, str(tmp_path / "missing.json")).load()


def test_who_asks_for_a_reference_does_not_wait_for_it() -> None:
    loads: list[Any] = []
    found = References({"text": lambda: ({"a-8B": {}}, 0.0)}, run=loads.append)
    assert found.get("text") is None
    loads[0]()
    loaded = found.get("text")
    assert loaded is not None and loaded.names() == ["a-8B"]
    assert found.get("image") is None


def test_an_old_copy_of_a_reference_is_renewed_soon_and_survives_a_failure() -> None:
    clock, calls = Clock(), []

    def source() -> tuple[Any, float]:
        calls.append(clock.seconds)
        if len(calls) > 1:
            raise UpstreamFailed("no")
        return {"a-8B": {}}, 90_000.0

    found = References({"text": source}, clock=clock, run=inline)
    found.get("text")
    clock.seconds += 301
    assert found.get("text") is not None
    assert calls == [1000.0, 1301.0]

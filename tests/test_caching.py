"""Values that are kept: loaded in the background, on disk, shared, derived from others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import responses

from horde_proxy.caching.background import BackgroundValue, in_background, inline
from horde_proxy.caching.derived import Derived
from horde_proxy.caching.disk import CachedDocument
from horde_proxy.caching.redis import Document, Outage, SharedDocuments
from horde_proxy.errors import Unavailable, UpstreamFailed
from tests.support import Clock

URL = "https://reference.invalid/db.json"


class Loading:
    """Counts loads; gives the count, or raises the error."""

    def __init__(self) -> None:
        self.count = 0
        self.error: UpstreamFailed | None = None

    def __call__(self) -> int:
        self.count += 1
        if self.error:
            raise self.error
        return self.count


class Later:
    """Keeps what is to run until it is told to."""

    def __init__(self) -> None:
        self.kept: list[Callable[[], None]] = []

    def __call__(self, load: Callable[[], None]) -> None:
        self.kept.append(load)

    def run(self) -> None:
        for load in self.kept:
            load()
        self.kept.clear()


def test_a_value_is_loaded_once_within_its_time_to_live() -> None:
    clock, load = Clock(), Loading()
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    assert (value.get(), value.get()) == (1, 1)
    clock.seconds += 60
    assert value.get() == 2


def test_a_load_for_which_no_thread_could_be_started_is_tried_again() -> None:
    def refuse(load: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    load = Loading()
    value = BackgroundValue(load, ttl=60, clock=Clock(), run=refuse)
    with pytest.raises(Unavailable):
        value.get()
    value._run = inline
    assert value.get() == 1


def test_an_old_value_is_returned_at_once_while_a_new_one_is_loaded() -> None:
    clock, load, later = Clock(), Loading(), Later()
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    value.get()
    value._run = later
    clock.seconds += 3600
    assert [value.get() for _ in range(10)] == [1] * 10
    assert len(later.kept) == 1
    later.run()
    assert value.get() == 2


def test_a_stale_value_is_waited_for_only_if_the_last_load_did_not_fail() -> None:
    clock, load, later = Clock(), Loading(), Later()
    value = BackgroundValue(load, ttl=60, stale=120, patience=0, clock=clock, run=inline)
    value.get()
    value._run = later
    clock.seconds += 121
    assert value.get() == 1
    assert value._should_wait()
    load.error = UpstreamFailed("down")
    later.run()
    clock.seconds += 5
    assert value.get() == 1
    assert not value._should_wait()


def test_after_a_failure_the_last_value_stays_and_five_seconds_later_a_load_begins() -> None:
    clock, load = Clock(), Loading()
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    value.get()
    load.error = UpstreamFailed("down")
    clock.seconds += 60
    assert (value.get(), value.get(), str(value.error), load.count) == (1, 1, "down", 2)
    clock.seconds += 5
    load.error = None
    assert (value.get(), value.error) == (3, None)


def test_without_a_value_the_last_failure_is_raised_at_once() -> None:
    clock, load = Clock(), Loading()
    load.error = UpstreamFailed("down")
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    for _ in range(3):
        with pytest.raises(UpstreamFailed, match="down"):
            value.get()
    assert load.count == 1


def test_the_wait_for_a_first_value_has_an_end() -> None:
    later = Later()
    value = BackgroundValue(Loading(), ttl=60, patience=0, run=later)
    for _ in range(3):
        with pytest.raises(Unavailable, match="has not answered yet"):
            value.get()
    assert len(later.kept) == 1


def test_a_refresh_loads_anew_at_most_every_two_seconds() -> None:
    clock, load = Clock(), Loading()
    value = BackgroundValue(load, ttl=60, clock=clock, run=inline)
    value.get()
    value.refresh()
    assert value.get() == 1
    clock.seconds += 2
    value.refresh()
    assert value.get() == 2


def test_a_first_value_may_be_waited_for_longer_than_later_ones() -> None:
    value = BackgroundValue(Loading(), ttl=60, patience=0, first_patience=30, run=in_background)
    assert value.get() == 1


def test_a_derived_value_is_made_once_for_the_same_source() -> None:
    made: list[str] = []
    source: list[tuple[list[str], list[str]]] = [(["a"], ["b"])]

    def make(parts: tuple[list[str], list[str]]) -> str:
        made.append(parts[0][0] + parts[1][0])
        return made[-1]

    value = Derived(lambda: source[0], make)
    assert value.peek() is None
    assert (value.get(), value.get(), value.peek()) == ("ab", "ab", "ab")
    source[0] = (source[0][0], ["c"])
    assert (value.peek(), value.get()) == ("ab", "ac")
    source[0] = (["a"], source[0][1])
    assert value.get() == "ac"
    assert made == ["ab", "ac", "ac"]


def test_a_derived_value_is_made_anew_after_its_time() -> None:
    clock, made = Clock(), []
    value = Derived(lambda: (made,), lambda source: made.append(1), max_age=1, clock=clock)
    value.get()
    clock.seconds += 0.9
    value.get()
    assert len(made) == 1
    clock.seconds += 0.1
    value.get()
    assert len(made) == 2


def test_many_threads_make_a_derived_value_once() -> None:
    made: list[int] = []
    entered, go_on = threading.Event(), threading.Event()

    def make(source: tuple[int]) -> int:
        made.append(source[0])
        entered.set()
        assert go_on.wait(60)
        return source[0]

    value = Derived(lambda: (7,), make)
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(value.get) for _ in range(8)]
        assert entered.wait(60)
        go_on.set()
        assert [result.result(30) for result in results] == [7] * 8
    assert made == [7]


def test_an_outage_lets_one_caller_in_five_seconds_try_and_is_logged_at_both_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    clock = Clock()
    outage = Outage("submits are counted", clock=clock)
    outage.succeeded()
    assert [outage.may_call() for _ in range(3)] == [True] * 3
    outage.failed(OSError("gone"))
    outage.failed(OSError("gone"))
    assert (outage.may_call(), outage.is_down) == (False, True)
    clock.seconds += 5
    assert [outage.may_call() for _ in range(3)] == [True, False, False]
    outage.failed(OSError("still gone"))
    clock.seconds += 5
    assert outage.may_call()
    outage.succeeded()
    assert [outage.may_call() for _ in range(3)] == [True] * 3
    assert [record.message for record in caplog.records] == [
        "Redis fails, so submits are counted in this process only: gone",
        "Redis works again, so submits are counted for all processes",
    ]


def test_a_redis_that_is_down_is_logged_once_and_called_rarely(
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
    assert shared.try_lead(10) is True
    assert connects == [1000.0, 1006.0]
    assert len(caplog.records) == 1


def is_reference(document: Any) -> bool:
    return isinstance(document, dict) and "a" in document


def kept(folder: Path, source: str = URL, now: float = 0) -> CachedDocument:
    return CachedDocument(
        source,
        folder,
        requests.Session(),
        timeout=(1, 1),
        is_valid=is_reference,
        now=lambda: now,
    )


@responses.activate
def test_a_document_is_fetched_with_its_etag_and_kept_on_disk(tmp_path: Path) -> None:
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
def test_a_document_that_cannot_be_fetched_is_an_error(tmp_path: Path, answer: Any) -> None:
    responses.get(URL, **answer)
    with pytest.raises(UpstreamFailed):
        kept(tmp_path).load()


@responses.activate
@pytest.mark.parametrize("answer", [{"error": "try later"}, [], {}, "down", None])
def test_an_invalid_document_does_not_replace_the_copy(tmp_path: Path, answer: Any) -> None:
    responses.get(URL, json={"a": {}}, headers={"ETag": '"one"'})
    kept(tmp_path).load()
    responses.reset()
    responses.get(URL, json=answer, headers={"ETag": '"two"'})
    later = kept(tmp_path)
    later.load()
    with pytest.raises(UpstreamFailed):
        later.load()
    assert kept(tmp_path).load().value == {"a": {}}


@responses.activate
def test_a_copy_that_cannot_be_finished_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str, encoding: str) -> None:
        path.write_bytes(text[:3].encode())
        raise OSError(28, "No space left on device")

    responses.get(URL, json={"a": {}}, headers={"ETag": '"one"'})
    monkeypatch.setattr(Path, "write_text", full)
    assert kept(tmp_path).load().value == {"a": {}}
    assert list(tmp_path.iterdir()) == []


def test_a_document_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "db.json"
    file.write_text('{"b": {}}')
    assert kept(tmp_path, str(file)).load() == ({"b": {}}, 0.0)
    with pytest.raises(UpstreamFailed):
        kept(tmp_path, str(tmp_path / "missing.json")).load()

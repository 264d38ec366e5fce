"""The private horde's extension: texts as they grow, streams of them, and pops that wait.

The horde's sleep is a script of the test: what happens while a client or a worker waits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.growing_texts import GrowingTexts
from horde_proxy.private_horde.operation import AccessRules
from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.opening import open_store
from horde_proxy.private_horde.streams import StreamRules
from horde_proxy.private_horde.text_stream import read_position
from tests.test_private_horde import BOB, NOVA, OWNER, World

PROGRESS = "/api/v2/generate/text/progress"
STREAM = "/api/v2/generate/text/stream/"


class Streaming(World):
    """A private horde whose time passes when it waits; then the next of `steps` happens."""

    def __init__(
        self,
        store: Store | None = None,
        access: AccessRules | None = None,
        *,
        upfront_kudos: bool = False,
        **settings: Any,
    ) -> None:
        self.steps: list[Callable[[], Any]] = []
        rules = StreamRules(sleep=self._sleep, **settings)
        super().__init__(
            ticks=lambda: self.now,
            streaming=rules,
            store=store,
            access=access,
            upfront_kudos=upfront_kudos,
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.steps:
            self.steps.pop(0)()

    def progress(self, job_id: str, offset: int = 0, text: str = "", key: str = OWNER) -> Any:
        response = self.post(PROGRESS, key, {"id": job_id, "offset": offset, "text": text})
        assert response.status_code == 200, response.json
        return response.json

    def events(
        self, request_id: str, query: str = "", **headers: str
    ) -> Generator[Any, None, None]:
        """(name, id, data) of the events of a stream; None for a comment."""
        response = self.client.get(STREAM + request_id + query, headers=headers, buffered=False)
        assert response.status_code == 200, response.json
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        for piece in response.iter_encoded():
            fields = dict(line.split(": ", 1) for line in piece.decode().strip().split("\n"))
            if "event" in fields:
                yield fields["event"], fields.get("id"), json.loads(fields["data"])
            else:
                yield None


@pytest.fixture
def world() -> Streaming:
    return Streaming()


def texts(events: Iterator[Any]) -> list[Any]:
    """(id, index, offset, text) of the text events."""
    return [
        (event[1], event[2]["index"], event[2]["offset"], event[2]["text"])
        for event in events
        if event and event[0] == "text"
    ]


def test_each_answer_announces_the_extensions(world: Streaming) -> None:
    assert world.get("status/heartbeat").headers["Horde-Extensions"] == "stream, wait, chat"
    assert world.get("status/capabilities").json == {"extensions": ["stream", "wait", "chat"]}


def test_a_horde_without_extensions_has_the_routes_of_ai_horde_only() -> None:
    plain = Streaming(extensions=())
    request_id = plain.submit()
    assert plain.get("generate/text/stream/" + request_id).status_code == 404
    assert plain.post(PROGRESS, OWNER, {"id": "x"}).status_code == 404
    assert "Horde-Extensions" not in plain.get("status/heartbeat").headers


def test_a_stream_has_the_status_the_text_as_it_grows_the_result_and_the_end(
    world: Streaming,
) -> None:
    request_id = world.submit()
    jobs: list[str] = []
    world.steps = [
        lambda: jobs.extend(world.pop()),
        lambda: world.progress(jobs[0], 0, "Hello"),
        lambda: world.progress(jobs[0], 5, " wor"),
        lambda: world.deliver(jobs[0], "Hello world"),
    ]
    events = [event for event in world.events(request_id) if event]
    assert [event[0] for event in events] == [
        "status",
        "status",
        "text",
        "text",
        "text",
        "generation",
        "done",
    ]
    assert [event[2]["waiting"] for event in events[:2]] == [1, 0]
    assert texts(iter(events)) == [
        ("0:5", 0, 0, "Hello"),
        ("0:9", 0, 5, " wor"),
        ("0:11", 0, 9, "ld"),
    ]
    assert events[5][2]["index"] == 0
    assert events[5][2]["text"] == "Hello world"
    assert events[5][2]["worker_name"] == "manual-text-1"
    assert "generations" not in events[6][2]
    assert events[6][2]["done"] is True
    assert events[6][2]["finished"] == 1


@pytest.mark.parametrize("headers", [{"Last-Event-ID": "0:6"}, {"Last-Event-ID": "6"}, {}])
def test_a_stream_is_resumed_after_what_the_client_has(
    world: Streaming, headers: dict[str, str]
) -> None:
    request_id = world.submit()
    [job] = world.pop()
    world.progress(job, 0, "Hello world")
    world.steps = [lambda: world.deliver(job, "Hello world!")]
    query = "" if headers else "?offset=6"
    assert texts(world.events(request_id, query, **headers)) == [
        ("0:11", 0, 6, "world"),
        ("0:12", 0, 11, "!"),
    ]


def test_a_stream_of_a_finished_request_has_all_at_once(world: Streaming) -> None:
    request_id = world.submit()
    [job] = world.pop()
    world.deliver(job, "Hi.")
    names = [event[0] for event in world.events(request_id) if event]
    assert names == ["text", "generation", "done"]


def test_a_silent_stream_is_kept_alive(world: Streaming) -> None:
    request_id = world.submit()
    events = world.events(request_id, "?keep_alive=0.5")
    begin = world.now
    assert next(events)[0] == "status"
    assert next(events) is None
    assert world.now - begin == pytest.approx(0.5)


def test_a_stream_of_an_unknown_request_is_a_404(world: Streaming) -> None:
    response = world.get("generate/text/stream/00000000-0000-4000-8000-000000000000")
    assert (response.status_code, response.get_json()["rc"]) == (404, "RequestNotFound")


def test_a_stream_ends_when_its_request_is_cancelled(world: Streaming) -> None:
    request_id = world.submit()
    world.steps = [lambda: world.cancel(request_id)]
    events = list(world.events(request_id))
    assert [event[0] for event in events] == ["status", "error"]
    assert events[1][2]["rc"] == "RequestNotFound"


def test_too_many_streams_end_at_once_and_say_what_to_do() -> None:
    world = Streaming(most_streams=1)
    request_id = world.submit()
    first = world.events(request_id)
    next(first)
    assert list(world.events(request_id)) == [
        (
            "error",
            None,
            {"message": "There are too many streams. Poll the request's status instead."},
        )
    ]


def test_one_request_has_four_streams_at_most_and_leaves_the_others_to_other_requests(
    world: Streaming,
) -> None:
    request_id = world.submit()
    streams = [world.events(request_id) for _ in range(4)]
    assert [next(stream)[0] for stream in streams] == ["status"] * 4
    message = "There are too many streams. Poll the request's status instead."
    assert list(world.events(request_id)) == [("error", None, {"message": message})]
    assert next(world.events(world.submit()))[0] == "status"
    streams[0].close()
    assert next(world.events(request_id))[0] == "status"


def test_the_results_of_one_request_grow_side_by_side(world: Streaming) -> None:
    request_id = world.submit(n=2)
    first, second = world.pop(amount=2)
    world.progress(first, 0, "One")
    world.progress(second, 0, "Two")
    world.steps = [lambda: world.deliver(second, "Two!"), lambda: world.deliver(first, "One!")]
    events = [event for event in world.events(request_id) if event]
    assert texts(iter(events)) == [
        ("0:3", 0, 0, "One"),
        ("0:3,1:3", 1, 0, "Two"),
        ("0:3,1:4", 1, 3, "!"),
        ("0:4,1:4", 0, 3, "!"),
    ]
    results = [event[2] for event in events if event[0] == "generation"]
    assert [(result["index"], result["text"]) for result in results] == [(1, "Two!"), (0, "One!")]


# What workers send


def test_a_worker_learns_where_to_go_on(world: Streaming) -> None:
    world.submit()
    [job] = world.pop()
    assert world.progress(job, 0, "Hello") == {"cancelled": False, "offset": 5}
    # What was sent twice, as after a lost answer, is taken once.
    assert world.progress(job, 3, "lo world") == {"cancelled": False, "offset": 11}
    # Nothing is added after a gap: the worker sends it again from there.
    assert world.progress(job, 20, "!") == {"cancelled": False, "offset": 11}


def test_a_text_does_not_grow_beyond_a_million_characters(world: Streaming) -> None:
    world.submit()
    [job] = world.pop()
    assert world.progress(job, 0, "a" * 999_999)["offset"] == 999_999
    refused = world.post(PROGRESS, OWNER, {"id": job, "offset": 999_999, "text": "bc"})
    assert (refused.status_code, refused.get_json()) == (
        400,
        {"message": "A text that grows has at most 1,000,000 characters.", "rc": "BadRequest"},
    )
    assert world.progress(job, 999_999, "b")["offset"] == 1_000_000


def test_a_worker_learns_that_its_job_is_cancelled(world: Streaming) -> None:
    request_id = world.submit()
    [job] = world.pop()
    world.cancel(request_id)
    assert world.progress(job)["cancelled"] is True
    # It may hand in what it has, and is paid.
    assert world.deliver(job, "Hel") > 0


def test_a_job_that_was_taken_away_is_cancelled(world: Streaming) -> None:
    world.submit()
    [job] = world.pop()
    world.now += 151
    assert world.progress(job, 0, "late")["cancelled"] is True


def test_progress_of_an_unknown_job_or_by_another_account_is_refused(world: Streaming) -> None:
    world.submit()
    [job] = world.pop()
    other = world.post(PROGRESS, BOB, {"id": job})
    assert (other.status_code, other.get_json()["rc"]) == (403, "WrongCredentials")
    unknown = world.post(PROGRESS, OWNER, {"id": "00000000-0000-4000-8000-0000000000ff"})
    assert (unknown.status_code, unknown.get_json()["rc"]) == (404, "InvalidJobID")
    wrong = world.post(PROGRESS, OWNER, {"id": job, "offset": -1})
    assert (wrong.status_code, wrong.get_json()["errors"]) == (
        400,
        {"offset": "-1 is less than the minimum of 0"},
    )


# Lost workers


def test_a_lost_job_goes_on_with_another_worker_from_the_text_so_far(world: Streaming) -> None:
    request_id = world.submit()
    [job] = world.pop("first")
    world.progress(job, 0, "The capital of")
    world.deliver(job, "", state="faulted")
    answer = world.try_pop("second").get_json()
    assert answer["payload"]["prompt"] == "Say hi.The capital of"
    # 14 characters count as 20 tokens, the least that is billed.
    assert answer["payload"]["max_length"] == 60
    [next_job] = answer["ids"]
    assert world.progress(next_job, 0, " France") == {"cancelled": False, "offset": 7}
    world.steps = [lambda: world.deliver(next_job, " France is Paris.")]
    assert texts(world.events(request_id)) == [
        ("0:21", 0, 0, "The capital of France"),
        ("0:31", 0, 21, " is Paris."),
    ]
    [result] = world.status(request_id)["generations"]
    assert result["text"] == "The capital of France is Paris."


def test_a_plain_worker_continues_the_text_of_a_lost_one(world: Streaming) -> None:
    request_id = world.submit()
    [job] = world.pop("first")
    world.progress(job, 0, "The capital of")
    world.deliver(job, "", state="faulted")
    [next_job] = world.pop("plain")
    world.deliver(next_job, " France")
    [result] = world.status(request_id)["generations"]
    assert result["text"] == "The capital of France"


def test_a_worker_that_falls_silent_loses_its_job_after_twenty_seconds(world: Streaming) -> None:
    request_id = world.submit()
    [job] = world.pop("first")
    for _ in range(7):
        world.now += 1
        world.progress(job, 0, "Hello")
    world.now += 14
    assert world.counts(request_id)["processing"] == 1
    world.now += 7
    assert world.counts(request_id) == {
        "finished": 0,
        "processing": 0,
        "restarted": 1,
        "waiting": 1,
    }
    assert world.popped(name="second") == "Say hi.Hello"


def test_a_job_that_makes_progress_may_take_longer_than_others(world: Streaming) -> None:
    request_id = world.submit()
    [job] = world.pop()
    for number in range(60):
        world.now += 5
        assert world.progress(job, number, "x")["cancelled"] is False
    world.deliver(job, "x" * 60)
    assert world.status(request_id)["finished"] == 1


def test_a_lost_text_is_continued_after_a_restart_from_what_was_saved(world: Streaming) -> None:
    request_id = world.submit()
    [job] = world.pop("first")
    world.progress(job, 0, "Saved")
    world.now += 2
    world.progress(job, 5, " text")
    # A new process knows the store only.
    world.horde._texts = GrowingTexts()
    world.now += 30
    assert world.popped(name="second") == "Say hi.Saved text"
    assert world.counts(request_id)["restarted"] == 1


def test_one_of_several_results_is_continued_and_the_others_begin_anew(world: Streaming) -> None:
    world.submit(n=2)
    first, second = world.pop(amount=2)
    world.progress(second, 0, "Two")
    for job in (first, second):
        world.deliver(job, "", state="faulted")
    # Their prompts differ, so that they are not of one pop.
    answer = world.try_pop(amount=2).get_json()
    assert (answer["payload"]["prompt"], len(answer["ids"])) == ("Say hi.Two", 1)
    answer = world.try_pop(amount=2).get_json()
    assert (answer["payload"]["prompt"], len(answer["ids"])) == ("Say hi.", 1)


def test_a_text_whose_end_only_another_process_knew_is_not_mixed_with_what_follows(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/horde.db"
    world = Streaming(store=open_store(url))
    other = PrivateHorde(store=open_store(url), clock=lambda: world.now)
    request_id = world.submit()
    jobs = world.pop("first")
    world.progress(jobs[0], 0, "The cap")
    world.now += 2
    world.progress(jobs[0], 7, "ital")
    # Nobody saves this: the worker falls silent, and another process ends its job.
    world.progress(jobs[0], 11, " of")

    def lose() -> None:
        world.now += 30
        offer = {"name": "second", "models": [NOVA], "max_length": 512}
        popped = other.pop(OWNER, offer)
        assert popped["payload"]["prompt"] == "Say hi.The capital"
        jobs.append(popped["id"])

    def go_on() -> None:
        assert world.progress(jobs[1], 0, " was") == {"cancelled": False, "offset": 4}

    world.steps = [lose, go_on]
    events = [event for event in world.events(request_id) if event]
    assert texts(iter(events)) == [("0:14", 0, 0, "The capital of")]
    message = "The text is another one now. Poll the request's status instead."
    assert events[-1] == ("error", None, {"message": message})
    world.deliver(jobs[1], " was Bonn")
    assert texts(world.events(request_id)) == [
        ("0:15", 0, 0, "The capital was"),
        ("0:20", 0, 15, " Bonn"),
    ]
    other.store.close()
    world.horde.store.close()


def test_a_failed_job_leaves_its_own_text_and_not_that_of_a_job_before_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/horde.db"
    world = Streaming(store=open_store(url))
    other = PrivateHorde(store=open_store(url), clock=lambda: world.now)
    world.submit()
    [first] = world.pop("first")
    world.progress(first, 0, "The cap")
    world.now += 2
    world.progress(first, 7, "ital")
    world.progress(first, 11, " of all that nobody has saved")
    world.now += 30
    offer = {"name": "second", "models": [NOVA], "max_length": 512}
    second = other.pop(OWNER, offer)["id"]
    other.streams.progress(OWNER, {"id": second, "text": " was"})
    world.now += 2
    other.streams.progress(OWNER, {"id": second, "offset": 4, "text": " Bonn"})
    world.deliver(second, "", state="faulted")
    assert world.popped(name="third") == "Say hi.The capital was Bonn"
    other.store.close()
    world.horde.store.close()


# Pops that wait


def test_a_pop_that_waits_gets_the_job_when_it_comes(world: Streaming) -> None:
    world.steps = [lambda: world.submit()]
    assert world.popped(wait=10) == "Say hi."


def test_a_pop_waits_for_thirty_seconds_at_most(world: Streaming) -> None:
    begin = world.now
    assert world.popped(wait=100) is None
    assert world.now - begin == pytest.approx(30)


def test_a_plain_pop_is_answered_at_once(world: Streaming) -> None:
    begin = world.now
    assert world.popped() is None
    assert world.now == begin


@pytest.mark.parametrize(
    ("value", "position"),
    [
        ("120", {0: 120}),
        ("0:120,1:35", {0: 120, 1: 35}),
        ("", {}),
        ("-1", {}),
        ("x:1", {}),
        ("999999999999", {}),
    ],
)
def test_positions_are_read_from_ids_of_events(value: str, position: dict[int, int]) -> None:
    assert read_position(value) == position

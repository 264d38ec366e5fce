"""Responses in the background: answered at once, made by a job, fetched later."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from horde_proxy.app.factory import composition_of
from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger import ClientKey
from horde_proxy.store import job_runner
from horde_proxy.store.jobs import BACKGROUND, JOBS, SCHEMA, JobStore
from horde_proxy.store.responses import ResponseStore
from horde_proxy.store.schema import ITEMS, RESPONSES
from horde_proxy.upstreams.base import Caller
from tests.support import CLIENT_KEY, HORDE_URL, PieceByPiece, Scripted, World, known

BODY: Mapping[str, Any] = {"model": "test/model", "input": "Say hello.", "background": True}
LONG = " ".join(f"word{number}" for number in range(60)) + "."
POST = "POST generate/text/async"


class Background:
    """A proxy, its clients and its jobs, of which each step is one of the test."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.cable = world.cable()
        self.start()

    def start(self) -> None:
        """A new process; the old one is gone without a word."""
        self.app: Flask = self.world.app()
        self.client: Any = self.app.test_client()

    def post(self, key: str | None = None, **fields: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.client.post("/v1/responses", json={**BODY, **fields}, headers=headers)

    def begin(self, **fields: Any) -> str:
        response = self.post(**fields)
        assert response.status_code == 200, response.json
        return str(response.json["id"])

    def step(self) -> int:
        return composition_of(self.app).jobs.step()

    def stored(self, response_id: str, owner: str = "anybody") -> dict[str, Any]:
        store = composition_of(self.app).store.responses
        assert store is not None
        stored = store.get(owner, response_id)
        assert stored is not None
        return stored.response

    def events(self, response_id: str) -> list[bytes]:
        store = composition_of(self.app).store.responses
        assert store is not None
        return store.events("anybody", response_id)

    def cancel(self, response_id: str, key: str | None = None) -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return self.client.post(f"/v1/responses/{response_id}/cancel", headers=headers)

    @property
    def submits(self) -> int:
        return self.cable.calls.count(POST)


def text(response: Mapping[str, Any]) -> str:
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


def rest(payload: Mapping[str, Any]) -> str:
    """The rest of LONG after what the prompt has of it."""
    begun = str(payload["prompt"]).rpartition("assistant\n")[2]
    assert LONG.startswith(begun)
    return LONG[len(begun) :]


def parsed(events: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(event.partition(b"data: ")[2]) for event in events]


def slowly_written() -> World:
    """A world whose worker recites LONG, 50 letters a second."""
    world = World(streams=True)
    worker = PieceByPiece(world.session, rest, 20)
    worker.step()
    world.clock.every_sleep.append(worker.step)
    world.clock.every_sleep.append(lambda: setattr(world.clock, "seconds", world.clock() + 0.4))
    return world


@pytest.fixture
def proxy(world: World) -> Background:
    return Background(world)


def test_a_background_response_is_queued_at_once_and_made_by_a_job(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    response = proxy.post()
    assert response.status_code == 200
    assert (response.json["status"], response.json["background"]) == ("queued", True)
    assert response.json["output"] == []
    assert proxy.submits == 0
    assert proxy.stored(response.json["id"])["status"] == "queued"
    assert proxy.step() == 1
    answer = proxy.stored(response.json["id"])
    assert (answer["status"], text(answer)) == ("completed", "Hello there.")
    assert answer["id"] == response.json["id"]
    assert answer["created_at"] == response.json["created_at"]
    assert answer["usage"]["output_tokens"] > 0
    assert proxy.step() == 0
    assert proxy.submits == 1


def test_a_wrong_request_is_refused_at_once(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    assert proxy.post(model="nobody/has-this").status_code == 404
    assert proxy.post(input=[]).status_code == 400
    assert proxy.step() == 0


def test_a_response_waits_while_its_only_endpoint_is_paused(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    pauses = composition_of(proxy.app).assembly.pauses
    response_id = proxy.begin()
    pauses.pause("horde", proxy.world.clock())
    for _ in range(5):
        assert proxy.step() == 1
        assert proxy.stored(response_id)["status"] == "queued"
        proxy.world.clock.seconds += 61
    pauses.resume("horde")
    proxy.world.employ(Scripted("Hello there."))
    assert proxy.step() == 1
    answer = proxy.stored(response_id)
    assert (answer["status"], text(answer)) == ("completed", "Hello there.")


def test_a_response_that_nobody_has_taken_from_the_line_yet_is_tried_again(world: World) -> None:
    world.configure(endpoints=[{"type": "horde", "name": "horde", "max_concurrent": 1}])
    world.employ(Scripted("Hello there."))
    proxy = Background(world)
    assembly = composition_of(proxy.app).assembly
    [endpoint] = proxy.app.extensions["horde_proxy"].router.endpoints
    slot = endpoint.line.try_enter("test/model", Caller("somebody"))
    response_id, sleeps = proxy.begin(), 0

    def pause_later() -> None:
        nonlocal sleeps
        sleeps += 1
        # By then, a client's response would have begun, with keep-alives.
        if sleeps == 6:
            assembly.pauses.pause("horde", world.clock())

    world.clock.every_sleep.append(pause_later)
    assert proxy.step() == 1
    assert (sleeps, proxy.stored(response_id)["status"]) == (6, "queued")
    slot.free()
    assembly.pauses.resume("horde")
    world.clock.seconds += 61
    assert proxy.step() == 1
    assert proxy.stored(response_id)["status"] == "completed"


def test_without_a_store_there_is_no_background(world: World) -> None:
    world.configure(store={"days": 0})
    world.employ(Scripted("Hello there."))
    response = world.http().post("/v1/responses", json=BODY)
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"]["param"] == "background"


def test_the_text_so_far_is_stored_about_once_a_second(world: World) -> None:
    streaming = slowly_written()
    proxy = Background(streaming)
    response_id, seen = proxy.begin(max_output_tokens=400), set()

    def look() -> None:
        answer = proxy.stored(response_id)
        seen.add((answer["status"], text(answer)))

    streaming.clock.every_sleep.append(look)
    proxy.step()
    texts = sorted((text for status, text in seen if status == "in_progress"), key=len)
    assert len(texts) > 3
    assert all(LONG.startswith(part) for part in texts)
    assert proxy.stored(response_id)["status"] == "completed"


def test_a_response_that_was_cut_off_is_incomplete(proxy: Background) -> None:
    proxy.world.employ(Scripted(LONG, max_length=64))
    response_id = proxy.begin(max_output_tokens=16)
    proxy.step()
    answer = proxy.stored(response_id)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


def test_a_response_that_fails_says_why(world: World) -> None:
    world.employ_faulty()
    proxy = Background(world)
    response_id = proxy.begin()
    proxy.step()
    answer = proxy.stored(response_id)
    assert answer["status"] == "failed"
    assert answer["error"]["code"] == "server_error"
    assert answer["error"]["message"]
    assert proxy.step() == 0


def test_a_busy_proxy_makes_it_later(world: World) -> None:
    world.configure(server={"places": 1})
    world.employ(Scripted("Hello there."))
    proxy = Background(world)
    response_id = proxy.begin()
    free = proxy.app.extensions["horde_proxy"].live.slots.acquire()
    assert proxy.step() == 1
    assert proxy.stored(response_id)["status"] == "queued"
    free()
    assert proxy.step() == 0
    world.clock.seconds += 10
    proxy.step()
    assert proxy.stored(response_id)["status"] == "completed"


def test_a_response_that_takes_too_long_fails(world: World) -> None:
    world.configure(store={"background_timeout": 60})
    world.bridge(Scripted("Hello there.")).step(world.session)
    proxy = Background(world)
    response_id = proxy.begin()
    proxy.step()
    assert proxy.stored(response_id)["status"] == "failed"
    assert 30 < world.clock() - 1000 < 90


def test_the_answers_of_a_revoked_key_fail(world: World) -> None:
    world.configure(**known(laptop="laptop-key-0123456789"))
    world.employ(Scripted("Hello there."))
    proxy = Background(world)
    response = proxy.post(key="laptop-key-0123456789")
    world.configure(**known(phone="phone-key-0123456789"))
    proxy.start()
    proxy.step()
    answer = proxy.stored(response.json["id"], "laptop")
    assert answer["status"] == "failed"
    assert answer["error"]["message"].startswith("The API key that this job was begun with")


def test_a_clients_horde_key_pays_and_is_forgotten(world: World) -> None:
    world.configure(access={"mode": "passthrough"})
    world.employ(Scripted("Hello there."))
    proxy = Background(world)
    response = proxy.post(key=CLIENT_KEY)
    proxy.step()
    assert response.status_code == 200
    database = composition_of(proxy.app).store.database
    assert database is not None
    with database.begin(SCHEMA) as connection:
        assert connection.execute(JOBS.select()).all() == []


# Restarts


def end_when(proxy: Background, when: Callable[[], bool], *, is_killed: bool = False) -> None:
    """Do a job until `when` holds, and end the process then: in order, or as by kill -9."""
    composition = composition_of(proxy.app)
    store = composition.store.jobs
    assert store is not None

    def end() -> None:
        if when() and not composition.live.shutdown.has_begun:
            if is_killed:
                store.put_back = lambda *_, **__: None  # type: ignore[method-assign]
                proxy.cable.is_cut = True
            composition.begin_shutdown()
            for job in composition.jobs._running.values():
                job.is_handed_over = True
            # The job's own thread is this one, so that a wait for it would be in vain.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(job_runner, "_STOP_SECONDS", 0.0)
                composition.end_chats()

    proxy.world.clock.every_sleep.append(end)
    assert proxy.step() == 1
    proxy.world.clock.every_sleep.remove(end)
    assert composition.live.shutdown.has_begun
    proxy.cable.is_cut = False
    proxy.start()


def late_worker(world: World) -> None:
    """Let a worker of which nothing was heard do its first job from now on."""
    late = world.bridge(Scripted("Hello there."))
    world.clock.every_sleep.append(lambda: late.step(world.session))


@pytest.fixture
def waiting(world: World) -> Background:
    """A proxy whose horde has a worker that does nothing yet."""
    world.bridge(Scripted("Hello there.")).step(world.session)
    return Background(world)


def test_a_stop_hands_the_job_over_and_nothing_is_submitted_twice(waiting: Background) -> None:
    response_id, begin = waiting.begin(), waiting.world.clock()
    end_when(waiting, lambda: waiting.world.clock() > begin + 5)
    assert waiting.stored(response_id)["status"] == "in_progress"
    late_worker(waiting.world)
    assert waiting.step() == 1
    answer = waiting.stored(response_id)
    assert (answer["status"], text(answer)) == ("completed", "Hello there.")
    assert waiting.submits == 1
    assert not [call for call in waiting.cable.calls if call.startswith("DELETE")]


def test_after_a_kill_the_job_is_taken_when_its_lease_has_ended(waiting: Background) -> None:
    response_id, begin = waiting.begin(), waiting.world.clock()
    end_when(waiting, lambda: waiting.world.clock() > begin + 5, is_killed=True)
    assert waiting.step() == 0
    late_worker(waiting.world)
    waiting.world.clock.seconds += 31
    assert waiting.step() == 1
    assert text(waiting.stored(response_id)) == "Hello there."
    assert waiting.submits == 1


def test_a_streamed_answer_goes_on_with_the_events_that_it_has() -> None:
    proxy = Background(slowly_written())
    response = proxy.post(stream=True, max_output_tokens=400)
    response_id = first_event(response)["response"]["id"]
    end_when(proxy, lambda: len(text(proxy.stored(response_id))) > 100)
    before = proxy.events(response_id)
    assert len(before) > 10
    assert proxy.step() == 1
    events = proxy.events(response_id)
    assert events[: len(before)] == before
    check_stream(events, LONG)
    assert text(proxy.stored(response_id)) == LONG


def test_a_streamed_answer_whose_request_was_lost_goes_on_with_its_text() -> None:
    proxy = Background(slowly_written())
    response = proxy.post(stream=True, max_output_tokens=400)
    response_id = first_event(response)["response"]["id"]
    end_when(proxy, lambda: len(text(proxy.stored(response_id))) > 100)
    before, shown = proxy.events(response_id), text(proxy.stored(response_id))
    proxy.world.configure(horde={"url": HORDE_URL}, endpoints=[{"type": "horde", "name": "new"}])
    proxy.start()
    assert proxy.step() == 1
    events = proxy.events(response_id)
    assert events[: len(before)] == before
    check_stream(events, LONG)
    assert text(proxy.stored(response_id)).startswith(shown)


def test_an_answer_that_was_stored_before_the_kill_is_not_made_again(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin()
    store = composition_of(proxy.app).store.jobs
    assert store is not None
    store.remove = lambda *_: None  # type: ignore[method-assign]
    proxy.step()
    proxy.start()
    proxy.world.clock.seconds += 31
    assert proxy.step() == 1
    assert proxy.submits == 1
    assert text(proxy.stored(response_id)) == "Hello there."
    assert proxy.step() == 0


class Killed(BaseException):
    """A kill -9: nothing catches it, and nothing is settled."""


def killed_before(proxy: Background, store: Any, name: str, action: Callable[[], Any]) -> None:
    """Kill the process when it is about to call a method of a store, and start another one."""

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, name, die)
        with pytest.raises(Killed):
            action()
    proxy.start()
    proxy.world.clock.seconds += 31


@pytest.mark.parametrize("name", ["add", "remove"])
@pytest.mark.parametrize("is_kept", [False, True])
def test_the_end_is_told_though_the_process_was_killed_right_after_it(
    world: World, name: str, is_kept: bool
) -> None:
    posted: list[Any] = []

    def post(url: str, content: bytes, headers: Mapping[str, str]) -> None:
        posted.append(json.loads(content))

    world.configure(webhooks={"url": "https://receiver.invalid", "secret": "whsec_" + "YWJj" * 11})
    world.runtime = replace(world.runtime, post_webhook=post)
    world.employ(Scripted("Hello there."))
    proxy = Background(world)
    response_id = proxy.begin(store=is_kept)
    killed_before(proxy, composition_of(proxy.app).store.jobs, name, proxy.step)
    assert proxy.stored(response_id)["status"] == "completed"
    while proxy.step():
        pass
    assert [event["type"] for event in posted] == ["response.completed"]
    assert proxy.submits == 1
    world.clock.seconds += 601
    proxy.step()
    store = composition_of(proxy.app).store.responses
    assert store is not None
    assert (store.get("anybody", response_id) is not None) == is_kept


@pytest.mark.parametrize("seed", range(3))
def test_no_kill_of_two_processes_loses_a_response(world: World, seed: int) -> None:
    """Either process dies at random calls of the store, before or after what they do."""
    chance = random.Random(seed)
    world.employ(Scripted("Hello there."))
    world.configure(store={"jobs": 2})
    proxy = Background(world)
    ids = [proxy.begin(input=f"Hello {number}.") for number in range(8)]
    apps, kills = [world.app(), world.app()], 0
    for _ in range(120):
        number = chance.randrange(2)
        store = composition_of(apps[number]).store
        assert store.jobs is not None
        target = chance.choice([store.jobs, store.responses])
        name = chance.choice(
            ["remove", "save_journal", "add"] if target is store.jobs else ["update"]
        )
        does_it_first, original = chance.random() < 0.5, getattr(target, name)

        def die(*args: Any, original: Any = original, first: bool = does_it_first) -> Any:
            if first:
                original(*args)
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            if kills < 5:
                patch.setattr(target, name, die)
            try:
                composition_of(apps[number]).jobs.step()
            except Killed:
                kills, apps[number] = kills + 1, world.app()
        # The clock goes on, jumps, and once in a while is set back.
        world.clock.seconds += chance.choice([0, 1, 5, 31, 31, -20])
    assert kills == 5
    assert {proxy.stored(identity)["status"] for identity in ids} == {"completed"}
    assert {text(proxy.stored(identity)) for identity in ids} == {"Hello there."}
    assert composition_of(proxy.app).store.jobs.count("") == 0  # type: ignore[union-attr]


def test_a_response_is_queued_with_its_job_or_not_at_all(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    begun = composition_of(proxy.app).store
    assert begun.jobs is not None
    killed_before(proxy, begun.jobs, "add", proxy.post)
    assert begun.database is not None
    with begun.database.begin(SCHEMA) as connection:
        for table in (RESPONSES, ITEMS, JOBS, BACKGROUND):
            assert connection.execute(table.select()).all() == []


def test_a_cancelled_answer_that_is_not_to_be_stored_is_forgotten(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin(store=False)
    assert proxy.cancel(response_id).json["status"] == "cancelled"
    proxy.world.clock.seconds += 601
    assert proxy.step() == 1
    assert proxy.client.get(f"/v1/responses/{response_id}").status_code == 404


# Streams


def first_event(response: Any) -> dict[str, Any]:
    """The first event of a stream, which is left after that."""
    [event] = parsed([next(response.iter_encoded())])
    response.close()
    return event


def check_stream(events: list[bytes], whole: str) -> None:
    """The events are numbered, in OpenAI's order, and bring the whole text."""
    listed = parsed(events)
    assert [event["sequence_number"] for event in listed] == list(range(len(listed)))
    kinds = [event["type"].removeprefix("response.") for event in listed]
    assert kinds[:5] == [
        "created",
        "queued",
        "in_progress",
        "output_item.added",
        "content_part.added",
    ]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(kinds[5:-4]) == {"output_text.delta"}
    assert "".join(event["delta"] for event in listed if event["type"].endswith("delta")) == whole
    ids = {event["item_id"] for event in listed if "item_id" in event}
    assert ids == {listed[-1]["response"]["output"][0]["id"]}


def test_a_stream_shows_the_events_of_the_store(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    proxy.world.clock.every_sleep.append(proxy.step)
    response = proxy.post(stream=True)
    assert response.headers["Content-Type"].startswith("text/event-stream")
    sent = [event + b"\n\n" for event in response.data.split(b"\n\n") if event]
    events = [event for event in sent if not event.startswith(b":")]
    check_stream(events, "Hello there.")
    assert proxy.events(parsed(events)[0]["response"]["id"]) == events


def test_a_client_that_leaves_at_the_first_event_loses_nothing(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    event = first_event(proxy.post(stream=True))
    assert (event["type"], event["response"]["status"]) == ("response.created", "queued")
    proxy.step()
    assert proxy.stored(event["response"]["id"])["status"] == "completed"


def test_a_waiting_stream_is_kept_alive(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    begin = proxy.world.clock()
    proxy.world.clock.every_sleep.append(
        lambda: proxy.step() if proxy.world.clock() > begin + 60 else None
    )
    assert proxy.post(stream=True).data.count(b": in the background") >= 3


# Cancelling


def test_a_queued_response_is_cancelled(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin()
    first, second = proxy.cancel(response_id), proxy.cancel(response_id)
    assert (first.status_code, first.json["status"]) == (200, "cancelled")
    assert (second.status_code, second.json) == (200, first.json)
    assert proxy.step() == 0
    assert proxy.submits == 0


def test_a_running_response_is_cancelled_at_the_horde_too(waiting: Background) -> None:
    response_id, begin = waiting.begin(), waiting.world.clock()

    def cancel() -> None:
        is_running = waiting.stored(response_id)["status"] == "in_progress"
        if waiting.world.clock() > begin + 5 and is_running:
            assert waiting.cancel(response_id).json["status"] == "cancelled"

    waiting.world.clock.every_sleep.append(cancel)
    assert waiting.step() == 1
    assert waiting.world.clock() < begin + 20
    assert waiting.stored(response_id)["status"] == "cancelled"
    assert waiting.cable.calls[-1].startswith("DELETE generate/text/status/")
    assert waiting.step() == 0


def test_another_process_ends_what_was_cancelled(waiting: Background) -> None:
    response_id, begin = waiting.begin(), waiting.world.clock()
    other = waiting.world.app().test_client()
    runner = composition_of(waiting.app).jobs

    def cancel() -> None:
        if waiting.world.clock() > begin + 5:
            assert other.post(f"/v1/responses/{response_id}/cancel").status_code == 200
            # The loop's own thread does it in a real process.
            runner.step()

    waiting.world.clock.every_sleep.append(cancel)
    assert waiting.step() == 1
    assert waiting.stored(response_id)["status"] == "cancelled"
    assert waiting.cable.calls[-1].startswith("DELETE generate/text/status/")


def test_a_complete_response_stays_as_it_is(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin()
    proxy.step()
    assert proxy.cancel(response_id).json["status"] == "completed"


def test_only_what_is_in_the_background_can_be_cancelled(proxy: Background) -> None:
    unknown = proxy.cancel("resp_unknown")
    assert (unknown.status_code, unknown.json["error"]["code"]) == (404, "not_found")


def test_another_key_finds_nothing_to_cancel(world: World) -> None:
    keys = {"laptop": "laptop-key-0123456789", "phone": "phone-key-0123456789"}
    world.configure(**known(**keys))
    world.employ(Scripted("Hello there."))
    proxy = Background(world)
    response_id = proxy.post(key=keys["laptop"]).json["id"]
    other = proxy.cancel(response_id, key=keys["phone"])
    nobody = proxy.cancel("resp_unknown", key=keys["phone"])
    assert other.status_code == nobody.status_code == 404
    assert (
        other.json["error"]["message"].replace(response_id, "resp_unknown")
        == (nobody.json["error"]["message"])
    )
    assert proxy.cancel(response_id).status_code == 401
    assert proxy.stored(response_id, "laptop")["status"] == "queued"


# What is kept


def test_an_answer_that_is_not_to_be_stored_is_forgotten_after_ten_minutes(
    proxy: Background,
) -> None:
    proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin(store=False)
    proxy.step()
    assert proxy.stored(response_id)["status"] == "completed"
    assert proxy.step() == 0
    proxy.world.clock.seconds += 601
    assert proxy.step() == 1
    store = composition_of(proxy.app).store.responses
    assert store is not None
    assert store.get("anybody", response_id) is None


def test_a_background_response_counts_once_a_minute_and_is_charged_to_its_key(
    world: World,
) -> None:
    world.configure(**known(laptop=ClientKey("laptop", requests_per_minute=1)))
    world.employ(Scripted("Hello there."))
    proxy, key = Background(world), "key-of-laptop-longer"
    response = proxy.post(key=key)
    assert proxy.post(key=key).status_code == 429
    proxy.step()
    assert proxy.stored(response.json["id"], "laptop")["status"] == "completed"


def test_many_keys_take_turns(world: World) -> None:
    world.configure(store={"jobs": 1}, **known(a="key-of-a-01234567", b="key-of-b-01234567"))
    backend = world.employ(Scripted("Hello there."))
    proxy = Background(world)
    for number in range(3):
        proxy.post(key="key-of-a-01234567", input=f"a{number}")
    proxy.post(key="key-of-b-01234567", input="b0")
    for _ in range(4):
        proxy.step()
    order = [payload["prompt"].partition("user\n")[2][:2] for payload in backend.payloads]
    assert order.index("b0") <= 1
    assert [name for name in order if name[0] == "a"] == ["a0", "a1", "a2"]


# With what is stored


def test_the_next_turn_goes_on_from_a_background_response(proxy: Background) -> None:
    backend = proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin()
    early = proxy.client.post(
        "/v1/responses", json={**BODY, "background": False, "previous_response_id": response_id}
    )
    assert early.status_code == 400
    proxy.step()
    proxy.begin(previous_response_id=response_id, input="And now?")
    proxy.step()
    assert "Hello there." in backend.payloads[-1]["prompt"]
    assert "And now?" in backend.payloads[-1]["prompt"]


def test_it_is_fetched_and_streamed_again_by_its_id(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    whole, streamed = proxy.begin(), first_event(proxy.post(stream=True))["response"]["id"]
    assert proxy.client.get(f"/v1/responses/{whole}").json["status"] == "queued"
    proxy.step()
    answer = proxy.client.get(f"/v1/responses/{whole}").json
    assert (answer["status"], text(answer)) == ("completed", "Hello there.")
    events = proxy.events(streamed)
    rest = proxy.client.get(f"/v1/responses/{streamed}?stream=true&starting_after=2")
    assert rest.data == b"".join(events[3:])
    refused = proxy.client.get(f"/v1/responses/{whole}?stream=true")
    assert refused.status_code == 400


def test_its_items_become_a_part_of_its_conversation(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    conversation = proxy.client.post("/v1/conversations", json={}).json["id"]
    path = f"/v1/conversations/{conversation}/items?order=asc"
    proxy.begin(conversation=conversation)
    assert proxy.client.get(path).json["data"] == []
    proxy.step()
    items = proxy.client.get(path).json["data"]
    assert [item["role"] for item in items] == ["user", "assistant"]


def test_nobody_else_writes_into_its_conversation_meanwhile(waiting: Background) -> None:
    conversation = waiting.client.post("/v1/conversations", json={}).json["id"]
    waiting.begin(conversation=conversation)
    begin, statuses = waiting.world.clock(), set()

    def add() -> None:
        if begin + 90 < waiting.world.clock() < begin + 130:
            other = {**BODY, "background": False, "conversation": conversation, "input": "Other"}
            statuses.add(waiting.app.test_client().post("/v1/responses", json=other).status_code)

    waiting.world.clock.every_sleep.append(add)
    late_worker_after(waiting.world, begin + 140)
    waiting.step()
    assert statuses == {409}


def late_worker_after(world: World, moment: float) -> None:
    late = world.bridge(Scripted("Hello there."))
    world.clock.every_sleep.append(
        lambda: late.step(world.session) if world.clock() > moment else None
    )


def test_a_deleted_response_is_not_made(proxy: Background) -> None:
    proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin()
    assert proxy.client.delete(f"/v1/responses/{response_id}").status_code == 200
    proxy.step()
    assert proxy.submits == 0
    assert proxy.step() == 0


def test_a_client_may_have_so_many_that_have_not_ended(
    proxy: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horde_proxy.api.background.MOST_UNFINISHED", 2)
    proxy.world.employ(Scripted("Hello there."))
    for _ in range(2):
        proxy.begin()
    refused = proxy.post()
    assert refused.status_code == 429
    assert refused.json["error"]["code"] == "too_many_background_responses"
    proxy.step()
    assert proxy.post().status_code == 200
    monkeypatch.setattr("horde_proxy.api.background.MOST_UNFINISHED_OF_ALL", 1)
    refused = proxy.post()
    assert refused.status_code == 429
    assert refused.json["error"]["message"].startswith("This proxy has 1 responses")


# When the database fails


def test_a_submit_that_cannot_be_noted_goes_on(
    proxy: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin()

    def fail(*_: Any) -> bool:
        raise DatabaseError("The disk is full.")

    monkeypatch.setattr(JobStore, "save_journal", fail)
    proxy.step()
    assert text(proxy.stored(response_id)) == "Hello there."
    assert proxy.submits == 1


def test_a_request_that_nobody_would_go_on_with_is_cancelled(
    waiting: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting.begin()
    # Another process has the job by now.
    monkeypatch.setattr(JobStore, "save_journal", lambda *_: False)
    waiting.step()
    assert waiting.submits == 1
    assert waiting.cable.calls[-1].startswith("DELETE generate/text/status/")


def test_an_answer_that_cannot_be_stored_is_stored_later_without_asking_twice(
    proxy: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = proxy.world.employ(Scripted("Hello there."))
    response_id = proxy.begin()

    def fail(*_: Any, **__: Any) -> bool:
        raise DatabaseError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(ResponseStore, "update", fail)
        proxy.step()
    assert proxy.stored(response_id)["status"] == "queued"
    proxy.world.clock.seconds += 11
    proxy.step()
    assert text(proxy.stored(response_id)) == "Hello there."
    assert len(backend.payloads) == 1


def test_the_limit_of_a_key_is_waited_for_with_growing_gaps(world: World) -> None:
    world.configure(**known(laptop=ClientKey("laptop", tokens_per_day=1)))
    world.employ(Scripted("Hello there."))
    proxy, key = Background(world), "key-of-laptop-longer"
    first, second = (proxy.post(key=key).json["id"] for _ in range(2))
    for _ in range(2):
        proxy.step()
    assert proxy.stored(first, "laptop")["status"] == "completed"
    assert proxy.stored(second, "laptop")["status"] == "queued"
    world.clock.seconds += 7210
    proxy.step()
    assert proxy.stored(second, "laptop")["status"] == "failed"

"""A worker with several hordes and backends: order, pauses, refusals, giving way, and its end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
import requests
import responses

from horde_proxy.worker.backends import (
    Backend,
    BackendDown,
    BackendError,
    JobRefused,
    ServerState,
)
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.crew import Crew, Lane, WorkerEnd
from horde_proxy.worker.health import BackendHealth
from horde_proxy.worker.horde import (
    HordeConnection,
    Outcome,
    WorkerIdentity,
    WorkerRejected,
)
from horde_proxy.worker.idle import IdleGuard, IdleRules
from horde_proxy.worker.job_rules import JobRules
from horde_proxy.worker.scribe import Scribe, text_offer
from tests.support import Clock, Scripted, text_bridge

OWN, FRIEND = "http://own.invalid", "http://friend.invalid"
NO_JOB: dict[str, Any] = {"id": None, "payload": {}}
OFFER = text_offer(["m"], 512, 4096, 1)


def job(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "payload": {"prompt": "Hi"}, "model": "test/model", **fields}


def answer(horde: str, call: str, *bodies: Any) -> responses.BaseResponse:
    """What a horde answers to a call, one after another; a number is a status."""
    for body in bodies:
        options: dict[str, Any] = {"status": body} if isinstance(body, int) else {"json": body}
        added: responses.BaseResponse = responses.post(
            f"{horde}/api/v2/generate/text/{call}", **options
        )
    return added


def identity(url: str = OWN, **fields: Any) -> WorkerIdentity:
    return WorkerIdentity(url, "w", f"key of {url}", **fields)


class OneBridge:
    """A bridge whose time passes only while it pauses."""

    def __init__(self, *backends: Any, hordes: tuple[str, ...] = (OWN, FRIEND), **options: Any):
        self.clock, self.stop, self.drain = Clock(), Event(), Event()
        self.bridge = text_bridge(
            [identity(url) for url in hordes],
            backends or [Scripted("Hello.")],
            stop=self.stop,
            drain=self.drain,
            pause=self.clock.sleep,
            clock=self.clock,
            **options,
        )
        self.session = requests.Session()

    def rounds(self, seconds: float) -> list[str]:
        """What is called in so many seconds, as in "own pop"."""
        begin = len(responses.calls)
        end = self.clock() + seconds
        while self.clock() < end:
            popped, pause = self.bridge._pop(dict.fromkeys(self.bridge._hordes, self.session))
            if popped:
                self.bridge._do(popped)
            else:
                self.clock.sleep(pause)
        urls = [str(call.request.url) for call in responses.calls[begin:]]
        return [f"{url.split('/')[2].split('.')[0]} {url.rpartition('/')[2]}" for url in urls]


def submitted(index: int = -1) -> dict[str, Any]:
    """The body of one of the submits."""
    bodies = [
        json.loads(call.request.body or "")
        for call in responses.calls
        if str(call.request.url).endswith("submit")
    ]
    body: dict[str, Any] = bodies[index]
    return body


def faulted(name: str, reason: str) -> dict[str, Any]:
    return {
        "id": name,
        "generation": "",
        "seed": 0,
        "state": "faulted",
        "gen_metadata": [{"type": "information", "value": "see_ref", "ref": reason}],
    }


@responses.activate
def test_jobs_come_from_the_first_horde_that_has_one() -> None:
    answer(OWN, "pop", NO_JOB, job("1"), NO_JOB)
    answer(FRIEND, "pop", job("2"), NO_JOB)
    answer(OWN, "submit", {"reward": 1.0})
    answer(FRIEND, "submit", {"reward": 2.0})
    world = OneBridge()
    assert world.rounds(1) == [
        "own pop",
        "friend pop",
        "friend submit",
        "own pop",
        "own submit",
        "own pop",
        "friend pop",
    ]
    snapshot = world.bridge.status.snapshot()
    assert snapshot.jobs == {(OWN, "ok"): 1, (FRIEND, "ok"): 1}
    assert snapshot.kudos == {OWN: 1.0, FRIEND: 2.0}


@responses.activate
def test_each_horde_gets_its_own_key_and_priorities() -> None:
    pop = answer(OWN, "pop", NO_JOB)
    connection = HordeConnection(
        identity(priority_usernames=["ann#2"], nsfw=False), clock=lambda: 0.0
    )
    connection.pop(requests.Session(), text_offer(["a", "b"], 300, 8192, 4))
    request = pop.calls[0].request
    body = json.loads(request.body or "")
    assert request.headers["apikey"] == "key of http://own.invalid"
    assert body.pop("bridge_agent").startswith("horde-proxy:")
    assert body == {
        "name": "w",
        "models": ["a", "b"],
        "max_length": 300,
        "max_context_length": 8192,
        "threads": 4,
        "nsfw": False,
        "softprompts": [],
        "priority_usernames": ["ann#2"],
        "amount": 1,
    }


@responses.activate
def test_a_horde_that_is_down_is_left_alone_longer_each_time_and_stops_no_other() -> None:
    answer(OWN, "pop", 500)
    answer(FRIEND, "pop", NO_JOB)
    world = OneBridge()
    calls = world.rounds(31)
    # After 0, 2, 6, 14 and 30 s.
    assert calls.count("own pop") == 5
    assert calls.count("friend pop") == 31
    assert world.bridge.status.snapshot().failing == [OWN]


@responses.activate
def test_a_pause_grows_to_a_minute_and_is_forgotten_after_an_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    connection = HordeConnection(identity(), clock)
    answer(OWN, "pop", *[502] * 7, NO_JOB, 502)
    pauses = []
    for _ in range(9):
        connection.pop(requests.Session(), OFFER)
        pauses.append(connection.pause)
    assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 1.0, 2.0]
    assert caplog.messages == [
        "the horde http://own.invalid is busy or broken (status 502)",
        "the horde http://own.invalid gives jobs again",
        "the horde http://own.invalid is busy or broken (status 502)",
    ]


@responses.activate
def test_what_a_horde_writes_to_its_worker_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    # As in capture image_pop_with_message.
    message = {"id": "2184b20c", "message": "please update", "origin": "lab"}
    answer(OWN, "pop", *[{**NO_JOB, "messages": [message, None, {"id": 1}]}] * 2)
    responses.post(
        f"{OWN}/api/v2/generate/text/pop",
        status=403,
        json={"message": "Back at noon.", "rc": "WorkerMaintenance"},
    )
    connection = HordeConnection(identity(), Clock())
    for _ in range(3):
        connection.pop(requests.Session(), OFFER)
    assert caplog.messages == [
        "the horde http://own.invalid writes: please update",
        "the horde http://own.invalid gives no jobs right now (WorkerMaintenance): Back at noon.",
    ]


def test_a_horde_that_hangs_is_waited_for_a_fifth_of_the_time_at_most() -> None:
    clock = Clock()

    class Hanging(requests.Session):
        def post(self, *args: Any, **options: Any) -> requests.Response:
            clock.sleep(12)
            raise requests.ReadTimeout("x")

    connection = HordeConnection(identity(), clock)
    connection.pop(Hanging(), OFFER)
    assert (connection.pause, connection.due_in()) == (48, 48)


@responses.activate
def test_a_horde_that_rejects_the_worker_is_left_out() -> None:
    answer(OWN, "pop", 400)
    responses.replace(
        "POST",
        f"{OWN}/api/v2/generate/text/pop",
        status=401,
        json={"message": "no", "rc": "InvalidAPIKey"},
    )
    answer(FRIEND, "pop", NO_JOB)
    world = OneBridge()
    assert world.rounds(2.5) == ["own pop", "friend pop", "friend pop", "friend pop"]
    with pytest.raises(WorkerRejected, match="does not know this worker's API key"):
        OneBridge(hordes=(OWN,)).bridge.run()


def test_a_login_in_a_hordes_url_is_not_logged() -> None:
    assert identity("http://user:secret@own.invalid").label == "http://own.invalid"


@responses.activate
def test_of_several_models_the_jobs_own_writes_within_what_all_can_do() -> None:
    answer(OWN, "pop", job("1", model="b"), job("2", model="other"), NO_JOB)
    answer(OWN, "submit", {"reward": 1.0})
    backends = [Scripted("from a", "a", 512, 8192), Scripted("from b", "b", 300, 16384)]
    OneBridge(*backends, hordes=(OWN,)).rounds(1)
    pop = json.loads(responses.calls[0].request.body or "")
    assert (pop["models"], pop["max_length"], pop["max_context_length"]) == (["a", "b"], 300, 8192)
    assert submitted(0)["generation"] == "from b"
    assert submitted(1) == faulted("2", "this worker has no such model")


class Failing(Scripted):
    """A backend whose jobs fail with an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__("")
        self.error = error

    def generate(self, payload: Any, cancelled: Callable[[], bool]) -> str:
        raise self.error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (JobRefused("at http://secret", "the backend refuses the job"), "the backend refuses the"),
        (BackendError("at http://secret"), "the backend failed"),
        (BackendDown("at http://secret"), "the backend is down"),
        (KeyError("prompt"), "the worker failed on the job"),
    ],
)
@responses.activate
def test_a_job_that_fails_is_given_back_with_a_reason(error: Exception, reason: str) -> None:
    answer(OWN, "pop", job("1"))
    answer(OWN, "submit", {"reward": 0.0})
    OneBridge(Failing(error), hordes=(OWN,)).bridge.step(requests.Session())
    body = submitted()
    assert (body["state"], body["generation"]) == ("faulted", "")
    assert body["gen_metadata"][0]["ref"].startswith(reason)
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"payload": {"prompt": "Tell me of DRAGONS."}}, "the prompt has a word that this worker"),
        ({"payload": {"prompt": "x über\ny"}}, "the prompt has a word that this worker refuses"),
        ({"payload": {"prompt": "card 4000 1234"}}, "this worker refuses such prompts"),
        ({"payload": ["x"]}, "the payload is not an object"),
        ({"payload": {"prompt": ["x"]}}, "the prompt is not a text"),
        ({"extra_source_images": [{"image": "x"}]}, "this worker reads no images"),
        ({"softprompt": "x"}, "this worker has no soft prompts"),
    ],
)
@responses.activate
def test_a_job_that_the_worker_refuses_is_given_back_with_the_reason(
    fields: dict[str, Any], reason: str
) -> None:
    answer(OWN, "pop", job("1", **fields))
    answer(OWN, "submit", {"reward": 0.0})
    backend = Scripted("Hello.")
    rules = JobRules(words=["dragons", "über", "two words"], patterns=[r"\b\d{4} \d{4}\b"])
    OneBridge(backend, hordes=(OWN,), rules=rules).bridge.step(requests.Session())
    assert submitted()["gen_metadata"][0]["ref"].startswith(reason)
    assert backend.payloads == []


@responses.activate
def test_refused_words_are_told_to_the_horde() -> None:
    pop = answer(OWN, "pop", NO_JOB)
    bridge = OneBridge(hordes=(OWN,), rules=JobRules(words=["dragons"])).bridge
    bridge.step(requests.Session())
    assert json.loads(pop.calls[0].request.body or "")["blacklist"] == ["dragons"]


@pytest.mark.parametrize("prompt", ["dragonsong", "zwei_dragons_", "two  words", "überall"])
def test_a_word_is_refused_as_a_whole_only(prompt: str) -> None:
    JobRules(words=["dragons", "two words", "über"]).check(job("1", payload={"prompt": prompt}))


def test_a_pattern_that_is_not_valid_says_so() -> None:
    with pytest.raises(ValueError, match="'\\(a' is no pattern of RE2: missing"):
        JobRules(patterns=["(a"])


@responses.activate
def test_a_text_is_formatted_as_its_job_asks() -> None:
    answer(OWN, "pop", job("1", payload={"prompt": "Hi", "singleline": True}))
    answer(OWN, "submit", {"reward": 1.0})
    OneBridge(Scripted("one\ntwo"), hordes=(OWN,)).bridge.step(requests.Session())
    assert submitted() == {"id": "1", "generation": "one", "seed": 0, "state": "ok"}


class Server(Scripted):
    """A backend that says how many requests it has, and may be down."""

    def __init__(self) -> None:
        super().__init__("Hello.")
        self.requests: int | None = 0
        self.is_down, self.asked = False, 0

    def state(self) -> ServerState:
        self.asked += 1
        if self.is_down:
            raise BackendDown("the backend does not answer")
        return ServerState(self.requests)

    def slots(self) -> int | None:
        return 4

    def generate(self, payload: Any, cancelled: Callable[[], bool]) -> str:
        if self.is_down:
            raise BackendDown("the backend does not answer")
        return super().generate(payload, cancelled)


@responses.activate
def test_while_the_backend_is_down_no_job_is_popped() -> None:
    answer(OWN, "pop", NO_JOB)
    server = Server()
    world = OneBridge(server, hordes=(OWN,))
    assert world.rounds(5) == ["own pop"] * 5
    server.is_down = True
    # It is noticed within ten seconds, before a job is wasted on it.
    assert len(world.rounds(60)) == 5
    assert world.bridge.status.snapshot().holds == {"test/model": "the backend is down"}
    server.is_down = False
    assert len(world.rounds(60)) >= 30
    assert world.bridge.status.snapshot().holds == {}


@responses.activate
def test_a_backend_that_fails_job_after_job_gets_fewer_than_twenty_an_hour() -> None:
    answer(OWN, "pop", job("1"))
    answer(OWN, "submit", {"reward": 0.0})
    world = OneBridge(Failing(BackendError("broken")), hordes=(OWN,))
    assert world.rounds(3600).count("own submit") == 19


@responses.activate
def test_jobs_that_filters_refuse_do_not_make_a_backend_rest() -> None:
    answer(OWN, "pop", *[job(str(number), softprompt="x") for number in range(9)], NO_JOB)
    answer(OWN, "submit", {"reward": 0.0})
    assert OneBridge(hordes=(OWN,)).rounds(1).count("own submit") == 9


def test_a_backend_that_refuses_three_jobs_in_a_row_rests() -> None:
    health = BackendHealth(Scripted("x"), Clock())
    rests = []
    for _ in range(3):
        health.failed(JobRefused("too long"))
        rests.append(health.rest())
    assert rests == [0, 0, 2]


def test_each_failure_makes_a_backend_rest_longer_until_a_job_is_done() -> None:
    clock = Clock()
    health = BackendHealth(Scripted("x"), clock)
    assert health.rest() == 0
    health.failed(BackendError("x"))
    assert health.rest() == 2
    clock.sleep(2)
    health.failed(BackendError("x"))
    assert health.rest() == 4
    health.worked()
    clock.sleep(4)
    health.failed(BackendError("x"))
    assert health.rest() == 2


@pytest.mark.parametrize("answers", [True, False])
def test_a_job_that_fails_while_the_backend_is_asked_counts(answers: bool) -> None:
    class Asked(Server):
        def state(self) -> ServerState:
            for _ in range(3):
                health.failed(BackendDown("x"))
            if not answers:
                raise BackendDown("x")
            return super().state()

    health = BackendHealth(Asked(), Clock())
    assert health.rest() == 8
    assert health.is_down


def state(made: IdleGuard) -> tuple[str | None, bool]:
    return made.reason, made.aborts


def guard(rules: IdleRules, server: Server, running: Callable[[], int] = lambda: 0) -> Any:
    clock, load = Clock(), [0.0]
    made = IdleGuard(rules, server, running, clock=clock, load=lambda: load[0], cores=4)
    return made, clock, load


def test_the_worker_gives_way_to_the_backends_other_users() -> None:
    server = Server()
    made, clock, _ = guard(IdleRules(others=True, abort=True, resume_after=5), server, lambda: 2)
    server.requests = 2
    made.look()
    made.look()
    assert state(made) == (None, False)
    server.requests = 3
    made.look()
    # Perhaps a slot of ours that is not free yet.
    assert state(made) == (None, False)
    made.look()
    assert state(made) == ("others use the backend", True)
    server.requests = 2
    made.look()
    assert state(made) == ("others use the backend", False)
    clock.sleep(5)
    made.look()
    assert state(made) == (None, False)


def test_a_backend_that_does_not_tell_its_requests_is_warned_of_once_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    server.requests = None
    made, _, _ = guard(IdleRules(others=True), server)
    made.look()
    made.look()
    assert (server.asked, state(made)) == (2, (None, False))
    assert caplog.messages == [
        "the backend does not tell its requests: idle.others does nothing meanwhile"
    ]


def test_the_worker_gives_way_again_once_the_backend_tells_its_requests_again() -> None:
    server = Server()
    made, _, _ = guard(IdleRules(others=True), server)
    server.requests = None
    made.look()
    server.requests = 1
    made.look()
    made.look()
    assert state(made) == ("others use the backend", False)


def test_the_worker_gives_way_to_a_busy_machine() -> None:
    server = Server()
    made, _, load = guard(IdleRules(max_load=0.5, resume_after=0), server)
    load[0] = 2.0
    made.look()
    assert state(made) == (None, False)
    load[0] = 2.4
    made.look()
    assert state(made) == ("the machine's load is 0.6 for each core", False)
    load[0] = 1.0
    made.look()
    assert state(made) == (None, False)
    assert server.asked == 0


@responses.activate
def test_nothing_is_popped_while_the_machine_is_needed() -> None:
    answer(OWN, "pop", NO_JOB)
    world = OneBridge(hordes=(OWN,))
    world.bridge.guard.reason = "others use the backend"
    assert world.rounds(3) == []
    assert world.bridge.status.snapshot().holds == {"test/model": "others use the backend"}
    world.bridge.guard.reason = None
    assert world.rounds(3) == ["own pop"] * 3


@responses.activate
def test_a_running_job_is_given_back_when_its_owner_needs_the_machine() -> None:
    answer(OWN, "pop", job("1"))
    answer(OWN, "submit", {"reward": 0.0})

    class Interrupted(Scripted):
        def generate(self, payload: Any, cancelled: Callable[[], bool]) -> str:
            assert not cancelled()
            world.bridge.guard.aborts = True
            assert cancelled()
            # Others may be done before the backend has ended.
            world.bridge.guard.aborts = False
            raise BackendError("cancelled")

    world = OneBridge(Interrupted("x"), hordes=(OWN,))
    world.bridge.step(requests.Session())
    assert submitted() == faulted("1", "the worker's owner needs the machine")
    assert world.bridge.step(requests.Session()) == 0.0


def test_the_first_signal_drains_and_the_second_stops() -> None:
    later: list[tuple[float, Callable[[], Any]]] = []
    end = WorkerEnd(30, lambda seconds, call: later.append((seconds, call)))
    end.request()
    assert (end.drain.is_set(), end.stop.is_set()) == (True, False)
    assert later[0][0] == 30
    end.request()
    assert end.stop.is_set()


def test_a_drain_ends_after_its_time_and_without_time_at_once() -> None:
    later: list[Callable[[], Any]] = []
    end = WorkerEnd(30, lambda seconds, call: later.append(call))
    end.request()
    later[0]()
    assert end.stop.is_set()
    at_once = WorkerEnd(0)
    at_once.request()
    assert (at_once.drain.is_set(), at_once.stop.is_set()) == (True, True)


@responses.activate
def test_a_job_that_runs_when_the_worker_drains_is_finished_and_no_other_popped() -> None:
    answer(OWN, "pop", job("1"))
    answer(OWN, "submit", {"reward": 1.0})

    class Draining(Scripted):
        def generate(self, payload: Any, cancelled: Callable[[], bool]) -> str:
            world.drain.set()
            assert not cancelled()
            return "whole"

    world = OneBridge(Draining("x"), hordes=(OWN,))
    world.bridge.run()
    assert [str(call.request.url)[-6:] for call in responses.calls] == ["xt/pop", "submit"]
    assert submitted()["generation"] == "whole"


@responses.activate
def test_a_stopped_worker_tries_once_to_give_its_job_back() -> None:
    answer(OWN, "pop", job("1"))
    responses.post(f"{OWN}/api/v2/generate/text/submit", body=requests.ConnectionError("x"))

    class Stopping(Scripted):
        def generate(self, payload: Any, cancelled: Callable[[], bool]) -> str:
            world.stop.set()
            return "half a sen"

    world = OneBridge(Stopping("x"), hordes=(OWN,))
    world.bridge.run()
    assert len(responses.calls) == 2
    assert submitted() == faulted("1", "the worker is being stopped")
    assert world.bridge.status.snapshot().jobs == {(OWN, "lost"): 1}


class Lanes:
    """Lanes whose bridges end at once, or do not open."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def lane(self, name: str, error: Exception | None = None, rejected: str = "") -> Lane:
        class Short(Bridge):
            def run(self) -> None:
                if rejected:
                    raise WorkerRejected(rejected)

        def open_it() -> Bridge:
            self.opened.append(name)
            if error:
                raise error
            backend: Backend = Scripted("x")
            return Short([identity()], Scribe([backend]), stop=Event())

        return Lane(name, open_it)


def test_a_backend_that_is_down_at_the_start_stops_no_other() -> None:
    lanes, end = Lanes(), WorkerEnd(0)
    end.now()
    Crew([lanes.lane("a", BackendDown("x")), lanes.lane("b")], end, is_patient=True).run()
    assert lanes.opened == ["a", "b"]


def test_an_impatient_worker_needs_its_backend_at_the_start() -> None:
    with pytest.raises(BackendDown):
        Crew([Lanes().lane("a", BackendDown("x"))], WorkerEnd(0), is_patient=False).run()
    with pytest.raises(BackendError, match="no such model"):
        Crew(
            [Lanes().lane("a", BackendError("no such model"))], WorkerEnd(0), is_patient=True
        ).run()


def test_a_worker_ends_when_all_of_its_lanes_are_rejected() -> None:
    lanes = Lanes()
    Crew([lanes.lane("a", rejected="no"), lanes.lane("b")], WorkerEnd(0), is_patient=True).run()
    with pytest.raises(WorkerRejected, match="no"):
        Crew([lanes.lane("a", rejected="no")], WorkerEnd(0), is_patient=True).run()


def test_an_outcomes_reason_is_short_and_its_text_without_nul() -> None:
    assert Outcome("ok", "a\0b").body("1")["generation"] == "ab"
    assert len(Outcome("faulted", reason="x" * 999).body("1")["gen_metadata"][0]["ref"]) == 200


def test_no_thread_of_a_worker_keeps_its_process() -> None:
    lanes = Lanes()
    Crew([lanes.lane("a")], WorkerEnd(0), is_patient=True).run()
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("lane-"))

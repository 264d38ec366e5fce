"""A worker that pops a job and vanishes: the same request goes to another one beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from horde_proxy.private_horde.records import HordeAccount
from horde_proxy.protocol.chunks import fold
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.upstreams.base import Accepted, Caller, Route, Sleeper, SubmitBudget, Waiting
from horde_proxy.upstreams.horde.upstream import HordeUpstream
from horde_proxy.upstreams.horde.webhook import Webhook
from tests.support import OWNER_KEY, Cable, World

MODEL = "test/model"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}


class Worker:
    """A worker that takes so many seconds for each of its jobs; None: it is never heard of again.

    The last of `seconds` and of `texts` counts for all further jobs.
    """

    def __init__(
        self,
        world: World,
        name: str,
        seconds: Sequence[float | None],
        texts: Sequence[str] = ("Hello there.",),
        **offer: Any,
    ) -> None:
        self.world, self.seconds, self.texts = world, [*seconds], [*texts]
        self.offer = {
            "name": name,
            "models": [MODEL],
            "bridge_agent": "AI Horde Worker:1:x",
            "max_length": 512,
            "max_context_length": 8192,
            "threads": 1,
            **offer,
        }
        self.popped: list[float] = []
        self.job: tuple[str, float | None] | None = None
        world.horde.pop(OWNER_KEY, self.offer)
        world.clock.every_sleep.append(self.step)

    def step(self) -> None:
        now = self.world.clock()
        if self.job:
            job_id, due = self.job
            if due is None or now < due:
                return
            answer = {"id": job_id, "generation": self.next(self.texts), "state": "ok"}
            self.world.horde.submit_generation(OWNER_KEY, answer)
            self.job = None
        job = self.world.horde.pop(OWNER_KEY, self.offer)
        if job["id"]:
            self.popped.append(now)
            seconds = self.next(self.seconds)
            self.job = job["id"], None if seconds is None else now + seconds

    def next(self, values: list[Any]) -> Any:
        return values.pop(0) if len(values) > 1 else values[0]


def chat(**fields: Any) -> GenerationRequest:
    messages = (Message("user", "Hi"),)
    return GenerationRequest(**{"model": MODEL, "messages": messages, "max_tokens": 100, **fields})


def measured(world: World, seconds: float = 8.0) -> HordeUpstream:
    """The horde, at which generations of the model took so long until now."""
    upstream = world.upstream()
    measure(upstream, seconds)
    return upstream


def measure(upstream: HordeUpstream, seconds: float) -> None:
    """Have twenty generations of the model take so long."""
    for _ in range(20):
        upstream._horde.throughput.learn(MODEL, 80, seconds)
        upstream._horde.throughput.learn_duration(MODEL, 1.0)


def items(
    world: World, upstream: HordeUpstream, request: GenerationRequest, caller: Caller | None = None
) -> list[Any]:
    """All items, once the answer is there; the first Accepted comes first."""
    return list(upstream.stream(request, Route(upstream, (MODEL,)), caller or Caller()))


def folded(answer: list[Any]) -> dict[str, Any]:
    return fold(item for item in answer if isinstance(item, dict))


def submits(cable: Cable) -> int:
    return cable.calls.count("POST generate/text/async")


def cancelled(cable: Cable) -> list[str]:
    """The ids of the cancelled requests."""
    return [call.split("/")[-1] for call in cable.calls if call.startswith("DELETE")]


@pytest.mark.parametrize("streams", [False, True])
def test_a_request_whose_worker_vanishes_is_answered_by_another(
    world: World, streams: bool
) -> None:
    lost, good = Worker(world, "lost", [None]), Worker(world, "good", [8.0])
    upstream, cable, began = measured(world), world.cable(), world.clock()
    answer = items(world, upstream, chat(stream=streams))
    horde = folded(answer)["horde"]
    assert folded(answer)["choices"][0]["message"]["content"] == "Hello there."
    assert (len(lost.popped), len(good.popped), submits(cable)) == (1, 1, 2)
    assert cancelled(cable) == horde["request_ids"][:1]
    assert [worker["name"] for worker in horde["workers"]] == ["good"]
    assert (len(horde["request_ids"]), horde["retries"]) == (2, 1)
    # 20 s from the pop, and 8 s of the other worker.
    assert 20 <= good.popped[0] - lost.popped[0] <= 24
    assert world.clock() - began < 35
    assert world.horde.open_requests() == []
    accepted = [item.headers["X-Horde-Request-Id"] for item in answer if isinstance(item, Accepted)]
    assert accepted[0] == horde["request_ids"][0]
    assert accepted[-1] == horde["request_ids"][1]


def test_the_answer_names_the_request_and_the_worker_that_really_answered(world: World) -> None:
    Worker(world, "lost", [None])
    Worker(world, "good", [8.0])
    response = world.http().post("/v1/chat/completions", json=CHAT)
    horde = response.get_json()["horde"]
    assert response.headers["X-Horde-Request-Id"] == horde["request_ids"][1]
    assert [worker["name"] for worker in horde["workers"]] == ["good"]
    # A tax of 1 for each of the submits, and the one job: 0.65 and a tax of 1.
    assert (horde["kudos"], horde["price"]) == (3.65, 40.57)


def test_an_unmeasured_models_worker_hangs_after_three_times_the_expected_seconds(
    world: World,
) -> None:
    lost, good = Worker(world, "lost", [None]), Worker(world, "good", [8.0])
    answer = items(world, world.upstream(), chat())
    assert folded(answer)["horde"]["retries"] == 1
    # 100 tokens at the 10 a second that are assumed, three times.
    assert 30 <= good.popped[0] - lost.popped[0] <= 34


def test_what_is_usual_for_a_model_decides_when_its_worker_hangs(world: World) -> None:
    lost, good = Worker(world, "lost", [None]), Worker(world, "good", [8.0])
    upstream = measured(world)
    # One in ten of the model's generations takes six times as long as expected: 48 s.
    for _ in range(10):
        for times in (1.0,) * 9 + (6.0,):
            upstream._horde.throughput.learn_duration(MODEL, times)
    assert folded(items(world, upstream, chat()))["horde"]["retries"] == 1
    assert 48 <= good.popped[0] - lost.popped[0] <= 52


def drive(world: World, stream: Any, seconds: float) -> list[Any]:
    """The items of so many seconds."""
    taken, began = [], world.clock()
    while world.clock() - began < seconds:
        taken.append(next(stream))
    return taken


def hung(world: World, seconds: float = 60, **fields: Any) -> tuple[Any, Cable]:
    """A chat, whose worker vanishes, after so many seconds."""
    upstream, cable = measured(world), world.cable()
    caller = fields.pop("caller", Caller())
    stream = upstream.stream(chat(**fields), Route(upstream, (MODEL,)), caller)
    drive(world, stream, seconds)
    return stream, cable


def test_a_worker_that_came_after_the_submit_may_be_the_one_that_hangs(world: World) -> None:
    good, upstream = Worker(world, "good", [8.0]), measured(world)
    upstream.models()
    lost = Worker(world, "lost", [None])
    # It pops first, though the catalog does not have it yet: nobody can tell who hangs.
    world.clock.every_sleep.reverse()
    assert folded(items(world, upstream, chat()))["horde"]["retries"] == 1
    assert (len(lost.popped), len(good.popped)) == (1, 1)
    assert 20 <= good.popped[0] - lost.popped[0] <= 24
    assert upstream._horde.failures.workers() == []


def test_without_another_worker_there_is_no_second_request(world: World) -> None:
    Worker(world, "lost", [None])
    Worker(world, "small", [8.0], max_length=64)
    stream, cable = hung(world)
    assert submits(cable) == 1
    stream.close()
    assert len(cancelled(cable)) == 1


def test_a_request_in_the_queue_does_not_hang(world: World) -> None:
    busy, other = Worker(world, "busy", [300.0]), Worker(world, "other", [300.0])
    for _ in range(2):
        world.horde.submit("0000000000", {"prompt": "x", "models": [MODEL]})
    world.clock.sleep(1)
    assert busy.popped and other.popped
    stream, cable = hung(world)
    assert submits(cable) == 1
    stream.close()


def test_where_workers_are_slow_because_much_waits_there_is_no_second_request(
    world: World,
) -> None:
    Worker(world, "slow", [60.0])
    Worker(world, "other", [60.0])
    upstream, cable = measured(world), world.cable()
    stream = upstream.stream(chat(), Route(upstream, (MODEL,)), Caller())
    taken = drive(world, stream, 5)
    for _ in range(30):
        world.horde.submit("0000000000", {"prompt": "x", "models": [MODEL]})
    assert folded([*taken, *stream])["horde"]["retries"] == 0
    assert submits(cable) == 1


@pytest.mark.parametrize(("kudos", "count"), [(45, 1), (46, 2)])
def test_an_account_that_cannot_pay_for_it_gets_no_second_request(
    world: World, kudos: float, count: int
) -> None:
    world.horde.add_account("a-key-of-an-account", "poor", kudos=kudos)
    world.configure(horde={"api_key": "a-key-of-an-account"})
    Worker(world, "lost", [None])
    Worker(world, "other", [None])
    # It costs 20.3 kudos at most, and each account keeps 25.
    stream, cable = hung(world)
    assert submits(cable) == count
    stream.close()


@pytest.mark.parametrize(("most", "count"), [(40.0, 1), (41.0, 2)])
def test_a_second_request_keeps_within_the_clients_max_kudos(
    world: World, most: float, count: int
) -> None:
    Worker(world, "lost", [None])
    Worker(world, "other", [None])
    stream, cable = hung(world, horde={"max_kudos": most})
    assert submits(cable) == count
    stream.close()


def test_an_anonymous_request_needs_no_kudos_for_a_second_one(world: World) -> None:
    world.configure(horde={"api_key": "0000000000"})
    Worker(world, "lost", [None])
    Worker(world, "good", [8.0])
    assert folded(items(world, measured(world), chat()))["horde"]["retries"] == 1


def test_at_most_one_second_request_is_made_however_long_both_hang(world: World) -> None:
    Worker(world, "lost", [None])
    Worker(world, "other", [None])
    Worker(world, "idle", [8.0])
    world.configure(horde={"retries": 0})
    stream, cable = hung(world, 30)
    drive(world, stream, 60)
    assert submits(cable) == 2
    # The client leaves: both are cancelled.
    stream.close()
    assert len(set(cancelled(cable))) == 2
    assert world.horde.open_requests() == []


def test_nothing_is_submitted_for_a_client_that_has_left(world: World) -> None:
    Worker(world, "lost", [None])
    Worker(world, "good", [8.0])
    sleeper = Sleeper(sleep=world.clock.sleep)
    stream, cable = hung(world, 5, caller=Caller(sleeper=sleeper))
    sleeper.has_client = False
    drive(world, stream, 60)
    assert submits(cable) == 1
    sleeper.has_client = True
    assert folded(list(stream))["horde"]["retries"] == 1
    assert submits(cable) == 2


def test_both_count_against_the_submits_of_a_chat(world: World) -> None:
    Worker(world, "late", [60.0])
    Worker(world, "good", [8.0])
    caller = Caller(submits=SubmitBudget(most=1))
    answer = folded(items(world, measured(world), chat(), caller))
    # No second one is left, and the first is waited for.
    assert answer["choices"][0]["message"]["content"] == "Hello there."
    assert [worker["name"] for worker in answer["horde"]["workers"]] == ["late"]
    caller = Caller(submits=SubmitBudget(most=2))
    Worker(world, "lost", [None])
    world.clock.every_sleep.reverse()
    answer = folded(items(world, measured(world), chat(), caller))
    assert (answer["horde"]["retries"], caller.submits.used) == (1, 2)


@pytest.mark.parametrize("texts", [("",), ("spam " * 90,)])
def test_the_first_request_is_waited_for_when_the_second_brings_a_bad_text(
    world: World, texts: Sequence[str]
) -> None:
    Worker(world, "late", [60.0])
    bad = Worker(world, "bad", [8.0], texts)
    upstream, cable = measured(world), world.cable()
    answer = items(world, upstream, chat())
    horde = folded(answer)["horde"]
    assert folded(answer)["choices"][0]["message"]["content"] == "Hello there."
    assert (len(bad.popped), len(horde["request_ids"]), cancelled(cable)) == (1, 2, [])
    accepted = [item for item in answer if isinstance(item, Accepted)]
    assert accepted[-1].headers["X-Horde-Request-Id"] == horde["request_ids"][0]
    assert {worker["name"] for worker in horde["workers"]} == {"late", "bad"}


def test_the_first_request_wins_when_it_ends_first_and_the_second_is_cancelled(
    world: World,
) -> None:
    Worker(world, "late", [26.0])
    Worker(world, "good", [60.0], ("Too late.",))
    upstream, cable = measured(world), world.cable()
    answer = items(world, upstream, chat())
    horde = folded(answer)["horde"]
    assert folded(answer)["choices"][0]["message"]["content"] == "Hello there."
    assert [worker["name"] for worker in horde["workers"]] == ["late"]
    assert cancelled(cable) == horde["request_ids"][1:]
    # The tax of both, and the one job.
    assert horde["kudos"] == 3.65
    assert upstream._horde.failures.workers() == []


def set_kudos(world: World, username: str, kudos: float) -> None:
    with world.horde.store.transaction() as tx:
        account = tx.lock(HordeAccount, int(username.rpartition("#")[2]))
        assert account is not None
        account.kudos = kudos
        tx.save(account)


def test_a_second_request_that_is_refused_loses_nothing(world: World) -> None:
    world.horde.upfront_kudos = True
    username = world.horde.add_account("a-key-of-an-account", "rich", kudos=10_000)
    world.configure(horde={"api_key": "a-key-of-an-account"})
    Worker(world, "late", [60.0], max_length=4096)
    Worker(world, "other", [8.0], max_length=4096)
    # It needs kudos upfront, which are spent meanwhile.
    request = chat(max_tokens=2000, horde={"segments": False})
    upstream, cable = measured(world), world.cable()
    stream = upstream.stream(request, Route(upstream, (MODEL,)), Caller())
    before = drive(world, stream, 5)
    set_kudos(world, username, 25)
    answer = [*before, *stream]
    assert folded(answer)["choices"][0]["message"]["content"] == "Hello there."
    horde = folded(answer)["horde"]
    assert (submits(cable), len(horde["request_ids"]), horde["retries"]) == (2, 1, 0)


def test_a_first_request_that_fails_does_not_end_the_second(world: World) -> None:
    Worker(world, "lost", [None])
    Worker(world, "good", [8.0])
    stream, cable = hung(world, 26)
    world.horde.cancel(world.horde.open_requests()[0].id)
    horde = folded(list(stream))["horde"]
    assert (submits(cable), len(horde["request_ids"]), horde["retries"]) == (2, 2, 1)


def test_where_both_fail_the_next_try_follows(world: World) -> None:
    Worker(world, "lost", [None])
    Worker(world, "other", [None])
    Worker(world, "good", [8.0])
    stream, cable = hung(world, 28)
    # Though the second fails first, and with another error, it is the first one's that counts.
    for request in reversed(world.horde.open_requests()):
        world.horde.cancel(request.id)
    horde = folded(list(stream))["horde"]
    assert (submits(cable), horde["retries"]) == (3, 2)
    assert [worker["name"] for worker in horde["workers"]] == ["good"]


@pytest.mark.parametrize("streams", [False, True])
def test_only_the_choices_that_are_missing_are_requested_again(world: World, streams: bool) -> None:
    Worker(world, "lost", [8.0, None], ("The first choice.",))
    Worker(world, "good", [20.0], ("The other choice.",))
    # One does the first choice of two, and vanishes with the second; the other is busy till then.
    world.horde.submit("0000000000", {"prompt": "x", "models": [MODEL], "workers": []})
    world.clock.every_sleep.reverse()
    world.clock.sleep(1)
    upstream, cable = measured(world), world.cable()
    answer = folded(items(world, upstream, chat(n=2, stream=streams)))
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert sorted(texts) == ["The first choice.", "The other choice."]
    assert {worker["name"] for worker in answer["horde"]["workers"]} == {"lost", "good"}
    assert (submits(cable), len(cancelled(cable))) == (2, 1)
    # The taxes, and two jobs: none is made twice.
    assert answer["horde"]["kudos"] == 5.3


@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_call_comes_from_the_second_worker_as_well(world: World, streams: bool) -> None:
    Worker(world, "lost", [None])
    call = 'get_weather", "arguments": {"city": "Oslo"}}'
    Worker(world, "good", [8.0], (call,))
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    body = {**CHAT, "tools": [tool], "tool_choice": "required", "max_tokens": 100}
    cable = world.cable()
    response = world.http().post("/v1/chat/completions", json={**body, "stream": streams})
    assert "Oslo" in response.get_data(as_text=True)
    assert (submits(cable), len(cancelled(cable))) == (2, 1)


def test_a_continuation_avoids_the_worker_that_wrote_the_beginning_and_vanished(
    world: World,
) -> None:
    words = " ".join(f"word{number}" for number in range(60))
    Worker(world, "lost", [8.0, None], (words,))
    good = Worker(world, "good", [8.0], (" and the end.",))
    upstream, cable = measured(world), world.cable()
    answer = items(world, upstream, chat(max_tokens=1000, stream=True))
    assert folded(answer)["choices"][0]["message"]["content"] == f"{words} and the end."
    assert (len(good.popped), submits(cable)) == (1, 3)
    # It is known who hangs, so that nobody sends it a job where another worker can take it.
    [lost] = [worker for worker in world.horde.fleet.workers("text") if worker["name"] == "lost"]
    assert upstream._horde.failures.workers() == [lost["id"]]


def test_waitings_say_how_long_it_takes_with_the_second_request(world: World) -> None:
    Worker(world, "lost", [None])
    Worker(world, "good", [8.0])
    upstream, began = measured(world), world.clock()
    seconds: dict[int, int | None] = {}
    for item in upstream.stream(chat(), Route(upstream, (MODEL,)), Caller()):
        if isinstance(item, Waiting):
            seconds.setdefault(int(world.clock() - began), item.seconds)
    shown = [seconds[second] for second in (0, 5, 8, 14, 20, 24, 28, 30)]
    # Eight seconds of a job that is popped after one; late by as much again; and the second one's.
    assert shown == [9, 5, 1, 6, 12, 9, 5, 2]


def test_an_outage_is_no_reason_for_a_second_request(world: World) -> None:
    Worker(world, "late", [60.0])
    Worker(world, "other", [8.0])
    upstream = measured(world)
    caller = Caller(deadline=world.clock() + 300)
    cable = world.cut_between(5, 50)
    world.clock.every_sleep.pop()
    answer = folded(items(world, upstream, chat(), caller))
    assert (answer["horde"]["retries"], submits(cable)) == (0, 1)


def test_a_refused_second_request_does_not_decide_what_a_fault_of_the_first_means(
    world: World,
) -> None:
    lost = Worker(world, "lost", [None, 8.0], max_length=4096)
    Worker(world, "other", [300.0], max_length=4096)
    world.horde.upfront_kudos = True
    username = world.horde.add_account("a-key-of-an-account", "rich", kudos=10_000)
    world.configure(horde={"api_key": "a-key-of-an-account"})
    request = chat(max_tokens=2000, horde={"segments": False})
    upstream, cable = measured(world), world.cable()
    stream = upstream.stream(request, Route(upstream, (MODEL,)), Caller())
    before = drive(world, stream, 5)
    set_kudos(world, username, 25)
    before += drive(world, stream, 30)
    assert submits(cable) == 2
    # The first one is lost now, and made again.
    set_kudos(world, username, 10_000)
    [first] = world.horde.open_requests()
    world.horde.cancel(first.id)
    lost.job = None
    assert folded([*before, *stream])["choices"][0]["message"]["content"] == "Hello there."


def test_kudos_of_both_are_settled_after_the_answer(world: World) -> None:
    world.horde.settle_every = 3
    Worker(world, "lost", [None])
    Worker(world, "good", [8.0])
    answer = items(world, measured(world), chat())
    horde = folded(answer)["horde"]
    [*_, accepted] = [item for item in answer if isinstance(item, Accepted)]
    assert (horde["kudos_settled"], horde["kudos"] < 3.65) == (False, True)
    for _ in range(10):
        world.clock.sleep(1)
    assert accepted.spent().kudos == 3.65


def test_second_requests_are_counted(world: World) -> None:
    Worker(world, "lost", [None])
    Worker(world, "good", [8.0])
    http = world.http()
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
    text = http.get("/metrics").get_data(as_text=True)
    assert 'horde_proxy_retries_total{reason="hung"} 1.0' in text


def test_each_segment_of_a_whole_answer_leaves_the_name_of_the_first_one(world: World) -> None:
    words = " ".join(f"word{number}" for number in range(60))
    Worker(world, "good", [8.0], (words, " and the end."), max_length=128)
    response = world.http().post("/v1/chat/completions", json={**CHAT, "max_tokens": 1000})
    [first, _] = response.get_json()["horde"]["request_ids"]
    assert response.headers["X-Horde-Request-Id"] == first


WORDS = " ".join(f"w{number}" for number in range(26)) + "."


def first_expected(answer: list[Any]) -> int | None:
    """The expected seconds of the first Waiting."""
    seconds: int | None = next(item.seconds for item in answer if isinstance(item, Waiting))
    return seconds


# Only where nothing else was measured is a stall taken for the usual.
@pytest.mark.parametrize(("stalled", "spoiled"), [(0, [1]), (1, []), (3, [])])
def test_after_a_job_that_stalled_the_expected_seconds_are_the_usual_ones(
    world: World, stalled: int, spoiled: list[int]
) -> None:
    seconds = [8.0] * 5
    seconds[stalled] = 100.0
    Worker(world, "only", seconds, (WORDS,))
    upstream = world.upstream()
    expected = [first_expected(items(world, upstream, chat())) or 0 for _ in range(5)]
    # A second until it is popped, the eight, and the gap between two polls.
    assert [number for number, told in enumerate(expected) if not 8 <= told <= 11] == spoiled


def test_after_a_job_that_was_restarted_the_expected_seconds_are_the_usual_ones(
    world: World,
) -> None:
    Worker(world, "lost", [8.0, None], (WORDS,))
    upstream = world.upstream()
    items(world, upstream, chat())
    began, shown = world.clock(), dict[int, int | None]()
    good: list[Worker] = []
    answer = []
    for item in upstream.stream(chat(), Route(upstream, (MODEL,)), Caller()):
        answer.append(item)
        # The other worker comes when the horde has taken the job back, after 150 s.
        if world.clock() - began > 170 and not good:
            good.append(Worker(world, "good", [8.0], (WORDS,)))
        if isinstance(item, Waiting):
            shown.setdefault(int(world.clock() - began), item.seconds)
    # As late again; then what is left until the horde takes it back; then as in the beginning.
    told = [shown[second] for second in (0, 50, 100, 140, 165)]
    assert told == pytest.approx([9, 42, 58, 19, 9], abs=1)
    assert first_expected(items(world, upstream, chat())) in (8, 9)


def test_a_job_that_ended_in_an_outage_is_not_measured(world: World) -> None:
    Worker(world, "only", [8.0], (WORDS,))
    upstream = world.upstream()
    items(world, upstream, chat())
    world.cut_between(3, 63)
    items(world, upstream, chat(), Caller(deadline=world.clock() + 300))
    assert first_expected(items(world, upstream, chat())) in (8, 9)


def test_a_worker_that_hangs_is_noticed_in_time_where_results_are_pushed(world: World) -> None:
    lost, good = Worker(world, "lost", [None]), Worker(world, "good", [8.0])
    upstream = measured(world)
    webhook = Webhook("https://proxy.invalid")
    webhook.note_delivery()
    upstream._horde = replace(upstream._horde, webhook=webhook)
    # An answer in one piece sleeps for 15 s; polls are as rare.
    caller = Caller(sleeper=Sleeper(longest=15.0, sleep=world.clock.sleep))
    assert folded(items(world, upstream, chat(), caller))["horde"]["retries"] == 1
    assert 20 <= good.popped[0] - lost.popped[0] <= 24

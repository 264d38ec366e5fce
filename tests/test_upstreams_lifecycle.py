"""The lifecycle of a job, driven by kinds that it does not know: images and alchemy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from horde_proxy.aihorde.image_limits import UpfrontLimit
from horde_proxy.errors import InsufficientKudos, RateLimited, UpstreamFailed
from horde_proxy.upstreams.base import Caller, Sleeper, SubmitBudget, SubmitsUsedUp, Waiting
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.image_job import IMAGE
from horde_proxy.upstreams.horde.jobs import (
    Estimate,
    Generation,
    JobKind,
    Progress,
    Status,
    generation_progress,
    generations,
)
from horde_proxy.upstreams.horde.lifecycle import Finished, Lifecycle, Submitted
from horde_proxy.upstreams.horde.running_request import Faulted
from tests.support import World


def forms(status: Status) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = status["forms"]
    return found


ALCHEMY = JobKind(
    name="alchemy",
    submit_path="interrogate/async",
    check_path="interrogate/status",
    status_path="interrogate/status",
    is_final=lambda status, n: status["state"] in ("done", "faulted", "cancelled"),
    progress=lambda status: Progress(
        waiting=sum(form["state"] == "waiting" for form in forms(status)),
        is_processing=status["state"] == "processing",
        queue_position=0,
        is_possible=True,
    ),
    results=lambda status: [form for form in forms(status) if form["state"] == "done"],
)
CHECK = {"waiting": 0, "processing": 1, "finished": 0, "done": False, "queue_position": 0}
DONE = {"waiting": 0, "processing": 0, "finished": 1, "done": True, "kudos": 9.0}
PICTURE = {"img": "https://r2.invalid/x", "worker_id": "w", "worker_name": "W", "model": "Flux"}


@dataclass(eq=False)
class Job:
    """n results that are good unless they say that they are bad."""

    kind: JobKind = IMAGE
    n: int = 1
    max_kudos: float | None = None
    caller: Caller = field(default_factory=Caller)
    models: Sequence[str] = ("Flux",)
    api_key: str = "key"
    description: str = "Flux"
    faults: int = 0
    may_shrink: bool = False

    def payload(self, n: int, worker: str | None) -> dict[str, Any]:
        return {"n": n}

    def second_payload(self, n: int, *, is_queued: bool = False) -> dict[str, Any] | None:
        return None

    def note_hung(self, answered_by: str) -> None:
        raise AssertionError("there was no second request")

    def price(self, n: int) -> float:
        return 10.0 * n

    def upfront(self, n: int) -> float:
        return 0.0

    def estimate(self) -> Estimate:
        return Estimate(queue=3.0, generation=5.0)

    def preferred_worker(self) -> str | None:
        return None

    def read(self, result: Mapping[str, Any]) -> Generation:
        return Generation(
            str(result.get("model")), str(result.get("worker_id")), "", bool(result.get("bad"))
        )

    def is_good(self, generation: Generation) -> bool:
        return not generation.is_censored

    def tokens(self, generation: Generation) -> int:
        return 0

    def shrink_to_free(self, limit: UpfrontLimit | None = None) -> bool:
        may_shrink, self.may_shrink = self.may_shrink, False
        return may_shrink

    @property
    def journal_key(self) -> str:
        return ""

    def resume(self, max_length: int) -> None:
        raise AssertionError

    def adapt_to_workers(self) -> bool:
        return False

    def note_fault(self) -> None:
        self.faults += 1


class Client:
    """Gives the answers one after the other, by the kind of call, and notes the calls."""

    def __init__(self, check: Sequence[Any], status: Sequence[Any] = (), refuse: Any = ()) -> None:
        self.answers = {"check": list(check), "status": list(status), "submit": list(refuse)}
        self.calls: list[str] = []

    def submit(self, kind: JobKind, payload: Mapping[str, Any], api_key: str) -> str:
        self.calls.append(f"POST {kind.submit_path} {payload['n']}")
        if self.answers["submit"]:
            raise self.answers["submit"].pop(0)
        return f"id-{len(self.calls)}"

    def check(self, kind: JobKind, request_id: str) -> Any:
        return self.answer(kind.check_path, "check")

    def status(self, kind: JobKind, request_id: str) -> Any:
        return self.answer(kind.status_path, "status")

    def cancel(self, kind: JobKind, request_id: str) -> Any:
        self.calls.append(f"DELETE {kind.status_path}")

    def answer(self, path: str, of: str) -> Any:
        self.calls.append(f"GET {path}")
        answer = self.answers[of].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def lifecycle(
    world: World, client: Client, job: Job
) -> tuple[Lifecycle[Generation], AnswerCost, HordeContext]:
    context = world.upstream()._horde
    fields = {name: getattr(context, name) for name in context.__dataclass_fields__}
    context = HordeContext(**{**fields, "client": client})
    cost = AnswerCost()
    ticket = context.submit_queue.new_ticket(job.api_key, "client")
    return Lifecycle(context, job, ticket, cost), cost, context


def results(items: Sequence[Any]) -> list[Generation]:
    [finished] = [item for item in items if isinstance(item, Finished)]
    return list(finished.generations)


def test_images_are_polled_cheaply_and_fetched_once(world: World) -> None:
    client = Client([CHECK, CHECK, DONE], [{**DONE, "generations": [PICTURE]}])
    run, cost, context = lifecycle(world, client, Job())
    items = list(run.items())
    assert isinstance(items[0], Submitted)
    assert items[1] == Waiting("queued", None, 8)
    assert results(items) == [Generation("Flux", "w", "", False)]
    assert client.calls == [
        "POST generate/async 1",
        "GET generate/check",
        "GET generate/check",
        "GET generate/check",
        "GET generate/status",
    ]
    assert (cost.kudos, cost.price, cost.request_ids) == (9.0, 10.0, ["id-1"])
    assert not context.running


def test_a_fetch_that_fails_is_made_again_with_the_next_poll(world: World) -> None:
    done = {**DONE, "generations": [PICTURE]}
    client = Client([DONE, DONE], [RateLimited("10 per 1 minute", retry_after=7), done])
    run, _, _ = lifecycle(world, client, Job())
    began = world.clock()
    assert len(results(list(run.items()))) == 1
    assert world.clock() - began >= 7


def test_the_forms_of_an_alchemist_are_the_results(world: World) -> None:
    form = {"form": "caption", "state": "processing"}
    done = {**form, "state": "done", "result": {"caption": "a cat"}}
    client = Client([{"state": "processing", "forms": [form]}, {"state": "done", "forms": [done]}])
    run, _, _ = lifecycle(world, client, Job(ALCHEMY))
    assert len(results(list(run.items()))) == 1
    assert client.calls == [
        "POST interrogate/async 1",
        "GET interrogate/status",
        "GET interrogate/status",
    ]


def test_what_is_left_early_is_cancelled(world: World) -> None:
    client = Client([CHECK] * 3)
    run, _, context = lifecycle(world, client, Job())
    items = run.items()
    [next(items) for _ in range(3)]
    assert context.running == {"id-1"}
    items.close()
    assert client.calls[-1] == "DELETE generate/status"
    assert not context.running


@pytest.mark.parametrize(("is_measured", "polls"), [(True, 11), (False, 23)])
def test_a_wait_of_twenty_seconds_takes_few_polls(
    world: World, is_measured: bool, polls: int
) -> None:
    class Known(Job):
        def estimate(self) -> Estimate:
            return Estimate(queue=1.0, generation=19.0, is_measured=is_measured)

    class Timed(Client):
        """Jobs are popped after a second, and take 19 more."""

        def answer(self, path: str, of: str) -> Any:
            self.calls.append(f"GET {path}")
            seconds = world.clock() - began
            state = {**CHECK, "waiting": 1, "processing": 0} if seconds < 1 else CHECK
            return {**DONE, "generations": [PICTURE]} if seconds >= 20 else state

    client, began = Timed([]), world.clock()
    run, _, _ = lifecycle(world, client, Known())
    assert len(results(list(run.items()))) == 1
    assert world.clock() - began - 20 <= 1
    assert client.calls.count("GET generate/check") == polls


def test_the_preferred_worker_is_not_given_up_while_the_horde_cannot_be_reached(
    world: World,
) -> None:
    class Continuing(Job):
        def preferred_worker(self) -> str | None:
            return "w"

    trouble = [UpstreamFailed("no")] * 20
    client = Client([*trouble, DONE], [{**DONE, "generations": [PICTURE]}])
    run, _, _ = lifecycle(world, client, Continuing())
    began = world.clock()
    assert len(results(list(run.items()))) == 1
    assert world.clock() - began > 5
    assert client.calls.count("POST generate/async 1") == 1


def test_a_chat_that_waits_for_its_turn_gives_it_up_once_its_client_has_left(world: World) -> None:
    sleeper = Sleeper(sleep=world.clock.sleep)
    client = Client([DONE], [{**DONE, "generations": [PICTURE]}])
    run, _, context = lifecycle(world, client, Job(caller=Caller(sleeper=sleeper)))
    queue, items = context.submit_queue, run.items()
    # Another chat of the key has just taken the turns of this second.
    for _ in range(2):
        ticket = queue.new_ticket("key", "other")
        list(queue.wait_turn(ticket, "key", 1))
        with queue.sending(ticket):
            pass
    assert next(items) == Waiting("held back", 1, None)
    sleeper.has_client = False
    assert [next(items) for _ in range(9)] == [Waiting("held back")] * 9
    assert (client.calls, len(queue._line)) == ([], 0)
    sleeper.has_client = True
    assert len(results(list(items))) == 1


def test_results_that_will_not_do_are_made_again_by_themselves(world: World) -> None:
    two = {**DONE, "finished": 2, "generations": [PICTURE, {**PICTURE, "bad": True}]}
    one = {**DONE, "generations": [PICTURE]}
    client = Client([{**DONE, "finished": 2}, DONE], [two, one])
    run, cost, context = lifecycle(world, client, Job(n=2))
    assert len(results(list(run.items()))) == 2
    assert [call for call in client.calls if call.startswith("POST")] == [
        "POST generate/async 2",
        "POST generate/async 1",
    ]
    assert (cost.retries, context.failures.workers()) == (1, ["w"])


def test_a_faulted_job_is_notified_and_retried_until_its_last_try(world: World) -> None:
    faulted = {**CHECK, "faulted": True, "done": True}
    client = Client([faulted] * 3, [faulted] * 3)
    job = Job()
    run, cost, context = lifecycle(world, client, job)
    with pytest.raises(Faulted):
        list(run.items())
    assert context.options.retries == 2
    assert (job.faults, cost.retries) == (2, 2)
    # A request that has ended is not cancelled.
    assert not any(call.startswith("DELETE") for call in client.calls)


def test_without_kudos_it_is_tried_smaller_once(world: World) -> None:
    done = {**DONE, "generations": [PICTURE]}
    client = Client([DONE], [done], [InsufficientKudos("no")])
    run, _, _ = lifecycle(world, client, Job(may_shrink=True))
    assert len(results(list(run.items()))) == 1
    client = Client([], refuse=[InsufficientKudos("no")])
    run, _, _ = lifecycle(world, client, Job())
    with pytest.raises(InsufficientKudos):
        list(run.items())


def test_what_may_cost_too_much_is_not_submitted(world: World) -> None:
    client = Client([])
    run, _, _ = lifecycle(world, client, Job(n=2, max_kudos=19.0))
    with pytest.raises(InsufficientKudos):
        list(run.items())
    assert client.calls == []


def test_each_submit_counts_against_the_callers_budget(world: World) -> None:
    client = Client([], refuse=[RateLimited("no")] * 9)
    job = Job(caller=Caller(submits=SubmitBudget(2)))
    run, _, context = lifecycle(world, client, job)
    with pytest.raises(SubmitsUsedUp):
        list(run.items())
    assert len(client.calls) == 2
    # The turn that was not used is given back: another chat is not held back by it.
    client = Client([DONE], [{**DONE, "generations": [PICTURE]}])
    run, _, _ = lifecycle(world, client, Job(api_key="other"))
    assert len(results(list(run.items()))) == 1
    assert context.submit_queue._sending == {}


def test_unreadable_fields_of_a_status_count_as_missing(world: World) -> None:
    nonsense = {"waiting": "x", "processing": None, "queue_position": -3, "generations": {"a": 1}}
    assert generation_progress(nonsense) == Progress(0, False, 0, True)
    assert generations(nonsense) == []
    assert generations({"generations": [1, PICTURE]}) == [PICTURE]


def test_too_few_results_after_the_last_try_are_an_error(world: World) -> None:
    one = {**DONE, "finished": 2, "generations": [PICTURE]}
    client = Client([{**DONE, "finished": 9}] * 3, [{**one, "generations": []}] * 3)
    run, _, _ = lifecycle(world, client, Job(n=5))
    with pytest.raises(UpstreamFailed):
        list(run.items())


# Polled after 0.25 s and after 0.75 s, it took half a second.
@pytest.mark.parametrize(("restarted", "speed"), [(0, 100 / 0.5), (1, None)])
def test_the_seconds_of_a_restarted_job_are_not_the_speed_of_who_made_it(
    world: World, restarted: int, speed: float | None
) -> None:
    class Written(Job):
        def tokens(self, generation: Generation) -> int:
            return 100

    final = {**DONE, "restarted": restarted, "generations": [PICTURE]}
    run, _, context = lifecycle(world, Client([CHECK, DONE], [final]), Written())
    list(run.items())
    assert context.throughput.of("Flux").per_second == speed
    assert context.throughput.of("w").per_second == speed
    assert context.throughput.of("w").mean_tokens == 100

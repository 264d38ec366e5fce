"""Long answers in segments: the same text as in one job, but earlier, whichever workers write."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import InsufficientKudos
from horde_proxy.prompts.end_tokens import cut
from horde_proxy.prompts.partial_answer import LengthEstimate
from horde_proxy.prompts.tokens import estimate, truncate
from horde_proxy.protocol.chunks import fold
from horde_proxy.protocol.generation_request import GenerationRequest, Message, Tool
from horde_proxy.upstreams.base import Caller, Route, SubmitBudget, SubmitsUsedUp, Waiting
from horde_proxy.upstreams.horde.upstream import HordeUpstream
from horde_proxy.worker.backends import BackendError
from tests.support import HORDE_URL, OWNER_KEY, Clock, Scripted, World

BEGUN = re.compile(r"<\|im_start\|>assistant\n(.*)\Z", re.DOTALL)


class Reciter(Scripted):
    """Recites its text from where the answer stands, up to max_length; `late` stops are kept."""

    def __init__(self, text: str, clock: Clock, speed: float = 0, **extra: Any) -> None:
        super().__init__(text, **extra)
        self.clock, self.speed = clock, speed

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.payloads.append(dict(payload))
        begun = BEGUN.search(payload["prompt"])
        assert begun and self.text.startswith(begun[1]), begun
        text = truncate(self.text[len(begun[1]) :], payload["max_length"])
        shown, stop = cut(text, payload["stop_sequence"])
        text = shown + (stop or "")
        if self.speed:
            self.clock.seconds += estimate(text) / self.speed
        return text


def chat(**fields: Any) -> GenerationRequest:
    messages = (Message("user", "Recite."),)
    return GenerationRequest(**{"model": "test/model", "messages": messages, **fields})


def chunks(
    world: World,
    request: GenerationRequest,
    upstream: HordeUpstream | None = None,
    caller: Caller | None = None,
) -> list[tuple[float, Any]]:
    """(when, chunk) of all chunks."""
    upstream = upstream or world.upstream()
    return [
        (world.clock(), item)
        for item in upstream.stream(request, Route(upstream, (request.model,)), caller or Caller())
        if isinstance(item, dict)
    ]


def answer(
    world: World,
    request: GenerationRequest,
    upstream: HordeUpstream | None = None,
    caller: Caller | None = None,
) -> dict[str, Any]:
    return fold(chunk for _, chunk in chunks(world, request, upstream, caller))


def content(found: dict[str, Any]) -> str:
    text: str = found["choices"][0]["message"]["content"]
    return text


TOOL = Tool("get_weather", "", {"type": "object", "properties": {}})
WORDS = " ".join(f"word{number}" for number in range(900))


def test_a_long_answer_is_a_chain_of_requests(world: World) -> None:
    worker = world.employ(Reciter(WORDS, world.clock, max_length=200))
    found = answer(world, chat(max_tokens=4000))
    assert content(found) == WORDS
    assert found["choices"][0]["finish_reason"] == "stop"
    assert {payload["max_length"] for payload in worker.payloads} == {200}
    assert found["horde"]["segments"] == len(found["horde"]["request_ids"]) > 10


def test_a_chain_is_cut_at_the_clients_limit_like_one_job(world: World) -> None:
    world.employ(Reciter(WORDS, world.clock, max_length=200))
    found = answer(world, chat(max_tokens=1000))
    assert content(found) == truncate(WORDS, 1000)
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 999


def test_a_streamed_chain_begins_with_a_short_segment(world: World) -> None:
    worker = world.employ(Reciter(WORDS, world.clock))
    answer(world, chat(max_tokens=1000, stream=True))
    assert worker.payloads[0]["max_length"] == 128
    assert worker.payloads[1]["max_length"] == 512


def test_the_first_text_comes_before_a_third_of_the_time(world: World) -> None:
    world.horde.upfront_kudos = True
    world.configure(horde={"api_key": "0000000000"})
    world.employ(Reciter(WORDS, world.clock, speed=4, max_length=200))
    began = world.clock()
    found = chunks(world, chat(max_tokens=2000, stream=True))
    first = next(at for at, each in found if each["choices"][0]["delta"].get("content"))
    assert first - began < (world.clock() - began) / 3
    assert content(fold(each for _, each in found)) == truncate(WORDS, 2000)


def test_without_segments_the_answer_is_one_job_and_says_so(world: World) -> None:
    world.configure(horde={"segments": False})
    world.employ(Reciter(WORDS, world.clock, max_length=200))
    upstream = world.upstream()
    items = list(upstream.stream(chat(max_tokens=1000), Route(upstream, ("test/model",)), Caller()))
    assert items[0].headers["X-Horde-Warnings"] == "max_tokens: lowered to 200"  # type: ignore
    found = fold(item for item in items if isinstance(item, dict))
    assert content(found) == truncate(WORDS, 200)
    assert found["choices"][0]["finish_reason"] == "length"


def test_a_short_answer_is_one_request(world: World) -> None:
    world.employ(Scripted("Hello there."))
    found = answer(world, chat(stream=True))
    assert len(found["horde"]["request_ids"]) == 1


def test_an_answer_that_had_ended_is_not_spoiled_by_its_continuation(world: World) -> None:
    text = " ".join(["word"] * 119) + " end."

    class Rambling(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            super().generate(payload, cancelled)
            return text if len(self.payloads) == 1 else "\nUser: And now something else."

    worker = world.employ(Rambling(""))
    found = answer(world, chat(stream=True))
    assert content(found) == text
    assert [payload["max_length"] for payload in worker.payloads] == [128, 48]
    assert found["choices"][0]["finish_reason"] == "stop"


def test_several_choices_are_chained_each_for_itself(world: World) -> None:
    world.employ(Reciter(WORDS, world.clock, max_length=200))
    found = answer(world, chat(max_tokens=500, n=3))
    assert [each["message"]["content"] for each in found["choices"]] == [truncate(WORDS, 500)] * 3


def test_the_next_segment_prefers_the_worker_of_the_first(world: World) -> None:
    one = world.employ(Reciter(WORDS, world.clock, max_length=200), "one")
    two = world.employ(Reciter(WORDS, world.clock, max_length=200), "two")
    found = answer(world, chat(max_tokens=2000))
    assert sorted([len(one.payloads), len(two.payloads)])[0] == 0
    assert len(found["horde"]["workers"]) == 1


def test_a_slow_worker_is_not_preferred_to_one_that_was_never_measured(world: World) -> None:
    slow = world.employ(Reciter(WORDS, world.clock, speed=4, max_length=200), "slow")
    quick = Reciter(WORDS, world.clock, speed=40, max_length=200)
    other = world.bridge(quick, "quick")
    other.step(world.session)
    world.clock.every_sleep.insert(0, lambda: slow.payloads and other.step(world.session))
    assert content(answer(world, chat(max_tokens=2000))) == truncate(WORDS, 2000)
    assert len(slow.payloads) == 1
    assert len(quick.payloads) >= 9


def test_a_first_segment_is_short_when_a_slow_worker_may_write_it(world: World) -> None:
    slow = world.employ(Reciter(WORDS, world.clock, speed=4, max_length=200), "slow")
    quick = Reciter(WORDS, world.clock, speed=40, max_length=200)
    other = world.bridge(quick, "quick")
    other.step(world.session)
    world.clock.every_sleep.insert(0, lambda: slow.payloads and other.step(world.session))
    began = world.clock()
    found = chunks(world, chat(max_tokens=2000, stream=True))
    [first, *_] = [
        at for at, each in found if each["choices"] and each["choices"][0]["delta"].get("content")
    ]
    assert slow.payloads[0]["max_length"] == 80
    assert first - began < (found[-1][0] - began) / 3


def test_when_the_first_worker_is_gone_another_goes_on(world: World) -> None:
    one, two = world.bridge(Reciter(WORDS, world.clock), "one"), Reciter(WORDS, world.clock)
    one.step(world.session)
    world.bridge(two, "two").step(world.session)
    upstream = world.upstream()
    items = upstream.stream(
        chat(max_tokens=2000, stream=True), Route(upstream, ("test/model",)), Caller()
    )
    next(items)
    one.step(world.session)
    other = world.bridge(two, "two")
    world.clock.every_sleep.append(lambda: other.step(world.session))
    found = fold(item for item in items if isinstance(item, dict))
    assert content(found) == truncate(WORDS, 2000)
    assert len(found["horde"]["workers"]) == 2


class Mute(Reciter):
    """Sends nothing as often as it is told to; then it recites."""

    def __init__(self, *args: Any, failures: int, **extra: Any) -> None:
        super().__init__(*args, **extra)
        self.failures = failures

    def generate(self, payload: Any, cancelled: Any) -> str:
        text = super().generate(payload, cancelled)
        self.failures -= 1
        return "" if self.failures >= 0 else text


def test_a_worker_that_alone_can_take_a_job_is_asked_again_after_a_bad_text(world: World) -> None:
    large = world.employ(Mute(WORDS, world.clock, failures=1, max_length=1024), "large")
    world.bridge(Reciter(WORDS, world.clock, max_length=16), "small").step(world.session)
    upstream, began = world.upstream(), world.clock()
    for _ in range(2):
        found = answer(world, chat(max_tokens=900), upstream)
        assert content(found) == truncate(WORDS, 900)
        assert [worker["name"] for worker in found["horde"]["workers"]] == ["large"]
    assert [payload["max_length"] for payload in large.payloads] == [900, 900, 900]
    assert world.clock() - began < 10


def test_a_job_that_its_only_worker_spoils_is_made_smaller_for_another(world: World) -> None:
    large = world.employ(Mute(WORDS, world.clock, failures=99, max_length=1024), "large")
    small = world.employ(Reciter(WORDS, world.clock, max_length=256), "small")
    upstream, began = world.upstream(), world.clock()
    for rounds in (1, 2):
        assert content(answer(world, chat(max_tokens=900), upstream)) == truncate(WORDS, 900)
        # The worker that failed is tried once for an answer; another one goes on with it.
        assert len(large.payloads) == rounds
    assert {payload["max_length"] for payload in small.payloads} == {256, 142}
    assert world.clock() - began < 30


def test_a_chain_goes_on_when_the_only_other_able_worker_has_left(world: World) -> None:
    """The first worker fails, and the one that is to do it instead leaves in the meantime."""
    one = world.employ(Mute(WORDS, world.clock, failures=0, max_length=200), "one")
    upstream = world.upstream()
    items = upstream.stream(
        chat(max_tokens=2000, stream=True), Route(upstream, ("test/model",)), Caller()
    )
    world.bridge(Reciter(WORDS, world.clock, max_length=200), "two").step(world.session)
    next(items)
    [two] = [
        worker for worker in world.horde.fleet.workers("text", None) if worker["name"] == "two"
    ]
    world.horde.fleet.change_worker(OWNER_KEY, two["id"], {"maintenance": True})
    one.failures = 1
    world.clock.seconds += 3
    began = world.clock()
    found = fold(item for item in items if isinstance(item, dict))
    assert content(found) == truncate(WORDS, 2000)
    assert world.clock() - began < 40


def test_a_job_that_became_too_large_for_all_workers_is_sent_again_smaller(world: World) -> None:
    world.bridge(Reciter(WORDS, world.clock, max_length=512), "large").step(world.session)
    upstream, began = world.upstream(), world.clock()
    items = upstream.stream(chat(max_tokens=400), Route(upstream, ("test/model",)), Caller())
    next(items)
    [large] = world.horde.fleet.workers("text", None)
    world.horde.fleet.change_worker(OWNER_KEY, large["id"], {"maintenance": True})
    small = world.employ(Reciter(WORDS, world.clock, max_length=256), "small")
    found = fold(item for item in items if isinstance(item, dict))
    assert content(found) == truncate(WORDS, 400)
    assert small.payloads[0]["max_length"] == 256
    # As long as the horde's own answer to what is possible may be old.
    assert world.clock() - began < 75


def test_a_full_context_ends_the_answer_as_length(world: World) -> None:
    world.employ(Reciter(WORDS, world.clock, context=1024))
    found = answer(world, chat(max_tokens=4000))
    assert WORDS.startswith(content(found))
    assert estimate(content(found)) > 600
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["horde"]["cut_off_by"] == "context"


def test_an_answer_ends_with_what_it_has_when_the_clients_time_is_over(world: World) -> None:
    world.employ(Reciter(WORDS, world.clock, speed=10, max_length=200))
    found = answer(world, chat(max_tokens=4000), caller=Caller(deadline=world.clock() + 100))
    assert 500 < estimate(content(found)) < 1200
    assert found["horde"]["cut_off_by"] == "time"
    assert world.horde.open_requests() == []


def test_no_more_kudos_are_spent_than_the_client_allows(world: World) -> None:
    world.employ(Reciter(WORDS, world.clock, max_length=200))
    found = answer(world, chat(max_tokens=4000, horde={"max_kudos": 30.0}))
    assert 0 < found["horde"]["kudos"] <= 30
    assert found["horde"]["cut_off_by"] == "kudos"


def test_a_slow_models_jobs_are_short_enough_to_end_in_time(world: World) -> None:
    worker = world.employ(Reciter(WORDS, world.clock, speed=2))
    answer(world, chat(max_tokens=100))
    world.clock.seconds += 2
    answer(world, chat(max_tokens=1000))
    assert worker.payloads[-2]["max_length"] <= 200


TEXT = st.lists(
    st.sampled_from(
        [
            "The",
            " quick",
            " brown",
            " fox",
            ".",
            "\n",
            "\n\n",
            "    return",
            " x",
            "=",
            "漢字",
            "é",
            "😀",
            "```python\n",
            "```",
            " [1, 2]",
            "{",
            "}",
            " EN",
            "END",
            "STO",
            "\t",
            "  ",
            "<b>",
            " model\n",
            "User",
            ":",
            "1.",
            " 2026",
            "'",
            '"',
            "\\n",
            "ß",
            " 👩‍👩‍👧",
            "-" * 9,
            "<|im",
        ]
    ),
    min_size=1,
    max_size=400,
).map("".join)


@given(
    # An echoed role takes tokens of the one job, and none of a chain's limit.
    text=TEXT.filter(lambda text: not text.lstrip().startswith("model")),
    max_length=st.integers(16, 120),
    limit=st.integers(1, 900),
    stops=st.sampled_from([(), ("STOP",), ("END", "\n\n\n"), ("😀", " fox."), ("```",)]),
    streams=st.booleans(),
)
def test_a_chain_gives_what_one_job_gives(
    text: str, max_length: int, limit: int, stops: tuple[str, ...], streams: bool
) -> None:
    """Multi-byte characters, newlines, code, and stops that lie across seams."""
    request = chat(max_tokens=limit, stop=stops, stream=streams)
    whole, chained = World(), World()
    whole.employ(Reciter(text, whole.clock, max_length=4096, context=65536))
    whole.configure(horde={"segments": False})
    chained.employ(Reciter(text, chained.clock, max_length=max_length, context=65536))
    assert content(answer(chained, request)) == content(answer(whole, request))


def test_waitings_have_the_expected_seconds(world: World) -> None:
    world.employ(Reciter(WORDS, world.clock, speed=10))
    answer(world, chat(max_tokens=400))
    upstream = world.upstream()
    upstream._horde.throughput.learn("test/model", 400, 40.0)
    items = upstream.stream(chat(max_tokens=400), Route(upstream, ("test/model",)), Caller())
    waiting = next(item for item in items if isinstance(item, Waiting))
    assert waiting.seconds is not None and 30 < waiting.seconds < 50


@pytest.mark.parametrize("bad", ["", "   ", "{{[INPUT]}}Recite.{{[OUTPUT]}}", "spam " * 200])
def test_a_bad_generation_is_requested_from_another_worker(world: World, bad: str) -> None:
    spoiler = world.employ(Scripted(bad), "spoiler")
    world.employ(Scripted("Hello there."), "good")
    upstream = world.upstream()
    found = answer(world, chat(), upstream)
    assert content(found) == "Hello there."
    assert found["horde"]["retries"] == 1
    assert content(answer(world, chat(), upstream)) == "Hello there."
    assert len(spoiler.payloads) == 1


class Failing(Scripted):
    def generate(self, payload: Any, cancelled: Any) -> str:
        super().generate(payload, cancelled)
        raise BackendError("out of memory")


def test_a_worker_that_faults_is_identified_and_avoided(world: World) -> None:
    failing = Failing("")
    hasty = world.bridge(failing, "failing")
    hasty.step(world.session)
    world.clock.every_sleep.append(lambda: [hasty.step(world.session) for _ in range(3)])
    world.employ(Scripted("Hello there."), "good")
    upstream = world.upstream()
    assert content(answer(world, chat(), upstream)) == "Hello there."
    assert len(failing.payloads) == 3
    assert content(answer(world, chat(), upstream)) == "Hello there."
    assert len(failing.payloads) == 3


def test_a_failure_is_forgotten_after_an_hour(world: World) -> None:
    spoiler = world.employ(Scripted(""), "spoiler")
    world.employ(Scripted("Hello there."), "good")
    upstream = world.upstream()
    answer(world, chat(), upstream)
    world.clock.sleep(3601)
    answer(world, chat(), upstream)
    assert len(spoiler.payloads) == 2


def test_a_loop_is_returned_when_every_retry_loops(world: World) -> None:
    worker = world.employ(Scripted("spam " * 200, max_length=512))
    found = answer(world, chat(max_tokens=300))
    assert content(found).startswith("spam spam")
    assert len(worker.payloads) == 3


def test_a_censored_answer_is_requested_from_another_worker(world: World) -> None:
    upstream = world.upstream()
    censor = world.bridge(Scripted("no"), "censor")
    censor.step(world.session)
    items = upstream.stream(chat(), Route(upstream, ("test/model",)), Caller())
    next(items)
    world.horde.submit_generation(*_censored(world))
    world.employ(Scripted("Hello there."), "good")
    assert content(fold(item for item in items if isinstance(item, dict))) == "Hello there."


def _censored(world: World) -> tuple[str, dict[str, Any]]:
    offer = {
        "name": "censor",
        "models": ["test/model"],
        "bridge_agent": "AI Horde Worker:1:x",
        "max_length": 512,
        "max_context_length": 8192,
        "threads": 1,
    }
    job = world.horde.pop(OWNER_KEY, offer)
    return OWNER_KEY, {"id": job["id"], "generation": "", "state": "censored"}


@pytest.mark.parametrize("count", [80, pytest.param(200, marks=pytest.mark.slow)])
def test_many_chats_at_once_are_neither_refused_nor_reordered(
    world: World, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """One anonymous key at a horde that counts, asks for kudos and turns fast callers away."""
    monkeypatch.setattr("horde_proxy.upstreams.horde.upstream.QUIET_SECONDS", 0.0)
    world.horde.upfront_kudos = True
    world.configure(horde={"api_key": "0000000000"})
    statuses: list[tuple[float, str, int]] = []
    adapter = world.session.get_adapter(HORDE_URL)
    send = adapter.send

    def noted(request: Any, **kwargs: Any) -> Any:
        response = send(request, **kwargs)
        if request.method == "POST":
            number = re.search(r"chat number (\d+)", str(json.loads(request.body).get("prompt")))
            statuses.append((world.clock(), number[1] if number else "", response.status_code))
        return response

    adapter.send = noted  # type: ignore[assignment]
    worker = world.bridge(Scripted("Hello there."))
    worker.step(world.session)
    world.runtime = replace(world.runtime, sleep=lambda seconds: None)
    upstream = world.upstream()
    running = {}
    for number in range(count):
        request = chat(messages=(Message("user", f"This is chat number {number}."),))
        running[number] = upstream.stream(request, Route(upstream, ("test/model",)), Caller())
    answers: dict[int, list[Any]] = {number: [] for number in running}
    while running:
        for number, items in list(running.items()):
            item = next(items, None)
            if item is None:
                del running[number]
            elif isinstance(item, dict):
                answers[number].append(item)
        worker.step(world.session)
        world.clock.seconds += 0.1
    submits = [each for each in statuses if each[1]]
    assert {status for _, _, status in submits} == {202}
    assert [int(number) for _, number, _ in submits] == list(range(count))
    assert {content(fold(each)) for each in answers.values()} == {"Hello there."}
    # 90 submits a minute at most, of which the first come two a second.
    seconds = submits[-1][0] - submits[0][0]
    assert (35 if count == 80 else 120) < seconds < (45 if count == 80 else 140)


def test_a_text_with_a_nul_is_handed_in_without_it(world: World) -> None:
    world.employ(Scripted("Hello\0 there."))
    assert content(answer(world, chat())) == "Hello there."


def test_choices_that_differ_wait_for_a_turn_each(world: World) -> None:
    class Differing(Reciter):
        def generate(self, payload: Any, cancelled: Any) -> str:
            self.payloads.append(dict(payload))
            number = len(self.payloads)
            return f"{number} " + truncate(WORDS, payload["max_length"] - 2)

    worker = world.employ(Differing(WORDS, world.clock, max_length=200))
    found = answer(world, chat(max_tokens=600, n=4))
    assert [each["finish_reason"] for each in found["choices"]] == ["length"] * 4
    assert len({each["message"]["content"] for each in found["choices"]}) == 4
    assert len(worker.payloads) >= 12


def test_a_worker_that_writes_nothing_but_replacement_characters_ends_the_chain(
    world: World,
) -> None:
    worker = world.employ(Scripted("\ufffd" * 600, max_length=512))
    answer(world, chat(max_tokens=4000))
    assert len(worker.payloads) < 10


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_all_words_are_sent_though_the_deadline_passes_meanwhile(
    world: World, tools: tuple[Tool, ...]
) -> None:
    world.employ(Reciter("one two three four.", world.clock, speed=0.5))
    upstream = world.upstream()
    request = chat(stream=True, max_tokens=100, tools=tools, tool_choice="auto")
    found, caller = [], Caller(deadline=world.clock() + 11)
    for item in upstream.stream(request, Route(upstream, ("test/model",)), caller):
        if isinstance(item, dict):
            world.clock.seconds += 1 if item["choices"] else 0
            found.append(item)
    assert content(fold(found)) == "one two three four."


def test_more_kudos_than_allowed_are_not_spent_on_retries(world: World) -> None:
    worker = world.employ(Scripted("spam " * 200))
    with pytest.raises(InsufficientKudos):
        answer(world, chat(max_tokens=300, horde={"max_kudos": 79.0}))
    assert len(worker.payloads) < 3


def test_one_chat_submits_no_more_than_its_bound(world: World) -> None:
    worker = world.employ(Reciter(WORDS, world.clock, max_length=80))
    caller = Caller(submits=SubmitBudget(most=3))
    found = answer(world, chat(max_tokens=4000), caller=caller)
    assert (len(worker.payloads), found["horde"]["segments"]) == (3, 3)
    assert found["horde"]["cut_off_by"] == "failure"


def test_a_chat_without_any_submit_left_gets_an_error_that_says_so(world: World) -> None:
    world.employ(Reciter(WORDS, world.clock))
    with pytest.raises(SubmitsUsedUp, match="took 0 requests"):
        answer(world, chat(), caller=Caller(submits=SubmitBudget(most=0)))


# A worker that writes more than it should

SENTENCES = "This is a short sentence about rain. " * 400


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("segments", [False, True])
def test_an_answer_is_cut_at_the_clients_limit_whatever_a_worker_sends(
    world: World, streams: bool, segments: bool
) -> None:
    world.employ(Scripted(SENTENCES))
    request = chat(max_tokens=50, stream=streams, n=2, horde={"segments": segments})
    found = answer(world, request)
    for choice in found["choices"]:
        assert choice["message"]["content"] == truncate(SENTENCES, 50)
        assert choice["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 2 * estimate(truncate(SENTENCES, 50))


def test_tokens_beyond_a_jobs_max_length_are_delivered_and_counted(world: World) -> None:
    """The client's limit leaves room for all of it, so all of it is given out."""
    text = "This is a short sentence about rain. " * 100 + "The end.<|im_end|>"
    world.employ(Scripted(text, max_length=128))
    upstream = world.upstream()
    found = answer(world, chat(max_tokens=2000), upstream)
    assert content(found) == text.removesuffix("<|im_end|>")
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] == estimate(content(found)) > 800


def test_a_job_that_is_too_long_does_not_change_what_a_full_one_looks_like(world: World) -> None:
    parts = [SENTENCES[:2000], " and so on, and"]

    class Rambling(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            super().generate(payload, cancelled)
            return parts[min(len(self.payloads) - 1, 1)]

    world.employ(Rambling("", max_length=64))
    upstream = world.upstream()
    answer(world, chat(max_tokens=2000), upstream)
    assert upstream._horde.throughput.of("test/model").fill.mean == 1.0


DIGITS = " ".join(f"{number}" for number in range(100_000, 101_200))


class Counting(Scripted):
    """Writes tokens of three digits, as Llama 3 and GPT-4o do: ours are of one."""

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.payloads.append(dict(payload))
        begun = BEGUN.search(payload["prompt"])
        assert begun
        # A space and the first three digits, or three digits.
        pieces = re.findall(r" ?[0-9]{3}", DIGITS[len(begun[1]) :])
        return "".join(pieces[: payload["max_length"]])


def test_a_text_that_our_estimate_takes_for_longer_is_neither_cut_nor_ended_early(
    world: World,
) -> None:
    worker = world.employ(Counting("", max_length=200))
    found = answer(world, chat(max_tokens=600))
    assert content(found).startswith(DIGITS[: 600 * 3])
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["usage"]["completion_tokens"] == 600
    assert [payload["max_length"] for payload in worker.payloads] == [200, 200, 200]


# Whether an answer that is almost as long as its job was complete


class Spoken(Scripted):
    """Says one text, and nothing more after it. It takes 14 s to say nothing."""

    def __init__(self, text: str, clock: Clock) -> None:
        super().__init__(text, max_length=128)
        self.clock = clock

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.payloads.append(dict(payload))
        if payload["max_length"] == 48:
            self.clock.seconds += 14
            return ""
        return self.text


@pytest.mark.parametrize("tools", [(), (TOOL,)])
def test_a_text_is_sent_at_once_while_it_is_found_out_whether_it_was_complete(
    world: World, tools: tuple[Tool, ...]
) -> None:
    # After a full stop, the name of a tool might follow: the word before it waits.
    text = " ".join(["word"] * 100) + " end!"
    world.employ(Spoken(text, world.clock))
    request = chat(stream=True, max_tokens=1000, tools=tools, tool_choice="auto")
    sent = chunks(world, request)
    assert content(fold(chunk for _, chunk in sent)) == text
    deltas = [(at, chunk["choices"][0]["delta"]) for at, chunk in sent if chunk["choices"]]
    written = [at for at, delta in deltas if delta.get("content")]
    assert written[-1] - written[0] < 1
    assert deltas[-1][0] - written[-1] >= 14


def test_a_models_answers_of_a_length_that_proved_complete_are_not_doubted_again(
    world: World,
) -> None:
    worker = world.employ(Spoken(" ".join(["word"] * 100) + " end.", world.clock))
    upstream = world.upstream()
    for _ in range(5):
        answer(world, chat(stream=True, max_tokens=1000), upstream)
    lengths = [payload["max_length"] for payload in worker.payloads]
    assert lengths == [128, 48, 128, 48, 128, 128, 128]


@pytest.mark.parametrize("text", [truncate(WORDS, 115), truncate(WORDS, 135) + " end."])
def test_a_text_that_ended_by_itself_near_the_length_of_its_job_has_stopped(
    world: World, text: str
) -> None:
    worker = world.employ(Spoken(text, world.clock))
    upstream = world.upstream()
    # Our estimate of this model's full jobs of 128 tokens is 180.
    for _ in range(20):
        upstream._horde.throughput.learn_length("test/model", 1.4, is_full=True)
    found = answer(world, chat(stream=True, max_tokens=1000), upstream)
    assert content(found) == text
    assert found["choices"][0]["finish_reason"] == "stop"
    assert len(worker.payloads) == 1


class Thinking(Scripted):
    """Thinks in its first job, and says `answer` in the next ones."""

    def __init__(self, thought: str, answer: str, name: str = "test/model") -> None:
        super().__init__("", name)
        self.thought, self.answer = thought, answer

    def generate(self, payload: Any, cancelled: Any) -> str:
        super().generate(payload, cancelled)
        return self.answer if len(self.payloads) > 1 else self.thought


@pytest.mark.parametrize(
    ("thought", "name", "ending"),
    [
        ("<think>\nTwo and two.", "test/model", "<think>\nTwo and two.\n</think>\n\n"),
        ("<think>\nTwo and two.\n</think>\n", "test/model", "Two and two.\n</think>\n\n"),
        ("[THINK]Two and two.", "test/model", "[THINK]Two and two.\n[/THINK]\n\n"),
        (
            "analysisWe need Two and two.",
            "koboldcpp/gpt-oss-20b",
            "analysisWe need Two and two.assistantfinal",
        ),
        (
            "<|channel|>analysis<|message|>Two and two.<|end|>",
            "aphrodite/openai/gpt-oss-20b",
            "Two and two.<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_only_thought_goes_on_with_its_answer(
    world: World, thought: str, name: str, ending: str, stream: bool
) -> None:
    worker = world.employ(Thinking(thought, "Four.", name))
    found = answer(world, replace(chat(stream=stream), model=name))
    message = found["choices"][0]["message"]
    assert (message["content"], found["choices"][0]["finish_reason"]) == ("Four.", "stop")
    assert message["reasoning_content"].endswith("Two and two.")
    assert worker.payloads[1]["prompt"].endswith(ending)
    assert len(worker.payloads) == 2


def test_a_model_that_only_thinks_goes_on_once_and_ends_with_length(world: World) -> None:
    worker = world.employ(Thinking("<think>\nTwo and two.", "\n"))
    found = answer(world, chat())
    assert not content(found)
    assert found["choices"][0]["finish_reason"] == "length"
    assert len(worker.payloads) == 2


def test_a_thought_that_the_model_ended_is_not_measured_as_a_full_job(world: World) -> None:
    world.employ(Thinking("<think>\nTwo and two.", "Four."))
    upstream = world.upstream()
    assert content(answer(world, chat(), upstream)) == "Four."
    assert upstream._horde.throughput.of("test/model").fill == LengthEstimate()


def test_a_model_that_only_thought_goes_on_where_answers_are_one_job(world: World) -> None:
    world.configure(horde={"segments": False})
    world.employ(Thinking("<think>\nTwo and two.", "Four."))
    assert content(answer(world, chat())) == "Four."

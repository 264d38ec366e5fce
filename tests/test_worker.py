"""The worker: placeholders, its small models, servers as backends, and the loop."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
import requests
import responses

from horde_proxy.prompts.tokens import estimate
from horde_proxy.upstreams.horde.text import TEXT
from horde_proxy.worker import model_file
from horde_proxy.worker.backends import (
    Backend,
    BackendError,
    BackendOptions,
    open_backend,
    registry,
)
from horde_proxy.worker.backends.echo import Echo
from horde_proxy.worker.backends.kobold import KoboldServer
from horde_proxy.worker.backends.ngram import NGram
from horde_proxy.worker.backends.pieces import before_stop
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.growing_job import GrowingJob, Received
from horde_proxy.worker.horde import HordeConnection, WorkerIdentity, WorkerRejected
from horde_proxy.worker.kinds import PoppedJob
from horde_proxy.worker.placeholders import fill, fill_payload
from horde_proxy.worker.scribe import Scribe, text_offer
from tests.support import CLIENT_KEY, HORDE_URL, OWNER_KEY, Clock, Scripted, World, text_bridge

CHATML = {
    "SYSTEM": "<|im_start|>system\n",
    "SYSTEM_END": "<|im_end|>\n",
    "INPUT": "<|im_start|>user\n",
    "INPUT_END": "<|im_end|>\n",
    "OUTPUT": "<|im_start|>assistant\n",
    "OUTPUT_END": "<|im_end|>\n",
}
FILLED = (
    "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
    "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n"
)
URL = "http://backend.invalid:5001"


def never() -> bool:
    return False


@pytest.mark.parametrize(
    "prompt",
    [
        "{{[SYSTEM]}}S{{[SYSTEM_END]}}{{[INPUT]}}U{{[INPUT_END]}}{{[OUTPUT]}}A{{[OUTPUT_END]}}"
        "{{[INPUT]}}U2{{[INPUT_END]}}{{[OUTPUT]}}",
        "{{[SYSTEM]}}S{{[INPUT]}}U{{[OUTPUT]}}A{{[INPUT]}}U2{{[OUTPUT]}}",
    ],
)
def test_placeholders_become_the_models_tags_with_and_without_their_ends(prompt: str) -> None:
    assert fill(prompt, CHATML) == FILLED


def test_a_prompt_without_placeholders_stays_as_it_is() -> None:
    assert fill("just text { {[INPUT]}}", CHATML) == "just text { {[INPUT]}}"


def test_stops_are_filled_in_once_and_without_whitespace() -> None:
    payload = {
        "prompt": "{{[INPUT]}}U",
        "max_length": 80,
        "stop_sequence": ["{{[INPUT]}}", "{{[INPUT_END]}}", "{{[OUTPUT_END]}}", "END"],
    }
    assert fill_payload(payload, CHATML) == {
        "prompt": "<|im_start|>user\nU",
        "max_length": 80,
        "stop_sequence": ["<|im_start|>user", "<|im_end|>", "END"],
    }


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        (
            "{{[SYSTEM]}}S{{[SYSTEM_END]}}{{[INPUT]}}U{{[INPUT_END]}}{{[OUTPUT]}}A{{[OUTPUT_END]}}"
            "{{[INPUT]}}line 1\nline 2{{[INPUT_END]}}{{[OUTPUT]}}",
            "line 1\nline 2",
        ),
        ("{{[INPUT]}}U{{[OUTPUT]}}", "U"),
        ("raw prompt", "raw prompt"),
        ("{{[INPUT]}}one two three{{[INPUT_END]}}{{[OUTPUT]}}one ", "two three"),
        ("{{[INPUT]}}one two{{[INPUT_END]}}{{[OUTPUT]}}other ", "one two"),
        ("", ""),
    ],
)
def test_the_echo_repeats_the_last_user_turn(prompt: str, text: str) -> None:
    assert Echo().generate({"prompt": prompt, "max_length": 100}, never) == text


def test_the_echo_keeps_to_length_and_stops() -> None:
    assert Echo().generate({"prompt": "one two three four", "max_length": 2}, never) == "one two"
    stops = {"prompt": "one STOP two", "stop_sequence": ["STOP"]}
    assert Echo().generate(stops, never) == "one "


def test_the_echo_takes_its_delay() -> None:
    clock = Clock()
    Echo(25, clock=clock, sleep=clock.sleep).generate({"prompt": "x"}, never)
    assert clock() == pytest.approx(1025)


def test_a_cancelled_echo_does_not_wait() -> None:
    clock = Clock()
    Echo(25, clock=clock, sleep=clock.sleep).generate({"prompt": "x"}, lambda: True)
    assert clock() == 1000


def test_the_ngram_writes_whole_sentences_of_its_corpus() -> None:
    model = NGram("The cat sat down. The dog ran off. The cat ran home.", random.Random(1))
    text = model.generate({"prompt": "", "max_length": 100}, never)
    assert text.endswith(".")
    assert set(text.replace(".", "").split()) <= {
        "The",
        "cat",
        "sat",
        "down",
        "dog",
        "ran",
        "off",
        "home",
    }


def test_the_ngram_starts_near_a_word_of_the_prompt() -> None:
    model = NGram("Cats like fish very much. Dogs like bones very much.", random.Random(1))
    for _ in range(10):
        text = model.generate({"prompt": "What do dogs like? bones", "max_length": 100}, never)
        assert text.startswith(("Dogs", "Cats"))
    assert NGram().generate({"prompt": "kudos", "max_length": 60}, never)


@pytest.mark.parametrize("length", [16, 40])
def test_the_ngram_keeps_to_its_length(length: int) -> None:
    for seed in range(20):
        model = NGram(None, random.Random(seed))
        text = model.generate({"prompt": "x", "max_length": length}, never)
        assert 0 < estimate(text) <= length


def test_models_without_a_file_or_a_runner_say_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        BackendError, match="unknown backend '/nowhere/model.gguf': use echo, ngram, smollm2"
    ):
        open_backend("/nowhere/model.gguf")
    monkeypatch.setattr(model_file, "default_path", lambda: Path("/nowhere/model.gguf"))
    with pytest.raises(BackendError, match="model install|numpy and gguf are missing"):
        open_backend("smollm2")


def test_a_worker_refuses_an_altered_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    altered = tmp_path / "model.gguf"
    altered.write_bytes(b"altered")
    monkeypatch.setattr(model_file, "default_path", lambda: altered)
    with pytest.raises(model_file.ModelFileError, match="it was altered or damaged"):
        open_backend("smollm2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("echo", "horde-proxy/echo"),
        ("ngram", "horde-proxy/ngram-demo"),
    ],
)
def test_a_built_in_model_is_named_for_what_it_is(name: str, expected: str) -> None:
    assert open_backend(name).name == expected


PAYLOAD = {
    "prompt": "Once",
    "n": 1,
    "max_length": 80,
    "max_context_length": 2048,
    "temperature": 0.7,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.05,
    "rep_pen": 1.1,
    "stop_sequence": ["END"],
}


@responses.activate
def test_a_koboldcpp_gets_the_payload_as_it_is_and_a_key_to_abort_it() -> None:
    responses.get(f"{URL}/api/v1/model", json={"result": "koboldcpp/Some-8B"})
    responses.get(f"{URL}/api/v1/config/max_length", json={"value": 1024})
    responses.get(f"{URL}/api/v1/config/max_context_length", json={"value": 16384})
    generate = responses.post(f"{URL}/api/v1/generate", json={"results": [{"text": " upon"}]})
    backend = open_backend(URL)
    assert (backend.name, backend.max_length, backend.max_context_length) == (
        "koboldcpp/Some-8B",
        1024,
        16384,
    )
    assert backend.generate(PAYLOAD, never) == " upon"
    sent = json.loads(generate.calls[0].request.body)
    assert sent.pop("genkey").startswith("KCPP")
    assert sent == PAYLOAD


@responses.activate
def test_a_koboldai_gets_the_payload_as_it_is() -> None:
    responses.get(f"{URL}/api/v1/model", json={"result": "PygmalionAI/pygmalion-6b"})
    generate = responses.post(f"{URL}/api/v1/generate", json={"results": [{"text": " upon"}]})
    assert open_backend(URL).generate(PAYLOAD, never) == " upon"
    assert json.loads(generate.calls[0].request.body) == PAYLOAD


@responses.activate
def test_an_ollama_server_gets_a_raw_prompt() -> None:
    responses.get(f"{URL}/api/v1/model", status=404)
    responses.get(f"{URL}/api/version", json={"version": "0.9"})
    responses.get(f"{URL}/api/tags", json={"models": [{"name": "llama3.2:1b"}]})
    generate = responses.post(f"{URL}/api/generate", json={"response": " upon", "done": True})
    backend = open_backend(URL, BackendOptions(model="home/llama3.2-1b", max_length=300))
    assert (backend.name, backend.max_length) == ("home/llama3.2-1b", 300)
    assert backend.generate(PAYLOAD, never) == " upon"
    assert json.loads(generate.calls[0].request.body) == {
        "model": "llama3.2:1b",
        "prompt": "Once",
        "raw": True,
        "stream": False,
        "options": {
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "repeat_penalty": 1.1,
            "stop": ["END"],
            "num_predict": 80,
            "num_ctx": 2048,
        },
    }


@responses.activate
@pytest.mark.parametrize(
    "version",
    [
        {"status": 404},
        {"json": {"version": "0.21.0", "horde_proxy": "0.1.0"}},  # another horde-proxy
    ],
)
def test_an_openai_server_gets_a_raw_completion(version: dict[str, Any]) -> None:
    responses.get(f"{URL}/api/v1/model", status=404)
    responses.get(f"{URL}/api/version", **version)
    responses.get(f"{URL}/v1/models", json={"data": [{"id": "some-model"}]})
    generate = responses.post(f"{URL}/v1/completions", json={"choices": [{"text": " upon"}]})
    backend = open_backend(f"{URL}/v1")
    assert backend.generate(PAYLOAD, never) == " upon"
    sent = json.loads(generate.calls[0].request.body)
    assert (sent["model"], sent["prompt"], sent["max_tokens"]) == ("some-model", "Once", 80)
    assert (sent["stop"], sent["repetition_penalty"], sent["repeat_penalty"]) == (["END"], 1.1, 1.1)


@responses.activate
def test_a_server_that_answers_like_all_kinds_is_koboldcpp() -> None:
    responses.get(f"{URL}/api/v1/model", json={"result": "koboldcpp/Some-8B"})
    responses.get(f"{URL}/api/v1/config/max_length", status=404)
    responses.get(f"{URL}/api/v1/config/max_context_length", status=404)
    responses.get(f"{URL}/api/version", json={"version": "0.9"})
    responses.get(f"{URL}/api/tags", json={"models": [{"name": "Some-8B"}]})
    responses.get(f"{URL}/v1/models", json={"data": [{"id": "Some-8B"}]})
    backend = open_backend(URL)
    assert (type(backend), backend.max_length, backend.max_context_length) == (
        KoboldServer,
        512,
        4096,
    )


def test_a_registered_kind_opens_its_names_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = Scripted("Hello.")

    def open_scripted(name: str, options: BackendOptions) -> Backend | None:
        return scripted if name == "scripted" else None

    kind = registry.BackendKind(open_scripted, ("scripted",))
    monkeypatch.setattr(registry, "KINDS", (*registry.KINDS, kind))
    assert open_backend("scripted") is scripted
    with pytest.raises(BackendError) as raised:
        open_backend("scribbled")
    assert str(raised.value) == (
        "unknown backend 'scribbled': use echo, ngram, smollm2, the path of a GGUF file, "
        "scripted, or the URL of a KoboldAI, Ollama or OpenAI-compatible server"
    )


@responses.activate
def test_a_kobold_server_with_unusable_lengths_gets_the_usual_ones() -> None:
    responses.get(f"{URL}/api/v1/model", json={"result": "koboldcpp/Some-8B"})
    responses.get(f"{URL}/api/v1/config/max_length", json={"value": "long"})
    responses.get(f"{URL}/api/v1/config/max_context_length", json={"value": [4096]})
    backend = open_backend(URL)
    assert (backend.max_length, backend.max_context_length) == (512, 4096)


@responses.activate
def test_something_that_is_no_backend_is_named() -> None:
    responses.get(f"{URL}/api/v1/model", body="<html>")
    responses.get(f"{URL}/api/version", json=[])
    responses.get(f"{URL}/v1/models", json={"data": []})
    with pytest.raises(BackendError, match="is not a KoboldAI, Ollama or OpenAI-compatible"):
        open_backend(URL)


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 500},
        {"json": {"results": []}},
        {"json": {"results": [{"text": None}]}},
        {"body": requests.ConnectionError("x")},
        {"body": "<html>"},
    ],
)
@responses.activate
def test_a_backend_that_fails_is_a_backend_error(failure: dict[str, Any]) -> None:
    responses.get(f"{URL}/api/v1/model", json={"result": "koboldcpp/Some-8B"})
    responses.post(f"{URL}/api/v1/generate", **failure)
    with pytest.raises(BackendError):
        open_backend(URL).generate(PAYLOAD, never)


def submitted(world: World, model: str = "test/model") -> str:
    payload = {"prompt": "Hi", "params": {"max_length": 80}, "models": [model]}
    return world.client.submit(TEXT, payload, OWNER_KEY)


def test_a_job_is_popped_completed_and_submitted(world: World) -> None:
    bridge = world.bridge(Scripted("Hello."))
    request_id = submitted(world)
    assert bridge.step(world.session) == 0.0
    [generation] = world.client.status(TEXT, request_id)["generations"]
    assert (generation["text"], generation["worker_name"]) == ("Hello.", "worker-1")


def test_a_worker_that_has_long_had_no_job_pops_less_often(world: World) -> None:
    world.horde.rate_limits = False
    identity = WorkerIdentity(HORDE_URL, "worker-1", OWNER_KEY, idle=0.1)
    bridge = text_bridge([identity], [Scripted("Hello.")], stop=Event())
    pauses = [bridge.step(world.session) for _ in range(310)]
    assert (pauses[0], pauses[290], pauses[-1]) == (0.1, 0.1, 0.5)
    submitted(world)
    assert [bridge.step(world.session) for _ in range(2)] == [0.0, 0.1]


def test_of_the_idle_threads_of_a_worker_one_pops() -> None:
    stop, popping, most = Event(), [0], [0]
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        most[0] = max(most[0], popping[0])
        popping[0] -= 1
        if len(pauses) == 30:
            stop.set()

    class WithoutJobs(Bridge):
        def _pop(self, sessions: Any) -> tuple[list[PoppedJob], float]:
            popping[0] += 1
            return [], 0.1

    identity = WorkerIdentity("http://h.invalid", "w", "key")
    WithoutJobs([identity], Scribe([Scripted("x")]), stop=stop, pause=pause, threads=10).run()
    # Each thread may pop once more after the last pause.
    assert most == [1]
    assert 30 <= len(pauses) <= 40


def test_threads_of_a_worker_do_jobs_at_the_same_time() -> None:
    stop, both = Event(), Barrier(2, timeout=60)

    class Together(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            both.wait()
            stop.set()
            return "x"

    world = World()
    for _ in range(2):
        submitted(world)
    identity = WorkerIdentity(HORDE_URL, "w", OWNER_KEY)
    text_bridge(
        [identity],
        [Together("x")],
        stop=stop,
        threads=2,
        new_session=lambda: world.session,
        pause=lambda s: None,
    ).run()
    assert not both.broken


def test_without_a_job_the_worker_idles(world: World) -> None:
    assert world.bridge(Scripted("Hello.")).step(world.session) == 1.0


def test_placeholders_are_filled_in_for_models_of_our_own(world: World) -> None:
    backend = Scripted("Hello.")
    backend.tags = CHATML  # type: ignore[assignment]
    payload = {"prompt": "{{[INPUT]}}U{{[INPUT_END]}}{{[OUTPUT]}}", "models": ["test/model"]}
    world.client.submit(TEXT, payload, OWNER_KEY)
    world.bridge(backend).step(world.session)
    assert backend.payloads[0]["prompt"] == (
        "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_job_on_which_the_backend_breaks_goes_back_to_the_queue(world: World) -> None:
    class Broken(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            raise KeyError("prompt")

    request_id = submitted(world)
    world.bridge(Broken("")).step(world.session)
    assert world.client.status(TEXT, request_id)["waiting"] == 1


@responses.activate
def test_a_job_with_a_malformed_stop_string_is_given_back_and_the_worker_goes_on() -> None:
    base = "http://h.invalid/api/v2/generate/text"
    payload = {"prompt": "x", "stop_sequence": [1]}
    responses.post(f"{base}/pop", json={"id": "1", "payload": payload})
    submit = responses.post(f"{base}/submit", json={"reward": 0.0})
    backend = Scripted("Hello.")
    backend.tags = CHATML  # type: ignore[assignment]
    identity = WorkerIdentity("http://h.invalid", "w", "key")
    assert text_bridge([identity], [backend], stop=Event()).step(requests.Session()) == 0.0
    assert json.loads(submit.calls[0].request.body)["state"] == "faulted"


def test_a_failed_job_goes_back_to_the_queue(world: World) -> None:
    class Failing(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            raise BackendError("no")

    request_id = submitted(world)
    world.bridge(Failing("")).step(world.session)
    status = world.client.status(TEXT, request_id)
    assert (status["restarted"], status["waiting"]) == (1, 1)


def test_a_worker_that_is_being_stopped_hands_its_job_back(world: World) -> None:
    stop = Event()

    class Stopped(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            stop.set()
            return "half a sen"

    request_id = submitted(world)
    identity = WorkerIdentity("http://horde.invalid", "worker-1", OWNER_KEY)
    text_bridge([identity], [Stopped("")], stop=stop).step(world.session)
    assert world.client.status(TEXT, request_id)["waiting"] == 1


@pytest.mark.parametrize(
    ("answer", "pause"),
    [
        ({"status": 429, "headers": {"Retry-After": "7"}}, 7.0),
        ({"status": 500}, 2.0),
        ({"status": 403, "json": {"message": "m", "rc": "WorkerMaintenance"}}, 10.0),
        ({"status": 400, "json": {"message": "m", "rc": "MaintenanceMode"}}, 10.0),
        ({"body": requests.ConnectionError("x")}, 2.0),
        ({"status": 403, "body": "<html>a proxy's own page</html>"}, 10.0),
        ({"status": 403, "json": {"message": "m", "rc": "TimeoutIP"}}, 10.0),
    ],
)
@responses.activate
def test_a_busy_horde_is_tried_again_later(answer: dict[str, Any], pause: float) -> None:
    responses.post("http://h.invalid/api/v2/generate/text/pop", **answer)
    identity = WorkerIdentity("http://h.invalid/api", "w", "key")
    bridge = text_bridge([identity], [Scripted("x")], stop=Event(), pause=lambda seconds: None)
    assert bridge.step(requests.Session()) == pause


@responses.activate
def test_a_worker_that_the_horde_refuses_ends_with_the_reason() -> None:
    responses.post(
        "http://h.invalid/api/v2/generate/text/pop",
        status=403,
        json={"message": "Wrong credentials", "rc": "WrongCredentials"},
    )
    identity = WorkerIdentity("http://h.invalid", "w", "key")
    with pytest.raises(WorkerRejected, match="refuses this worker: Wrong credentials"):
        text_bridge([identity], [Scripted("x")], stop=Event(), threads=3).run()


@responses.activate
def test_a_hordes_refusal_is_kept_in_500_characters() -> None:
    responses.post(
        "http://h.invalid/api/v2/generate/text/pop",
        status=403,
        json={"message": "x" * 100_000, "rc": "WrongCredentials"},
    )
    horde = HordeConnection(WorkerIdentity("http://h.invalid", "w", "key"), Clock())
    horde.pop(requests.Session(), text_offer(["m"], 512, 4096, 1))
    assert str(horde.rejected) == (
        f"the horde refuses this worker: {'x' * 250}... (99500 characters left out) ...{'x' * 250}"
    )


@responses.activate
def test_a_text_is_submitted_again_until_the_horde_has_it() -> None:
    base = "http://h.invalid/api/v2/generate/text"
    responses.post(f"{base}/pop", json={"id": "1", "payload": {"prompt": "x"}})
    responses.post(f"{base}/submit", body=requests.ConnectionError("x"))
    responses.post(f"{base}/submit", status=502)
    last = responses.post(f"{base}/submit", json={"reward": 1.0})
    pauses: list[float] = []
    identity = WorkerIdentity("http://h.invalid", "w", "key")
    text_bridge([identity], [Scripted("Hello.")], stop=Event(), pause=pauses.append).step(
        requests.Session()
    )
    assert json.loads(last.calls[0].request.body) == {
        "id": "1",
        "generation": "Hello.",
        "seed": 0,
        "state": "ok",
    }
    assert pauses == [2.0, 2.0]


def test_a_key_is_not_shown_in_an_identity() -> None:
    assert "secret" not in repr(WorkerIdentity("http://h.invalid", "w", "secret"))


class Pieces(Scripted):
    """A backend that gives its text in pieces, and counts those that were taken."""

    def __init__(self, *pieces: str) -> None:
        super().__init__("".join(pieces))
        self.pieces, self.taken = pieces, 0

    def stream(self, payload: Any, cancelled: Callable[[], bool]) -> Iterator[str]:
        for piece in self.pieces:
            if cancelled():
                return
            self.taken += 1
            yield piece


def test_the_worker_sends_its_text_as_it_grows_to_a_horde_that_takes_it() -> None:
    world = World(streams=True)
    cable = world.cable()
    bridge = world.bridge(Pieces("Hello", " world"))
    bridge.step(world.session)
    payload = {"prompt": "Say hi.", "models": ["test/model"]}
    request_id = world.client.submit(TEXT, payload, CLIENT_KEY)
    bridge.step(world.session)
    assert [call for call in cable.calls if call.startswith("POST")][2:] == [
        "POST generate/text/pop",
        "POST generate/text/progress",
        "POST generate/text/submit",
    ]
    [result] = world.client.status(TEXT, request_id)["generations"]
    assert result["text"] == "Hello world"


class Sent:
    """The calls of a growing job; a call is answered with what is next in `answers`."""

    def __init__(self, *answers: Received) -> None:
        self.calls: list[tuple[int, str]] = []
        self.clock = Clock()
        self._answers = list(answers)
        self.job = GrowingJob(self, is_stopped=lambda: False, clock=self.clock)

    def __call__(self, offset: int, text: str) -> Received:
        self.calls.append((offset, text))
        return self._answers.pop(0)

    def after(self, seconds: float, piece: str = "") -> Sent:
        self.clock.sleep(seconds)
        self.job.take(piece)
        return self


def test_the_first_piece_goes_at_once_and_later_ones_ten_times_a_second() -> None:
    sent = Sent(Received(False, 1), Received(False, 4))
    sent.after(0, "a").after(0.04, "b").after(0.04, "c").after(0.04, "d").after(0.04, "e")
    assert sent.calls == [(0, "a"), (1, "bcd")]


def test_a_call_without_text_is_made_after_a_while_and_hears_of_a_cancel() -> None:
    sent = Sent(Received(False, 0), Received(True, 0))
    sent.after(0.3).after(0.1)
    assert (sent.calls, sent.job.is_cancelled) == ([(0, "")], False)
    sent.after(0.4)
    assert (sent.calls, sent.job.is_cancelled) == ([(0, ""), (0, "")], True)


def test_what_did_not_arrive_is_sent_again() -> None:
    sent = Sent(Received(False, 0), Received(False, 1), Received(False, 3))
    sent.after(0, "ab").after(0.1, "c").after(0.1)
    assert sent.calls == [(0, "ab"), (0, "abc"), (1, "bc")]


def test_after_a_call_that_failed_the_next_one_waits_longer() -> None:
    sent = Sent(Received(False, 0, failed=True), Received(False, 3), Received(False, 4))
    sent.after(0, "a").after(0.1, "b").after(0.2, "c")
    assert sent.calls == [(0, "a")]
    sent.after(0.1).after(0.1, "d")
    assert sent.calls == [(0, "a"), (0, "abc"), (3, "d")]


def test_pieces_that_come_while_the_horde_is_slow_go_together() -> None:
    class Slow(Sent):
        def __call__(self, offset: int, text: str) -> Received:
            self.clock.sleep(3)
            return super().__call__(offset, text)

    sent = Slow(Received(False, 1), Received(False, 4))
    sent.after(0, "a").after(0, "b").after(0, "c").after(0.1, "d")
    assert sent.calls == [(0, "a"), (1, "bcd")]


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        ({"body": requests.ConnectionError("x")}, Received(False, 2, failed=True)),
        ({"body": requests.ReadTimeout("x")}, Received(False, 2, failed=True)),
        ({"status": 429}, Received(False, 2, failed=True)),
        ({"status": 503}, Received(False, 2, failed=True)),
        ({"json": {"offset": 4}}, Received(False, 4)),
    ],
)
@responses.activate
def test_progress_waits_for_a_horde_for_a_few_seconds_only(
    answer: dict[str, Any], received: Received
) -> None:
    call = responses.post("http://h.invalid/api/v2/generate/text/progress", **answer)
    horde = HordeConnection(WorkerIdentity("http://h.invalid", "w", "key"), Clock())
    assert horde.progress(requests.Session(), "1", 2, "ab") == received
    assert call.calls[0].request.req_kwargs["timeout"] == (2.0, 3.0)


def test_a_cancelled_job_ends_its_backend_and_submits_what_there_is() -> None:
    world = World(streams=True)
    backend = Pieces("Hello")
    bridge = world.bridge(backend)
    bridge.step(world.session)
    payload = {"prompt": "Say hi.", "models": ["test/model"]}
    request_id = world.client.submit(TEXT, payload, CLIENT_KEY)

    def stream(payload: Any, cancelled: Callable[[], bool]) -> Iterator[str]:
        yield "Hel"
        world.client.cancel(TEXT, request_id)
        yield "lo"

    backend.stream = stream  # type: ignore[method-assign]
    cable = world.cable()
    bridge.step(world.session)
    assert cable.calls[-1] == "POST generate/text/submit"
    assert world.horde.people.find_user(OWNER_KEY)["records"]["fulfillment"]["text"] == 1


@pytest.mark.parametrize(
    ("pieces", "sent"),
    [
        (["Hello", "\nUs", "er: x"], ["Hello"]),
        (["Hello", "\nUs", "e it"], ["Hello", "\nUse it"]),
        (["Hello", "\nUs"], ["Hello", "\nUs"]),
    ],
)
def test_pieces_end_before_a_stop_and_hold_back_its_beginning(
    pieces: list[str], sent: list[str]
) -> None:
    assert list(before_stop(pieces, ["\nUser:"])) == sent


def test_the_toys_give_their_text_a_word_at_a_time() -> None:
    toy = NGram("The sun is far away.", random.Random(1))
    assert list(toy.stream({"prompt": "sun", "max_length": 80}, never))[:2] == ["The", " sun"]
    clock = Clock()
    echo = Echo(1.0, speed=10, clock=clock, sleep=clock.sleep)
    payload = {"prompt": "{{[INPUT]}}one two{{[OUTPUT]}}"}
    assert list(echo.stream(payload, never)) == ["one", " two"]
    assert clock.seconds == pytest.approx(1001.2)

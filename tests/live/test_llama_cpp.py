"""A real llama.cpp that a worker lends to a private horde: chats, cancels, killed workers.

It gets either chats (`--chat`), with its own template, or the prompts that the proxy makes of them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.processes import KEY, Processes, until
from tests.live.test_horde_clients import ForeignWorker

MODEL = "smol"
PLAIN = "tests/plain"
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
QUESTION = [SYSTEM, {"role": "user", "content": "What is the capital of France?"}]
ENDLESS = [SYSTEM, {"role": "user", "content": "Write down the word story one thousand times."}]
TEMPLATE = Path(__file__).parent.parent / "data" / "chatml_with_tools.jinja"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
PET = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def weather(city: str) -> dict[str, str]:
    return {"role": "user", "content": f"What is the weather in {city}?"}


def weather_call(city: str) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    call = {"id": f"call_{city}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


CITIES = ("Paris", "Rome", "Madrid", "Cairo", "Lima")
ASKED_BEFORE = [
    *(message for city in CITIES for message in (weather(city), weather_call(city))),
    weather("Oslo"),
]
"""So that a model this small calls the tool, too."""
PATIENCE = 600
"""Seconds: a busy machine writes a few tokens a second."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


class Home:
    """A private horde behind a proxy, and llama.cpp with a worker for it.

    `options` are the worker's.
    """

    def __init__(self, processes: Processes, llama: str, *options: str) -> None:
        self._processes, self.llama, self._options = processes, llama, options
        self.url = processes.serve_horde()
        self.worker = self.employ("first")
        self.entry = until(self._entry)

    def wait_for_chats(self) -> None:
        """Wait until the proxy knows that the worker takes chats: it says so in its second pop."""
        until(lambda: (entry := self._entry()) and entry["horde"].get("chat"))

    def employ(self, name: str, llama: str | None = None) -> subprocess.Popen[bytes]:
        """A worker for the llama.cpp, or for another one."""
        options = ["--idle", "0.05", "--drain", "0", "--threads", "1", "--max-length", "1024"]
        return self._processes.start(
            "worker",
            "--horde",
            self.url,
            "--backend",
            llama or self.llama,
            "--name",
            name,
            *options,
            *self._options,
        )

    def _entry(self) -> Any:
        """The model's entry in the proxy's list; None before it is on offer."""
        listed = requests.get(f"{self.url}/v1/models", timeout=60).json()["data"]
        return next((entry for entry in listed if entry["id"].endswith(MODEL)), None)

    def workers(self) -> set[str]:
        answer = requests.get(f"{self.url}/api/v2/workers?type=text", timeout=60)
        return {worker["name"] for worker in answer.json()}

    def is_busy(self) -> bool:
        slots = requests.get(f"{self.llama}/slots", timeout=60).json()
        return any(slot["is_processing"] for slot in slots)

    def submit(self, model: str, prompt: str, tokens: int) -> str:
        """The id of a request of a plain client of AI-Horde."""
        body = {"prompt": prompt, "models": [model], "params": {"max_length": tokens}}
        answer = requests.post(
            f"{self.url}/api/v2/generate/text/async", json=body, headers={"apikey": KEY}, timeout=60
        )
        request_id: str = answer.json()["id"]
        return request_id

    def result(self, request_id: str) -> dict[str, Any]:
        """The only result of a plain client's request, which it polls for."""
        address = f"{self.url}/api/v2/generate/text/status/{request_id}"
        status = until(
            lambda: (now := requests.get(address, timeout=60).json())["done"] and now, PATIENCE
        )
        [result] = status["generations"]
        assert isinstance(result, dict)
        return result


@pytest.fixture(params=["--chat", "--no-chat"])
def home(processes: Processes, llama: str, request: pytest.FixtureRequest) -> Home:
    """One whose worker takes chats, and one whose worker takes prompts."""
    home = Home(processes, llama, request.param)
    if request.param == "--chat":
        home.wait_for_chats()
    return home


@pytest.fixture
def chat_home(processes: Processes) -> Home:
    """One whose llama.cpp has a template with tools. Its worker finds out that it may chat."""
    home = Home(processes, processes.llama_cpp(TEMPLATE))
    home.wait_for_chats()
    return home


class Chat:
    """A streamed chat completion: its `text`, `calls`, `reasons` and `usage` so far."""

    def __init__(self, url: str, messages: Sequence[Any], **body: Any) -> None:
        self.text = ""
        self.calls: list[dict[str, str]] = []
        self.reasons: list[str] = []
        self.usage: dict[str, Any] = {}
        self.answer = requests.post(
            f"{url}/v1/chat/completions",
            json={
                "model": MODEL,
                "messages": messages,
                "stream": True,
                "stream_options": {"include_usage": True},
                "temperature": 0,
                **body,
            },
            stream=True,
            timeout=PATIENCE,
        )
        assert self.answer.status_code == 200, self.answer.text
        self._lines = self.answer.iter_lines(chunk_size=1)

    def __enter__(self) -> Chat:
        return self

    def __exit__(self, *_: object) -> None:
        self.answer.close()

    def pieces(self) -> Iterator[str]:
        """The pieces of the content that are still to come."""
        for line in self._lines:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            self.usage = chunk.get("usage") or self.usage
            for choice in chunk["choices"]:
                self.reasons += [choice["finish_reason"]] if choice.get("finish_reason") else []
                self._take_calls(choice["delta"].get("tool_calls") or [])
                if piece := choice["delta"].get("content"):
                    self.text += piece
                    yield piece

    def _take_calls(self, deltas: Sequence[Any]) -> None:
        for delta in deltas:
            if delta["index"] == len(self.calls):
                self.calls.append({"name": "", "arguments": ""})
            for name, text in delta["function"].items():
                self.calls[delta["index"]][name] += text

    def read(self, characters: int | None = None) -> str:
        """The content once it has so many characters, or all of it."""
        for _ in self.pieces():
            if characters is not None and len(self.text) >= characters:
                break
        return self.text


def test_a_chat_streams_what_llama_cpp_answers_when_asked_directly(home: Home) -> None:
    with Chat(home.url, QUESTION, max_tokens=40) as through_horde:
        through_horde.read()
    with Chat(home.llama, QUESTION, max_tokens=40) as direct:
        direct.read()
    assert "Paris" in direct.text
    assert (through_horde.text, through_horde.reasons) == (direct.text, direct.reasons)


def test_a_chat_has_llama_cpps_own_token_counts(chat_home: Home) -> None:
    with Chat(chat_home.url, QUESTION, max_tokens=40) as through_horde:
        through_horde.read()
    with Chat(chat_home.llama, QUESTION, max_tokens=40) as direct:
        direct.read()
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [through_horde.usage[name] for name in names] == [direct.usage[name] for name in names]
    with Chat(chat_home.url, ENDLESS, max_tokens=24) as cut:
        cut.read()
    assert (cut.reasons, cut.usage["completion_tokens"]) == (["length"], 24)


def test_tools_are_called_by_llama_cpps_own_grammar(chat_home: Home) -> None:
    with Chat(chat_home.url, ASKED_BEFORE, tools=[WEATHER], tool_choice="required") as chat:
        chat.read()
    [call] = chat.calls
    assert (call["name"], json.loads(call["arguments"])) == ("get_weather", {"city": "Oslo"})
    assert (chat.text, chat.reasons) == ("", ["tool_calls"])


def test_an_answer_has_the_form_of_a_schema_by_llama_cpps_grammar(chat_home: Home) -> None:
    messages = [SYSTEM, {"role": "user", "content": "Invent a pet."}]
    form = {"type": "json_schema", "json_schema": {"name": "pet", "strict": True, "schema": PET}}
    with Chat(chat_home.url, messages, response_format=form, max_tokens=200) as chat:
        pet = json.loads(chat.read())
    assert (sorted(pet), type(pet["age"]), chat.reasons) == (["age", "name"], int, ["stop"])


def test_a_model_without_tools_in_its_template_is_described_them_in_a_prompt(
    processes: Processes, llama: str
) -> None:
    home = Home(processes, llama)
    assert "chat" not in home.entry["horde"]
    question = [{"role": "user", "content": "What is the weather in Oslo?"}]
    choice = {"type": "function", "function": {"name": "get_weather"}}
    with Chat(home.url, question, tools=[WEATHER], tool_choice=choice) as chat:
        chat.read()
    [call] = chat.calls
    # The schema permits more than the city, and so small a model writes more.
    assert (call["name"], "city" in json.loads(call["arguments"])) == ("get_weather", True)


def test_a_client_that_hangs_up_stops_llama_cpp(home: Home) -> None:
    with Chat(home.url, ENDLESS, max_tokens=1000) as chat:
        chat.read(10)
        assert home.is_busy()
    until(lambda: not home.is_busy())


def test_a_cancel_of_a_plain_client_stops_llama_cpp(chat_home: Home) -> None:
    request_id = chat_home.submit(MODEL, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,", 1000)
    until(chat_home.is_busy)
    address = f"{chat_home.url}/api/v2/generate/text/status/{request_id}"
    assert requests.delete(address, timeout=60).status_code == 200
    until(lambda: not chat_home.is_busy())


def test_another_worker_goes_on_where_a_killed_one_stopped(home: Home) -> None:
    with Chat(home.url, ENDLESS, max_tokens=200) as chat:
        before = chat.read(30)
        home.employ("second")
        until(lambda: "second" in home.workers())
        os.killpg(home.worker.pid, signal.SIGKILL)
        chat.read()
    assert chat.text.startswith(before)
    assert len(chat.text) > 2 * len(before)
    assert chat.reasons == ["length"]


def test_another_llama_cpp_goes_on_where_a_killed_one_stopped(processes: Processes) -> None:
    first = processes.llama_cpp()
    server, second = processes.started[-1], processes.llama_cpp()
    home = Home(processes, first, "--chat")
    home.wait_for_chats()
    with Chat(home.url, ENDLESS, max_tokens=100) as chat:
        before = chat.read(30)
        home.employ("second", second)
        until(lambda: "second" in home.workers())
        server.kill()
        chat.read()
    assert chat.text.startswith(before)
    assert len(chat.text) > 2 * len(before)
    assert chat.reasons == ["length"]


def test_a_plain_worker_of_the_same_model_gets_prompts_alone(chat_home: Home) -> None:
    offer = {"name": "plain-worker", "models": [MODEL], "max_length": 512, "softprompts": []}
    plain = ForeignWorker(
        chat_home.url,
        KEY,
        {**offer, "max_context_length": 4096},
        "KoboldCppEmbedWorker:2:https://example.invalid",
    )
    try:
        until(lambda: "plain-worker" in chat_home.workers())
        for _ in range(3):
            with Chat(chat_home.url, QUESTION, max_tokens=40) as chat:
                assert "Paris" in chat.read()
        assert plain.jobs == []
        lent = [chat_home.submit(MODEL, "The capital of France is", 16) for _ in range(4)]
        assert all(chat_home.result(request_id)["text"] for request_id in lent)
    finally:
        plain.end()
    assert {job["payload"]["prompt"] for job in plain.jobs} <= {"The capital of France is"}
    assert plain.faults == []


def test_a_plain_client_and_a_plain_worker_are_beside_it_unharmed(chat_home: Home) -> None:
    offer = {
        "name": "plain-worker",
        "models": [PLAIN],
        "max_length": 512,
        "max_context_length": 4096,
        "softprompts": [],
    }
    plain = ForeignWorker(
        chat_home.url, KEY, offer, "KoboldCppEmbedWorker:2:https://example.invalid"
    )
    try:
        until(lambda: "plain-worker" in chat_home.workers())
        with Chat(chat_home.url, QUESTION, max_tokens=40) as chat:
            texts = [chat_home.submit(PLAIN, f"text {number}", 40) for number in range(3)]
            lent = chat_home.submit(MODEL, "The capital of France is", 16)
            answers = [chat_home.result(request_id) for request_id in texts]
            assert "Paris" in chat.read()
        result = chat_home.result(lent)
    finally:
        plain.end()
    assert [answer["text"] for answer in answers] == [
        f"{PLAIN} got text {number}" for number in range(3)
    ]
    assert result["text"].strip()
    assert (result["worker_name"], result["model"]) == ("first", MODEL)
    # Nothing but what AI-Horde sends came to it.
    assert plain.faults == []
    assert [job["model"] for job in plain.jobs] == [PLAIN] * 3
    assert all(not {"chat", "continue"} & set(job["payload"]) for job in plain.jobs)

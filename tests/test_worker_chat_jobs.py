"""A worker with chats: what it offers, submits, refuses and counts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
import responses
from click.testing import CliRunner
from flask import Flask

from horde_proxy.commands.cli import main
from horde_proxy.commands.worker import _options_of
from horde_proxy.commands.worker_settings import read_worker_file
from horde_proxy.private_horde import PrivateHorde, blueprint
from horde_proxy.private_horde.streams import StreamRules
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.worker.backends import BackendError, ChatUnsupported, JobRefused
from horde_proxy.worker.backends.base import ContextExceeded
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.growing_job import GrowingJob, Received
from horde_proxy.worker.horde import HordeConnection, WorkerIdentity
from horde_proxy.worker.job_rules import JobRules
from tests.scripted_server import ScriptedServer, openai
from tests.support import Clock, Scripted, text_bridge

HORDE = "http://h.invalid"
BASE = f"{HORDE}/api/v2/generate/text"
NO_JOB: dict[str, Any] = {"id": None, "payload": {}}
LINES = [
    '{"delta": {"reasoning_content": "Hm"}}\n',
    '{"delta": {"content": "One. "}}\n',
    '{"delta": {"content": "Two, and"}}\n',
    '{"finish_reason": "stop", "usage": {"prompt_tokens": 12, "completion_tokens": 40}}\n',
]


class Chatting(Scripted):
    """A backend that writes the same transcript to each chat."""

    def __init__(self, *lines: str, name: str = "test/model") -> None:
        super().__init__("a text", name)
        self.lines, self.can_chat = lines, True
        self.error: BackendError | None = None

    def chat(self, payload: Any, cancelled: Callable[[], bool]) -> Iterator[str]:
        self.payloads.append(dict(payload))
        if self.error:
            raise self.error
        yield from self.lines


def job(**payload: Any) -> dict[str, Any]:
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    return {
        "id": "1",
        "model": "test/model",
        "payload": {"prompt": "", "chat": chat, "max_length": 80, **payload},
    }


def bridge(*backends: Any, **options: Any) -> Bridge:
    clock = Clock()
    identity = WorkerIdentity(HORDE, "w", "key")
    return text_bridge(
        [identity], backends, stop=Event(), pause=clock.sleep, clock=clock, **options
    )


def horde(*jobs: Any, extensions: str = "stream, wait, chat") -> None:
    """A horde that gives these jobs, and takes what comes."""
    headers = {"Horde-Extensions": extensions} if extensions else {}
    for popped in jobs:
        responses.post(f"{BASE}/pop", json=popped, headers=headers)
    responses.post(f"{BASE}/submit", json={"reward": 2.0}, headers=headers)

    def progress(request: Any) -> tuple[int, dict[str, str], str]:
        sent = json.loads(request.body)
        return 200, headers, json.dumps({"offset": sent["offset"] + len(sent["text"])})

    responses.add_callback("POST", f"{BASE}/progress", progress)


def sent(path: str) -> list[Any]:
    """The bodies of the calls of a path."""
    return [
        json.loads(call.request.body or "")
        for call in responses.calls
        if str(call.request.url) == f"{BASE}/{path}"
    ]


def done(backend: Any, *, extensions: str = "stream, wait, chat", **payload: Any) -> dict[str, Any]:
    """What is submitted for a chat."""
    horde(job(**payload), extensions=extensions)
    bridge(backend).step(requests.Session())
    [body] = sent("submit")
    return dict(body)


def reason(body: dict[str, Any]) -> Any:
    return body["gen_metadata"][0]["ref"]


@responses.activate
def test_chats_are_offered_to_hordes_that_announce_them() -> None:
    horde(NO_JOB, NO_JOB)
    worker = bridge(Chatting())
    worker.step(requests.Session())
    worker.step(requests.Session())
    first, second = sent("pop")
    assert ("extensions" in first, second["extensions"]) == (False, ["chat"])


@pytest.mark.parametrize("extensions", ["", "stream, wait"])
@responses.activate
def test_other_hordes_see_no_chat(extensions: str) -> None:
    horde(NO_JOB, NO_JOB, extensions=extensions)
    worker = bridge(Chatting())
    worker.step(requests.Session())
    worker.step(requests.Session())
    assert [body.get("extensions") for body in sent("pop")] == [None, None]


@responses.activate
def test_chats_are_offered_only_if_all_models_can_chat() -> None:
    horde(NO_JOB)
    can, cannot = Chatting(name="a"), Chatting(name="b")
    worker = bridge(can, cannot)
    for second, expected in ((cannot, ["chat"]), (cannot, None)):
        worker.step(requests.Session())
        worker.step(requests.Session())
        assert sent("pop")[-1].get("extensions") == expected
        second.can_chat = False
    mixed = bridge(Chatting(name="a"), Scripted("x", "b"))
    mixed.step(requests.Session())
    mixed.step(requests.Session())
    assert "extensions" not in sent("pop")[-1]


@responses.activate
def test_a_transcript_grows_in_whole_lines_and_is_submitted_as_a_whole() -> None:
    body = done(Chatting(*LINES))
    assert body == {"id": "1", "generation": "".join(LINES), "seed": 0, "state": "ok"}
    pieces = sent("progress")
    assert pieces[0]["text"].startswith(LINES[0])
    assert all(piece["text"].endswith("\n") for piece in pieces)


@responses.activate
def test_a_horde_that_does_not_stream_gets_the_transcript_at_the_end() -> None:
    assert done(Chatting(*LINES), extensions="chat")["generation"] == "".join(LINES)
    assert sent("progress") == []


@responses.activate
def test_a_horde_whose_stream_fails_gets_the_transcript_at_the_end() -> None:
    responses.post(f"{BASE}/progress", body=requests.ConnectionError("x"))
    assert done(Chatting(*LINES))["generation"] == "".join(LINES)


@responses.activate
def test_a_text_job_of_a_server_that_chats_is_as_before() -> None:
    horde({"id": "1", "payload": {"prompt": "Hi"}}, extensions="chat")
    bridge(Chatting(*LINES)).step(requests.Session())
    assert sent("submit")[0]["generation"] == "a text"


@responses.activate
def test_a_chat_counts_by_its_usage() -> None:
    horde(job())
    worker = bridge(Chatting(*LINES))
    worker.step(requests.Session())
    snapshot = worker.status.snapshot()
    assert (snapshot.jobs, snapshot.done["chat"], snapshot.tokens) == ({(HORDE, "ok"): 1}, 1, 40)


@responses.activate
def test_a_chat_without_a_usage_is_estimated() -> None:
    horde(job())
    worker = bridge(Chatting('{"delta": {"content": "12345678"}}\n', '{"finish_reason": "stop"}\n'))
    worker.step(requests.Session())
    assert worker.status.snapshot().tokens == 2


@responses.activate
def test_the_content_of_a_chat_is_formatted_as_its_job_says() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tool_call = json.dumps({"delta": {"tool_calls": [{"index": 0, **call}]}}) + "\n"
    body = done(Chatting(*LINES[:3], tool_call, LINES[3]), frmttriminc=True)
    assert [json.loads(line) for line in body["generation"].splitlines()] == [
        {"delta": {"reasoning_content": "Hm"}},
        {"delta": {"content": "One."}},
        {"delta": {"tool_calls": [{"index": 0, **call}]}},
        {"finish_reason": "stop", "usage": {"prompt_tokens": 12, "completion_tokens": 40}},
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "Tell of DRAGONS."},
        {"role": "user", "content": [{"type": "text", "text": "a dragons b"}]},
        {"role": "assistant", "content": None, "reasoning_content": "dragons"},
        {
            "role": "assistant",
            "tool_calls": [{"function": {"name": "f", "arguments": '{"a": "dragons"}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "dragons"},
    ],
)
@responses.activate
def test_words_are_refused_in_every_text_of_a_chat(message: dict[str, Any]) -> None:
    horde(job(chat={"messages": [message]}))
    backend = Chatting(*LINES)
    bridge(backend, rules=JobRules(words=["dragons"])).step(requests.Session())
    assert reason(sent("submit")[0]) == "the prompt has a word that this worker refuses"
    assert backend.payloads == []


@responses.activate
def test_words_are_refused_in_the_descriptions_of_tools() -> None:
    parameters = {"properties": {"a": {"type": "string", "description": "dragons"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": parameters}}]
    chat = {"messages": [{"role": "user", "content": "Hi"}], "tools": tools}
    with pytest.raises(JobRefused):
        JobRules(words=["dragons"]).check(job(chat=chat))


def test_a_picture_has_no_words() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://h.invalid/dragons"}}
    chat = {"messages": [{"role": "user", "content": [image]}]}
    JobRules(words=["dragons"], patterns=["dragons"]).check(job(chat=chat))


@pytest.mark.parametrize("chat", [[], {"messages": "x"}, {"messages": ["x"]}, {}])
@responses.activate
def test_a_chat_without_messages_is_given_back(chat: Any) -> None:
    assert reason(done(Chatting(*LINES), chat=chat)) == "the chat has no list of messages"


@responses.activate
def test_a_chat_that_a_backend_cannot_do_is_given_back_with_the_reason() -> None:
    backend = Chatting()
    backend.error = ChatUnsupported("x", "the backend has no chat template")
    horde(*[job()] * 4)
    worker = bridge(backend)
    for _ in range(4):
        worker.step(requests.Session())
    assert [body["state"] for body in sent("submit")] == ["faulted"] * 4
    assert reason(sent("submit")[0]) == "the backend has no chat template"
    # The server works: text jobs come without a pause.
    assert worker._health.rest() == 0


@responses.activate
def test_a_chat_for_a_backend_without_chats_is_given_back() -> None:
    assert reason(done(Scripted("x"))) == "this worker does not chat"


@responses.activate
def test_a_chat_that_is_too_long_ends_at_once_with_the_reason() -> None:
    backend = Chatting()
    backend.error = ContextExceeded("x", "context_length_exceeded")
    assert done(backend) == {
        "id": "1",
        "generation": '{"finish_reason": "length"}\n',
        "seed": 0,
        "state": "ok",
        "gen_metadata": [
            {"type": "information", "value": "see_ref", "ref": "context_length_exceeded"}
        ],
    }


@responses.activate
def test_a_chat_that_a_server_refuses_is_given_back_with_the_reason() -> None:
    backend = Chatting()
    backend.error = JobRefused("at http://secret", "the backend refuses the job with status 400")
    assert reason(done(backend)) == "the backend refuses the job with status 400"


@responses.activate
def test_a_server_without_chats_gets_no_more_of_them() -> None:
    horde(NO_JOB, job(), NO_JOB)
    worker = bridge(openai(ScriptedServer("404 page not found", 404)))
    for _ in range(3):
        worker.step(requests.Session())
    assert [body.get("extensions") for body in sent("pop")] == [None, ["chat"], None]
    assert reason(sent("submit")[0]) == "the backend has no chats"


@responses.activate
def test_a_horde_that_refuses_a_piece_gets_the_rest_with_the_result() -> None:
    responses.post(f"{BASE}/progress", status=400, json={"rc": "BadRequest"})
    connection = HordeConnection(WorkerIdentity(HORDE, "w", "key"), Clock())
    received = connection.progress(requests.Session(), "1", 0, "ab")
    assert received == Received(False, 0, failed=True, refused=True)
    calls: list[tuple[int, str]] = []

    def send(offset: int, text: str) -> Received:
        calls.append((offset, text))
        return received if len(calls) == 1 else Received(True, 0)

    clock = Clock()
    growing = GrowingJob(send, is_stopped=lambda: False, clock=clock)
    for _ in range(4):
        growing.take("ab")
        clock.sleep(0.4)
    growing.take("ab")
    assert (calls[:2], growing.is_cancelled) == ([(0, "ab"), (0, "")], True)


# With the private horde itself.


class PrivateWorld:
    """A private horde, and a session that leads to it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.horde = PrivateHorde(
            clock=self.clock, rate_limits=False, streaming=StreamRules(sleep=self.clock.sleep)
        )
        self.horde.add_account("owner-key-of-the-tests", "owner", trusted=True)
        app = Flask("private_horde")
        app.register_blueprint(blueprint(self.horde))
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount(HORDE, WSGIAdapter(app))

    def worker(self, backend: Any, name: str) -> Bridge:
        """A worker that has checked in twice, so that the horde knows that it takes chats."""
        made = text_bridge(
            [WorkerIdentity(HORDE, name, "owner-key-of-the-tests", wait=0.0)],
            [backend],
            stop=Event(),
            pause=lambda seconds: None,
            start=lambda work: work(),
        )
        for _ in range(2):
            made.step(self.session)
        return made

    def call(self, method: str, path: str, body: Any = None) -> Any:
        response = self.session.request(
            method,
            f"{HORDE}/api/v2/generate/text/{path}",
            json=body,
            headers={"apikey": "owner-key-of-the-tests"},
        )
        assert response.ok, response.text
        return response.json()

    def submit(self, **fields: Any) -> str:
        chat = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        body = {"chat": chat, "models": ["some-8b"], "params": {"max_length": 80}}
        return str(self.call("POST", "async", body)["id"])

    def results(self, request_id: str) -> Any:
        return self.call("GET", f"status/{request_id}")["generations"]


def delta(**fields: Any) -> str:
    return f"data: {json.dumps({'choices': [{'delta': fields}]})}\n\n"


END = (
    'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":9}}\n\ndata: [DONE]\n\n'
)


def test_the_private_horde_gives_a_chat_and_takes_its_transcript() -> None:
    world = PrivateWorld()
    server = ScriptedServer(delta(reasoning_content="Hm") + delta(content="Hello") + END)
    worker = world.worker(openai(server, "vLLM"), "w")
    request_id = world.submit(temperature=0.9)
    worker.step(world.session)
    [result] = world.results(request_id)
    assert (result["text"], result["chat"]) == (
        "Hello",
        {
            "message": {"role": "assistant", "content": "Hello", "reasoning_content": "Hm"},
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 12, "completion_tokens": 9},
        },
    )
    assert server.calls[0][1]["temperature"] == 0.9


@pytest.mark.parametrize(
    ("kind", "last", "rest", "content"),
    [
        ("vLLM", {"role": "assistant", "content": "Hel"}, "lo", "Hello"),
        ("LM Studio", {"role": "user", "content": "Hi"}, "Good day", "Good day"),
    ],
)
def test_a_lost_workers_answer_is_continued_or_begins_anew(
    kind: str, last: Any, rest: str, content: str
) -> None:
    world = PrivateWorld()
    broken = ScriptedServer(delta(content="Hel"))
    first = world.worker(openai(broken, "vLLM"), "first")
    request_id = world.submit()
    first.step(world.session)
    server = ScriptedServer(delta(content=rest) + END)
    second = world.worker(openai(server, kind), "second")
    second.step(world.session)
    assert [result["text"] for result in world.results(request_id)] == [content]
    assert server.calls[0][1]["messages"][-1] == last


def test_a_server_without_chats_gives_its_chat_to_another_worker() -> None:
    world = PrivateWorld()
    first = world.worker(openai(ScriptedServer("404 page not found", 404)), "first")
    request_id = world.submit()
    for _ in range(3):
        first.step(world.session)
    assert world.results(request_id) == []
    world.worker(openai(ScriptedServer(delta(content="Hello") + END)), "second")
    assert [result["text"] for result in world.results(request_id)] == ["Hello"]


MINIMAL = """
[[hordes]]
url = "http://h.invalid"
api_key = "key"

[[backends]]
url = "http://backend.invalid:5001"
"""


@pytest.mark.parametrize(
    ("line", "chat"), [("", None), ("chat = true\n", True), ("chat = false\n", False)]
)
def test_a_setting_says_whether_chats_are_offered(
    line: str, chat: bool | None, tmp_path: Path
) -> None:
    path = tmp_path / "worker.toml"
    path.write_text(MINIMAL + line)
    settings = read_worker_file(str(path))
    assert _options_of(settings.backends[0], settings).chat is chat


def test_a_backend_without_chats_cannot_be_set_to_chat() -> None:
    command = ["worker", "--horde", HORDE, "--backend", "echo", "--api-key", "k", "--chat"]
    result = CliRunner().invoke(main, command)
    assert "Error: echo has no chats: leave chat out, or use a model server" in result.output


@pytest.mark.parametrize(("flags", "says_so"), [([], True), (["--no-chat"], False)])
@responses.activate
def test_the_command_says_whether_it_takes_chats(flags: list[str], says_so: bool) -> None:
    url = "http://backend.invalid:5001"
    responses.get(f"{url}/v1/models", json={"data": [{"id": "m", "owned_by": "vllm"}]})
    responses.post(f"{BASE}/pop", status=403, json={"rc": "WrongCredentials"})
    command = ["worker", "--horde", HORDE, "--backend", url, "--api-key", "k", *flags]
    result = CliRunner().invoke(main, command)
    assert ("Chats are taken from hordes that have them" in result.output) is says_so

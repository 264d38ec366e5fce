"""The shapes in which servers answer, each through the whole proxy, whole and streamed.

A shape is a legal answer with mutations that real servers are known for. Whatever its shape, the
client gets the same legal answer; or an error, where nothing says that the answer is complete.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from hypothesis import assume, given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.legal_answers import check_chunks
from tests.support import Scripted, World

SERVER = "http://server.invalid"
Event = dict[str, Any]
Mutation = Callable[[list[Event]], object]

REASONING, CONTENT = "Hm, two things. ", "Héllo \U0001f600!"
CALLS = [("f", {"a": 1}), ("g", {"b": [2, "ü"], "c": {}})]
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


# Legal answers


def event(delta: Event, finish_reason: str | None = None) -> Event:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-7",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "big",
        "choices": [choice],
    }


def first(index: int, arguments: str) -> Event:
    name = CALLS[index][0]
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": f"call_{name}", "type": "function", "function": function}


def more(index: int, arguments: str) -> Event:
    return {"index": index, "function": {"arguments": arguments}}


def in_deltas(*, has_calls: bool) -> list[Event]:
    """OpenAI's own stream."""
    f, g = (json.dumps(arguments, ensure_ascii=False) for _, arguments in CALLS)
    calls = [first(0, ""), more(0, f[:4]), more(0, f[4:])]
    calls += [first(1, ""), more(1, g[:6]), more(1, g[6:])]
    return [
        event({"role": "assistant", "content": "", "refusal": None}),
        event({"reasoning_content": REASONING[:5]}),
        event({"reasoning_content": REASONING[5:]}),
        event({"content": CONTENT[:2]}),
        event({"content": CONTENT[2:]}),
        *(event({"tool_calls": [call]}) for call in calls if has_calls),
        event({}, "tool_calls" if has_calls else "stop"),
        {**event({}), "choices": [], "usage": USAGE},
    ]


def at_once(*, has_calls: bool) -> list[Event]:
    """All in one event."""
    delta: Event = {"role": "assistant", "reasoning_content": REASONING, "content": CONTENT}
    if has_calls:
        texts = [json.dumps(arguments, ensure_ascii=False) for _, arguments in CALLS]
        delta["tool_calls"] = [first(index, text) for index, text in enumerate(texts)]
    return [{**event(delta, "tool_calls" if has_calls else "stop"), "usage": USAGE}]


# What servers make of them


def choices_of(events: Sequence[Event]) -> list[Event]:
    return [choice for event in events for choice in event["choices"]]


def deltas_of(events: Sequence[Event]) -> list[Event]:
    return [choice["delta"] for choice in choices_of(events)]


def calls_of(events: Sequence[Event]) -> list[Event]:
    return [call for delta in deltas_of(events) for call in delta.get("tool_calls") or ()]


def of_events(change: Callable[[Event], object]) -> Mutation:
    return lambda events: [change(event) for event in events]


def of_deltas(change: Callable[[Event], object]) -> Mutation:
    return lambda events: [change(delta) for delta in deltas_of(events)]


def of_calls(change: Callable[[Event], object]) -> Mutation:
    return lambda events: [change(call) for call in calls_of(events)]


def of_choices(**fields: Any) -> Mutation:
    return lambda events: [choice.update(fields) for choice in choices_of(events)]


def head(**fields: Any) -> Mutation:
    return of_events(lambda event: event.update(fields))


def without(*names: str) -> Mutation:
    return of_events(lambda event: [event.pop(name, None) for name in names])


def another_head_in_each(events: list[Event]) -> None:
    for number, event in enumerate(events):
        event |= {"id": f"other-{number}", "created": 1700000000 + number, "model": f"m{number}"}


def reasoning_as(*names: str) -> Mutation:
    def change(delta: Event) -> None:
        if "reasoning_content" in delta:
            delta |= dict.fromkeys(names, delta.pop("reasoning_content"))

    return of_deltas(change)


def content_as(make: Callable[[str], Any]) -> Mutation:
    def change(delta: Event) -> None:
        if delta.get("content"):
            delta["content"] = make(delta["content"])

    return of_deltas(change)


def thinking_in_content(delta: Event) -> None:
    """As Mistral writes it."""
    if "reasoning_content" in delta:
        text = {"type": "text", "text": delta.pop("reasoning_content")}
        parts: list[Any] = [{"type": "thinking", "thinking": [text]}]
        content = delta.get("content") or []
        delta["content"] = parts + (content if isinstance(content, list) else [content])


def half_an_emoji(events: list[Event]) -> None:
    for number, delta in enumerate(deltas_of(events)):
        if delta.get("content") == CONTENT[2:]:
            before, after = CONTENT[2:].split("\U0001f600")
            delta["content"] = "\ude00" + after
            events.insert(number, event({"content": before + "\ud83d"}))


def index_as(make: Callable[[int], Any]) -> Mutation:
    return of_calls(lambda call: call.update(index=make(call["index"])))


def of_firsts(**fields: Any) -> Mutation:
    """These fields for the first delta of each call."""
    return of_calls(lambda call: call.update(fields) if "id" in call else None)


def of_others(**fields: Any) -> Mutation:
    """These fields for all but the first delta of each call."""
    return of_calls(lambda call: None if "id" in call else call.update(fields))


def repeated(*names: str) -> Mutation:
    """Each delta of a call has these fields of its first one."""

    def change(events: list[Event]) -> None:
        firsts = {call["index"]: call for call in calls_of(events) if "id" in call}
        for call in calls_of(events):
            call |= {name: firsts[call["index"]][name] for name in names if name != "name"}
            name = firsts[call["index"]]["function"].get("name")
            if "name" in names and name:
                call["function"]["name"] = name

    return change


def a_new_id_in_each(events: list[Event]) -> None:
    for number, call in enumerate(calls_of(events)):
        call["id"] = f"random-{number}"


def late_names(events: list[Event]) -> None:
    """A call's name comes after its arguments, where these come in events of their own."""
    for index, (name, _) in enumerate(CALLS):
        own = [place for place, one in enumerate(events) if index_of(one) == index]
        if own:
            for call in calls_of(events):
                if call["index"] == index:
                    call["function"].pop("name", None)
            late = {"index": index, "function": {"name": name}}
            events.insert(own[-1] + 1, event({"tool_calls": [late]}))


def index_of(event: Event) -> int | None:
    """The call of an event that has one."""
    calls = calls_of([event])
    return calls[0]["index"] if len(calls) == 1 else None


def whole_calls(events: list[Event]) -> None:
    """Each call comes in one delta."""
    firsts = {call["index"]: call["function"] for call in calls_of(events) if "id" in call}
    for call in calls_of(events):
        if "id" not in call:
            firsts[call["index"]]["arguments"] += call["function"]["arguments"]
    for delta in deltas_of(events):
        if "tool_calls" in delta:
            delta["tool_calls"] = [call for call in delta["tool_calls"] if "id" in call]


def arguments_as_objects(events: list[Event]) -> None:
    whole_calls(events)
    for call in calls_of(events):
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])


def arguments_begin_with(**fields: Any) -> Mutation:
    """The first delta of a call has these arguments, or none."""

    def change(call: Event) -> None:
        if call["function"].get("arguments") == "":
            del call["function"]["arguments"]
            call["function"] |= fields

    return of_calls(change)


def null_calls(delta: Event) -> None:
    delta.setdefault("tool_calls", None)
    delta.setdefault("function_call", None)


def finish_as(reason: Any) -> Mutation:
    def change(events: list[Event]) -> None:
        for choice in choices_of(events):
            choice["finish_reason"] = choice["finish_reason"] and reason

    return change


def not_yet_as(value: Any) -> Mutation:
    def change(events: list[Event]) -> None:
        for choice in choices_of(events):
            choice["finish_reason"] = choice["finish_reason"] or value

    return change


def usage_as(value: Any) -> Mutation:
    return of_events(lambda event: event.update(usage=value) if "usage" in event else None)


def usage_in_each(events: list[Event]) -> None:
    for number, event in enumerate(events, 1):
        event.setdefault("usage", {**USAGE, "completion_tokens": min(number, 4)})


def usage_in_choice(events: list[Event]) -> None:
    for event in events:
        event.pop("usage", None)
    choices_of(events)[-1]["usage"] = USAGE


# In the order in which they can be put on top of each other.
GROUPS: Mapping[str, Mapping[str, Mutation]] = {
    "arguments": {
        "arguments missing first": arguments_begin_with(),
        "arguments null first": arguments_begin_with(arguments=None),
        "arguments an empty object first": arguments_begin_with(arguments={}),
        "arguments whole": whole_calls,
        "arguments as objects": arguments_as_objects,
    },
    "name": {
        "name null later": of_calls(lambda call: call["function"].setdefault("name", None)),
        "name empty later": of_calls(lambda call: call["function"].setdefault("name", "")),
        "name in each": repeated("name"),
        "late names": late_names,
    },
    "id": {
        "no id": of_calls(lambda call: call.pop("id", None)),
        "id null": of_firsts(id=None),
        "id empty": of_calls(lambda call: call.update(id="")),
        "id empty later": of_others(id=""),
        "id null later": of_others(id=None, type=None),
        "id in each": repeated("id"),
        "id, type and name in each": repeated("id", "type", "name"),
        "a new id in each": a_new_id_in_each,
        "one id for all": of_firsts(id="call_0"),
        "id as a number": of_calls(
            lambda call: call.update(id=ord(call["id"][-1])) if "id" in call else None
        ),
    },
    "type": {
        "no type": of_calls(lambda call: call.pop("type", None)),
        "type null": of_calls(lambda call: call.update(type=None)),
        "another type": of_calls(lambda call: call.update(type="tool")),
    },
    "index": {
        "no index": of_calls(lambda call: call.pop("index")),
        "index null": index_as(lambda index: None),
        "index from 1": index_as(lambda index: index + 1),
        "index with gaps": index_as(lambda index: 5 + index * 9),
        "index as text": index_as(str),
        "index as float": index_as(float),
        "index huge": index_as(lambda index: 10**30 + index),
        "index negative": index_as(lambda index: -1 - index),
        "index true": index_as(lambda index: True),
        "index a list": index_as(lambda index: [index]),
        "index 0 for all": index_as(lambda index: 0),
    },
    "calls": {
        "calls null elsewhere": of_deltas(null_calls),
        "calls empty elsewhere": of_deltas(lambda delta: delta.setdefault("tool_calls", [])),
        "calls without function": of_calls(lambda call: call.update(call.pop("function"))),
    },
    "role": {
        "no role": of_deltas(lambda delta: delta.pop("role", None)),
        "role in each": of_deltas(lambda delta: delta.update(role="assistant")),
        "role null": of_deltas(lambda delta: delta.update(role=None)),
    },
    "content": {
        "half an emoji": half_an_emoji,
        "content as parts": content_as(lambda text: [{"type": "text", "text": text}]),
        "content as one part": content_as(lambda text: {"type": "text", "text": text}),
        "content as letters": content_as(list),
        "content null": of_deltas(lambda delta: delta.setdefault("content", None)),
        "content empty": of_deltas(lambda delta: delta.setdefault("content", "")),
    },
    "reasoning": {
        "reasoning": reasoning_as("reasoning"),
        "thinking": reasoning_as("thinking"),
        "reasoning twice": reasoning_as("reasoning_content", "reasoning"),
        "reasoning in the content": of_deltas(thinking_in_content),
    },
    "finish": {
        **{
            f"finish {reason}": finish_as(reason)
            for reason in ("stop", "eos", "eos_token", "end_turn", "STOP", "tool_use", "xyz", 1)
        },
        "no finish": finish_as(None),
        "finish empty before": not_yet_as(""),
        "finish null before": not_yet_as("null"),
        "finish in each": not_yet_as("stop"),
    },
    "head": {
        "no head": without("id", "model", "created", "object"),
        "head of null": head(id=None, model=None, created=None, object=None),
        "head empty": head(id="", model="", created=0),
        "head of other types": head(id=7, model=["big"], created="now"),
        "another head in each": another_head_in_each,
        "a huge time": head(created=10**300),
    },
    "error": {
        "error null": head(error=None),
        "error empty": head(error={}),
        "error null in choices": of_choices(error=None),
    },
    "usage": {
        "no usage": without("usage"),
        "usage null": usage_as(None),
        "usage zero": usage_as(dict.fromkeys(USAGE, 0)),
        "usage in each": usage_in_each,
        "usage in the choice": usage_in_choice,
        "usage with other fields": usage_as({**USAGE, "x": None, "prompt_tokens_details": 3}),
    },
    "choice": {
        "choice 1": of_choices(index=1),
        "choice null": of_choices(index=None),
        "choice as text": of_choices(index="0"),
        "choice negative": of_choices(index=-1),
    },
    "more": {
        "other fields": head(provider="x", timings={"a": 1.5}, system_fingerprint=7),
        "numbers that are none": head(score=float("nan"), other=float("-inf")),
    },
}

DONE = b"data: [DONE]\n\n"


def stream(events: Sequence[Event]) -> bytes:
    lines = [json.dumps(event, ensure_ascii=True).encode() for event in events]
    return b"".join(b"data: " + line + b"\n\n" for line in lines)


def document(events: Sequence[Event]) -> bytes:
    [whole] = events
    for choice in whole["choices"]:
        choice["message"] = choice.pop("delta")
    return json.dumps({**whole, "object": "chat.completion"}).encode()


FORMS: Mapping[str, Callable[[Sequence[Event]], bytes]] = {
    "OpenAI's": lambda events: stream(events) + DONE,
    "CRLF": lambda events: (stream(events) + DONE).replace(b"\n", b"\r\n"),
    "CR": lambda events: (stream(events) + DONE).replace(b"\n", b"\r"),
    "a byte order mark": lambda events: b"\xef\xbb\xbf" + stream(events) + DONE,
    "comments": lambda events: b": wait\n\n" + stream(events).replace(b"\n\n", b"\n: x\n\n") + DONE,
    "names": lambda events: (stream(events) + DONE).replace(
        b"data:", b"event: chunk\nid: 1\ndata:"
    ),
    "no spaces": lambda events: (stream(events) + DONE).replace(b"data: ", b"data:"),
    "no blank lines": lambda events: (stream(events) + DONE).replace(b"\n\n", b"\n"),
    "several data lines": lambda events: stream(events).replace(b', "', b',\ndata: "') + DONE,
    "no [DONE]": stream,
    "no end of the last line": lambda events: stream(events)[:-2],
    "a document": document,
}
TYPES = ["text/event-stream", "Text/Event-Stream; Charset=UTF-8", "application/json", "text/plain"]
ERRORS = (502, 503)
"""503: the horde and the server have both failed."""
SAYS_NO_END = ("no [DONE]", "no end of the last line")
# Together these leave nothing that tells one call from the next.
UNCLEAR = [{"late names", "index 0 for all"}]


@dataclass(frozen=True)
class Shape:
    """One shape of an answer."""

    mutations: frozenset[str] = frozenset()
    form: str = "OpenAI's"
    content_type: str = TYPES[0]
    has_calls: bool = True
    is_at_once: bool = False

    def body(self) -> bytes:
        make = at_once if self.is_at_once or self.form == "a document" else in_deltas
        events = make(has_calls=self.has_calls)
        for group in GROUPS.values():
            for name, mutate in group.items():
                if name in self.mutations:
                    mutate(events)
        return FORMS[self.form](events)

    def is_cut(self) -> bool:
        """Whether nothing in it says that it is complete."""
        return "no finish" in self.mutations and self.form in SAYS_NO_END

    def counts(self) -> tuple[int, int] | None:
        """The usage that the server tells, if it does."""
        silent = {"no usage", "usage null", "usage zero"} & self.mutations
        return None if silent else (7, 5)


class Server:
    """A server in this process."""

    def __init__(self) -> None:
        self.body, self.content_type = b"", ""
        self.app = Flask("server")
        self.app.get("/v1/models")(lambda: {"data": [{"id": "test/model"}]})
        self.app.post("/v1/chat/completions")(self._answer)

    def _answer(self) -> Response:
        return Response(self.body, content_type=self.content_type)


@dataclass
class Proxy:
    """A proxy before a horde and a server. The horde cannot answer; no two chats are the same.

    `end_cooldown` has a server that failed asked again.
    """

    http: FlaskClient
    server: Server
    end_cooldown: Callable[[], None]
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def answer(self, body: bytes, content_type: str, *, stream: bool) -> Any:
        """The response to a chat that the server answers with that body."""
        self.server.body, self.server.content_type = body, content_type
        message = {"role": "user", "content": f"Question {next(self.numbers)}"}
        chat = {
            "model": "test/model",
            "messages": [message],
            "stream": stream,
            "stream_options": {"include_usage": True},
            "horde": {"workers": ["nobody"]},
        }
        response = self.http.post("/v1/chat/completions", json=chat)
        self.end_cooldown()
        return response


@pytest.fixture(scope="module")
def proxy() -> Proxy:
    server = Server()
    endpoints = [{"type": "horde"}, {"url": SERVER, "name": "server", "priority": 1}]
    world = World(endpoints=endpoints, routing={"longest_cooldown": 1})
    world.session.mount(SERVER, WSGIAdapter(server.app))
    worker = world.bridge(Scripted("x"))

    def end_cooldown() -> None:
        world.clock.seconds += 2
        worker.step(world.session)

    worker.step(world.session)
    return Proxy(world.http(), server, end_cooldown)


def check_shape(proxy: Proxy, shape: Shape) -> None:
    """Raises unless the client gets the legal answer, or for a cut one an error; both ways."""
    whole, streamed = (
        proxy.answer(shape.body(), shape.content_type, stream=stream) for stream in (False, True)
    )
    if shape.is_cut():
        assert whole.status_code in ERRORS
        assert '"error"' in streamed.text.rstrip().split("\n\n")[-2]
        return
    assert (whole.status_code, whole.headers["X-Endpoint"]) == (200, "server"), whole.text
    ChatCompletion.model_validate(whole.json, strict=True)
    [choice] = whole.json["choices"]
    check_answer(shape, choice["message"], choice["finish_reason"], whole.json["usage"])
    chunks = chunks_of(streamed.text)
    check_chunks(chunks)
    message, reason = joined(chunks)
    check_answer(shape, message, reason, chunks[-1]["usage"])


def check_answer(shape: Shape, message: Mapping[str, Any], reason: str, usage: Any) -> None:
    """Raises for an answer that is not the legal one."""
    assert (message["reasoning_content"], message["content"]) == (REASONING, CONTENT)
    calls = message.get("tool_calls") or []
    functions = [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in calls
    ]
    assert functions == (CALLS if shape.has_calls else [])
    assert len({call["id"] for call in calls}) == len(calls)
    assert reason == ("tool_calls" if shape.has_calls else "stop")
    counts = usage["prompt_tokens"], usage["completion_tokens"]
    assert min(counts) > 0
    assert shape.counts() in (None, counts)


def chunks_of(text: str) -> list[Event]:
    events = [part for part in text.split("\n\n") if part and not part.startswith(":")]
    assert events[-1] == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in events[:-1]]


def joined(chunks: Sequence[Event]) -> tuple[Event, str]:
    """The message that a client makes of the chunks, and the finish_reason."""
    message: Event = {"reasoning_content": "", "content": "", "tool_calls": []}
    for delta in deltas_of(chunks):
        for name in ("reasoning_content", "content"):
            message[name] += delta.get(name) or ""
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                message["tool_calls"].append(call)
            else:
                function = message["tool_calls"][call["index"]]["function"]
                function["arguments"] += call["function"]["arguments"]
    return message, choices_of(chunks)[-1]["finish_reason"]


NAMES = [name for group in GROUPS.values() for name in group]


@pytest.mark.parametrize("is_at_once", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_each_mutation_leaves_the_answer_the_same(
    proxy: Proxy, name: str, is_at_once: bool
) -> None:
    check_shape(proxy, Shape(frozenset([name]), is_at_once=is_at_once))


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("form", FORMS)
def test_each_form_leaves_the_answer_the_same(proxy: Proxy, form: str, content_type: str) -> None:
    check_shape(proxy, Shape(form=form, content_type=content_type))


SHAPES = st.builds(
    Shape,
    st.tuples(*(st.sampled_from([None, *group]) for group in GROUPS.values())).map(
        lambda names: frozenset(name for name in names if name)
    ),
    st.sampled_from([*FORMS]),
    st.sampled_from(TYPES),
    st.booleans(),
    st.booleans(),
).filter(lambda shape: not any(names <= shape.mutations for names in UNCLEAR))


@given(shape=SHAPES)
def test_random_shapes_are_the_same_legal_answer(proxy: Proxy, shape: Shape) -> None:
    check_shape(proxy, shape)


@given(shape=SHAPES, share=st.floats(0, 1))
def test_the_beginning_of_an_answer_is_an_error_until_all_of_it_came(
    proxy: Proxy, shape: Shape, share: float
) -> None:
    # Where each event has a finish_reason, each may be the last.
    assume("finish in each" not in shape.mutations)
    body = shape.body()
    cut = body[: int(len(body) * share)]
    response = proxy.answer(cut, shape.content_type, stream=False)
    if response.status_code == 200:
        [choice] = response.json["choices"]
        silent = replace(shape, mutations=shape.mutations | {"no usage"})
        check_answer(silent, choice["message"], choice["finish_reason"], response.json["usage"])
    else:
        assert response.status_code in ERRORS

"""Texts of model families, and the message that must come of each: whole and streamed.

tests/data/model_outputs.json has a list of cases: the model's name, the text that its worker
returns, the expected calls as [name, arguments], and the expected content ("*": any but empty).
`alt` are other acceptable calls. `notools`: the client offers no tools. more_model_outputs.json
has further ones, which are given to the readers without a horde.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.prompts.answer import read_answer
from horde_proxy.prompts.format_rules import choose_format
from horde_proxy.prompts.formats import restore
from horde_proxy.prompts.tool_calls.reading import certain_content, read_calls
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import fold
from horde_proxy.upstreams.base import Caller, Route
from tests.support import Scripted, World

Case = Mapping[str, Any]


def cases_in(name: str) -> list[Case]:
    """The cases in a file of tests/data."""
    cases: list[Case] = json.loads(
        (Path(__file__).parent / "data" / name).read_text(encoding="utf-8")
    )
    return cases


CASES = cases_in("model_outputs.json")
MORE_CASES = cases_in("more_model_outputs.json")
# Cases that are not read rightly yet.
UNREAD: frozenset[str] = frozenset()


def tool(name: str, required: str = "", /, **types: Any) -> dict[str, Any]:
    """A tool in OpenAI's form; a property's type is a name or a schema."""
    properties = {
        key: {"type": type_} if isinstance(type_, str) else type_ for key, type_ in types.items()
    }
    schema = {"type": "object", "properties": properties, "required": required.split()}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TODO = {"type": "object", "properties": {key: {"type": "string"} for key in ("content", "status")}}
TOOLS = [
    tool("bash", "command", command="string", timeout="integer"),
    tool("read", "filePath", filePath="string", offset="integer"),
    tool("write", "filePath content", filePath="string", content="string"),
    tool(
        "edit",
        "filePath oldString newString",
        filePath="string",
        oldString="string",
        newString="string",
        replaceAll="boolean",
    ),
    tool("get_weather", "city", city="string", days="integer"),
    tool("get_time"),
    tool("todowrite", "todos", todos={"type": "array", "items": TODO}),
    tool("task", "prompt description", prompt="string", description="string"),
    tool("WeatherPlugin-GetWeather", "addressCode", addressCode="string"),
    tool("apify--rag-web-browser", "query", query="string"),
]

OFFERED = read_chat(
    {"model": "any", "messages": [{"role": "user", "content": "Go on."}], "tools": TOOLS}
).tools


class Texts(Scripted):
    """A backend that returns the case's texts in order; the last one again and again."""

    def __init__(self, case: Case) -> None:
        super().__init__("", case["model"], max_length=1024)
        texts = case["text"]
        self.texts = list(texts) if isinstance(texts, list) else [texts]

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.payloads.append(dict(payload))
        return str(self.texts.pop(0) if len(self.texts) > 1 else self.texts[0])


def messages_of(case: Case) -> list[dict[str, Any]]:
    """The first choice for a case, whole and streamed; `requests` to the horde that each took."""
    world = World()
    upstream = world.upstream()
    body: dict[str, Any] = {
        "model": case["model"],
        "messages": [{"role": "user", "content": "Go on."}],
    }
    if not case.get("notools"):
        body |= {"tools": TOOLS, "parallel_tool_calls": case.get("parallel", True)}
    messages = []
    for stream in (False, True):
        world.clock.every_sleep.clear()
        backend = world.employ(Texts(case))
        request = read_chat({**body, "stream": stream})
        items = upstream.stream(request, Route(upstream, (case["model"],)), Caller())
        [choice] = fold([item for item in items if isinstance(item, dict)])["choices"]
        messages.append(_read(choice) | {"requests": len(backend.payloads)})
    return messages


def _read(choice: Mapping[str, Any]) -> dict[str, Any]:
    message = choice["message"]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return {
        "calls": [[call["name"], json.loads(call["arguments"])] for call in calls],
        "content": message["content"] or "",
        "finish_reason": choice["finish_reason"],
    }


def misfit(case: Case, message: Mapping[str, Any]) -> str | None:
    """What is wrong with a message; None when it is as expected."""
    expected = case.get("calls") or []
    if message["calls"] not in (expected, case.get("alt", expected)):
        return f"calls {message['calls']}"
    content = message["content"]
    if not content.strip() if case["content"] == "*" else content != case["content"]:
        return f"content {content!r}"
    if message["finish_reason"] != ("tool_calls" if expected else "stop"):
        return f"finish_reason {message['finish_reason']}"
    return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_an_output_of_a_model_becomes_the_expected_message(case: Case) -> None:
    whole, streamed = messages_of(case)
    if case["name"] in UNREAD:
        assert misfit(case, whole) or misfit(case, streamed), "delete this case from UNREAD"
        return
    assert (misfit(case, whole), misfit(case, streamed)) == (None, None)
    assert whole == streamed


@pytest.mark.parametrize("case", MORE_CASES, ids=lambda case: str(case["name"]))
def test_thoughts_calls_and_content_of_an_output_are_separated(case: Case) -> None:
    message = _read_without_horde(case)
    assert misfit(case, message) is None
    # What is streamed of the text's beginnings is the beginning of the content.
    for size in range(0, len(case["text"]), 41):
        assert message["content"].startswith(_certain_beginning(case, size))


def _read_without_horde(case: Case) -> dict[str, Any]:
    format = choose_format(case["model"], placeholders=False)
    offered = () if case.get("notools") else OFFERED
    answer = read_answer(case["text"], format, max_length=1024, may_call=bool(offered))
    reading = read_calls(answer.written, offered)
    calls = reading.calls if case.get("parallel", True) else reading.calls[:1]
    return {
        "calls": [[call.name, json.loads(call.arguments)] for call in calls],
        "content": restore(reading.content, format) if calls else answer.content,
        "finish_reason": "tool_calls" if calls else answer.finish_reason,
    }


def _certain_beginning(case: Case, size: int) -> str:
    format = choose_format(case["model"], placeholders=False)
    offered = () if case.get("notools") else OFFERED
    answer = read_answer(
        case["text"][:size], format, max_length=1024, may_call=bool(offered), is_open=True
    )
    return restore(certain_content(answer.written, offered), format) if offered else answer.content


def main() -> None:
    """Print the share of the cases that is right, and what is wrong with the others."""
    wrong, requests = 0, 0
    for case in CASES:
        messages = messages_of(case)
        requests += sum(message["requests"] for message in messages)
        whole, streamed = (misfit(case, message) for message in messages)
        if whole or streamed:
            wrong += 1
            print(f"{case['name']:32} whole: {whole}; streamed: {streamed}")
    print(f"{len(CASES) - wrong} of {len(CASES)} right, {requests / 2:.0f} horde requests each way")


if __name__ == "__main__":
    main()

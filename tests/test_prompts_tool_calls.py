"""Tool calls in generated text, in as many shapes as models write them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.prompts.lenient_json import dumps
from horde_proxy.prompts.tool_calls.arguments import call_problem
from horde_proxy.prompts.tool_calls.calls import CallReading, FoundCall
from horde_proxy.prompts.tool_calls.instructions import call_text
from horde_proxy.prompts.tool_calls.reading import certain_content, read_calls
from horde_proxy.protocol.generation_request import Tool
from tests.support import growth

STYLES = ("hermes", "llama3", "mistral")


def schema(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


WEATHER = Tool(
    "get_weather",
    "Weather of a city",
    schema(
        ["city"],
        city={"type": "string"},
        days={"type": "integer"},
        metric={"type": "boolean"},
        share={"type": "number"},
        unit={"type": ["string", "null"]},
    ),
)
WRITE = Tool(
    "write",
    "Write a file",
    schema(
        ["path", "content"],
        path={"type": "string"},
        content={"type": "string"},
    ),
)
TIME = Tool("get_time", "", schema([], zone={"type": "string"}))
PLAN = Tool(
    "Plan-Trip",
    "",
    schema(
        ["stops"],
        stops={"type": "array", "items": {"type": "string"}},
        options={"type": "object", "properties": {"seats": {"type": "integer"}}},
        extra={},
    ),
)
TOOLS = (WEATHER, WRITE, TIME, PLAN)

OSLO = ("get_weather", {"city": "Oslo"})
ROME = ("get_weather", {"city": "Rome"})
OSLO3 = ("get_weather", {"city": "Oslo", "days": 3})
NOW: tuple[str, dict[str, Any]] = ("get_time", {})
J = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
J2 = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
P = '{"name": "get_weather", "parameters": {"city": "Oslo"}}'


def wrote(content: str, path: str = "a.txt") -> tuple[str, dict[str, Any]]:
    return ("write", {"path": path, "content": content})


def read(text: str, **options: Any) -> CallReading:
    return read_calls(text, TOOLS, **options)


def pairs(found: CallReading) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in found.calls]


HERMES = [
    (f"<tool_call>\n{J}\n</tool_call>", "", [OSLO]),
    (f"<tool_call>{J}</tool_call>", "", [OSLO]),
    (f"<tool_call>\n{J}\n</tool_call>\n", "", [OSLO]),
    (f"<tool_call>\n{J}\n</tool_call>\n<tool_call>\n{J2}\n</tool_call>", "", [OSLO, ROME]),
    (f"<tool_call>\n{J}\n</tool_call><tool_call>\n{J2}\n</tool_call>", "", [OSLO, ROME]),
    (f"<tool_call>\n{J}\n{J2}\n</tool_call>", "", [OSLO, ROME]),
    (f"<tool_call>\n[{J}, {J2}]\n</tool_call>", "", [OSLO, ROME]),
    (f"<tool_call>\n{J}\n</tool_call>\n{J2}\n</tool_call>", "", [OSLO, ROME]),
    (f"I will look.\n\n<tool_call>\n{J}\n</tool_call>", "I will look.", [OSLO]),
    (f"I will look.<tool_call>{J}</tool_call> Done!", "I will look.\n\nDone!", [OSLO]),
    (
        f"One.\n<tool_call>{J}</tool_call>\nTwo.\n<tool_call>{J2}</tool_call>",
        "One.\n\nTwo.",
        [OSLO, ROME],
    ),
    (f"<tool_call>\n{J}", "", [OSLO]),
    (f"<tool_call>\n{J}\n</tool", "", [OSLO]),
    (f"<tool_call>\n{J}}}\n</tool_call>", "", [OSLO]),
    (f"<tool_call>\n{J}}}}}\n</tool_call>", "", [OSLO]),
    (f"<tool_call>\n{J[:-1]}\n</tool_call>", "", [OSLO]),
    (f"<tool_call>\n{J[:-1]}", "", [OSLO]),
    (f"<tool_call>\n{J[:-2]}\n</tool_call>", "", [OSLO]),
    (f"<tool_call>\n```json\n{J}\n```\n</tool_call>", "", [OSLO]),
    (f"```\n<tool_call>\n{J}\n</tool_call>\n```", "", [OSLO]),
    (f"```xml\n<tool_call>\n{J}\n</tool_call>\n```", "", [OSLO]),
    (f"<tool_call>\n{J}\n<tool_call>", "", [OSLO]),
    (f"<|tool_call|>{J}", "", [OSLO]),
    (f"<|tool_call|>[{J}]", "", [OSLO]),
    (f"<|tool_call>{J}<|/tool_call|>", "", [OSLO]),
    (f"<tool_calls>[{J}, {J2}]</tool_calls>", "", [OSLO, ROME]),
    (f"<function_call>{J}</function_call>", "", [OSLO]),
    (f"<function_call> {J} </function_call>", "", [OSLO]),
    (f"<functioncall> {J}", "", [OSLO]),
    (f"<tools>\n{J}\n</tools>", "", [OSLO]),
    (f"<tool_call>\n{P}\n</tool_call>", "", [OSLO]),
    ('<tool_call>{"name": "get_weather", "args": {"city": "Oslo"}}</tool_call>', "", [OSLO]),
    ('<tool_call>{"name": "get_weather", "input": {"city": "Oslo"}}</tool_call>', "", [OSLO]),
    ('<tool_call>{"arguments": {"city": "Oslo"}, "name": "get_weather"}</tool_call>', "", [OSLO]),
    ('<tool_call>{"tool": "get_weather", "args": {"city": "Oslo"}}</tool_call>', "", [OSLO]),
    ('<tool_call>{"function": "get_weather", "args": {"city": "Oslo"}}</tool_call>', "", [OSLO]),
    (f'<tool_call>{{"type": "function", "function": {J}}}</tool_call>', "", [OSLO]),
    ('<tool_call>{"name": "get_weather", "city": "Oslo"}</tool_call>', "", [OSLO]),
    ('<tool_call>{"name": "get_time", "arguments": {}}</tool_call>', "", [NOW]),
    ('<tool_call>{"name": "get_time"}</tool_call>', "", [NOW]),
    ('<tool_call>{"name": "get_time", "arguments": null}</tool_call>', "", [NOW]),
    ('<tool_call>{"name": "get_time", "arguments": ""}</tool_call>', "", [NOW]),
    ('<tool_call>{"name": "get_time", "arguments": "{}"}</tool_call>', "", [NOW]),
    ("<tool_call>{'name': 'get_weather', 'arguments': {'city': 'Oslo'}}</tool_call>", "", [OSLO]),
    (
        "<tool_call>{'name': 'get_weather', 'arguments': {'city': \"Oslo\", 'metric': True}}"
        "</tool_call>",
        "",
        [("get_weather", {"city": "Oslo", "metric": True})],
    ),
    ('<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo",}}</tool_call>', "", [OSLO]),
    ('<tool_call>{"name": "get_weather", "arguments": {"city": "Oslo}}</tool_call>', "", [OSLO]),
    ('<tool_call>{name: "get_weather", arguments: {city: "Oslo"}}</tool_call>', "", [OSLO]),
    ('<tool_call>get_weather{"city": "Oslo"}</tool_call>', "", [OSLO]),
    ('<tool_call>get_weather({"city": "Oslo"})</tool_call>', "", [OSLO]),
    ('<tool_call>get_weather\n{"city": "Oslo"}\n</tool_call>', "", [OSLO]),
    ('<tool_call>get_weather(city="Oslo", days=3)</tool_call>', "", [OSLO3]),
    ('<functioncall> {"name": "get_weather", "arguments": \'{"city": "Oslo"}\'}', "", [OSLO]),
]

NAMES = [
    (
        f'<tool_call>{{"name": {json.dumps(name)}, "arguments": {{"city": "Oslo"}}}}</tool_call>',
        "",
        [OSLO],
    )
    for name in (
        "Get_Weather",
        "GET_WEATHER",
        "get-weather",
        "Get-Weather",
        " get_weather ",
        "functions.get_weather",
        "function.get_weather",
        "functions.get_weather:0",
        "get_weather\n",
        "`get_weather`",
    )
] + [
    (
        '<tool_call>{"name": "plan_trip", "arguments": {"stops": []}}</tool_call>',
        "",
        [("Plan-Trip", {"stops": []})],
    ),
    ('functions.get_weather:0{"city": "Oslo"}', "", [OSLO]),
]


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def weather(**more: Any) -> tuple[str, dict[str, Any]]:
    return ("get_weather", {"city": "Oslo", **more})


VALUES = [
    (hermes("get_weather", '"{\\"city\\": \\"Oslo\\"}"'), "", [OSLO]),
    (hermes("get_weather", '{"city": "Oslo", "days": "3"}'), "", [OSLO3]),
    (hermes("get_weather", '{"city": "Oslo", "days": 3}'), "", [OSLO3]),
    (hermes("get_weather", '{"city": "Oslo", "days": "-3"}'), "", [weather(days=-3)]),
    (hermes("get_weather", '{"city": "Oslo", "days": "soon"}'), "", [weather(days="soon")]),
    (hermes("get_weather", '{"city": "Oslo", "metric": "true"}'), "", [weather(metric=True)]),
    (hermes("get_weather", '{"city": "Oslo", "metric": "False"}'), "", [weather(metric=False)]),
    (hermes("get_weather", '{"city": "Oslo", "share": "0.5"}'), "", [weather(share=0.5)]),
    (hermes("get_weather", '{"city": "Oslo", "share": "2"}'), "", [weather(share=2)]),
    (hermes("get_weather", '{"city": "Oslo", "days": null}'), "", [OSLO]),
    (hermes("get_weather", '{"city": "Oslo", "unit": null}'), "", [weather(unit=None)]),
    (hermes("get_weather", '{"city": "true"}'), "", [("get_weather", {"city": "true"})]),
    (hermes("get_weather", '{"city": "3"}'), "", [("get_weather", {"city": "3"})]),
    (hermes("get_weather", '{"properties": {"city": "Oslo"}}'), "", [OSLO]),
    (hermes("get_weather", '{"type": "object", "properties": {"city": "Oslo"}}'), "", [OSLO]),
    (hermes("get_weather", '{"city": "Zürich"}'), "", [("get_weather", {"city": "Zürich"})]),
    (hermes("get_weather", '{"city": "東京 🗼"}'), "", [("get_weather", {"city": "東京 🗼"})]),
    (hermes("get_weather", '{"city": "\\u00d8"}'), "", [("get_weather", {"city": "Ø"})]),
    (hermes("get_weather", '{"city": "a } b { c"}'), "", [("get_weather", {"city": "a } b { c"})]),
    (
        hermes("get_weather", '{"city": "</tool_call>"}'),
        "",
        [("get_weather", {"city": "</tool_call>"})],
    ),
    (
        hermes("get_weather", '{"city": "<tool_call>{}</tool_call>"}'),
        "",
        [("get_weather", {"city": "<tool_call>{}</tool_call>"})],
    ),
    (hermes("get_weather", '{"city": "it\'s"}'), "", [("get_weather", {"city": "it's"})]),
    (hermes("write", '{"path": "a.txt", "content": "one\ntwo\n"}'), "", [wrote("one\ntwo\n")]),
    (hermes("write", '{"path": "a.txt", "content": "one\\ntwo\\n"}'), "", [wrote("one\ntwo\n")]),
    (hermes("write", '{"path": "a.txt", "content": "\tx\n"')[:-13], "", [wrote("\tx\n")]),
    (hermes("write", '{"path": "a.txt", "content": "{\\"a\\": 1}"}'), "", [wrote('{"a": 1}')]),
    (hermes("write", '{"path": "a.txt", "content": "[1"}'), "", [wrote("[1")]),
    (hermes("write", '{"path": "a.txt", "content": "say \\"hi\\""}'), "", [wrote('say "hi"')]),
    (hermes("write", '{"path": "a.txt", "content": ""}'), "", [wrote("")]),
    (
        hermes("write", '{"path": "a.txt", "content": """one\n"two"\n"""}'),
        "",
        [wrote('one\n"two"\n')],
    ),
    (
        hermes("Plan-Trip", '{"stops": ["A", "B"], "options": {"seats": 2}}'),
        "",
        [("Plan-Trip", {"stops": ["A", "B"], "options": {"seats": 2}})],
    ),
    (
        hermes("Plan-Trip", '{"stops": "[\\"A\\"]", "options": {"seats": "2"}}'),
        "",
        [("Plan-Trip", {"stops": ["A"], "options": {"seats": 2}})],
    ),
    (
        hermes("Plan-Trip", '{"stops": [], "extra": [[1, {"a": [null, true]}]]}'),
        "",
        [("Plan-Trip", {"stops": [], "extra": [[1, {"a": [None, True]}]]})],
    ),
]

XML = [
    (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n"
        "</tool_call>",
        "",
        [OSLO],
    ),
    ("<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>", "", [OSLO]),
    (
        "Hm.\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>",
        "Hm.",
        [OSLO],
    ),
    (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n"
        "3\n</parameter>\n</function>\n</tool_call>",
        "",
        [OSLO3],
    ),
    (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n3\n</parameter>\n</function>\n"
        "</tool_call>",
        "",
        [("get_weather", {"city": "3"})],
    ),
    (
        "<function=get_weather>\n<parameter=city>\nOslo\n<parameter=days>\n3\n</parameter>\n"
        "</function>",
        "",
        [OSLO3],
    ),
    (
        "<function=write>\n<parameter=path>\na.txt\n</parameter>\n<parameter=content>\none\n\n"
        "</parameter>\n</function>",
        "",
        [wrote("one\n")],
    ),
    (
        "<function=write>\n<parameter=path>a.txt</parameter>\n<parameter=content>\n<b>{\n</b>\n"
        "</parameter>\n</function>",
        "",
        [wrote("<b>{\n</b>")],
    ),
    ("<function=get_time>\n</function>", "", [NOW]),
    ("<function=get_time></function>", "", [NOW]),
    ('<function=get_weather>{"city": "Oslo"}</function>', "", [OSLO]),
    ('<function=get_weather>\n{"city": "Oslo"}\n</function>', "", [OSLO]),
    ('<function name="get_weather"><parameter name="city">Oslo</parameter></function>', "", [OSLO]),
    ('<invoke name="get_weather"><parameter name="city">Oslo</parameter></invoke>', "", [OSLO]),
    (
        '<function=Plan-Trip>\n<parameter=stops>\n["A"]\n</parameter>\n</function>',
        "",
        [("Plan-Trip", {"stops": ["A"]})],
    ),
    ("<function=get_weather>\n<parameter=city>\nOslo\n</parameter>", "", [OSLO]),
    (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>",
        "",
        [OSLO],
    ),
    (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
        "",
        [OSLO3],
    ),
    (
        "<tool_call>get_weather<arg_key>city</arg_key><arg_value>12</arg_value></tool_call>",
        "",
        [("get_weather", {"city": "12"})],
    ),
    ("<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>", "", [OSLO]),
    ("<tool_call>get_time\n</tool_call>", "", [NOW]),
    ("<tool_call>get_time</tool_call>", "", [NOW]),
    (
        "<tool_call>write\n<arg_key>path</arg_key>\n<arg_value>a.txt</arg_value>\n<arg_key>content"
        "</arg_key>\n<arg_value>one\n</arg_value>\n</tool_call>",
        "",
        [wrote("one\n")],
    ),
    (
        '<tool_call>Plan-Trip\n<arg_key>stops</arg_key>\n<arg_value>["A"]</arg_value>\n'
        "<arg_key>extra</arg_key>\n<arg_value>plain</arg_value>\n</tool_call>",
        "",
        [("Plan-Trip", {"stops": ["A"], "extra": "plain"})],
    ),
]

FAMILIES = [
    (f"[TOOL_CALLS] [{J}]", "", [OSLO]),
    (f"[TOOL_CALLS][{J}, {J2}]", "", [OSLO, ROME]),
    (f"[TOOL_CALLS] {J}", "", [OSLO]),
    ('[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}', "", [OSLO]),
    ('[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}[TOOL_CALLS]get_time[ARGS]{}', "", [OSLO, NOW]),
    ('[TOOL_CALLS]get_weather[CALL_ID]abc123XYZ[ARGS]{"city": "Oslo"}', "", [OSLO]),
    ('Let me see.[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}', "Let me see.", [OSLO]),
    ('get_weather[ARGS]{"city": "Oslo"}', "", [OSLO]),
    ('get_weather{"city": "Oslo"}', "", [OSLO]),
    ('get_weather {"city": "Oslo"}', "", [OSLO]),
    ('get_weather({"city": "Oslo"})', "", [OSLO]),
    ('Let me see.\nget_weather{"city": "Oslo"}', "Let me see.", [OSLO]),
    ('get_weather{"city": "Oslo"}\nget_time{}', "", [OSLO, NOW]),
    ('get_weather{"city": "Oslo"', "", [OSLO]),
    (f"[{J}]", "", [OSLO]),
    (f" [{J}]</s>".removesuffix("</s>"), "", [OSLO]),
    (f"[{J}, {J2}]", "", [OSLO, ROME]),
    (f"Sure.\n[{J}]", "Sure.", [OSLO]),
    (f"[{J}", "", [OSLO]),
    (P, "", [OSLO]),
    (f"<|python_tag|>{P}", "", [OSLO]),
    (f"<|python_tag|>{P}<|eom_id|>", "", [OSLO]),
    (f"{P}; {P.replace('Oslo', 'Rome')}", "", [OSLO, ROME]),
    (f"{P}\n{P.replace('Oslo', 'Rome')}", "", [OSLO, ROME]),
    ('{"type": "function", "name": "get_weather", "parameters": {"city": "Oslo"}}', "", [OSLO]),
    ('<|python_tag|>get_weather.call(city="Oslo")', "", [OSLO]),
    ('{"name": "get_time", "parameters": {}}', "", [NOW]),
    ('{"name": "get_time"}', "", [NOW]),
    ('function<｜tool▁sep｜>get_weather\n```json\n{"city": "Oslo"}\n```', "", [OSLO]),
    (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Oslo"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        "",
        [OSLO],
    ),
    (
        '<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜>',
        "",
        [OSLO],
    ),
    ('functionget_weather\n```json\n{"city": "Oslo"}\n```', "", [OSLO]),
    ('get_weather\n```json\n{"city": "Oslo"}\n```', "", [OSLO]),
    (
        '<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}'
        "<|tool_call_end|>",
        "",
        [OSLO],
    ),
    ('commentary to=functions.get_weather json{"city": "Oslo"}', "", [OSLO]),
    (f"```json\n{J}\n```", "", [OSLO]),
    (f"```\n{J}\n```", "", [OSLO]),
    (f"```json\n[{J}, {J2}]\n```", "", [OSLO, ROME]),
    (f"I will look.\n```json\n{J}\n```", "I will look.", [OSLO]),
    (f"```tool_code\n{J}\n```", "", [OSLO]),
    (f"I will look: {J}", "I will look:", [OSLO]),
    (f"Is {{x}} fine? {J}", "Is {x} fine?", [OSLO]),
    (J + "}", "", [OSLO]),
    (J[:-1], "", [OSLO]),
    (f'{{"tool_call": {J}}}', "", [OSLO]),
    (f'{{"tool_calls": [{J}, {J2}]}}', "", [OSLO, ROME]),
    (f'{{"tool_calls": [{{"id": "1", "type": "function", "function": {J}}}]}}', "", [OSLO]),
    (f'{{"function_call": {J}}}', "", [OSLO]),
    (
        '{"tool_calls": [{"id": "c", "type": "function", "function": {"name": "get_weather", '
        '"arguments": "{\\"city\\": \\"Oslo\\"}"}}]}',
        "",
        [OSLO],
    ),
    (f'Here:\n{{"tool_call": {J}}}', "Here:", [OSLO]),
    ('{"thought": "hm", "name": "get_weather", "arguments": {"city": "Oslo"}}', "", [OSLO]),
    ("{'name': 'get_weather', 'arguments': {'city': 'Oslo'}}", "", [OSLO]),
]

PYTHON = [
    ('get_weather(city="Oslo", days=3)', "", [OSLO3]),
    ("get_weather(city='Oslo')", "", [OSLO]),
    ('[get_weather(city="Oslo")]', "", [OSLO]),
    ('[get_weather(city="Oslo"), get_time()]', "", [OSLO, NOW]),
    ('get_weather(city="Oslo")\nget_weather(city="Rome")', "", [OSLO, ROME]),
    ('I will look.\nget_weather(city="Oslo")', "I will look.", [OSLO]),
    ('```python\nget_weather(city="Oslo")\n```', "", [OSLO]),
    ('I look.\n```tool_code\nget_weather(city="Oslo")\n```', "I look.", [OSLO]),
    ('get_weather(city="Oslo", metric=true)', "", [weather(metric=True)]),
    ('get_weather(city="Oslo", metric=True)', "", [weather(metric=True)]),
    ('get_weather(\n    city="Oslo",\n    days=3,\n)', "", [OSLO3]),
    ('get_weather(city="a) b(")', "", [("get_weather", {"city": "a) b("})]),
    ('write(path="a.txt", content="""one\ntwo\n""")', "", [wrote("one\ntwo\n")]),
    ('write(path="a.txt", content="\\d+\\n")', "", [wrote("\\d+\n")]),
    ("get_time()", "", [NOW]),
    ("Plan_Trip(stops=['A', 'B'])", "", [("Plan-Trip", {"stops": ["A", "B"]})]),
]

CASES = HERMES + NAMES + VALUES + XML + FAMILIES + PYTHON


@pytest.mark.parametrize(("text", "content", "calls"), CASES)
def test_a_call_is_read(text: str, content: str, calls: list[tuple[str, Any]]) -> None:
    found = read(text)
    assert (pairs(found), found.content, found.problem, found.unfinished) == (
        calls,
        content,
        None,
        False,
    )


PLAIN = [
    "",
    "It is sunny in Oslo.",
    "I could call get_weather for you.",
    'To ask, call get_weather(city="Oslo") and wait.',
    "The `get_weather` tool takes a city.",
    "The model writes `<tool_call>` first.",
    "Use <tool_call> tags for that.",
    '{"name": "Anna", "arguments": {"x": 1}}',
    '{"name": "Oslo", "population": 700000}',
    '{"name": "get_weather"}',
    '{"name": "get_weather", "description": "Weather of a city"}',
    '{"city": "Oslo"}',
    '{"answer": {"name": "get_weather", "arguments": {"city": "Oslo"}}}',
    f'[{{"name": "other", "arguments": {{}}}}, {J}]',
    "[1, 2, 3]",
    '["get_weather"]',
    "[]",
    "{}",
    '```json\n{"city": "Oslo", "temperature": 3}\n```',
    'Here it is:\n```json\n{"name": "Oslo", "days": [1, 2]}\n```',
    "```python\ndef get_weather(city):\n    return {'name': city}\n```",
    '```python\nfrom weather import get_weather\nget_weather(city="Oslo")\n```\nThat prints it.',
    'Like this:\n```js\nwrite({"path": 1})\n```\n',
    "if (x) { write(y); }",
    "write(fd, buffer, 3);",
    "write(data) puts it there.",
    'read(path="a")',
    'def get_weather(city="Oslo"): pass',
    "get_weather()",
    'print(get_weather(city="Oslo"))',
    'x = get_weather(city="Oslo")',
    "<|python_tag|>print(3)",
    'other{"city": "Oslo"}',
    "get_time is a tool.",
    '{"type": "function", "function": {"name": "get_weather", "parameters": '
    '{"type": "object", "properties": {"city": {"type": "string"}}}}}',
    "a < b and {c} > d",
    'Unbalanced { and "quotes',
    "{'a': 1}",
    "get_weather: takes a city",
    "- get_weather(city): the weather",
    # A call without a marker counts only if nothing follows it.
    f"{P}\n\nI called the function.",
    f"I will look.\n\n```json\n{J}\n```\nPlease wait.",
    f"I will look: {J} and tell you.",
]


@pytest.mark.parametrize("text", PLAIN)
def test_text_without_a_call_stays_text(text: str) -> None:
    assert read(text) == CallReading(text, (), False, None)


@pytest.mark.parametrize(
    ("text", "calls", "problem"),
    [
        (
            hermes("fly", '{"to": "Oslo"}'),
            [("fly", {"to": "Oslo"})],
            "No tool named 'fly' is available.",
        ),
        (
            '[TOOL_CALLS]fly[ARGS]{"to": "Oslo"}',
            [("fly", {"to": "Oslo"})],
            "No tool named 'fly' is available.",
        ),
        (
            "<function=fly>\n<parameter=n>\n3\n</parameter>\n</function>",
            [("fly", {"n": 3})],
            "No tool named 'fly' is available.",
        ),
        (
            hermes("get_weather", '{"days": 3}'),
            [("get_weather", {"days": 3})],
            "The call of 'get_weather' lacks the required argument 'city'.",
        ),
        (
            hermes("get_weather", "{}"),
            [("get_weather", {})],
            "The call of 'get_weather' lacks the required argument 'city'.",
        ),
        (hermes("error503", "{}"), [("error503", {})], "No tool named 'error503' is available."),
        (
            "<tool_call>\nno idea what to do\n</tool_call>",
            [],
            "The text between the call's tags is no function call.",
        ),
        (
            "<tool_call>\n{]\n</tool_call>",
            [],
            "The function call is not valid JSON with a name and arguments.",
        ),
        (
            '<tool_call>\n{"city": "Oslo"}\n</tool_call>',
            [],
            "The function call is not valid JSON with a name and arguments.",
        ),
        (
            '<tool_call>\n{"name": "get_weather", "arguments": [1]}\n</tool_call>',
            [],
            "The function call is not valid JSON with a name and arguments.",
        ),
        (
            '<tool_call>\n{"name": "write", "arguments": {"path": "a", "content": "half',
            [],
            "The function call is not valid JSON with a name and arguments.",
        ),
        (
            "<tool_call>write\n<arg_key>path</arg_key>\n<arg_value>half",
            [],
            "The call of 'write' has no end.",
        ),
        (
            '{"name": "write", "arguments": {"path": "a", "content": "half',
            [],
            "The function call is not complete JSON.",
        ),
        (
            'write{"path": "a", "content": "half',
            [],
            "The arguments of 'write' are not a JSON object.",
        ),
    ],
)
def test_a_bad_call_comes_with_a_problem(text: str, calls: list[Any], problem: str) -> None:
    found = read(text)
    assert (pairs(found), found.problem, found.unfinished) == (calls, problem, False)
    assert found.content == ("" if calls else text)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("<tool_call>", []),
        ("Hm. <tool_c", []),
        ('<tool_call>\n{"name": "wri', []),
        ('<tool_call>\n{"name": "write", "arguments": {"path": "a", "content": "ha', []),
        (
            '<tool_call>\n{"name": "write", "arguments": '
            '{"path": "a", "content": "x </tool_call> y',
            [],
        ),
        ('<tool_call>\n{"name": "write", "arguments": {"path": "a", "content": "x"}', []),
        (f'<tool_call>\n{J}\n</tool_call>\n<tool_call>\n{{"name": "wri', [OSLO]),
        (f'<tool_call>\n{J}\n{{"name": "wri', [OSLO]),
        ("<tool_call>write\n<arg_key>path</arg_key>\n<arg_value>a</arg_value>\n<arg_key>con", []),
        ("<tool_call>write\n<arg_key>path</arg_key>\n<arg_value>a</arg_value>\n", []),
        ("<tool_call>wri", []),
        ("<function=write>\n<parameter=path>\na\n</parameter>\n<parameter=content>\nhalf", []),
        ("<function=write>\n<parameter=path>\na\n</parameter>\n<param", []),
        ("<function=write>\n<parameter=path>\na\n</parameter>\n", []),
        ("<function=wri", []),
        ("<function=get_time>\n", []),
        ('[TOOL_CALLS] [{"name": "write", "arguments": {"pa', []),
        ('[TOOL_CALLS]write[ARGS]{"path": "a', []),
        (f'[{J}, {{"name": "write", "argum', [OSLO]),
        ('{"name": "write", "parameters": {"path": "a"', []),
        ('{"name": "wri', []),
        ('{"tool_calls": [{"name": "write", "arguments": {"pa', []),
        ('write{"path": "a", "con', []),
        ('write(path="a", content="ha', []),
    ],
)
def test_a_call_that_was_cut_off_is_never_completed(text: str, calls: list[Any]) -> None:
    found = read(text, cut_off=True)
    assert (pairs(found), found.unfinished, found.content) == (calls, True, text)


@pytest.mark.parametrize(
    "text",
    [
        "It is sunny in Os",
        '{"name": "Anna", "age": 3',
        "[1, 2",
        "if (x) { y",
        "see `write` and",
        '```json\n{"city": "Os',
        "",
    ],
)
def test_text_that_was_cut_off_is_text(text: str) -> None:
    assert read(text, cut_off=True) == CallReading(text, (), False, None)


def test_a_whole_call_in_a_text_that_was_cut_off_is_read() -> None:
    found = read(f"<tool_call>\n{J}\n</tool_call>\nAnd then I will", cut_off=True)
    assert (pairs(found), found.unfinished) == ([OSLO], False)


def test_without_tools_all_is_text() -> None:
    assert read_calls(hermes("f", "{}"), ()) == CallReading(hermes("f", "{}"), (), False, None)


def test_arguments_are_compact_and_keep_their_letters() -> None:
    assert read(hermes("get_weather", '{"city":  "Tromsø", "days": 3}')).calls == (
        FoundCall("get_weather", '{"city":"Tromsø","days":3}'),
    )


def test_half_a_surrogate_pair_is_escaped() -> None:
    assert read(hermes("get_weather", '{"city": "\\ud800"}')).calls[0].arguments == (
        '{"city":"\\ud800"}'
    )


def test_an_exact_name_wins() -> None:
    tools = [Tool("a-b", "", {}), Tool("a_b", "", {}), Tool("A_B", "", {})]
    for tool in tools:
        found = read_calls(hermes(tool.name, "{}"), tools)
        assert [call.name for call in found.calls] == [tool.name]


def test_a_property_called_properties_is_no_wrapper() -> None:
    tool = Tool("f", "", schema([], properties={"type": "object"}))
    found = read_calls(hermes("f", '{"properties": {"a": 1}}'), [tool])
    assert found.calls == (FoundCall("f", '{"properties":{"a":1}}'),)


def test_types_are_found_behind_a_local_reference() -> None:
    tool = Tool(
        "f",
        "",
        {
            "properties": {"n": {"$ref": "#/$defs/n"}},
            "$defs": {"n": {"anyOf": [{"type": "integer"}]}},
        },
    )
    assert read_calls(hermes("f", '{"n": "3"}'), [tool]).calls == (FoundCall("f", '{"n":3}'),)


# --- what fits the schema ---


@pytest.mark.parametrize(
    ("parameters", "arguments", "problem"),
    [
        (WEATHER.parameters, '{"city":"Oslo"}', None),
        (WEATHER.parameters, "{}", "The call of 'f' lacks the required argument 'city'."),
        (
            WEATHER.parameters,
            '{"city":"Oslo","days":"x"}',
            "The argument 'days' of 'f' must be of type integer.",
        ),
        (WEATHER.parameters, '{"city":3}', "The argument 'city' of 'f' must be of type string."),
        (
            WEATHER.parameters,
            '{"city":"a","unit":3}',
            "The argument 'unit' of 'f' must be of type string or null.",
        ),
        (WEATHER.parameters, "[1]", "The arguments of 'f' are not a JSON object."),
        (WEATHER.parameters, "{", "The arguments of 'f' are not a JSON object."),
        (
            schema([], u={"enum": ["c", "f"]}),
            '{"u":"k"}',
            "The argument 'u' of 'f' must be one of \"c\", \"f\".",
        ),
        (schema([], u={"enum": [500]}), '{"u":1}', "The argument 'u' of 'f' must be one of 500."),
        (
            {**schema([]), "additionalProperties": False},
            '{"x":1}',
            "The call of 'f' has an argument that is not in its schema.",
        ),
        (
            schema([], n={"maximum": 3}),
            '{"n":4}',
            "The argument 'n' of 'f' does not fit its schema (maximum).",
        ),
        (
            schema([], o=schema(["k"])),
            '{"o":{}}',
            "The argument 'o' of 'f' lacks the required argument 'k'.",
        ),
        (
            schema([], a={"items": {"type": "string"}}),
            '{"a":["x",1]}',
            "The argument 'a.1' of 'f' must be of type string.",
        ),
        (
            schema(["pattern"], pattern={"type": "string"}),
            "{}",
            "The call of 'f' lacks the required argument 'pattern'.",
        ),
        (
            schema([], n={"$ref": "#/$defs/n"}) | {"$defs": {"n": {"type": "integer"}}},
            '{"n":"x"}',
            "The argument 'n' of 'f' must be of type integer.",
        ),
    ],
)
def test_a_call_is_checked_against_its_schema(
    parameters: Any, arguments: str, problem: str | None
) -> None:
    found = call_problem(FoundCall("f", arguments), Tool("f", "", parameters))
    assert (found is None) == (problem is None)
    assert found is None or "'f'" in found


DEEP: dict[str, Any] = {}
for _ in range(500):
    DEEP = {"properties": {"x": DEEP}}
NESTED_NOT: dict[str, Any] = {"pattern": "x"}
for _ in range(50):
    NESTED_NOT = {"not": NESTED_NOT}


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "nonsense"},
        {"type": 3},
        {"properties": 3},
        {"properties": {"x": {"minimum": "low"}}},
        {"required": "x"},
        {"properties": {"x": {"$ref": "https://example.org/schema.json"}}},
        {"properties": {"x": {"$ref": "other.json#/x"}}},
        {"properties": {"x": {"$ref": "#/nowhere"}}},
        {"properties": {"x": {"$ref": "#"}}},
        {"$ref": "#"},
        {"$id": "https://example.org/", "properties": {"x": {"$ref": "x.json"}}},
        {"$schema": "https://example.org/unknown"},
        {"$schema": ["list"]},
        {"properties": {"x": {"pattern": "(a+)+$"}}},
        {"properties": {"x": {"pattern": "("}}},
        {"patternProperties": {"(x+)+$": {"type": "integer"}}, "additionalProperties": False},
        {"properties": {"x": {"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}}},
        {"$dynamicRef": "https://example.org/"},
        {
            "allOf": [{"$ref": "#/$defs/a"}],
            "$defs": {
                "abcdefgh"[i]: {"allOf": [{"$ref": f"#/$defs/{'abcdefgh'[i + 1]}"}] * 20}
                for i in range(7)
            },
        },
        DEEP,
        NESTED_NOT,
    ],
)
def test_a_broken_or_dangerous_schema_is_not_applied(parameters: Any) -> None:
    call = FoundCall("f", json.dumps({"x": "a" * 40 + "!"}))
    assert call_problem(call, Tool("f", "", parameters)) is None
    assert read_calls(hermes("f", call.arguments), [Tool("f", "", parameters)]).calls == (
        FoundCall("f", dumps(json.loads(call.arguments))),
    )


# --- properties ---

names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,20}", fullmatch=True).filter(
    lambda name: not name.startswith("function")
)
tricky = st.one_of(
    st.text(max_size=30),
    st.lists(
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                "{",
                "}",
                '"',
                "'",
                "\\",
                "\n",
                "```",
                "[TOOL_CALLS]",
                "[",
                "]",
                "<function=f>",
                '{"name": "f", "arguments": {}}',
                "{'name': 'f', 'arguments': {}}",
                "f(",
                ")",
                "<tool_response>",
                "true",
                "3",
                " ",
                "é",
                "\u2028",
            ]
        ),
        max_size=8,
    ).map("".join),
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | tricky
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(tricky, inner, max_size=3),
    max_leaves=8,
)
arguments = st.dictionaries(tricky.filter(lambda key: key != "properties"), values, max_size=4)
prose = st.sampled_from(
    [
        "",
        "I will look.",
        "Is {x} fine?",
        "It's so: don't",
        "See `<tool_call>`.",
    ]
)


@given(name=names, first=arguments, second=arguments, style=st.sampled_from(STYLES), before=prose)
def test_a_rendered_call_is_read_back(
    name: str, first: Any, second: Any, style: str, before: str
) -> None:
    tools = [Tool(name, "", {"type": "object", "properties": {}})]
    texts = [json.dumps(each, ensure_ascii=False) for each in (first, second)]
    calls = [call_text(style, name, text) for text in texts]
    for count in (1, 2):
        found = read_calls("\n".join([before, *calls[:count]]), tools)
        assert pairs(found) == [(name, each) for each in (first, second)[:count]]
        assert (found.content, found.problem, found.unfinished) == (before, None, False)


@given(name=names, given=arguments, style=st.sampled_from(STYLES), before=prose)
def test_no_beginning_of_a_call_is_taken_for_another_call(
    name: str, given: Any, style: str, before: str
) -> None:
    tools = [Tool(name, "", {"type": "object"}), Tool("f", "", {"type": "object"})]
    text = before + "\n" + call_text(style, name, json.dumps(given, ensure_ascii=False))
    for end in range(len(text)):
        found = read_calls(text[:end], tools, cut_off=True)
        assert pairs(found) in ([], [(name, given)])
        assert not (found.unfinished and found.content != text[:end])


SCRAPS = st.lists(
    st.one_of(
        tricky,
        st.sampled_from(
            [
                "<tool_call>",
                "get_weather",
                "(",
                "write{",
                '"city"',
                ":",
                "<arg_key>",
                "</arg_key>",
                "<arg_value>",
                "<function=",
                ">",
                "<parameter=city>",
                "</parameter>",
                "</function>",
                "[ARGS]",
                "<invoke name=",
                "```json\n",
                "\n",
                "get_time()",
                "[get_time(",
                ")]",
                "get_weather(city=",
                '{"name": "get_weather"',
                ', "arguments": ',
                "{'name': ",
                "<|python_tag|>",
                "functions.",
            ]
        ),
        st.text(max_size=10),
    ),
    max_size=20,
).map("".join)


@given(text=SCRAPS, cut_off=st.booleans())
def test_any_text_can_be_read(text: str, cut_off: bool) -> None:
    found = read(text, cut_off=cut_off)
    assert all(isinstance(arguments, dict) for _, arguments in pairs(found))
    assert found.content == text or found.calls


# Scraps of calls, each of which was quadratic once or looks as if it could be.
QUICK_SCRAPS = [
    "{",
    '<tool_call>{"',
    '{"name":',
    '"""',
    "```json\n{",
    "write(",
    "<function=write>",
    "<arg_key>",
    "[TOOL_CALLS]",
    "functions.",
    "\n",
    "[{",
]
MORE_SCRAPS = [
    "}",
    "[",
    "<tool_call>",
    "<tool_call>{",
    "<tool_call>{}</tool_call>",
    '<tool_call>{"</tool_call>',
    '<tool_call>{"name": "write", "arguments": {"',
    '{"name": "write", "arguments": ',
    "{'",
    '{"a": "',
    '"',
    "'",
    "\\",
    "```",
    "write{",
    "\nwrite(",
    "\nwrite{",
    '\nwrite{"',
    "\nwrite(path='",
    "\nget_time(",
    "<function=write><parameter=a>",
    "<parameter=a>",
    "<tool_call>write<arg_key>a</arg_key><arg_value>",
    "[TOOL_CALLS]write[ARGS]{",
    "a.",
    " ",
    "\n ",
    "{ ",
    "[get_time(",
    "</parameter> ",
    "</arg_value>\n",
    '<tool_call>{"a": b</tool_call>',
    "write\n```json\n{",
    "<invoke name='a'>",
    "</tool_call>",
    '\n{"name": "write"}',
    "<tool_call>write(",
    "<tool_call>a</tool_call>",
    "\nwrite()",
]
SLOW_SCRAPS = [pytest.param(scrap, marks=pytest.mark.slow) for scrap in MORE_SCRAPS]


@pytest.mark.thorough
@pytest.mark.parametrize("scrap", [*QUICK_SCRAPS, *SLOW_SCRAPS])
@pytest.mark.parametrize("cut_off", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_cost_of_a_hostile_text_grows_with_its_length_only(scrap: str, cut_off: bool) -> None:
    def read_all(size: int) -> None:
        text = (scrap * size)[:size]
        read(text, cut_off=cut_off)
        read("<tool_call>{" + text, cut_off=cut_off)
        read(text + hermes("write", '{"path": "a"}'), cut_off=cut_off)

    assert growth(read_all, 100_000) < 1.5


@pytest.mark.thorough
@pytest.mark.parametrize(
    "beginning",
    [
        "Total",
        "<tool_call>write<arg_key>",
        "<tool_call>write<arg_key>a",
        "Action: write\nAction Input: x",
        "write",
        "to=functions.write",
    ],
)
@pytest.mark.parametrize("space", [" ", "\n"])
def test_wide_spaces_as_in_tables_are_read_in_one_go(beginning: str, space: str) -> None:
    def read_all(size: int) -> None:
        read(f"{beginning}{space * size}12 files <x")

    assert growth(read_all, 100_000) < 1.5


def test_of_very_many_calls_the_first_ones_are_read() -> None:
    assert len(read('<tool_call>\n{"name": "get_time", ' * 3_000).calls) == 300
    assert len(read(hermes("get_time", "{}") * 3_000).calls) == 300
    assert len(read(hermes("get_time", "{}") * 299).calls) == 299


@pytest.mark.thorough
def test_many_objects_with_names_are_read_in_one_go() -> None:
    text = '{"name": "Ada"}\n' * 6_000
    assert read(text) == CallReading(text, (), False, None)
    assert growth(lambda size: read('{"name": "Ada"}\n' * size), 6_000) < 1.5


def test_a_name_behind_an_object_does_not_make_it_a_call() -> None:
    text = 'See {"name": "Ada"} and {"name": "get_weather", "arguments": {"city": "Oslo"}}'
    assert read(text).content == 'See {"name": "Ada"} and'


@pytest.mark.parametrize(
    ("text", "surely"),
    [
        ("I look first.\nThen", "I look first.\nThen"),
        ("Look: <tool_call>", "Look:"),
        ("Look.\nget_wea", "Look."),
        ("Look.\nGet-Weather(city=", "Look."),
        ("Look.\nfunctions.get", "Look."),
        ("Say `this`", "Say `this`"),
        ("Say `", "Say"),
        ('{"name"', ""),
        ("[get", ""),
        ("get", ""),
        ("getting there", "getting there"),
    ],
)
def test_content_is_certain_up_to_what_may_begin_a_call(text: str, surely: str) -> None:
    assert certain_content(text, [Tool("get_weather", "", {})]) == surely


@given(
    before=st.text(max_size=60),
    after=st.text(max_size=60),
    style=st.sampled_from(["hermes", "llama3", "mistral"]),
)
def test_certain_content_stays_content(before: str, after: str, style: str) -> None:
    tool = Tool("get_weather", "", {"type": "object", "properties": {"city": {"type": "string"}}})
    text = (before + call_text(style, "get_weather", '{"city":"Oslo"}') + after).lstrip()
    for end in range(0, len(text), 7):
        assert read_calls(text, [tool]).content.startswith(certain_content(text[:end], [tool]))

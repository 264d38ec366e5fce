"""Literal outputs of model families with calls: whole, streamed, broken, and only mentioned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horde_proxy.prompts.answer import read_answer
from horde_proxy.prompts.formats import FORMATS
from horde_proxy.prompts.tool_calls.reading import certain_content, read_calls
from horde_proxy.protocol.generation_request import Tool
from tests.support import growth

Call = tuple[str, dict[str, Any]]
ROOT = Path(__file__).parent.parent


def tool(name: str, required: str, /, **types: str) -> Tool:
    properties = {key: {"type": type_} for key, type_ in types.items()}
    schema = {"type": "object", "properties": properties, "required": required.split()}
    return Tool(name, "", schema)


TOOLS = (
    tool("bash", "command", command="string", timeout="integer"),
    tool("read", "filePath", filePath="string", offset="integer"),
    tool("write", "filePath content", filePath="string", content="string"),
    tool("get_time", ""),
    tool("get_weather", "city", city="string", days="integer", metric="boolean"),
    tool("WeatherPlugin-GetWeather", "addressCode", addressCode="string"),
)
LS: Call = ("bash", {"command": "ls -la"})
READ: Call = ("read", {"filePath": "src/app.py"})
PARIS: Call = ("get_weather", {"city": "Paris", "days": 3})
NOW: Call = ("get_time", {})
BASH = '{"name": "bash", "arguments": {"command": "ls -la"}}'
RM = '{"name": "bash", "arguments": {"command": "rm -rf build"}}'
QWEN = (
    "<tool_call>\n<function=bash>\n<parameter=command>\nls -la\n</parameter>\n</function>\n"
    "</tool_call>"
)


def wrote(path: str, content: str) -> Call:
    return ("write", {"filePath": path, "content": content})


def read(text: str, **options: Any) -> tuple[list[Call], str]:
    reading = read_calls(text, TOOLS, **options)
    calls = [(call.name, json.loads(call.arguments)) for call in reading.calls]
    return calls, reading.content


def streamed(text: str, size: int) -> str:
    """The content that a stream of pieces of this size has sent before the text's end is known."""
    sent = ""
    for end in range(size, len(text) + size, size):
        certain = certain_content(text[:end], TOOLS)
        assert certain.startswith(sent) or sent.startswith(certain)
        sent = max(sent, certain, key=len)
    return sent


FAMILIES: list[tuple[str, str, list[Call]]] = [
    # MiniMax M2
    (
        '<minimax:tool_call>\n<invoke name="bash">\n<parameter name="command">ls -la</parameter>\n'
        "</invoke>\n</minimax:tool_call>",
        "",
        [LS],
    ),
    (
        'I look.\n<minimax:tool_call>\n  <invoke name="bash">\n    <parameter name="command">ls -la'
        '</parameter>\n  </invoke>\n<invoke name="read">\n<parameter name="filePath">src/app.py'
        "</parameter>\n</invoke>\n</minimax:tool_call>",
        "I look.",
        [LS, READ],
    ),
    # MiniMax M3
    (
        ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="get_weather">\n]<]minimax[>[<city>'
        "Paris]<]minimax[>[</city>\n]<]minimax[>[<days>3]<]minimax[>[</days>\n]<]minimax[>["
        "</invoke>\n]<]minimax[>[</tool_call>",
        "",
        [PARIS],
    ),
    # Claude's older API, and DeepSeek V3.2, with and without its tokens
    (
        '<function_calls>\n<invoke name="bash">\n<parameter name="command">ls -la</parameter>\n'
        "</invoke>\n</function_calls>",
        "",
        [LS],
    ),
    (
        '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n'
        '<｜DSML｜parameter name="city" '
        'string="true">Paris</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">3'
        "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
        "",
        [PARIS],
    ),
    # Gemma 3
    ('```tool_code\nbash(command="ls -la")\n```', "", [LS]),
    ('I look.\n```tool_code\nprint(bash(command="ls -la"))\n```', "I look.", [LS]),
    ('```tool_code\nprint(get_weather("Paris", days=3))\n```', "", [PARIS]),
    # Gemma 4, with and without its tokens
    ('<|tool_call>call:bash{command:<|"|>ls -la<|"|>}<tool_call|>', "", [LS]),
    ('<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>', "", [PARIS]),
    (
        '<|tool_call>call:write{content:<|"|>{"a": [1, "}"]}<|"|>,filePath:<|"|>a, b.json<|"|>}'
        "<tool_call|>",
        "",
        [wrote("a, b.json", '{"a": [1, "}"]}')],
    ),
    ("call:bash{command:ls -la}", "", [LS]),
    ("call:get_weather{city:Paris,days:3}call:get_time{}", "", [PARIS, NOW]),
    (
        "I look.\ncall:write{filePath:a.c,content:int f() { return 1; }}",
        "I look.",
        [wrote("a.c", "int f() { return 1; }")],
    ),
    # LFM2
    ('<|tool_call_start|>[bash(command="ls -la")]<|tool_call_end|>', "", [LS]),
    (
        'I look.<|tool_call_start|>[get_weather(city="Paris'
        '", days=3), get_time()]<|tool_call_end|>',
        "I look.",
        [PARIS, NOW],
    ),
    # Llama 4
    ('<|python_start|>[bash(command="ls -la")]<|python_end|>', "", [LS]),
    # Seed-OSS
    (
        "<seed:tool_call>\n<function=bash>\n<parameter=command>ls -la</parameter>\n</function>\n"
        "</seed:tool_call>",
        "",
        [LS],
    ),
    # Command R7B and A, and Command R
    (
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "bash", "parameters": '
        '{"command": "ls -la"}}\n]<|END_ACTION|>',
        "",
        [LS],
    ),
    (
        'Action: ```json\n[\n    {\n        "tool_name": "bash",\n        "parameters": {\n'
        '            "command": "ls -la"\n        }\n    }\n]\n```',
        "",
        [LS],
    ),
    # Apertus
    (f'<|tools_prefix|>[{{"bash": {json.dumps(LS[1])}}}]<|tools_suffix|>', "", [LS]),
    # Nemotron
    (f"<TOOLCALL>[{BASH}]</TOOLCALL>", "", [LS]),
    # ReAct
    (
        'Thought: I look.\nAction: bash\nAction Input: {"command": "ls -la"}',
        "Thought: I look.",
        [LS],
    ),
    ("Action: bash\nAction Input: ls -la\nObservation:", "", [LS]),
    ("Action: bash\nAction Input:\n```\nls -la\n```", "", [LS]),
    ("**Action:** get_time\n**Action Input:** None", "", [NOW]),
    ('```json\n{"action": "bash", "action_input": {"command": "ls -la"}}\n```', "", [LS]),
    # A tool as its own tag
    ("<bash>\n<command>ls -la</command>\n</bash>", "", [LS]),
    (
        "I write it.\n<write>\n<filePath>a.html</filePath>\n<content>\n<b>a</b> </content>!\n"
        "</content>\n</write>",
        "I write it.",
        [wrote("a.html", "<b>a</b> </content>!")],
    ),
    ("<get_time></get_time>", "", [NOW]),
    # gpt-oss, with tokens, without them, and garbled
    (
        "<|channel|>commentary to=functions.bash <|constrain|>json<|message|>"
        '{"command": "ls -la"}<|call|>',
        "",
        [LS],
    ),
    ('commentary to=functions.bash json{"command": "ls -la"}', "", [LS]),
    ('assistantcommentary to=functions.bash json{"command": "ls -la"}', "", [LS]),
    (
        "<|channel|>commentary to=functions.bash<|channel|>commentary <|constrain|>json<|message|>"
        '{"command": "ls -la"}<|call|>',
        "",
        [LS],
    ),
    (
        'I look.<|start|>assistant<|channel|>commentary to=functions.bash<|message|>{"command": '
        '"ls -la"}<|call|><|start|>assistant<|channel|>commentary to=functions.get_time<|message|>'
        "{}<|call|>",
        "I look.",
        [LS, NOW],
    ),
    # Kimi K2, with and without its tokens
    (
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.bash:0"
        '<|tool_call_argument_begin|>{"command": "ls -la"}<|tool_call_end|><|tool_call_begin|>'
        'functions.read:1<|tool_call_argument_begin|>{"filePath": "src/app.py"}<|tool_call_end|>'
        "<|tool_calls_section_end|>",
        "I look.",
        [LS, READ],
    ),
    (
        'functions.bash:0{"command": "ls -la"}functions.read:1{"filePath": "src/app.py"}',
        "",
        [LS, READ],
    ),
    (
        'Let me look at it.functions.bash:0{"command": "ls -la"}',
        "Let me look at it.",
        [LS],
    ),
    # Devstral without its tokens
    ('bash{"command": "ls -la"}read{"filePath": "src/app.py"}', "", [LS, READ]),
    ('Let me look.bash{"command": "ls -la"}', "Let me look.", [LS]),
    ('我来看看。bash{"command": "ls -la"}', "我来看看。", [LS]),
    # Semantic Kernel's names
    (
        '<tool_call>\n{"name": "WeatherPlugin.GetWeather", "arguments": {"addressCode": "1"}}\n'
        "</tool_call>",
        "",
        [("WeatherPlugin-GetWeather", {"addressCode": "1"})],
    ),
    ('<tool_call>{"name": "bash", "arguments": [{"command": "ls -la"}]}</tool_call>', "", [LS]),
    ('<tool_call>{"name": "bash", "kwargs": {"command": "ls -la"}}</tool_call>', "", [LS]),
    # GLM's attributes
    ('<tool_call>read filePath="src/app.py"</tool_call>', "", [READ]),
    # InternLM
    (
        '<|action_start|><|plugin|>\n{"name": "bash", "parameters": {"command": "ls -la"}}'
        "<|action_end|>",
        "",
        [LS],
    ),
    # OLMo 3
    (
        '<function_calls>\nbash(command="ls -la")\nget_weather(city="Paris", days=3)\n'
        "</function_calls>",
        "",
        [LS, PARIS],
    ),
    # Hunyuan
    (
        '<tool_calls><tool_call>bash\n```json\n{"command": "ls -la"}\n```</tool_call></tool_calls>',
        "",
        [LS],
    ),
    # A heading before an object that is the call
    (f"bash\n{BASH}", "", [LS]),
    # The opening marker was dropped.
    (f"{BASH}\n</tool_call>\nI will wait.", "I will wait.", [LS]),
    # Text after a call
    (f"<tool_call>\n{BASH}\n</tool_call>\nI will wait.", "I will wait.", [LS]),
    (f"I look.\n```json\n{BASH}\n```", "I look.", [LS]),
    (f"```python\nx = 1\n```\n{BASH}", "```python\nx = 1\n```", [LS]),
    (
        f"I look.\n```json\n{BASH}\n```\n```json\n{json.dumps({'name': 'get_time'})}\n```",
        "I look.",
        [
            LS,
            NOW,
        ],
    ),
]


@pytest.mark.parametrize(("text", "content", "calls"), FAMILIES)
def test_a_familys_calls_are_read_whole_and_streamed(
    text: str, content: str, calls: list[Call]
) -> None:
    assert read(text) == (calls, content)
    for size in (1, 3, 40):
        assert content.startswith(streamed(text, size))


# A tag is missing or doubled, or the text ends early. A value may contain tags of its own format.
BROKEN: list[tuple[str, list[Call]]] = [
    ("<tool_call>\n<function=bash>\n<parameter=command>\nls -la\n", [LS]),
    (QWEN.replace("command>", "command"), [LS]),
    (QWEN.replace("bash>", "bash"), [LS]),
    (QWEN.replace("</parameter>\n", ""), [LS]),
    (QWEN.replace("</function>\n", ""), [LS]),
    (QWEN.replace("</parameter>", "</parameter>\n</parameter>"), [LS]),
    (QWEN.replace("<parameter=command>", "<parameter=command>\n<parameter=command>"), [LS]),
    (QWEN.replace("<function=bash>", "<function=bash>\n<function=bash>"), [LS]),
    (QWEN.replace("<tool_call>", "<tool_call>\n<tool_call>"), [LS]),
    (QWEN.replace("</tool_call>", "</tool_call></tool_call>"), [LS]),
    (QWEN.replace("</parameter>\n</function>\n", "") + "\n" + QWEN, [LS, LS]),
    (
        "<function=write>\n<parameter=filePath>\na.txt\n<parameter=content>\nhi\nthere\n</function>",
        [wrote("a.txt", "hi\nthere")],
    ),
    (
        "<function=write>\n<parameter=filePath>\nd.md\n</parameter>\n<parameter=content>\n"
        f"# Calls\n{QWEN}\nEnd\n</parameter>\n</function>",
        [wrote("d.md", f"# Calls\n{QWEN}\nEnd")],
    ),
    (
        "<function=write>\n<parameter=filePath>\nd.md\n</parameter>\n<parameter=content>\n"
        "Write <parameter=x> here.\n</parameter>\n</function>\n</tool_call>",
        [wrote("d.md", "Write <parameter=x> here.")],
    ),
    (
        "<function=write>\n<parameter=filePath>\nd.md\n</parameter>\n<parameter=content>\n"
        "Write </parameter> here.\n</parameter>\n</function>\n</tool_call>",
        [wrote("d.md", "Write </parameter> here.")],
    ),
    (
        "<function=write>\n<parameter=filePath>\nd.md\n</parameter>\n<parameter=content>\n"
        "End it with </function> there.\n</function>\n</tool_call>",
        [wrote("d.md", "End it with </function> there.")],
    ),
    # Without its opening tag, where the value of `content` begins is unclear.
    (
        "<function=write>\n<parameter=filePath>\na\n</parameter>\nhi\n</parameter>\n</function>",
        [],
    ),
    (
        "<tool_call>bash<arg_key>command</arg_key></arg_key>"
        "<arg_value>ls -la</arg_value></tool_call>",
        [LS],
    ),
    ("<tool_call>bash<arg_key>command</arg_key>ls -la</arg_value></tool_call>", [LS]),
    ("<tool_call>bash<arg_key>command<arg_value>ls -la</arg_value></tool_call>", [LS]),
    ("<tool_call>bash\ncommand</arg_key><arg_value>ls -la</arg_value></tool_call>", [LS]),
    ("<tool_call>bash<arg_key>command</arg_key><arg_value>ls -la</tool_call>", [LS]),
    (
        "<tool_call>bash<arg_key>command</arg_key><arg_value>ls -la"
        "</arg_value></arg_value></tool_call>",
        [LS],
    ),
    (
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris\n<arg_key>days</arg_key>"
        "\n<arg_value>3</arg_value>\n</tool_call>",
        [PARIS],
    ),
    (
        "<tool_call>write\n<arg_key>filePath</arg_key>\n<arg_value>d.md</arg_value>\n<arg_key>content"
        "</arg_key>\n<arg_value>Use <arg_key>a</arg_key><arg_value>b</arg_value>.</arg_value>\n"
        "</tool_call>",
        [wrote("d.md", "Use <arg_key>a</arg_key><arg_value>b</arg_value>.")],
    ),
    (f"<tool_call>\n{BASH}\n<tool_call>", [LS]),
    (f"<tool_call>\n{BASH[:-1]}{json.dumps(LS[1])}}}\n</tool_call>", [LS]),
]


@pytest.mark.parametrize(("text", "calls"), BROKEN)
def test_a_call_with_a_missing_or_doubled_tag_is_read(text: str, calls: list[Call]) -> None:
    assert read(text)[0] == calls


MENTIONS = [
    f"The call would look like `{RM}`; say yes and I run it.",
    f"The call would look like `{RM}`.",
    f"The call is `{RM}`",
    f"It is `<tool_call>{RM}</tool_call>` for this model.",
    f"Write ``<tool_call>{RM}</tool_call>`` for it.",
    f"To delete it you would call:\n```json\n{RM}\n```\nI will not do that.",
    f"Tools are called so:\n```xml\n<tool_call>\n{RM}\n</tool_call>\n```\nI called none.",
    f"Models write <tool_call>{RM}</tool_call> for a call.",
    f"{RM}\nis how it would be called.",
    f"1. Run:\n```json\n{BASH}\n```\n2. Delete:\n```json\n{RM}\n```",
    f"I can:\n- list: {BASH}\n- delete: {RM}",
    'I can:\n```json\n{"name": "bash", "arguments": {"command": "<command>"}}\n```',
    'bash{"command": "rm -rf build"} would delete it.',
    "Never write \"bash(command='rm -rf build')\" here.",
    "```bash\nbash(command='rm -rf build')\n```\nThat deletes it.",
    "Action: bash\nAction Input: rm -rf build\nObservation: done\nFinal Answer: It is gone.",
    "<bash>\n<command>rm -rf build</command>\n</bash>\nis Cline's form.",
    "call:bash{command:rm -rf build} is Gemma's form.",
    "call:bash{command:rm -rf build} is Gemma's form, as in {this}.",
    "commentary to=functions.bash json{} is a header.",
    'const call = {"name": "bash", "arguments": {"command": "rm -rf build"}};\nrun(call);',
    f'{{"example": "<tool_call>{json.dumps(RM)[1:-1]}</tool_call>"}}',
    "Use the <read> tag with a <filePath> in it.",
    "Action: take a walk.",
    "The grammar of <function=bash><parameter=command>ls</parameter></function>.",
    "I would run:\n```\nbash(command='rm -rf build')\n```",
    "ReAct writes:\n```\nAction: bash\nAction Input: rm -rf build\n```",
    "Cline writes:\n```xml\n<bash>\n<command>rm -rf build</command>\n</bash>\n```",
    f'Write "<tool_call>{RM}</tool_call>" for it.',
    f"He wrote:\n> <tool_call>{RM}</tool_call>\nThat was wrong.",
    f"He wrote “{RM}”",
    'Read\n{"title": "A file"}',
    '<tools>\n{"type":"function","function":{"name":…,"description":…}}\n</tools>',
]

MENTIONS += [f"{text}\n\n{text}" for text in MENTIONS if text.startswith("ReAct")]
# An unreadable call before a mentioned one
MENTIONS += [
    f"{MENTIONS[-2]}\n\n{text}" for text in (MENTIONS[6], f"`<tool_call>{RM}</tool_call>`")
]


@pytest.mark.parametrize("text", MENTIONS)
def test_a_mentioned_call_is_text_whole_and_streamed(text: str) -> None:
    assert read(text) == ([], text)
    for size in (1, 3, 40):
        assert text.startswith(streamed(text, size))


@pytest.mark.parametrize("path", ["README.md", "docs/clients.md", "docs/architecture.md"])
def test_a_document_that_describes_calls_is_no_call(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert read(text) == ([], text)
    assert text.startswith(certain_content(text, TOOLS))


# What a proxy's own page on tool calls would say.
PAGE = f"""| family | call |
|---|---|
| Hermes | `<tool_call>\\n{BASH}\\n</tool_call>` |
| Mistral | `[TOOL_CALLS] [{BASH}]` arrives as `[{BASH}]`, or as `bash{{"command": "ls"}}` |
| Kimi | `<|tool_call_begin|>functions.bash:0<|tool_call_argument_begin|>{{}}<|tool_call_end|>` |

A model writes <tool_call>, then an object, then </tool_call>. Qwen3-Coder writes:

```
{QWEN}
```

Llama 4 writes `[bash(command="ls")]`, Gemma:

```tool_code
print(bash(command="ls"))
```

The parser has to read all of them.
"""


def test_a_page_on_tool_calls_is_no_call_however_far_it_has_come() -> None:
    assert read(PAGE) == ([], PAGE)
    assert PAGE.startswith(streamed(PAGE, 40))


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("A list [1, 2] and {x} and `code` are sent", "A list [1, 2] and {x} and `code` are sent"),
        ("See [the page](https://a.example/)", "See [the page](https://a.example/)"),
        ("If a < b, then", "If a < b, then"),
        ("In HTML, <b>bold</b> is", "In HTML, <b>bold</b> is"),
        ("A list [", "A list"),
        ("See `<tool_call>` there", "See `<tool_call>` there"),
        (f"It is `{RM}` and", f"It is `{RM}` and"),
        (f"Look: {BASH}", "Look:"),
        (f"Look: {BASH} is", f"Look: {BASH} is"),
        ('JSON: {"a": 1}, so', 'JSON: {"a": 1}, so'),
        ('JSON: {"a": 1', "JSON:"),
        ("```python\nprint(1)\n```\nThat", "```python\nprint(1)\n```\nThat"),
        ("Look.\n```json\n", "Look."),
        ("Look.\n```json\n{", "Look."),
        ("Look.\nba", "Look."),
        ("Look.\nbat", "Look.\nbat"),
        ("Look.bash", "Look."),
        ("We bash", "We bash"),
        ("Look.\n<fun", "Look."),
        ("Look.\n<ba", "Look."),
        ("Look.\n<br", "Look.\n<br"),
        ("Action: bash", ""),
        ("Actions speak", "Actions speak"),
        ("commentary to=func", ""),
    ],
)
def test_only_what_may_become_a_call_is_held_back(text: str, certain: str) -> None:
    assert certain_content(text, TOOLS) == certain


@pytest.mark.parametrize("tag", ["<|im_end|>", "<|im_start|>"])
def test_a_tag_of_the_format_within_a_call_does_not_cut_it(tag: str) -> None:
    call = {"name": "write", "arguments": {"filePath": "t", "content": f"a {tag} b"}}
    text = f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
    answer = read_answer(f"{text}{tag}\nuser", FORMATS["chatml"], max_length=1000)
    assert read(answer.content)[0] == [wrote("t", f"a {tag} b")]
    assert answer.content == text


# --- properties ---


def hermes(call: Call) -> list[str]:
    return [
        "<tool_call>",
        "\n",
        json.dumps({"name": call[0], "arguments": call[1]}),
        "\n",
        "</tool_call>",
    ]


def qwen(call: Call) -> list[str]:
    parts = ["<tool_call>", "\n", f"<function={call[0]}>", "\n"]
    for key, value in call[1].items():
        parts += [f"<parameter={key}>", "\n", str(value), "\n", "</parameter>", "\n"]
    return [*parts, "</function>", "\n", "</tool_call>"]


def minimax(call: Call) -> list[str]:
    parts = ["<minimax:tool_call>", "\n", f'<invoke name="{call[0]}">', "\n"]
    for key, value in call[1].items():
        parts += [f'<parameter name="{key}">', str(value), "</parameter>", "\n"]
    return [*parts, "</invoke>", "\n", "</minimax:tool_call>"]


def glm(call: Call) -> list[str]:
    parts = ["<tool_call>", call[0]]
    for key, value in call[1].items():
        parts += [
            "\n",
            "<arg_key>",
            key,
            "</arg_key>",
            "\n",
            "<arg_value>",
            str(value),
            "</arg_value>",
        ]
    return [*parts, "\n", "</tool_call>"]


def kimi(call: Call) -> list[str]:
    return [
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        f"functions.{call[0]}:0",
        "<|tool_call_argument_begin|>",
        json.dumps(call[1]),
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
    ]


def mistral(call: Call) -> list[str]:
    return ["[TOOL_CALLS]", call[0], "[ARGS]", json.dumps(call[1])]


def lfm(call: Call) -> list[str]:
    arguments = ", ".join(f"{key}={value!r}" for key, value in call[1].items())
    return ["<|tool_call_start|>", "[", f"{call[0]}({arguments})", "]", "<|tool_call_end|>"]


def gemma(call: Call) -> list[str]:
    arguments = ",".join(f'{key}:<|"|>{value}<|"|>' for key, value in call[1].items())
    return ["<|tool_call>", f"call:{call[0]}{{{arguments}}}", "<tool_call|>"]


def harmony(call: Call) -> list[str]:
    head = f"commentary to=functions.{call[0]} "
    body = json.dumps(call[1])
    return ["<|channel|>", head, "<|constrain|>", "json", "<|message|>", body, "<|call|>"]


def own_tag(call: Call) -> list[str]:
    parts = [f"<{call[0]}>", "\n"]
    for key, value in call[1].items():
        parts += [f"<{key}>", str(value), f"</{key}>", "\n"]
    return [*parts, f"</{call[0]}>"]


WRITERS = (hermes, qwen, minimax, glm, kimi, mistral, lfm, gemma, harmony, own_tag)
# Values without a line break at an end, which some families drop, and without half tags.
plain_values = st.text("abc xyz.,:'é東\n", min_size=1, max_size=30).map(str.strip).filter(bool)
written_calls = st.one_of(
    st.builds(lambda value: ("bash", {"command": value}), plain_values),
    st.builds(wrote, plain_values.map(lambda text: text.replace("\n", "_")), plain_values),
)


def is_marker(part: str) -> bool:
    return part[:1] in ("<", "[") and not part.startswith(("[{", "[ "))


@given(call=written_calls, writer=st.sampled_from(WRITERS), data=st.data())
@settings(max_examples=60)
def test_a_call_that_lacks_or_repeats_a_marker_is_that_call_or_text(
    call: Call, writer: Any, data: st.DataObject
) -> None:
    parts = writer(call)
    assert read("".join(parts))[0] == [call]
    markers = [number for number, part in enumerate(parts) if is_marker(part)]
    chosen = data.draw(st.sampled_from(markers))
    times = data.draw(st.sampled_from([0, 2]))
    broken = "".join(part * times if at == chosen else part for at, part in enumerate(parts))
    assert read(broken)[0] in ([call], [])


@given(
    call=written_calls, writer=st.sampled_from(WRITERS), before=st.text("ab. `{[<\n", max_size=12)
)
@settings(max_examples=25)
def test_what_was_streamed_is_the_beginning_of_the_content(
    call: Call, writer: Any, before: str
) -> None:
    text = (before + "\n" + "".join(writer(call)) + "\nSo it is.").lstrip()
    content = read(text)[1]
    for end in range(0, len(text), 3):
        assert content.startswith(certain_content(text[:end], TOOLS))


SCRAPS = [
    *("<tool_call>", "{", "<parameter=", "Action:", "`", "```json\n```\n", "<|tool_call_begin|>"),
    *("Action: write\nAction Input: ", "<write><content>", "call:write{content:", '<|"|>'),
    *(
        "<function=write>\n<parameter=content>\na\n",
        "<tool_call>write\n<arg_key>content</arg_key>\n",
    ),
    *('write(content="a")\n', f"- a:\n{BASH}\n", "to=functions.write ", "a.b.c.bash{"),
]
QUICK = SCRAPS[2:4]
SLOW = [pytest.param(scrap, marks=pytest.mark.slow) for scrap in (*SCRAPS[:2], *SCRAPS[4:])]


@pytest.mark.thorough
@pytest.mark.parametrize("scrap", [*QUICK, *SLOW])
def test_the_cost_of_reading_a_hostile_text_grows_with_its_length_only(scrap: str) -> None:
    def read_all(size: int) -> None:
        text = (scrap * size)[:size]
        read(text)
        certain_content(text, TOOLS)

    assert growth(read_all, 100_000) < 1.5

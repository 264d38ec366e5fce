"""The grammar of a name followed by an object: bash{"command": "ls"}.

Without their control tokens, the calls of Mistral ([TOOL_CALLS]bash[ARGS]{...}, tokenizer v11),
Kimi and DeepSeek look like this; gpt-oss's end in: commentary to=functions.bash json{...}.
"""

from __future__ import annotations

import re

from horde_proxy.prompts.lenient_json import loads, span
from horde_proxy.prompts.tool_calls.arguments import make_call
from horde_proxy.prompts.tool_calls.object_calls import OBJECT_START
from horde_proxy.prompts.tool_calls.searching import Findings, SearchedText

# A tool's name: bash, functions.bash:0 (Kimi), to=functions.bash (gpt-oss), mcp__fs-read.file
_NAME = r"(?:to=)?(?P<name>[A-Za-z_][\w.\-]{0,127})(?P<index>:\d{1,4})?"
# After a marker, in these families:
# bash[ARGS]{, bash[CALL_ID]abc123[ARGS]{ (Mistral), function<｜tool▁sep｜>bash\n```json\n{
# (DeepSeek R1), bash<｜tool▁sep｜>{ (DeepSeek V3.1), bash({,
# functions.bash:0<|tool_call_argument_begin|>{ (Kimi K2)
_HEAD = re.compile(
    r"(?:function<｜tool▁sep｜>)?" + _NAME + r"\s*(?:\[CALL_ID\]\w*)?"
    r"(?:\[ARGS\]|<｜tool▁sep｜>|<\|tool_call_argument_begin\|>)?\s*"
    r"(?:```(?:json)?\s*)?\(?\s*(?=\{)"
)
# The same at the start of a line, without the control tokens: bash{, bash[ARGS]{, bash json{,
# bash\n```json\n{, <|python_tag|>bash{ (Llama 3), assistantcommentary to=functions.bash json{
# (gpt-oss), functionbash\n```json\n{ (DeepSeek R1).
LINE_HEAD = re.compile(
    r"^[ \t]*(?:<\|python_tag\|>[ \t]*|function<｜tool▁sep｜>|(?:assistant)?commentary )?"
    + _NAME
    + r"[ \t]*(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?"
    r"[ \t]*(?:json[ \t]*)?(?:\n?```(?:json)?\s*)?\(?\s*(?=\{)",
    re.MULTILINE,
)


def head_name(searched: SearchedText, head: re.Match[str]) -> str:
    """The name in a head, without Llama's ".call" and DeepSeek's "function" before it."""
    name = head["name"].removesuffix(".call")
    shorter = name.removeprefix("function")
    return shorter if searched.tool(name) is None and searched.tool(shorter) else name


def read_named(searched: SearchedText, findings: Findings, opening: int, start: int) -> int | None:
    """Read a name and the object after it."""
    head = _HEAD.match(searched.text, start)
    return read_object_after(searched, findings, opening, head) if head else None


def read_object_after(
    searched: SearchedText,
    findings: Findings,
    opening: int,
    head: re.Match[str],
    *,
    marked: bool = True,
) -> int:
    """Read the arguments, an object after a name. The position to continue."""
    text, start = searched.text, head.end()
    extent = span(text, start)
    name = head_name(searched, head)
    if extent.state in ("open", "quoted") and searched.cut_off:
        if marked or OBJECT_START.match(text, start):
            findings.unfinished = True
        return len(text)
    body = text[start : extent.end]
    try:
        value = None
        if extent.state != "quoted":
            value = loads(body, repair=not searched.cut_off and (marked or extent.state == "open"))
    except ValueError:
        value = None
    call = make_call(searched, name, value) if isinstance(value, dict) else None
    if call is not None:
        findings.add(opening, [call])
    elif marked or OBJECT_START.match(text, start):
        findings.add_problem(f"The arguments of '{name}' are not a JSON object.")
    return extent.end

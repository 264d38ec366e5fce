"""The grammar of a name followed by an object: bash{"command": "ls"}.

Without their control tokens, the calls of Mistral ([TOOL_CALLS]bash[ARGS]{...}, tokenizer v11),
Kimi and DeepSeek look like this.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from horde_proxy.prompts.json_schema.keywords import properties_of
from horde_proxy.prompts.lenient_json import loads, span
from horde_proxy.prompts.tool_calls.arguments import make_call
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.object_calls import OBJECT_START, calls_in
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText

# A tool's name, in ASCII since text in other scripts may precede it: bash, mcp__fs-read.file,
# functions.bash:0 (Kimi). In "it.functions.bash", the name may follow a sentence's full stop.
WORD = r"(?<![A-Za-z0-9_.\-])[A-Za-z_][A-Za-z0-9_.\-]*+"
# Between the name and the object:
# bash[ARGS]{, bash[CALL_ID]abc123[ARGS]{ (Mistral), bash<｜tool▁sep｜>{ (DeepSeek V3.1),
# bash\n```json\n{ (DeepSeek R1), bash({, bash json{ (gpt-oss),
# functions.bash:0<|tool_call_argument_begin|>{ (Kimi K2). The quantifiers are possessive (*+): four
# of them take spaces, so a wide table would be read with the fourth power of its width.
_BETWEEN = (
    r"(?::\d{1,4})?[ \t]*+(?:\[CALL_ID\]\w*+)?"
    r"(?:\[ARGS\]|<｜tool▁sep｜>|<\|tool_call_argument_begin\|>)?"
    r"[ \t]*+(?:json[ \t]*+)?\s*+(?:```(?:json)?\s*+)?\(?\s*+(?=\{)"
)
# A name and what may follow it, with DeepSeek's "function<｜tool▁sep｜>" before it.
_HEAD = re.compile(rf"(?:function<｜tool▁sep｜>)?(?P<name>{WORD}){_BETWEEN}")
_SIGN = rf"(?:function<｜tool▁sep｜>)?{WORD}{_BETWEEN}"
# Before a call without marker: the start of a line, a closed object or block, or the end of a
# sentence.
_GOOD_START = re.compile(r"(?:\A|\n|[.!?:…。！？：)\]}>*]|```)[ \t]*\Z")
_FENCE_END = re.compile(r"\)?\s*```")
_MOST_NAME_PARTS = 6
"""The last parts between dots, in which a known name is looked for: a.a.a… may have any number."""
_LONGEST_NAME = 256
"""Characters of a word in which a name is looked for. No grammar reads names of more than 128."""
_LONGEST_GAP = 40
"""Characters before a name that are looked at, for what _GOOD_START matches and spaces after it."""


def name_in(searched: SearchedText, word: str) -> str | None:
    """The known name at the end of a word: functions.bash in "it.functions.bash"; None without."""
    if len(word) > _LONGEST_NAME:
        return None
    # Llama 3.1 writes brave_search.call(...), DeepSeek R1 without its tokens functionbash.
    for name in (word, word.removesuffix(".call"), word.removeprefix("function")):
        if name and searched.tool(name):
            return name
    parts = word.split(".")[-_MOST_NAME_PARTS:]
    ends = (".".join(parts[number:]) for number in range(1, len(parts)))
    return next((end for end in ends if end and searched.tool(end)), None)


def starts_well(text: str, start: int) -> bool:
    """Whether a name at this position may be a call: it does not continue a sentence."""
    return _GOOD_START.search(text, max(0, start - _LONGEST_GAP), start) is not None


def read_named(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read a name and the object after it."""
    head = _HEAD.match(searched.text, start)
    if head is None:
        return None
    name = name_in(searched, head["name"])
    if name is None and context == "marked":
        name = head["name"]
    if name is None:
        return None
    begin = start
    if head["name"].endswith("." + name) and context == "bare":
        begin = head.end("name") - len(name)
    if context == "bare" and not starts_well(searched.text, begin):
        return None
    passage = read_object_after(searched, begin, name, head.end(), context=context)
    # The object is in a code block of its own: its end belongs to the call.
    fence = _FENCE_END.match(searched.text, passage.end) if "```" in head[0] else None
    return Passage(begin, fence.end(), passage.calls) if fence and passage.calls else passage


def read_object_after(
    searched: SearchedText, start: int, name: str, position: int, *, context: Context
) -> Passage:
    """Read the arguments of a call that begins at `start`: an object after a name."""
    text = searched.text
    extent = span(text, position)
    is_call = context != "bare" or OBJECT_START.match(text, position) is not None
    if extent.state in ("open", "quoted"):
        searched.count_long_read()
        if searched.may_end_early:
            return Passage(start, len(text), is_open=True, is_likely=is_call)
    can_repair = searched.may_repair and (context != "bare" or extent.state == "open")
    value: Any = None
    if extent.state != "quoted":
        with suppress(ValueError):
            value = loads(text[position : extent.end], repair=can_repair)
    if isinstance(value, dict):
        calls = _calls_of(searched, name, value, is_bare=context == "bare")
        if calls is not None:
            return Passage(start, extent.end, calls)
    problem = f"The arguments of '{name}' are not a JSON object." if is_call else None
    return Passage(start, extent.end, problem=problem)


def _calls_of(
    searched: SearchedText, name: str, value: dict[str, Any], *, is_bare: bool
) -> tuple[FoundCall, ...] | None:
    """The call with these arguments, or those that the object is itself, after a heading.

    None if it has no arguments; () if the name is a heading before other JSON.
    """
    tool = searched.tool(name)
    properties = properties_of(tool.parameters) if tool else {}
    whole = calls_in(searched, value, marked=False) if "name" not in properties else None
    if whole:
        return tuple(whole)
    # "Task\n{"title": "A file"}"
    if is_bare and value and properties and not properties.keys() & value.keys():
        return ()
    call = make_call(searched, name, value)
    return (call,) if call else None


NAMED_CALLS = Grammar("named", read_named, sign=_SIGN)

"""The grammar of calls as JSON objects: {"name": "bash", "arguments": {"command": "ls"}}.

Written by Hermes, Qwen and most others. Llama 3 writes "parameters" for "arguments". Weak models
use other keys and wrap calls: {"tool_call": {...}}, {"type": "function", "function": {...}}.
"""

from __future__ import annotations

import re
from typing import Any

from horde_proxy.prompts.json_schema.keywords import required_of
from horde_proxy.prompts.lenient_json import Span, loads, span
from horde_proxy.prompts.tool_calls.arguments import make_call
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.markers import after_separator, last_closing, next_opening_at
from horde_proxy.prompts.tool_calls.searching import Findings, SearchedText, is_name, plain_name

_NAME_KEYS = ("name", "function", "tool", "tool_name", "function_name")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
_WRAPPERS = ("tool_calls", "tool_call", "function_call", "function")
_BESIDES_NAME = {"name", "id", "type"}
_MOST_CALLS = 100

# An object's first key, even if the text ends in it: `{"name":`, `{'name' :`, `{ "na`.
OBJECT_START = re.compile(
    r"""\{\s*(?:"[^"\n]{0,80}"|'[^'\n]{0,80}')\s*:|\{\s*(?:["'][^"'\n]{0,80})?\Z"""
)
# The key that names a tool: `"name": "bash"`, even if the text ends in the value: `"name": "ba`.
_NAMING = re.compile(
    r"""["'](?:name|function|tool|tool_name|function_name)["']\s*:\s*["']([^"'\n]{0,128})(["']?)"""
)
# An object that is cut off before the name: `{`, `{"na`, `{"name": "`.
_BEGUN = re.compile(r"""\{\s*(?:["']\w{0,13})?(?:["']\s*:?\s*["']?)?""")
# `"arguments":` anywhere, which distinguishes a broken call from other JSON.
_ARGUMENTS = re.compile(r"""["'](?:arguments|parameters|args|input)["']\s*:""")
_LONGEST_HEAD = 2_000
_LONGEST_SEARCH = 100_000
"""Characters of one object. Without a limit, many objects would take quadratic time."""


def read_objects(
    searched: SearchedText, findings: Findings, opening: int, start: int
) -> int | None:
    """Read the sequence of objects and lists after a marker."""
    if not searched.text.startswith(("{", "["), start):
        return None
    position = start
    while searched.text.startswith(("{", "["), position):
        extent = span(searched.text, position)
        if extent.state in ("open", "quoted"):
            return _read_unclosed(searched, findings, opening, position)
        calls = None
        if extent.state == "closed":
            calls = decode_calls(searched, searched.text[position : extent.end], marked=True)
        if not calls:
            return _read_by_guess(searched, findings, opening, position)
        findings.add(opening, calls)
        position = after_separator(searched.text, extent.end)
    return position


def _read_unclosed(searched: SearchedText, findings: Findings, opening: int, start: int) -> int:
    """Read a call with open brackets: it was cut off, or is badly written."""
    if searched.cut_off:
        findings.unfinished = True
        return len(searched.text)
    return _read_by_guess(searched, findings, opening, start)


def _read_by_guess(searched: SearchedText, findings: Findings, opening: int, start: int) -> int:
    """Read a broken call up to its closing tag, or up to the end of the text."""
    text = searched.text
    limit = next_opening_at(text, start + 1)
    closing = last_closing(text, start, limit)
    end, behind = (closing.start(), closing.end()) if closing else (limit, limit)
    body = text[start:end]
    # An open string at the end may be half a file. A call that writes it would destroy the file.
    is_safe = not searched.cut_off and not text[behind:limit].strip()
    is_safe = is_safe and (closing is not None or span(body).state != "quoted")
    calls = decode_calls(searched, body, marked=True) if is_safe else None
    if calls:
        findings.add(opening, calls)
    else:
        findings.add_problem("The function call is not valid JSON with a name and arguments.")
    return limit


def read_unclosed_object(
    searched: SearchedText, findings: Findings, start: int, state: str
) -> None:
    """Read an unmarked object that is open at the end of the text; `state` is from `span`."""
    if searched.cut_off:
        findings.unfinished = True
        return
    body = searched.text[start:]
    calls = decode_calls(searched, body, marked=False) if state == "open" else None
    findings.add(start, calls or ())
    if not calls and _ARGUMENTS.search(body):
        findings.add_problem("The function call is not complete JSON.")


def names_a_tool(searched: SearchedText, start: int, extent: Span) -> bool:
    """Whether an object begins like a call of a known tool, as far as the text goes."""
    head = searched.text[start : start + _LONGEST_HEAD]
    if searched.cut_off and _BEGUN.fullmatch(head):
        return True
    ends_soon = start + _LONGEST_HEAD >= len(searched.text)
    end = min(start + _LONGEST_SEARCH, extent.end)
    for naming in _NAMING.finditer(searched.text, start, end):
        if searched.tool(naming[1]):
            return True
        is_cut = not naming[2] and naming.end() == len(searched.text)
        if ends_soon and searched.cut_off and is_cut:
            return any(name.startswith(plain_name(naming[1])) for name in searched.tools)
    return False


def decode_calls(searched: SearchedText, text: str, *, marked: bool) -> list[FoundCall] | None:
    """The calls in a JSON text; None if it is not JSON, or contains anything but calls."""
    try:
        value = loads(text, repair=not searched.cut_off)
    except ValueError:
        return None
    return calls_in(searched, value, marked=marked)


def calls_in(searched: SearchedText, value: Any, *, marked: bool) -> list[FoundCall] | None:
    """The calls in a decoded value; None if it contains anything but calls.

    `marked`: the value follows a marker, so calls of unknown tools count as well.
    """
    if isinstance(value, list):
        items = [calls_in(searched, item, marked=marked) for item in value[:_MOST_CALLS]]
        if not items or not all(items):
            return None
        return [call for calls in items if calls for call in calls]
    if not isinstance(value, dict):
        return None
    for wrapper in _WRAPPERS:
        inner = value.get(wrapper)
        if isinstance(inner, dict | list) and not any(key in value for key in _ARGUMENT_KEYS):
            return calls_in(searched, inner, marked=marked)
    call = _object_call(searched, value, marked=marked)
    return [call] if call else None


def _object_call(
    searched: SearchedText, value: dict[str, Any], *, marked: bool
) -> FoundCall | None:
    """The call in one object. The arguments are under a key, beside the name, or absent."""
    name_key = next((key for key in _NAME_KEYS if is_name(value.get(key))), None)
    if name_key is None:
        return None
    name = str(value[name_key])
    tool = searched.tool(name)
    if not name.strip() or (tool is None and not marked):
        return None
    key = next((key for key in _ARGUMENT_KEYS if key in value), None)
    if key is not None:
        return None if _is_schema(value[key]) else make_call(searched, name, value[key])
    beside = {word: part for word, part in value.items() if word not in {*_BESIDES_NAME, name_key}}
    if marked:
        return make_call(searched, name, beside)
    if beside or tool is None or required_of(tool.parameters):
        return None
    return make_call(searched, name, {})


def _is_schema(arguments: Any) -> bool:
    """Whether the arguments are a tool's schema, which some models repeat before they call it."""
    properties = arguments.get("properties") if isinstance(arguments, dict) else None
    return (
        isinstance(properties, dict)
        and bool(properties)
        and all(
            isinstance(part, dict) and ("type" in part or "anyOf" in part or "$ref" in part)
            for part in properties.values()
        )
    )

"""The grammar of calls as JSON objects: {"name": "bash", "arguments": {"command": "ls"}}.

Written by Hermes, Qwen and most others. Llama 3 writes "parameters" for "arguments". Weak models
use other keys and wrap calls: {"tool_call": {...}}, {"type": "function", "function": {...}}.
"""

from __future__ import annotations

import json
import re
from itertools import islice
from typing import Any

from horde_proxy.prompts.json_schema.keywords import required_of
from horde_proxy.prompts.lenient_json import Span, loads, span
from horde_proxy.prompts.tool_calls.arguments import make_call
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.markers import CLOSING, next_opening_at
from horde_proxy.prompts.tool_calls.searching import (
    Context,
    Grammar,
    Passage,
    SearchedText,
    is_name,
    plain_name,
)

# LangChain's agents are told to write {"action": "bash", "action_input": {...}}; Command R writes
# "tool_name" with "parameters".
_NAME_KEYS = ("name", "function", "tool", "tool_name", "function_name", "action")
_ARGUMENT_KEYS = (
    *("arguments", "parameters", "args", "input"),
    *("kwargs", "tool_input", "tool_args", "action_input"),
)
_WRAPPERS = ("tool_calls", "tool_call", "function_call", "function")
_BESIDES_NAME = {"name", "id", "type"}
_MOST_CALLS = 100
_MOST_CLOSINGS = 10
"""Closing markers in strings of one broken call that are looked at."""

# A name of a tool that may be unknown: bash, functions.get_weather:0
_NAME = re.compile(r"[A-Za-z_][\w.:\-]{0,127}")
# An object's first key, even if the text ends in it: `{"name":`, `{'name' :`, `{ "na`.
OBJECT_START = re.compile(
    r"""\{\s*(?:"[^"\n]{0,80}"|'[^'\n]{0,80}')\s*:|\{\s*(?:["'][^"'\n]{0,80})?\Z"""
)
# The key that names a tool: `"name": "bash"`, even if the text ends in the value: `"name": "ba`.
_NAMING = re.compile(
    r"""["'](?:name|function|tool|tool_name|function_name|action)["']\s*:\s*["']([^"'\n]{0,128})(["']?)"""
)
# An object that is cut off before the name: `{`, `{"na`, `{"name": "`.
_BEGUN = re.compile(r"""\{\s*(?:["']\w{0,13})?(?:["']\s*:?\s*["']?)?""")
# `"arguments":` anywhere, which distinguishes a broken call from other JSON.
_ARGUMENTS = re.compile(
    r"""["'](?:arguments|parameters|kwargs|(?:tool_)?args|(?:tool_|action_)?input)["']\s*:"""
)
_LIST_START = re.compile(r"(?:\[\s{0,20}){1,3}\Z")
# {, or [ before an object or another list; [bash( is Python's
_START = re.compile(r"\{|\[\s{0,99}(?:[{\[\]]|\Z)")
_LONGEST_HEAD = 2_000
_LONGEST_SEARCH = 100_000
"""Characters of one object. Without a limit, many objects would take quadratic time."""


def read_objects(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read an object or a list, of calls or of anything else."""
    text = searched.text
    if not _START.match(text, start):
        return None
    extent = span(text, start)
    if context == "bare" and text[start] == "[" and extent.state != "closed":
        # The brackets of a text. The object in them is read on its own.
        return None
    if extent.state in ("open", "quoted"):
        return _read_unclosed(searched, start, extent, context)
    if context == "marked":
        calls = None
        if extent.state == "closed":
            calls = decode_calls(searched, text[start : extent.end], marked=True)
        if calls:
            return Passage(start, extent.end, tuple(calls))
        return _read_by_guess(searched, start)
    begin = _with_bracket(text, start) if context == "bare" else start
    if extent.state == "closed" and names_a_tool(searched, start, extent):
        calls = decode_calls(searched, text[start : extent.end], marked=False)
        # A list of calls and others, or a tool's schema, hides no call.
        return Passage(begin, extent.end, tuple(calls or ()), hides=True)
    is_json = extent.state == "closed" and _is_json(text[start : extent.end])
    return Passage(start, extent.end, hides=is_json)


def _with_bracket(text: str, start: int) -> int:
    """Where an object begins; with the bracket of its list if that has no end: [{"name": ..."""
    bracket = _LIST_START.search(text, max(0, start - 40), start)
    return bracket.start() if bracket else start


def _read_unclosed(
    searched: SearchedText, start: int, extent: Span, context: Context
) -> Passage | None:
    """Read an object that is open at the end of the text: cut off, or badly written."""
    searched.count_long_read()
    is_likely = context == "marked" or names_a_tool(searched, start, extent)
    if searched.may_end_early and (is_likely or searched.is_growing):
        begin = _with_bracket(searched.text, start)
        return Passage(begin, len(searched.text), is_open=True, is_likely=is_likely)
    if context == "marked":
        return _read_by_guess(searched, start)
    if not is_likely:
        # What follows may be in a string of it, but markers count nevertheless.
        return Passage(start, extent.end)
    body = searched.text[start:]
    calls = None
    if extent.state == "open":
        calls = decode_calls(searched, body, marked=False)
    problem = None
    if not calls and _ARGUMENTS.search(body):
        problem = "The function call is not complete JSON."
    begin = _with_bracket(searched.text, start)
    return Passage(begin, len(searched.text), tuple(calls or ()), problem, hides=True)


def _read_by_guess(searched: SearchedText, start: int) -> Passage:
    """Read a broken call up to its closing tag, or up to the end of the text."""
    text = searched.text
    searched.count_long_read()
    limit = next_opening_at(text, start + 1)
    closing = _closing_outside_of_texts(text, start, limit)
    end, behind = (closing.start(), closing.end()) if closing else (limit, limit)
    body = text[start:end]
    # An open string at the end may be half a file. A call that writes it would destroy the file.
    is_safe = searched.may_repair and not text[behind:limit].strip()
    is_safe = is_safe and (closing is not None or span(body).state != "quoted")
    calls = decode_calls(searched, body, marked=True) if is_safe else None
    if calls:
        return Passage(start, limit, tuple(calls))
    problem = "The function call is not valid JSON with a name and arguments."
    return Passage(start, behind, problem=problem)


def _closing_outside_of_texts(text: str, start: int, limit: int) -> re.Match[str] | None:
    """The first closing marker that is in no string of the JSON before it; else the last one."""
    closing = None
    for closing in islice(CLOSING.finditer(text, start, limit), _MOST_CLOSINGS):
        if span(text[start : closing.start()]).state != "quoted":
            break
    return closing


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def names_a_tool(searched: SearchedText, start: int, extent: Span) -> bool:
    """Whether an object begins like a call of a known tool, as far as the text goes."""
    head = searched.text[start : start + _LONGEST_HEAD]
    if searched.may_end_early and _BEGUN.fullmatch(head):
        return True
    ends_soon = start + _LONGEST_HEAD >= len(searched.text)
    end = min(start + _LONGEST_SEARCH, extent.end)
    for naming in _NAMING.finditer(searched.text, start, end):
        if searched.tool(naming[1]):
            return True
        is_cut = not naming[2] and naming.end() == len(searched.text)
        if ends_soon and searched.may_end_early and is_cut:
            return any(name.startswith(plain_name(naming[1])) for name in searched.tools)
    return False


def decode_calls(searched: SearchedText, text: str, *, marked: bool) -> list[FoundCall] | None:
    """The calls in a JSON text; None if it is not JSON, or contains anything but calls.

    In a text that has to be repaired, only the names of known tools are names.
    """
    for repair in (False, True) if searched.may_repair else (False,):
        try:
            value = loads(text, repair=repair)
        except ValueError:
            continue
        calls = calls_in(searched, value, marked=marked)
        is_known = calls is not None and all(searched.tool(call.name) for call in calls)
        return calls if is_known or not repair else None
    return None


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
    if call is None and marked:
        call = _call_under_name(searched, value)
    return [call] if call else None


def _call_under_name(searched: SearchedText, value: dict[str, Any]) -> FoundCall | None:
    """The call in Apertus' form, an object with the tool's name as its only key."""
    [name, arguments] = next(iter(value.items())) if len(value) == 1 else ("", None)
    is_call = searched.tool(name) is not None and isinstance(arguments, dict)
    return make_call(searched, name, arguments) if is_call else None


def _object_call(
    searched: SearchedText, value: dict[str, Any], *, marked: bool
) -> FoundCall | None:
    """The call in one object. The arguments are under a key, beside the name, or absent."""
    name_key = next((key for key in _NAME_KEYS if is_name(value.get(key))), None)
    if name_key is None:
        return None
    name = str(value[name_key])
    tool = searched.tool(name)
    if tool is None and not (marked and _NAME.fullmatch(name.strip())):
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


# An object with its first key, in up to three lists
OBJECT_CALLS = Grammar(
    "object",
    read_objects,
    sign=r"""(?:\[\s{0,20}){0,3}\{\s*+(?:"[^"\n]{0,80}"|'[^'\n]{0,80}')\s*+:""",
)

"""The grammar of calls as Python: get_weather(city="Oslo"), or a list of such calls.

Written by Llama 3.2 and 4, LFM2 and OLMo 3, by Gemma 3 as print(...) in a tool_code block, and by
Llama 3.1 as name.call(...).
"""

from __future__ import annotations

import ast
import re
from typing import Any

from horde_proxy.prompts.json_schema.keywords import properties_of, required_of
from horde_proxy.prompts.lenient_json import Span, dumps, loads, python_source, span
from horde_proxy.prompts.tool_calls.arguments import make_call
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.named_calls import WORD, name_in
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText

# get_weather(, [get_weather(, brave_search.call( (Llama 3.1), print(get_weather( (Gemma)
_HEAD = re.compile(
    r"(?P<list>\[\s{0,9})?(?P<print>print\(\s{0,9})?(?P<name>[A-Za-z_][\w.\-]{0,127})\("
)
_SIGN = rf"(?:\[\s{{0,9}})?{WORD}\("
# Allowed after a call on its line: nothing, ";", ",", a fence or a tag; "f(x) is a call" is prose.
_LINE_REST = re.compile(r"[ \t]*[;,]?[ \t]*(?:$|```|<)", re.MULTILINE)
# The beginning of arguments that were cut off: `city=`, `ci`, `"Oslo`, `{`. All else is prose.
_BEGUN_ARGUMENTS = re.compile(r"\s*(?:\w+\s*=|\w*\Z|[\"'{])")
# Only spaces before it on its line
_LINE_START = re.compile(r"^[ \t]*\Z", re.MULTILINE)
_LONGEST_EXPRESSION = 100_000
"""Characters: Python's parser needs far more memory than the length of the text."""


def read_python(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read one call of a known tool, or a list of them; without a marker, a whole line."""
    text = searched.text
    head = _HEAD.match(text, start)
    if head is None or (context == "bare" and (head["print"] or not _starts_line(text, start))):
        return None
    if name_in(searched, head["name"]) is None:
        return None
    extent = span(text, start if head["list"] else head.end() - 1)
    if head["print"] and not head["list"]:
        extent = span(text, head.end("print") - 1)
    if extent.state != "closed":
        searched.count_long_read()
    if extent.state in ("open", "quoted"):
        is_call = context != "bare" or _BEGUN_ARGUMENTS.match(text, head.end()) is not None
        is_open = searched.may_end_early and (is_call or searched.is_growing)
        if is_open:
            return Passage(start, len(text), is_open=True, is_likely=is_call)
        return Passage(start, extent.end if extent.state == "quoted" else head.end())
    is_line = context != "bare" or _LINE_REST.match(text, extent.end)
    calls = _python_calls(searched, start, extent, context) if is_line else None
    return Passage(start, extent.end, tuple(calls)) if calls else None


def _starts_line(text: str, start: int) -> bool:
    return _LINE_START.search(text, max(0, start - 200), start) is not None


def _python_calls(
    searched: SearchedText, start: int, extent: Span, context: Context
) -> list[FoundCall] | None:
    """The calls in the expression at `start` if it has only calls of known tools."""
    if extent.state != "closed" or extent.end - start > _LONGEST_EXPRESSION:
        return None
    try:
        written = python_source(searched.text[start : extent.end])
        body = ast.parse(written.strip(), mode="eval").body
        nodes = body.elts if isinstance(body, ast.List) else [body]
        calls = [_node_call(searched, node, context) for node in nodes]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    known = [call for call in calls if call is not None]
    return known if known and len(known) == len(calls) else None


def _node_call(searched: SearchedText, node: ast.expr, context: Context) -> FoundCall | None:
    """The call of a known tool with known keywords; None for any other expression."""
    if not isinstance(node, ast.Call):
        return None
    name = ast.unparse(node.func)
    # Gemma writes print(get_weather(city="Oslo")) in a tool_code block.
    if name == "print" and context != "bare" and len(node.args) == 1 and not node.keywords:
        return _node_call(searched, node.args[0], context)
    name = name.removesuffix(".call")
    tool = searched.tool(name)
    if tool is None:
        return None
    names = [keyword.arg for keyword in node.keywords]
    properties = list(properties_of(tool.parameters))
    if any(key is None or (properties and key not in properties) for key in names):
        return None
    # get_weather("Oslo") is prose, unless a marker says that it is a call.
    if len(node.args) > (0 if context == "bare" else len(properties)):
        return None
    if not names and not node.args and required_of(tool.parameters):
        return None
    values = {key: _literal(value) for key, value in zip(properties, node.args, strict=False)}
    values |= {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    return make_call(searched, name, values)


def _literal(node: ast.expr) -> Any:
    """The JSON value of a literal, also of JSON's own words: metric=true. Raises ValueError."""
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    value = ast.literal_eval(node)
    return loads(dumps(value))


PYTHON_CALLS = Grammar("python", read_python, sign=_SIGN)

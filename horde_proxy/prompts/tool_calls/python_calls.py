"""The grammar of calls as Python: get_weather(city="Oslo"), or a list of such calls.

Written by Llama 3.2 and 4, by Gemma 3 in a tool_code fence, and by Llama 3.1 as name.call(...).
"""

from __future__ import annotations

import ast
import re
from typing import Any

from horde_proxy.prompts.json_schema.keywords import properties_of, required_of
from horde_proxy.prompts.lenient_json import dumps, loads, python_source, span
from horde_proxy.prompts.tool_calls.arguments import make_call
from horde_proxy.prompts.tool_calls.calls import FoundCall
from horde_proxy.prompts.tool_calls.searching import Findings, SearchedText

# At the start of a line: get_weather(, [get_weather(, <|python_tag|>brave_search.call( (Llama 3.1)
PYTHON_HEAD = re.compile(
    r"^[ \t]*(?:<\|python_tag\|>[ \t]*)?(?P<list>\[\s*)?(?P<name>[A-Za-z_][\w.\-]{0,127})\(",
    re.MULTILINE,
)
# After a marker: get_weather(
_START = re.compile(r"[A-Za-z_][\w.\-]{0,127}\(")
# Allowed after a call on its line: nothing, ";", ",", a fence or a tag; "f(x) is a call" is prose.
_LINE_REST = re.compile(r"[ \t]*[;,]?[ \t]*(?:$|```|</)", re.MULTILINE)
# The beginning of arguments that were cut off: `city=`, `ci`, `"Oslo`, `{`. All else is prose.
_BEGUN_ARGUMENTS = re.compile(r"\s*(?:\w+\s*=|\w*\Z|[\"'{])")
_LONGEST_EXPRESSION = 100_000
"""Characters: Python's parser needs far more memory than the length of the text."""


def read_python_line(searched: SearchedText, findings: Findings, head: re.Match[str]) -> int:
    """Read calls that fill the rest of their line. The position to continue."""
    text = searched.text
    start = head.start("list") if head["list"] else head.start("name")
    extent = span(text, start)
    if extent.state != "closed":
        findings.problem_count += 1
    if extent.state in ("open", "quoted"):
        if searched.cut_off and _BEGUN_ARGUMENTS.match(text, head.end()):
            findings.unfinished = True
        return extent.end if extent.state == "quoted" else head.end()
    expression = _python_at(searched, start) if _LINE_REST.match(text, extent.end) else None
    if expression is not None:
        findings.add(start, expression[0])
        return expression[1]
    return head.end()


def read_python(searched: SearchedText, findings: Findings, opening: int, start: int) -> int | None:
    """Read one call of a known tool."""
    expression = _python_at(searched, start) if _START.match(searched.text, start) else None
    if expression is None:
        return None
    findings.add(opening, expression[0])
    return expression[1]


def _python_at(searched: SearchedText, start: int) -> tuple[list[FoundCall], int] | None:
    """(the calls in the expression at `start`, its end) if it has only calls of known tools."""
    extent = span(searched.text, start)
    if extent.state != "closed" or extent.end - start > _LONGEST_EXPRESSION:
        return None
    try:
        written = python_source(searched.text[start : extent.end])
        body = ast.parse(written.strip(), mode="eval").body
        nodes = body.elts if isinstance(body, ast.List) else [body]
        calls = [_node_call(searched, node) for node in nodes]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    known = [call for call in calls if call is not None]
    return (known, extent.end) if known and len(known) == len(calls) else None


def _node_call(searched: SearchedText, node: ast.expr) -> FoundCall | None:
    """The call of a known tool with known keywords; None for any other expression."""
    if not isinstance(node, ast.Call):
        return None
    name = ast.unparse(node.func).removesuffix(".call")
    tool = searched.tool(name)
    if tool is None:
        return None
    names = [keyword.arg for keyword in node.keywords]
    properties = list(properties_of(tool.parameters))
    if any(key is None or (properties and key not in properties) for key in names):
        return None
    if node.args or (not names and required_of(tool.parameters)):
        return None
    values = {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
    return make_call(searched, name, values)


def _literal(node: ast.expr) -> Any:
    """The JSON value of a literal, also of JSON's own words: metric=true. Raises ValueError."""
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    value = ast.literal_eval(node)
    return loads(dumps(value))

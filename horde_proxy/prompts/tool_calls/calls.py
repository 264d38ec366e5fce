"""Tool calls found in a generated text, in whatever shape a model wrote them. Pure.

Markers may be missing: workers drop control tokens. What has no marker counts as a call only with
the name of an offered tool, so that ordinary JSON stays text. A call cut off is never completed.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import Any

from horde_proxy.prompts.json_schema.keywords import (
    dereferenced,
    properties_of,
    required_of,
    types_of,
)
from horde_proxy.prompts.json_schema.validation import problem_with
from horde_proxy.prompts.lenient_json import DEEPEST, Span, dumps, loads, python_source, span
from horde_proxy.protocol.chat import Tool

_MOST_FAULTS = 20
_NAME_KEYS = ("name", "function", "tool", "tool_name", "function_name")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")
_WRAPPERS = ("tool_calls", "tool_call", "function_call", "function")
_BESIDES_NAME = {"name", "id", "type"}

_OPEN = re.compile(
    r"(?<!`)(?:<\|?(?:tool_calls?|function_?call|tools)\|?>|\[TOOL_CALLS\]"
    r"|<\|tool_call_begin\|>|<｜tool▁call▁begin｜>|(?=<function=|<function name=|<invoke name=))"
)
_CLOSE = re.compile(
    r"</\|?(?:tool_calls?|function_?call|tools)\|?>|<\|/(?:tool_calls?|function_?call)\|>"
    r"|<\|tool_call_end\|>|<｜tool▁call▁end｜>|\[/TOOL_CALLS\]"
)
_INSIDE = re.compile(r"\s*(?:```(?:json|xml)?\s*)?")
_PARTIAL_MARKERS = ("<tool_call>", "<function=", "[TOOL_CALLS]")
_BETWEEN = re.compile(r"(?:[\s,;\]]|</tool_call>|```)*")
_NAME = r"(?:to=)?(?P<name>[A-Za-z_][\w.\-]{0,127})(?P<index>:\d{1,4})?"
_HEAD = re.compile(
    r"(?:function<｜tool▁sep｜>)?" + _NAME + r"\s*(?:\[CALL_ID\]\w*)?"
    r"(?:\[ARGS\]|<｜tool▁sep｜>|<\|tool_call_argument_begin\|>)?\s*"
    r"(?:```(?:json)?\s*)?\(?\s*(?=\{)"
)
_LINE_HEAD = re.compile(
    r"^[ \t]*(?:<\|python_tag\|>[ \t]*|function<｜tool▁sep｜>|(?:assistant)?commentary )?"
    + _NAME
    + r"[ \t]*(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?"
    r"[ \t]*(?:json[ \t]*)?(?:\n?```(?:json)?\s*)?\(?\s*(?=\{)",
    re.MULTILINE,
)
_PYTHON_HEAD = re.compile(
    r"^[ \t]*(?:<\|python_tag\|>[ \t]*)?(?P<list>\[\s*)?(?P<name>[A-Za-z_][\w.\-]{0,127})\(",
    re.MULTILINE,
)
_PYTHON_START = re.compile(r"[A-Za-z_][\w.\-]{0,127}\(")
_LINE_REST = re.compile(r"[ \t]*[;,]?[ \t]*(?:$|```|</)", re.MULTILINE)
_KEY = re.compile(r"""\{\s*(?:"[^"\n]{0,80}"|'[^'\n]{0,80}')\s*:|\{\s*(?:["'][^"'\n]{0,80})?\Z""")
_NAMING = re.compile(
    r"""["'](?:name|function|tool|tool_name|function_name)["']\s*:\s*["']([^"'\n]{0,128})(["']?)"""
)
_XML_NAME = re.compile(r"""\s*<(?:function|invoke)(?:=|\s+name=)["']?([^"'>\n]{1,128}?)["']?\s*>""")
_XML_KEY = re.compile(r"""\s*<parameter(?:=|\s+name=)["']?([^"'>\n]{1,128}?)["']?\s*>\n?""")
_XML_END = re.compile(r"\n?</parameter>(?=\s*(?:<parameter|</function>|</invoke>|</tool_call>|\Z))")
_XML_CLOSE = re.compile(r"\s*(?:</function>|</invoke>)(?:\s*</tool_call>)?|\s*</tool_call>")
_GLM_NAME = re.compile(r"\s*([A-Za-z_][\w.\-]{0,127})\s*(?=<arg_key>|</tool_call>|\Z)")
_GLM_KEY = re.compile(r"\s*<arg_key>([^<]{1,128})</arg_key>\s*<arg_value>")
_GLM_END = re.compile(r"</arg_value>(?=\s*(?:<arg_key>|</tool_call>|\Z))")
_GLM_CLOSE = re.compile(r"\s*</tool_call>")
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_CALL_FENCES = ("json", "tool_code", "tool_call", "tool_calls", "tool_use")
_WHOLE = re.compile(
    r"\s*(?:<\|python_tag\|>\s*)?(?:```[ \t]*(?:json|python|py|xml|tool_\w+)?[ \t]*\n)?\s*"
)
_SIGN = re.compile(r"[<\[{`]")
_CALL_WORDS = ("functions", "to", "commentary", "assistant")
_LONGEST_BEGINNING = 160
_OPENER = re.compile(r"(?:```[ \t]{0,9}\w{0,20}|<\|python_tag\|>|\[)\Z")
_WHOLE_END = re.compile(r"[\s}\]]*(?:```)?(?:<\|e\w+_id\|>|</tool_call>|\s)*\Z")


@dataclass(frozen=True)
class FoundCall:
    """A call as OpenAI has it: `arguments` is compact JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class CallReading:
    """What a text holds: content before the first call, the calls, and what went wrong.

    `unfinished`: the text ends inside a call; `content` is then the whole text. `problem`: a
    sentence for the model to read, when a call is unreadable or does not fit the tools.
    """

    content: str
    calls: tuple[FoundCall, ...]
    unfinished: bool
    problem: str | None


@dataclass(frozen=True)
class _Source:
    """A text to search; `known` holds the tools by their names in plain letters."""

    text: str
    known: Mapping[str, Tool]
    cut_off: bool

    def tool(self, name: Any) -> Tool | None:
        return self.known.get(name) or self.known.get(_plain(name)) if _is_name(name) else None


@dataclass
class _Found:
    """What a stage has found so far; `start` is where the first call begins.

    `settled`: no other stage should look.
    """

    calls: list[FoundCall] = field(default_factory=list)
    start: int | None = None
    unfinished: bool = False
    problem: str | None = None
    faults: int = 0
    settled: bool = False

    def add(self, start: int, calls: Iterable[FoundCall]) -> None:
        before = len(self.calls)
        self.calls.extend(calls)
        if self.start is None and len(self.calls) > before:
            self.start = start

    def fault(self, problem: str) -> None:
        self.problem = self.problem or problem
        self.faults += 1


def read_calls(text: str, tools: Sequence[Tool], *, cut_off: bool = False) -> CallReading:
    """The calls in a text, after its stops and its reasoning are gone.

    `cut_off`: the text ended at a length limit. Calls with a marker are given even when no such
    tool is offered, with a problem.
    """
    if not tools:
        return CallReading(text, (), False, None)
    source = _Source(text, _by_name(tools), cut_off)
    problem = None
    for stage in _STAGES:
        found = stage(source)
        problem = problem or found.problem
        if found.calls or found.unfinished or found.settled:
            return _read(source, found)
    return CallReading(text, (), False, problem)


def surely_text(text: str, tools: Sequence[Tool]) -> str:
    """The beginning of a text that is content, whatever calls may follow it."""
    names = (*map(_plain, _by_name(tools)), *_CALL_WORDS)
    sign = _SIGN.search(text)
    end = sign.start() if sign else len(text)
    for line in re.finditer(r"^.*", text[:end], re.MULTILINE):
        begun = _plain(line.group().strip()[:_LONGEST_BEGINNING])
        is_last = line.end() == end
        if any(begun.startswith(name) or (is_last and name.startswith(begun)) for name in names):
            return text[: line.start()].rstrip()
    return text[:end].rstrip()


def _read(source: _Source, found: _Found) -> CallReading:
    content = source.text
    if found.calls and not found.unfinished:
        content = _before(source.text, found.start or 0)
    misfits = (_misfit(source, call) for call in found.calls)
    problem = found.problem or next((each for each in misfits if each), None)
    return CallReading(content, tuple(found.calls), found.unfinished, problem)


def _before(text: str, start: int) -> str:
    """The text before a call, without the fence or the bracket that opens it."""
    before = text[:start].rstrip()
    for _ in range(3):
        opener = _OPENER.search(before, max(0, len(before) - 40))
        before = before[: opener.start()].rstrip() if opener else before
    return before.lstrip()


def _misfit(source: _Source, call: FoundCall) -> str | None:
    tool = source.tool(call.name)
    if tool is None:
        return f"No tool named '{call.name[:64]}' is available."
    missing = [name for name in required_of(tool.parameters) if name not in loads(call.arguments)]
    return _lacks(tool, missing[0]) if missing else None


def _lacks(tool: Tool, name: str) -> str:
    return f"The call of '{tool.name}' lacks the required argument '{name}'."


# --- names ---


def _by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    """The tools by name and by plain name; an exact name comes before another's plain one."""
    known = {tool.name: tool for tool in tools}
    for tool in tools:
        known.setdefault(_plain(tool.name), tool)
    return known


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 256


def _plain(name: str) -> str:
    bare = name.strip(" \t\r\n\"'`").casefold().replace("-", "_")
    bare = re.sub(r"\Afunctions?\.", "", bare)
    return re.sub(r":\d{1,4}\Z", "", bare)


# --- stages: each looks for one shape; the first that finds calls has the word ---


def _marked(source: _Source) -> _Found:
    """Calls after a tag or a marker of a family."""
    found, position, clear = _Found(), 0, 0
    while not found.unfinished and found.faults < _MOST_FAULTS:
        opening = _OPEN.search(source.text, position)
        if opening is None:
            break
        clear, hidden = _hidden_until(source, max(clear, position), opening.start())
        if hidden:
            position = hidden
            continue
        inside = _INSIDE.match(source.text, opening.end())
        start = inside.end() if inside else opening.end()
        position = max(_marked_one(source, found, opening.start(), start), opening.start() + 1)
    if source.cut_off and not found.unfinished:
        found.unfinished = _ends_in_marker(source.text)
    return found


def _hidden_until(source: _Source, position: int, marker: int) -> tuple[int, int]:
    """(how far there is no object around the marker, the end of the one that has it in a string).

    The second is 0 when the marker stands free.
    """
    text = source.text
    while key := _KEY.search(text, position, marker):
        extent = span(text, key.start())
        if extent.end > marker and extent.state != "broken":
            is_json = _is_json(text[key.start() : extent.end])
            if is_json or _belongs_to_a_tool(source, key.start(), extent):
                return position, extent.end
        position = max(extent.end, key.end())
    return marker, 0


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True


def _belongs_to_a_tool(source: _Source, start: int, extent: Span) -> bool:
    """Whether an object is a call or stands behind the name of a tool."""
    name = re.search(
        r"(?<![\w.\-])([\w.\-]{1,128})(?:\[ARGS\]|json|[ \t(]){0,3}\Z",
        source.text[max(0, start - 160) : start],
    )
    is_known = name is not None and source.tool(name[1]) is not None
    return is_known or _names_a_tool(source, start, extent)


def _ends_in_marker(text: str) -> bool:
    return any(
        text.endswith(marker[:size])
        for marker in _PARTIAL_MARKERS
        for size in range(3, len(marker))
    )


def _marked_one(source: _Source, found: _Found, opening: int, start: int) -> int:
    """Reads what follows one marker; where to go on. A tag that is only mentioned is passed."""
    text = source.text
    if text.startswith(("{", "["), start):
        return _marked_json(source, found, opening, start)
    if text.startswith(("<function", "<invoke"), start):
        return _xml(source, found, opening, start)
    head = _HEAD.match(text, start)
    if head:
        return _object_after(source, found, opening, head)
    if _GLM_NAME.match(text, start):
        return _glm(source, found, opening, start)
    python = _python_at(source, start) if _PYTHON_START.match(text, start) else None
    if python is not None:
        found.add(opening, python[0])
        return python[1]
    following = _OPEN.search(text, start)
    closing = _CLOSE.search(text, start, following.start() if following else len(text))
    if closing is None and source.cut_off and len(text) - start < 128:
        found.unfinished = True
    elif closing is not None and closing.group().startswith("</"):
        found.fault("The text between the call's tags is no function call.")
    return start


def _marked_json(source: _Source, found: _Found, opening: int, start: int) -> int:
    """Reads the values that stand behind each other after a marker."""
    position = start
    while source.text.startswith(("{", "["), position):
        extent = span(source.text, position)
        if extent.state in ("open", "quoted"):
            return _unclosed(source, found, opening, position)
        calls = None
        if extent.state == "closed":
            calls = _decoded(source, source.text[position : extent.end], marked=True)
        if not calls:
            return _unreadable(source, found, opening, position)
        found.add(opening, calls)
        between = _BETWEEN.match(source.text, extent.end)
        position = between.end() if between else extent.end
    return position


def _decoded(source: _Source, text: str, *, marked: bool) -> list[FoundCall] | None:
    try:
        value = loads(text, repair=not source.cut_off)
    except ValueError:
        return None
    return _calls_in(source, value, marked=marked)


def _unclosed(source: _Source, found: _Found, opening: int, start: int) -> int:
    """A call whose brackets never close: cut off, or badly written before its closing tag."""
    if source.cut_off:
        found.unfinished = True
        return len(source.text)
    return _unreadable(source, found, opening, start)


def _unreadable(source: _Source, found: _Found, opening: int, start: int) -> int:
    """Reads the call by a guess where its closing tag, or the text's end, gives it an end."""
    text = source.text
    following = _OPEN.search(text, start + 1)
    limit = following.start() if following else len(text)
    closings = list(_CLOSE.finditer(text, start, limit))
    end = closings[-1].start() if closings else limit
    body, behind = text[start:end], text[closings[-1].end() : limit] if closings else ""
    # A string left open at the end of all may be half a file.
    safe = not source.cut_off and not behind.strip()
    safe = safe and (bool(closings) or span(body).state != "quoted")
    calls = _decoded(source, body, marked=True) if safe else None
    if calls:
        found.add(opening, calls)
    else:
        found.fault("The function call is not valid JSON with a name and arguments.")
    return limit


def _whole(source: _Source) -> _Found:
    """Calls when the whole answer is one object or one array, perhaps in a fence."""
    found, text = _Found(), source.text
    leading = _WHOLE.match(text)
    start = leading.end() if leading else 0
    if not text.startswith(("{", "["), start):
        return found
    extent = span(text, start)
    if extent.state != "closed" or not _WHOLE_END.match(text, extent.end):
        return found
    try:
        value = loads(text[start : extent.end])
    except ValueError:
        return found
    found.settled = True
    found.add(start, _calls_in(source, value, marked=False) or ())
    return found


def _embedded(source: _Source) -> _Found:
    """Calls as objects anywhere in the text. An object that never closes hides all after it."""
    found, text, position = _Found(), source.text, 0
    while key := _KEY.search(text, position):
        start = key.start()
        extent = span(text, start)
        position = max(extent.end, key.end())
        if extent.state in ("open", "quoted"):
            if _names_a_tool(source, start, extent):
                _unclosed_object(source, found, start, extent.state)
            break
        if extent.state == "closed" and _names_a_tool(source, start, extent):
            calls = _decoded(source, text[start : extent.end], marked=False)
            found.add(start, calls or ())
    return found


def _names_a_tool(source: _Source, start: int, extent: Span) -> bool:
    """Whether an object begins as a call of an offered tool does, as far as it can be seen."""
    head = source.text[start : start + 2000]
    if source.cut_off and re.fullmatch(r"""\{\s*(?:["']\w{0,13})?(?:["']\s*:?\s*["']?)?""", head):
        return True
    ends = start + 2000 >= len(source.text)
    # To look beyond the object each time would take for ever where there are many.
    for naming in _NAMING.finditer(source.text, start, min(start + 100_000, extent.end)):
        if source.tool(naming[1]):
            return True
        if ends and source.cut_off and not naming[2] and naming.end() == len(source.text):
            return any(name.startswith(_plain(naming[1])) for name in source.known)
    return False


def _unclosed_object(source: _Source, found: _Found, start: int, state: str) -> None:
    if source.cut_off:
        found.unfinished = True
        return
    body = source.text[start:]
    calls = _decoded(source, body, marked=False) if state == "open" else None
    found.add(start, calls or ())
    if not calls and re.search(r"""["'](?:arguments|parameters|args|input)["']\s*:""", body):
        found.fault("The function call is not complete JSON.")


def _named(source: _Source) -> _Found:
    """Calls as a tool's name at a line's start, with an object or with Python's arguments."""
    found, position = _Found(), 0
    hidden = _code_blocks(source.text)
    for head in merge(
        *(each.finditer(source.text) for each in (_LINE_HEAD, _PYTHON_HEAD)),
        key=lambda head: head.start(),
    ):
        if found.unfinished or found.faults >= _MOST_FAULTS:
            break
        if head.start() < position or source.tool(_head_name(source, head)) is None:
            continue
        if _is_within(head.start(), hidden):
            continue
        if head.re is _LINE_HEAD:
            position = _object_after(source, found, head.start(), head, marked=False)
        else:
            position = _python_line(source, found, head)
    return found


def _head_name(source: _Source, head: re.Match[str]) -> str:
    """The name in a head; DeepSeek's has "function" before it once its tokens are gone."""
    name = head["name"].removesuffix(".call")
    shorter = name.removeprefix("function")
    return shorter if source.tool(name) is None and source.tool(shorter) else name


def _code_blocks(text: str) -> list[tuple[int, int]]:
    """Where code is shown: fences in other languages, unless the whole answer is one."""
    blocks = []
    for fence in _FENCE.finditer(text):
        whole = not text[: fence.start()].strip() and not text[fence.end() :].strip()
        if not whole and fence[1].casefold() not in _CALL_FENCES:
            blocks.append(fence.span())
    return blocks


def _is_within(position: int, blocks: Sequence[tuple[int, int]]) -> bool:
    return any(start <= position < end for start, end in blocks[:1000])


def _object_after(
    source: _Source, found: _Found, opening: int, head: re.Match[str], *, marked: bool = True
) -> int:
    """Reads the arguments that stand as an object behind a name; where to go on."""
    text, start = source.text, head.end()
    extent = span(text, start)
    name = _head_name(source, head)
    if extent.state in ("open", "quoted") and source.cut_off:
        if marked or _KEY.match(text, start):
            found.unfinished = True
        return len(text)
    body = text[start : extent.end]
    try:
        value = None
        if extent.state != "quoted":
            value = loads(body, repair=not source.cut_off and (marked or extent.state == "open"))
    except ValueError:
        value = None
    call = _call(source, name, value) if isinstance(value, dict) else None
    if call is not None:
        found.add(opening, [call])
    elif marked or _KEY.match(text, start):
        found.fault(f"The arguments of '{name}' are not a JSON object.")
    return extent.end


# --- Python's way of calling ---


def _python_line(source: _Source, found: _Found, head: re.Match[str]) -> int:
    """Reads calls that fill the rest of their line; where to go on."""
    text = source.text
    start = head.start("list") if head["list"] else head.start("name")
    extent = span(text, start)
    if extent.state != "closed":
        found.faults += 1
    if extent.state in ("open", "quoted"):
        begun = re.compile(r"\s*(?:\w+\s*=|\w*\Z|[\"'{])").match(text, head.end())
        if source.cut_off and begun:
            found.unfinished = True
        return extent.end if extent.state == "quoted" else head.end()
    read = _python_at(source, start) if _LINE_REST.match(text, extent.end) else None
    if read is not None:
        found.add(start, read[0])
        return read[1]
    return head.end()


def _python_at(source: _Source, start: int) -> tuple[list[FoundCall], int] | None:
    """The calls in the Python expression at `start` and its end, when all are of known tools."""
    extent = span(source.text, start)
    if extent.state != "closed" or extent.end - start > 100_000:
        return None
    try:
        written = python_source(source.text[start : extent.end])
        body = ast.parse(written.strip(), mode="eval").body
        nodes = body.elts if isinstance(body, ast.List) else [body]
        calls = [_python_call(source, node) for node in nodes]
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None
    known = [call for call in calls if call is not None]
    return (known, extent.end) if known and len(known) == len(calls) else None


def _python_call(source: _Source, node: ast.expr) -> FoundCall | None:
    if not isinstance(node, ast.Call):
        return None
    name = ast.unparse(node.func).removesuffix(".call")
    tool = source.tool(name)
    if tool is None:
        return None
    names = [keyword.arg for keyword in node.keywords]
    properties = list(properties_of(tool.parameters))
    if any(each is None or (properties and each not in properties) for each in names):
        return None
    if node.args or (not names and required_of(tool.parameters)):
        return None
    return _call(source, name, {str(each.arg): _literal(each.value) for each in node.keywords})


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    value = ast.literal_eval(node)
    return loads(dumps(value))


# --- XML ---


def _xml(source: _Source, found: _Found, opening: int, start: int) -> int:
    """Reads <function=f><parameter=k>v</parameter></function>, or JSON within the function."""
    name = _XML_NAME.match(source.text, start)
    if name is None:
        found.unfinished = source.cut_off and len(source.text) - start < 160
        return start + 1
    if source.text[name.end() : name.end() + 20].lstrip().startswith("{"):
        return _xml_json(source, found, opening, name)
    values, position = _pairs(source.text, name.end(), _XML_KEY, _XML_END)
    return _finish_xml(source, found, opening, name[1], values, position, _XML_CLOSE)


def _xml_json(source: _Source, found: _Found, opening: int, name: re.Match[str]) -> int:
    start = source.text.index("{", name.end())
    head = re.compile(r"(?:=|name=)[\"']?(?P<name>[^\"'>\n]{1,128})[\"']?\s*>\s*")
    match = head.search(source.text, name.start(), start)
    if match is None:
        return name.end()
    return _object_after(source, found, opening, match)


def _glm(source: _Source, found: _Found, opening: int, start: int) -> int:
    """Reads f, then <arg_key>k</arg_key><arg_value>v</arg_value> for each argument."""
    name = _GLM_NAME.match(source.text, start)
    if name is None:
        return start
    values, position = _pairs(source.text, name.end(), _GLM_KEY, _GLM_END)
    return _finish_xml(source, found, opening, name[1], values, position, _GLM_CLOSE)


def _pairs(
    text: str, position: int, key: re.Pattern[str], end: re.Pattern[str]
) -> tuple[dict[str, str] | None, int]:
    """The written values and the position behind them; None when one has no end."""
    values: dict[str, str] = {}
    while opened := key.match(text, position):
        ended = end.search(text, opened.end())
        if ended is None:
            return None, len(text)
        value, position = text[opened.end() : ended.start()], ended.end()
        if key is _XML_KEY and "\n<parameter=" in value:  # Qwen leaves out closing tags
            value = value[: value.index("\n<parameter=")]
            position = opened.end() + len(value)
        values[opened[1].strip()] = value
    return values, position


def _finish_xml(
    source: _Source,
    found: _Found,
    opening: int,
    name: str,
    values: dict[str, str] | None,
    position: int,
    close: re.Pattern[str],
) -> int:
    closed = close.match(source.text, position)
    at_end = not source.text[position : position + 1000].strip()
    if source.cut_off and closed is None and (values is None or position >= len(source.text) - 40):
        found.unfinished = True
        return len(source.text)
    tool = source.tool(name)
    if values is None or (closed is None and not (at_end and (values or tool))):
        if values is None or tool:
            found.fault(f"The call of '{name[:64]}' has no end.")
        return position
    schema: Mapping[str, Any] = tool.parameters if tool else {}
    properties = properties_of(schema)
    decoded = {key: _typed(each, properties.get(key), schema) for key, each in values.items()}
    call = _call(source, name, decoded)
    if call is not None:
        found.add(opening, [call])
    return closed.end() if closed else position


def _typed(text: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The value that a text stands for: itself when the schema says string, else JSON."""
    types = types_of(schema, root)
    if "string" in types:
        return None if text.strip() == "null" and "null" in types else text
    try:
        return loads(text.strip())
    except ValueError:
        return text


# --- values to calls ---


def _calls_in(source: _Source, value: Any, *, marked: bool) -> list[FoundCall] | None:
    """The calls that a decoded value is made of; None when it is anything else."""
    if isinstance(value, list):
        each = [_calls_in(source, item, marked=marked) for item in value[:100]]
        if not each or not all(each):
            return None
        return [call for calls in each if calls for call in calls]
    if not isinstance(value, dict):
        return None
    for wrapper in _WRAPPERS:
        inner = value.get(wrapper)
        if isinstance(inner, dict | list) and not any(key in value for key in _ARGUMENT_KEYS):
            return _calls_in(source, inner, marked=marked)
    call = _object_call(source, value, marked=marked)
    return [call] if call else None


def _object_call(source: _Source, value: dict[str, Any], *, marked: bool) -> FoundCall | None:
    name_key = next((key for key in _NAME_KEYS if _is_name(value.get(key))), None)
    if name_key is None:
        return None
    name = str(value[name_key])
    tool = source.tool(name)
    if not name.strip() or (tool is None and not marked):
        return None
    key = next((key for key in _ARGUMENT_KEYS if key in value), None)
    if key is not None:
        return None if _is_schema(value[key]) else _call(source, name, value[key])
    rest = {word: each for word, each in value.items() if word not in {*_BESIDES_NAME, name_key}}
    if marked:
        return _call(source, name, rest)
    if rest or tool is None or required_of(tool.parameters):
        return None
    return _call(source, name, {})


def _is_schema(arguments: Any) -> bool:
    """Whether this repeats a tool's definition, which some models do before they call it."""
    properties = arguments.get("properties") if isinstance(arguments, dict) else None
    return (
        isinstance(properties, dict)
        and bool(properties)
        and all(
            isinstance(each, dict) and ("type" in each or "anyOf" in each or "$ref" in each)
            for each in properties.values()
        )
    )


def _call(source: _Source, name: str, arguments: Any) -> FoundCall | None:
    """The call with its arguments as the tool's schema wants them; None when they are none."""
    tool = source.tool(name)
    try:
        if isinstance(arguments, str):
            arguments = loads(arguments, repair=not source.cut_off) if arguments.strip() else {}
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            return None
        if tool is not None:
            arguments = _fitted(arguments, tool.parameters)
        return FoundCall(tool.name if tool else name.strip(), dumps(arguments))
    except (ValueError, RecursionError):
        return None


def _fitted(arguments: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = properties_of(schema)
    inner = arguments.get("properties")
    if isinstance(inner, dict) and "properties" not in properties:
        if set(arguments) <= {"properties", "type", "required"}:
            arguments = inner
    fitted = _coerced(arguments, schema, schema, 0)
    return fitted if isinstance(fitted, dict) else arguments


def _coerced(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    """The value with texts turned into what the schema wants and needless nulls dropped."""
    schema = dereferenced(schema, root)
    if depth > DEEPEST or not schema:
        return value
    if isinstance(value, str):
        return _from_text(value, types_of(schema, root))
    if isinstance(value, list):
        return [_coerced(each, schema.get("items"), root, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    properties, required = properties_of(schema), required_of(schema)
    return {
        key: _coerced(each, properties.get(key), root, depth + 1)
        for key, each in value.items()
        if each is not None
        or key not in properties
        or key in required
        or "null" in types_of(properties[key], root)
    }


def _from_text(text: str, types: frozenset[str]) -> Any:
    bare = text.strip()
    if not types or "string" in types:
        return text
    if "boolean" in types and bare.casefold() in ("true", "false"):
        return bare.casefold() == "true"
    if types & {"integer", "number"} and re.fullmatch(r"[+-]?\d{1,18}", bare):
        return int(bare)
    if "number" in types and re.fullmatch(r"[+-]?\d{1,18}\.\d{1,18}", bare):
        return float(bare)
    wanted = {"array": list, "object": dict}
    try:
        value = loads(text)
    except ValueError:
        return text
    return value if any(isinstance(value, wanted[each]) for each in types & set(wanted)) else text


def problems_of(call: FoundCall, tool: Tool) -> str | None:
    """What about a call does not fit the tool's schema, in one sentence; None when all does."""
    try:
        arguments = loads(call.arguments)
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        return f"The arguments of '{tool.name}' are not a JSON object."
    found = problem_with(arguments, tool.parameters)
    return None if found is None else f"The call of '{tool.name}': {found}"


_STAGES: tuple[Callable[[_Source], _Found], ...] = (_marked, _whole, _embedded, _named)

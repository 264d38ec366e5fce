"""The grammar of Gemma 4: call:bash{command:<|"|>ls<|"|>}, between <|tool_call> and <tool_call|>.

Keys have no quotes, and texts are between tokens that workers may drop: call:bash{command:ls}.
"""

from __future__ import annotations

import json
import re
from typing import Any

from horde_proxy.prompts.json_schema.keywords import properties_of
from horde_proxy.prompts.lenient_json import loads, span
from horde_proxy.prompts.tool_calls.arguments import make_call, value_of_text
from horde_proxy.prompts.tool_calls.markers import next_opening_at
from horde_proxy.prompts.tool_calls.named_calls import starts_well
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText
from horde_proxy.protocol.generation_request import Tool

_QUOTE = '<|"|>'
_HEAD = re.compile(r"call:(?P<name>[A-Za-z_][\w.\-]{0,127})(?=\{)")
# A text between tokens, or a key without quotes: <|"|>ls<|"|>, {command:
_PART = re.compile(r'<\|"\|>(.*?)<\|"\|>|(?<=[{,])\s*([A-Za-z_][\w\-]{0,127})\s*:', re.DOTALL)
_BRACE = re.compile(r"[{}]")


def read_gemma(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read the name and the arguments, with or without the tokens around texts."""
    head = _HEAD.match(searched.text, start)
    tool = searched.tool(head["name"]) if head else None
    if head is None or tool is None:
        return None
    text, begin = searched.text, head.end()
    if context == "bare" and not starts_well(text, start):
        return None
    limit = next_opening_at(text, begin)
    is_quoted = text.find(_QUOTE, begin, limit) >= 0
    body = _body(text, begin, limit, is_quoted=is_quoted)
    if body is None:
        searched.count_long_read()
        is_open = searched.may_end_early
        return Passage(
            start,
            len(text) if is_open else limit,
            is_open=is_open,
            problem=None if is_open else f"The call of '{tool.name}' has no end.",
        )
    values = _quoted_values(body) if is_quoted else _bare_values(body, tool)
    call = make_call(searched, tool.name, values) if values is not None else None
    problem = None if call else f"The arguments of '{tool.name}' are not readable."
    return Passage(start, begin + len(body), (call,) if call else (), problem)


def _body(text: str, begin: int, limit: int, *, is_quoted: bool) -> str | None:
    """The arguments with their braces; None if they have no end."""
    if is_quoted:
        # Texts may contain brackets and quotes: they count as one sign each.
        masked = _PART.sub(lambda part: "_" * len(part[0]), text[begin:limit])
        extent = span(masked)
        body = text[begin : begin + extent.end]
        is_whole = extent.state == "closed" and body.count(_QUOTE) % 2 == 0
        return body if is_whole else None
    depth = 0
    for brace in _BRACE.finditer(text, begin, limit):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[begin : brace.end()]
    return None


def _quoted_values(body: str) -> Any:
    """The arguments, as JSON after quotes were put around keys and texts."""
    written = _PART.sub(
        lambda part: json.dumps(part[1]) if part[2] is None else f'"{part[2]}":', body
    )
    try:
        return loads(written)
    except ValueError:
        return None


def _bare_values(body: str, tool: Tool) -> dict[str, Any] | None:
    """The arguments without quotes: each value ends where the next known key begins."""
    properties = properties_of(tool.parameters)
    inner = body[1:-1].strip()
    if not inner:
        return {}
    if not properties:
        return None
    keys = "|".join(map(re.escape, sorted(properties, key=len, reverse=True)))
    parts = re.split(rf"(?:\A|,)\s*({keys})\s*:", inner)
    if parts[0].strip() or len(parts) < 3:
        return None
    return {
        key: value_of_text(value, properties[key], tool.parameters)
        for key, value in zip(parts[1::2], parts[2::2], strict=True)
    }


GEMMA_CALLS = Grammar("gemma", read_gemma, sign=r"\bcall:[A-Za-z_][\w.\-]{0,127}\{")

"""The tokenizer: the markers that families put around calls, without the text between them.

Most workers drop markers that are control tokens: koboldcpp and vLLM do. So a call may have all,
some or none of its family's markers. This module knows no call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

SEPARATOR = "]<]minimax[>["
"""MiniMax M3 writes this control token before each tag: ]<]minimax[>[<tool_call>."""
# The names of tags: <tool_call> Hermes, Qwen, GLM; <functioncall> Glaive's data; <TOOLCALL>
# Nemotron; <function_calls> Claude's older API; <tools> Qwen2.5-Coder, which repeats the tag of its
# instructions
_TAG_NAME = r"(?:tool_?calls?|function_?calls?|tools)"
# MiniMax M2 <minimax:tool_call>, Seed-OSS <seed:tool_call>, DeepSeek V3.2 <｜DSML｜function_calls>
_NAMESPACE = r"(?:[a-z]{1,20}:|｜DSML｜)?"
# The beginning of a call or of several. A marker directly after a backtick is quoted,
# but not one directly after a fence.
_OPENING_TEXT = (
    r"(?<!(?<!``)`)(?:"
    # <tool_call>; <|tool_call|> Granite, Phi-4-mini; <|tool_call> Gemma 4, which ends a call with
    # <tool_call|>
    rf"<(?:\|{_NAMESPACE}(?i:{_TAG_NAME})\|?|{_NAMESPACE}(?i:{_TAG_NAME}))>"
    # Mistral: [TOOL_CALLS][{"name": ...}], since tokenizer v11 [TOOL_CALLS]name[ARGS]{...}
    r"|\[TOOL_CALLS\]"
    # Kimi K2: <|tool_calls_section_begin|><|tool_call_begin|>functions.bash:0; LFM2
    # <|tool_call_start|>; Apertus <|tools_prefix|>; Command R7B and A <|START_ACTION|>; InternLM
    # <|action_start|><|plugin|>
    r"|<\|(?:tool_calls_section_begin|tool_call_begin|tool_call_start|tools_prefix|START_ACTION)\|>"
    r"|<\|action_start\|>\s?(?:<\|plugin\|>)?"
    # DeepSeek V3 and R1: <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>bash
    r"|<｜tool▁calls?▁begin｜>"
    # Qwen3-Coder and Llama 3.1 begin with the tag itself, as does <invoke name="bash">
    r"|(?=<(?:｜DSML｜)?(?:function=|function name=|invoke name=))"
    r")"
)
OPENING = re.compile(_OPENING_TEXT)
# Words and tags that models write before a call, but in other texts as well: <|python_tag|>
# (Llama 3), <|python_start|> (Llama 4), ```tool_code (Gemma 3), Action: (Command R)
_LEAD_TEXT = r"<\|python_(?:tag|start)\|>|```tool_code\b|^Action:(?=\s*(?:```|[\[{]))"
LEAD = re.compile(_LEAD_TEXT, re.MULTILINE)
SIGNS_OF_MARKERS = rf"(?P<marker>{_OPENING_TEXT})|(?P<lead>{_LEAD_TEXT})"
CLOSING = re.compile(
    # </tool_call>, and </|tool_call|> of models that guess how <|tool_call|> is closed
    rf"</\|?{_NAMESPACE}(?i:{_TAG_NAME})\|?>"
    # <|/tool_call|> Phi-4-mini; <tool_call|> Gemma 4
    r"|<\|/(?:tool_calls?|function_?call)\|>|<tool_call\|>"
    # Kimi, LFM2, Apertus, Command R7B and Llama 4
    r"|<\|(?:tool_call_end|tool_calls_section_end|tools_suffix|END_ACTION|python_end|action_end)\|>"
    r"|<｜tool▁calls?▁end｜>|\[/TOOL_CALLS\]"
)
# What may follow a last call besides closing markers: surplus brackets; tags of XML that are
# written twice; the ends of turns, <|eom_id|> (Llama 3), <|call|> (gpt-oss); ReAct's next heading.
_CLOSERS = re.compile(
    rf"(?:[\s,;\]\}})]|{CLOSING.pattern}"
    r"|</(?:｜DSML｜)?(?:function|invoke|parameter|arg_value)>"
    r"|<\|(?:eom_id|eot_id|call|end|im_end|endoftext)\|>|</s>"
    r"|^Observation:\s*\Z)*+",
    re.MULTILINE,
)
# After a marker: whitespace and a fence, as models for chat write it: "<tool_call>\n```json\n{"
_AFTER_MARKER = re.compile(r"\s*(?:```[ \t]*(?:json|xml|python|tool_\w{1,10})?\s*)?")
_FENCE_END = "```"


def _prefixes(literals: Iterable[str]) -> frozenset[str]:
    """All beginnings of the literals, in lower case."""
    return frozenset(
        literal[:size].lower() for literal in literals for size in range(1, len(literal) + 1)
    )


# All markers with fixed texts: to recognise the beginning of one at the end of a text, and to break
# them up where a message has them.
OPENINGS = (
    *(f"<{bar}{space}tool_call" for bar in ("", "|") for space in ("", "minimax:", "seed:")),
    *("<tool_calls>", "<toolcall>", "<function_calls>", "<functioncall>", "<tools>", "<|tools|>"),
    *("<|function_calls|>", "<function=", "<function name=", "<invoke name=", "[TOOL_CALLS]"),
    *("<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|tool_call_start|>"),
    *("<|tools_prefix|>", "<|START_ACTION|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    *("<｜DSML｜function_calls>", "<｜DSML｜invoke name=", SEPARATOR),
    *("<|tool_call|>", "<|tool_calls|>", "<|function_call|>", "<|start|>", "<|channel|>"),
    *("<|python_tag|>", "<|python_start|>", "<|action_start|><|plugin|>"),
)
_PARTIAL_CLOSERS = (
    *("</tool_calls>", "</toolcall>", "</function_calls>", "</functioncall>", "</tools>"),
    *("</minimax:tool_call>", "</seed:tool_call>", "</function>", "</invoke>", "</parameter>"),
    *(
        "</｜DSML｜function_calls>",
        "</arg_value>",
        "<|/tool_call|>",
        "<tool_call|>",
        "</|tool_call|>",
    ),
    *("<|tool_call_end|>", "<|tool_calls_section_end|>", "<|tools_suffix|>", "<|END_ACTION|>"),
    *(
        "<|python_end|>",
        "<|action_end|>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "[/TOOL_CALLS]",
        "```",
    ),
    *("<|eom_id|>", "<|eot_id|>", "<|call|>", "<|end|>", "<|im_end|>", "<|endoftext|>", "</s>"),
    "Observation:",
)
_SHORTEST_PARTIAL = 3
"""Characters from which the beginning of a marker is recognised: "<to", not "<"."""
_PREFIXES_OF_OPENINGS = _prefixes(OPENINGS)
_PREFIXES_OF_CLOSERS = _prefixes(_PARTIAL_CLOSERS)
_LONGEST_LITERAL = max(map(len, (*OPENINGS, *_PARTIAL_CLOSERS)))


def marked_call_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each part of a text from an opening marker to the next closing one."""
    parts, position = [], 0
    while opening := OPENING.search(text, position):
        closing = CLOSING.search(text, opening.end())
        if closing is None:
            break
        parts.append((opening.start(), closing.end()))
        position = closing.end()
    return parts


def next_opening_at(text: str, position: int) -> int:
    """Where the next opening marker is; the text's length without one."""
    opening = OPENING.search(text, position)
    return opening.start() if opening else len(text)


def next_closing(text: str, position: int, end: int) -> re.Match[str] | None:
    """The first closing marker in a part of a text."""
    return CLOSING.search(text, position, end)


def after_openings(text: str, position: int) -> int:
    """The position after all markers, leads, spaces and fences before the text of a call."""
    while True:
        start = _end_of(_AFTER_MARKER, text, position)
        opening = OPENING.match(text, start) or LEAD.match(text, start)
        if opening is None or opening.end() == start:
            return start
        position = opening.end()


def after_closers(text: str, position: int, *, is_fenced: bool) -> int:
    """The position after closing markers, surplus brackets and spaces.

    `is_fenced`: the call is in a code block, whose end belongs to them.
    """
    position = _end_of(_CLOSERS, text, position)
    if is_fenced and text.startswith(_FENCE_END, position):
        position = _end_of(_CLOSERS, text, position + len(_FENCE_END))
    return position


def partial_opening_at(text: str) -> int:
    """Where a marker begins that the end of the text cuts off; the text's length without one."""
    return _partial_at(text, _PREFIXES_OF_OPENINGS)


def partial_closer_at(text: str) -> int:
    """Where a closing marker begins that the end of the text cuts off; else the text's length."""
    return _partial_at(text, _PREFIXES_OF_CLOSERS)


def ends_in_marker(text: str) -> bool:
    """Whether a text ends with the beginning of a marker, such as "<tool_c"."""
    start = partial_opening_at(text)
    return len(text) - start >= _SHORTEST_PARTIAL and text[start - 1 : start] != "`"


def _partial_at(text: str, prefixes: frozenset[str]) -> int:
    for size in range(min(_LONGEST_LITERAL, len(text)), 0, -1):
        if text[-size:].lower() in prefixes:
            return len(text) - size
    return len(text)


def _end_of(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position

"""Calls without a marker, which the worker may have dropped.

Here, only calls of known tools count, so that ordinary JSON stays text.
"""

from __future__ import annotations

import re
from heapq import merge

from horde_proxy.prompts.lenient_json import loads, span
from horde_proxy.prompts.tool_calls.mentions import code_blocks, is_within
from horde_proxy.prompts.tool_calls.named_calls import LINE_HEAD, head_name, read_object_after
from horde_proxy.prompts.tool_calls.object_calls import (
    OBJECT_START,
    calls_in,
    decode_calls,
    names_a_tool,
    read_unclosed_object,
)
from horde_proxy.prompts.tool_calls.python_calls import PYTHON_HEAD, read_python_line
from horde_proxy.prompts.tool_calls.searching import MOST_PROBLEMS, Findings, SearchedText

# Before an answer that is only a call: <|python_tag|> (Llama 3), ```json or ```tool_code (Gemma 3)
_BEFORE_ALL = re.compile(
    r"\s*(?:<\|python_tag\|>\s*)?(?:```[ \t]*(?:json|python|py|xml|tool_\w+)?[ \t]*\n)?\s*"
)
# After it: surplus brackets, the fence's end, and <|eom_id|>, <|eot_id|> (Llama 3) or </tool_call>
_AFTER_ALL = re.compile(r"[\s}\]]*(?:```)?(?:<\|e\w+_id\|>|</tool_call>|\s)*\Z")


def whole_answer_calls(searched: SearchedText) -> Findings:
    """The stage for an answer that is one object or one array, perhaps in a fence.

    Llama 3 writes only {"name": ..., "parameters": ...}; Mistral's answer is an array of objects if
    [TOOL_CALLS] was dropped. If the answer is other JSON, it contains no calls at all.
    """
    findings, text = Findings(), searched.text
    before = _BEFORE_ALL.match(text)
    start = before.end() if before else 0
    if not text.startswith(("{", "["), start):
        return findings
    extent = span(text, start)
    if extent.state != "closed" or not _AFTER_ALL.match(text, extent.end):
        return findings
    try:
        value = loads(text[start : extent.end])
    except ValueError:
        return findings
    findings.is_final = True
    findings.add(start, calls_in(searched, value, marked=False) or ())
    return findings


def embedded_calls(searched: SearchedText) -> Findings:
    """The stage for objects anywhere in the text. One without an end hides everything after it."""
    findings, text, position = Findings(), searched.text, 0
    while key := OBJECT_START.search(text, position):
        start = key.start()
        extent = span(text, start)
        position = max(extent.end, key.end())
        if extent.state in ("open", "quoted"):
            # Everything that follows may be inside of it, even a call in a string.
            if names_a_tool(searched, start, extent):
                read_unclosed_object(searched, findings, start, extent.state)
            break
        if extent.state == "closed" and names_a_tool(searched, start, extent):
            calls = decode_calls(searched, text[start : extent.end], marked=False)
            findings.add(start, calls or ())
    return findings


def line_calls(searched: SearchedText) -> Findings:
    """The stage for a tool's name at the start of a line, with an object or Python's arguments."""
    findings, position = Findings(), 0
    shown = code_blocks(searched.text)
    heads = (pattern.finditer(searched.text) for pattern in (LINE_HEAD, PYTHON_HEAD))
    for head in merge(*heads, key=lambda head: head.start()):
        if findings.unfinished or findings.problem_count >= MOST_PROBLEMS:
            break
        # Heads in the arguments of the last call belong to these arguments.
        if head.start() < position or searched.tool(head_name(searched, head)) is None:
            continue
        if is_within(head.start(), shown):
            continue
        if head.re is LINE_HEAD:
            position = read_object_after(searched, findings, head.start(), head, marked=False)
        else:
            position = read_python_line(searched, findings, head)
    return findings

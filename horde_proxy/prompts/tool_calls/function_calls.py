"""The grammar of <function=bash><parameter=command>ls</parameter></function>.

Written by Qwen3-Coder, with line breaks around each value; <invoke name="bash"> with <parameter
name="command"> by models trained on Claude's calls. Llama 3.1 has JSON within the function.
"""

from __future__ import annotations

import re

from horde_proxy.prompts.tool_calls.named_calls import read_object_after
from horde_proxy.prompts.tool_calls.searching import Findings, SearchedText
from horde_proxy.prompts.tool_calls.tagged_values import TagGrammar, read_tagged_call

# <function=bash>, <function name="bash">, <invoke name="bash">
_NAME = re.compile(r"""\s*<(?:function|invoke)(?:=|\s+name=)["']?([^"'>\n]{1,128}?)["']?\s*>""")
# The name in such a tag, if an object follows: <function=bash>{"command": "ls"}</function>
_NAME_OF_OBJECT = re.compile(r"(?:=|name=)[\"']?(?P<name>[^\"'>\n]{1,128})[\"']?\s*>\s*")
_GRAMMAR = TagGrammar(
    # <parameter=command> or <parameter name="command">, and the line break before its value
    key=re.compile(r"""\s*<parameter(?:=|\s+name=)["']?([^"'>\n]{1,128}?)["']?\s*>\n?"""),
    # </parameter>, but only before another tag: a value may be a file that contains </parameter>
    end=re.compile(r"\n?</parameter>(?=\s*(?:<parameter|</function>|</invoke>|</tool_call>|\Z))"),
    # </function>\n</tool_call>, either of them alone, or </invoke>
    close=re.compile(r"\s*(?:</function>|</invoke>)(?:\s*</tool_call>)?|\s*</tool_call>"),
    # Qwen3-Coder sometimes leaves out </parameter>
    next_key="\n<parameter=",
)
_LONGEST_TAG = 160
_LONGEST_SPACE = 20


def read_function(
    searched: SearchedText, findings: Findings, opening: int, start: int
) -> int | None:
    """Read a call that begins with <function or <invoke."""
    if not searched.text.startswith(("<function", "<invoke"), start):
        return None
    name = _NAME.match(searched.text, start)
    if name is None:
        findings.unfinished = searched.cut_off and len(searched.text) - start < _LONGEST_TAG
        return start + 1
    if searched.text[name.end() : name.end() + _LONGEST_SPACE].lstrip().startswith("{"):
        return _read_object(searched, findings, opening, name)
    return read_tagged_call(searched, findings, opening, name, _GRAMMAR)


def _read_object(
    searched: SearchedText, findings: Findings, opening: int, name: re.Match[str]
) -> int:
    """Read arguments that are a JSON object instead of tags."""
    start = searched.text.index("{", name.end())
    head = _NAME_OF_OBJECT.search(searched.text, name.start(), start)
    if head is None:
        return name.end()
    return read_object_after(searched, findings, opening, head)

"""The grammar of <function=bash><parameter=command>ls</parameter></function>.

Written by Qwen3-Coder and Seed-OSS, with line breaks around each value. MiniMax, DeepSeek V3.2 and
models trained on Claude's calls write <invoke name="bash"><parameter name="command">ls</parameter>;
MiniMax M3 has the argument's name as the tag; Llama 3.1 has JSON within the function.
"""

from __future__ import annotations

import re

from horde_proxy.prompts.json_schema.keywords import properties_of
from horde_proxy.prompts.tool_calls.arguments import make_call
from horde_proxy.prompts.tool_calls.named_calls import read_object_after
from horde_proxy.prompts.tool_calls.own_tag_calls import values_in_own_tags
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText
from horde_proxy.prompts.tool_calls.tagged_values import TagGrammar, read_tagged_call

# <function=bash>, <function name="bash">, <invoke name="bash">, <｜DSML｜invoke name="bash">, and
# <function=bash at the end of a line, as Qwen3-Coder sometimes writes; the first of two equal ones
_NAME = re.compile(
    r"""(?:<(?:｜DSML｜)?(?:function|invoke)(?:=|\s+name=)["']?(?P<name>[^"'<>\n]{1,128}?)["']?\s*"""
    r"""(?:>|(?=\n))\s*?){1,2}"""
)
# How all of these begin: "<function=", "<function ", "<｜DSML｜invoke "
_BEGINNING = re.compile(r"<(?:｜DSML｜)?(?:function|invoke)[= ]")
# The arguments of <function=bash>{"command": "ls"}</function>, which may begin on another line
_OBJECT = re.compile(r"\s{0,20}(?=\{)")
_END_OF_OBJECT = re.compile(r"\s*</(?:｜DSML｜)?(?:function|invoke)>")
# What may come after the last value of an <invoke>: its end, the end of what it is in, or nothing
_END_OF_INVOKE = re.compile(r"\s*</(?:function|invoke)>|\s*(?=</)|\s*\Z")
# </function>\n</tool_call>, either of them alone, or </invoke>, with any namespace
_CALL_END = r"</(?:｜DSML｜)?(?:function|invoke)>|</(?:[a-z]{1,20}:)?tool_call>"
_FUNCTION_TAGS = TagGrammar(
    # <parameter=command>, <parameter name="command">, DeepSeek's <｜DSML｜parameter name="command"
    # string="true">, and <parameter=command at the end of a line
    key=re.compile(
        r"""\s*<(?:｜DSML｜)?parameter(?:=|\s+name=)["']?(?P<key>[^"'<>\s]{1,128})["']?"""
        r"""(?:[ \t]+\w+="[^"<>\n]{0,40}"){0,4}[ \t]*(?:>|(?=\n))"""
    ),
    tags=re.compile(
        r"(?P<open><(?:｜DSML｜)?parameter(?=[=\s>]))|(?P<close></(?:｜DSML｜)?parameter>)"
        rf"|(?P<call><(?:｜DSML｜)?(?:function|invoke)(?==|\s+name=))|(?P<uncall>{_CALL_END})"
    ),
    follows=re.compile(rf"\s*(?:</?(?:｜DSML｜)?parameter[=\s>]|{_CALL_END}|\Z)"),
    close=re.compile(
        rf"(?:\s*</(?:｜DSML｜)?parameter>)*\s*(?:{_CALL_END})(?:\s*</(?:[a-z]{{1,20}}:)?tool_call>)?"
    ),
    trims=True,
)
_LONGEST_TAG = 160
"""Characters: <｜DSML｜function name="…"> with a name of 128 has 152. A longer one is text."""


def read_function(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read a call that begins with <function or <invoke."""
    text = searched.text
    if not _BEGINNING.match(text, start):
        return None
    name = _NAME.match(text, start)
    if name is None:
        is_cut = searched.may_end_early and len(text) - start < _LONGEST_TAG
        return Passage(start, len(text) if is_cut else start + 1, is_open=is_cut)
    before_object = _OBJECT.match(text, name.end())
    if before_object:
        return _read_object(searched, start, name["name"], before_object.end())
    return _read_own_tags(searched, start, name) or read_tagged_call(
        searched, start, name["name"], name.end(), _FUNCTION_TAGS
    )


def _read_object(searched: SearchedText, start: int, name: str, position: int) -> Passage:
    """Read arguments that are a JSON object: <function=bash>{"command": "ls"}</function>."""
    passage = read_object_after(searched, start, name, position, context="marked")
    closing = _END_OF_OBJECT.match(searched.text, passage.end)
    if closing is None or not passage.calls:
        return passage
    return Passage(start, closing.end(), passage.calls)


def _read_own_tags(searched: SearchedText, start: int, name: re.Match[str]) -> Passage | None:
    """Read MiniMax M3's arguments: <invoke name="get_weather"><city>Paris</city></invoke>."""
    tool = searched.tool(name["name"])
    if tool is None or "parameter" in properties_of(tool.parameters):
        return None
    values, end = values_in_own_tags(searched, name.end(), tool)
    closing = _END_OF_INVOKE.match(searched.text, end)
    if not values or closing is None:
        return None
    call = make_call(searched, tool.name, values)
    return Passage(start, closing.end(), (call,)) if call else None


FUNCTION_CALLS = Grammar("function", read_function)

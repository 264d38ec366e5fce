"""The grammar of ReAct prompts, as LangChain's agents use: Action: bash\\nAction Input: {...}."""

from __future__ import annotations

import re
from typing import Any

from horde_proxy.prompts.json_schema.keywords import properties_of, required_of
from horde_proxy.prompts.lenient_json import loads, span
from horde_proxy.prompts.tool_calls.arguments import make_call, value_of_text
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText
from horde_proxy.protocol.generation_request import Tool

# Action: bash\nAction Input: ; models also write **Action:** and put the name into backticks
_HEAD = re.compile(
    r"\**Action\**:\**[ \t]*`?\[?(?P<name>[A-Za-z_][\w.\-]{0,127})\]?`?[ \t]*\n+"
    r"\**Action Input\**:\**[ \t]*(?P<fence>\n?```(?:json)?\s*)?\s*"
)
# The end of an input that is no object: a fence, the next heading or the end of the text
_END = re.compile(r"^```|^\**(?:Observation|Thought|Final Answer|Action)\**:|\Z", re.MULTILINE)
_FENCE_END = re.compile(r"\s*```")


def read_react(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read an action and its input."""
    text = searched.text
    head = _HEAD.match(text, start)
    tool = searched.tool(head["name"]) if head else None
    if head is None or tool is None:
        return None
    if not text.startswith("{", head.end()):
        return _read_plain(searched, start, head, tool)
    extent = span(text, head.end())
    if extent.state in ("open", "quoted"):
        searched.count_long_read()
        if searched.may_end_early:
            return Passage(start, len(text), is_open=True)
    try:
        value = loads(text[head.end() : extent.end], repair=searched.may_repair)
    except ValueError:
        value = None
    call = make_call(searched, tool.name, value) if extent.state != "quoted" else None
    fence = _FENCE_END.match(text, extent.end) if head["fence"] else None
    end = fence.end() if fence else extent.end
    problem = None if call else f"The arguments of '{tool.name}' are not a JSON object."
    return Passage(start, end, (call,) if call else (), problem)


def _read_plain(searched: SearchedText, start: int, head: re.Match[str], tool: Tool) -> Passage:
    """Read an input that is no object: the text of the only required argument."""
    text, position = searched.text, head.end()
    ending = _END.search(text, position)
    end = ending.start() if ending else len(text)
    if searched.may_end_early and not text[end:].strip():
        return Passage(start, len(text), is_open=True)
    written = text[position:end].strip()
    arguments: dict[str, Any] | None = None
    required = required_of(tool.parameters)
    if len(required) == 1:
        schema = properties_of(tool.parameters).get(required[0])
        arguments = {required[0]: value_of_text(written, schema, tool.parameters)}
    elif not required and written in ("", "None", "null"):
        arguments = {}
    call = make_call(searched, tool.name, arguments) if arguments is not None else None
    fence = _FENCE_END.match(text, end) if head["fence"] else None
    end = fence.end() if fence else end
    problem = None if call else f"The arguments of '{tool.name}' are not a JSON object."
    return Passage(start, end, (call,) if call else (), problem)


REACT_CALLS = Grammar("react", read_react, sign=r"^\**Action\**:\**[ \t]*`?\[?[A-Za-z_]")

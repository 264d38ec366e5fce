"""Reads the tools of a Messages request, and which of them may or must be called. Pure.

    {"name", "description", "input_schema"}            run by the client: offered to the model
    {"type": "bash_20250124", "name": "bash"}          run by the client, known by its name: offered
    {"type": "web_search_20250305", "name": ...}       run by Anthropic: left out with a warning
    {..., "defer_loading": true}                       offered once a tool_reference has named it

A tool that cannot be offered never ends the request: each version of Claude Code brings new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.leniency import Leniency, plain_name
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS
from horde_proxy.protocol.tools import OfferedTools, read_tools
from horde_proxy.protocol.validation import missing_parameter

_CUSTOM = (None, "", "custom", "function")
"""Types of tools that bring their schema. "function" comes from clients of OpenAI's API."""
_PLACEHOLDER = "DeferredToolPlaceholder"
"""A tool that Claude Code 2.1.332 adds to deferred ones so that a list is never empty. It is never
called."""
_LONGEST_NAME = 128
"""Characters of a tool's name, Anthropic's own bound."""
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_LINES = {"type": "array", "items": {"type": "integer"}, "description": "[first, last] line"}
# The schemas that Anthropic's own models know without being told: docs "Bash tool", "Text editor
# tool" and "Memory tool". The key is the beginning of the dated type, "bash_" of "bash_20250124".
_BUILT_IN: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bash_": (
        "Run a command in a bash shell that keeps its state.",
        {
            "type": "object",
            "properties": {
                "command": _text("The command to run"),
                "restart": {"type": "boolean", "description": "Restart the shell instead"},
            },
        },
    ),
    "text_editor_": (
        "View, create and edit text files.",
        {
            "type": "object",
            "properties": {
                "command": {"enum": ["view", "create", "str_replace", "insert"]},
                "path": _text("The path of the file or folder"),
                "view_range": _LINES,
                "file_text": _text("The content of the new file, for create"),
                "old_str": _text("The text to replace, for str_replace; it stands there once"),
                "new_str": _text("The text instead, for str_replace"),
                "insert_line": {"type": "integer", "description": "The line to insert after"},
                "insert_text": _text("The text to insert, for insert"),
            },
            "required": ["command", "path"],
        },
    ),
    "memory_": (
        "Keep notes in files below /memories that later conversations can read.",
        {
            "type": "object",
            "properties": {
                "command": {
                    "enum": ["view", "create", "str_replace", "insert", "delete", "rename"]
                },
                "path": _text("The path of the file or folder"),
                "view_range": _LINES,
                "file_text": _text("The content of the new file, for create"),
                "old_str": _text("The text to replace, for str_replace"),
                "new_str": _text("The text instead, for str_replace"),
                "insert_line": {"type": "integer", "description": "The line to insert after"},
                "insert_text": _text("The text to insert, for insert"),
                "old_path": _text("The path before, for rename"),
                "new_path": _text("The path after, for rename"),
            },
            "required": ["command"],
        },
    ),
}
_SEARCHES_HERE = "tool_search_tool_"
"""The type of Anthropic's own search for deferred tools, which is not run here."""


def read_message_tools(
    tools: Any, choice: Any, leniency: Leniency, *, named: frozenset[str]
) -> OfferedTools:
    """The tools that the model is offered, and the choice between them. Raises InvalidRequest.

    `named` are the tools that tool_reference blocks and past calls name.
    """
    given = _objects(tools, leniency)
    # Where only Anthropic could search for the deferred tools, they would never be found.
    loads_all = any(_type_of(tool).startswith(_SEARCHES_HERE) for tool in given)
    left_out: list[Mapping[str, Any]] = []
    offered: dict[str, Mapping[str, Any]] = {}
    for tool in given:
        function = _function(tool, leniency)
        if function is None:
            left_out.append({"type": plain_name(tool.get("type")), "name": tool.get("name")})
            continue
        is_deferred = tool.get("defer_loading") is True and not loads_all
        if function["name"] != _PLACEHOLDER and not (is_deferred and function["name"] not in named):
            # The last one counts where two have the same name, as in a JSON object.
            offered[function["name"]] = function
    # read_tools tells a tool that cannot be called from one that does not exist.
    quiet = Leniency()
    return read_tools([*offered.values(), *left_out], _openai_choice(choice, tools), quiet)


def schema_texts(tools: Any) -> Mapping[str, Mapping[str, Any]]:
    """What a tool_reference stands for: name, description and schema of each tool, by its name."""
    given = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    functions = (_function(tool, Leniency()) for tool in given[:MOST_ELEMENTS])
    return {function["name"]: function for function in functions if function is not None}


def _objects(tools: Any, leniency: Leniency) -> list[Mapping[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise InvalidRequest("Invalid type for 'tools': expected an array.", param="tools")
    if len(tools) > MOST_ELEMENTS:
        raise InvalidRequest(
            f"Invalid value for 'tools': there are more than {MOST_ELEMENTS}.", param="tools"
        )
    objects: list[Mapping[str, Any]] = [tool for tool in tools if isinstance(tool, dict)]
    if len(objects) < len(tools):
        leniency.tolerate(_unusable("it is no object"), "tool that is no object left out")
    return objects


def _function(tool: Mapping[str, Any], leniency: Leniency) -> dict[str, Any] | None:
    """The tool in the form that the model is offered; None, with a warning, where it cannot be."""
    kind, name = _type_of(tool), tool.get("name")
    built_in = next((known for start, known in _BUILT_IN.items() if kind.startswith(start)), None)
    # OpenAI's form, which gateways pass on to any API.
    inner = tool["function"] if isinstance(tool.get("function"), dict) else tool
    name = inner.get("name", name)
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        shown = plain_name(kind)
        leniency.tolerate(_unusable("it has no name"), f"type '{shown}' left out")
        return None
    schema = inner.get("input_schema", inner.get("parameters"))
    description = inner.get("description")
    if kind not in _CUSTOM and not isinstance(schema, dict):
        if built_in is None:
            shown = plain_name(kind)
            leniency.tolerate(_unusable("it is run by a server"), f"type '{shown}' left out")
            return None
        description, schema = built_in
    return {
        "name": name,
        "description": description if isinstance(description, str) else "",
        "input_schema": _object_schema(schema),
        **({"strict": True} if inner.get("strict") is True else {}),
    }


def _object_schema(schema: Any) -> Mapping[str, Any]:
    """The schema of the arguments, which are an object whatever the schema allows."""
    if not isinstance(schema, dict) or not schema:
        return _NO_ARGUMENTS
    return schema if schema.get("type") == "object" else {**schema, "type": "object"}


def _openai_choice(choice: Any, tools: Any) -> Any:
    """The choice as read_tools takes it; None, which is "auto", where nothing can be chosen."""
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if not tools or not isinstance(kind, str):
        return None
    if kind == "tool":
        if not isinstance(choice, dict) or not isinstance(choice.get("name"), str):
            raise missing_parameter("tool_choice.name")
        return choice
    if kind in ("any", "required", "none", "auto"):
        single = isinstance(choice, dict) and choice.get("disable_parallel_tool_use") is True
        return {"type": kind, "disable_parallel_tool_use": single}
    return None


def called_names(content: Any) -> Iterator[str]:
    """The names of tools that a message's content calls, or refers to in a tool's result."""
    for block in content if isinstance(content, list) else ():
        if not isinstance(block, dict):
            continue
        if block.get("type") == "tool_use" and isinstance(block.get("name"), str):
            yield block["name"]
        elif block.get("type") == "tool_reference" and isinstance(block.get("tool_name"), str):
            yield block["tool_name"]
        elif block.get("type") == "tool_result":
            yield from called_names(_references(block.get("content")))


def _references(content: Any) -> Sequence[Any]:
    """The tool_reference blocks of a result. Results are not nested in each other."""
    blocks = content if isinstance(content, list) else []
    return [b for b in blocks if isinstance(b, dict) and b.get("type") == "tool_reference"]


def _type_of(tool: Mapping[str, Any]) -> str:
    kind = tool.get("type")
    return kind if isinstance(kind, str) else ""


def _unusable(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"A tool cannot be used here: {reason}. Only tools that the client runs can be called.",
        param="tools",
        code="unsupported_value",
    )

"""How a call of each kind of tool is written as an item, and read back from one. Pure.

Models know functions only, so that each other kind of tool is offered to them as a function. Here
a call of that function becomes the item that the client's kind of tool has, and the item of a past
turn becomes the call again:

    function       {"city": "Oslo"}         <->  function_call, `arguments` as text
    custom         {"input": "raw text"}    <->  custom_tool_call, `input` as it is
    tool_search    {"query": "mail"}        <->  tool_search_call, `arguments` as an object
    shell          {"commands": ["ls"]}     <->  shell_call, in `action`
    local_shell    {"command": ["ls"]}      <->  local_shell_call, in `action`
    apply_patch    {"type", "path", "diff"} <->  apply_patch_call, in `operation`

Source: the item types of OpenAI's Python SDK 3.57.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from horde_proxy.json_reading import parse_json

Item = dict[str, Any]
"""An input or output item of the Responses API."""
Kind = Literal["function", "custom", "tool_search", "local_shell", "shell", "apply_patch"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]

_PREFIXES: Mapping[Kind, str] = {
    "function": "fc_",
    "custom": "ctc_",
    "tool_search": "tsc_",
    "local_shell": "lsh_",
    "shell": "sh_",
    "apply_patch": "apc_",
}
_TYPES: Mapping[Kind, str] = {
    "function": "function_call",
    "custom": "custom_tool_call",
    "tool_search": "tool_search_call",
    "local_shell": "local_shell_call",
    "shell": "shell_call",
    "apply_patch": "apply_patch_call",
}
PREFIXES_OF_TYPES: Mapping[str, str] = {type: _PREFIXES[kind] for kind, type in _TYPES.items()}
"""What the ids of calls begin with, by the type of the item."""
_KINDS: Mapping[str, Kind] = {type: kind for kind, type in _TYPES.items()}
RESULT_TYPES: Mapping[str, str] = {
    "function_call_output": "output",
    "custom_tool_call_output": "output",
    "tool_search_output": "tools",
    "local_shell_call_output": "output",
    "shell_call_output": "output",
    "apply_patch_call_output": "output",
}
"""The items with the result of a call, and the field that holds it."""
_OPERATIONS = ("create_file", "update_file", "delete_file")
# A text that is one code block: "```diff\n*** Begin Patch\n...\n```". Coding models fence whatever
# looks like code, also where they were told to write it bare.
_FENCED = re.compile(r"\s*```[^\n`]*\n(?P<text>.*?)\n?```\s*", re.DOTALL)


@dataclass(frozen=True)
class CallForm:
    """The kind of a tool that a client offered, and its name for the client.

    `pattern` is the regular expression of a custom tool's grammar, compiled by RE2; `literals` are
    the texts in quotation marks of another grammar. `is_fenced`: the grammar has code fences
    itself, so that they are no wrapping.
    """

    kind: Kind
    name: str
    namespace: str | None = None
    pattern: Any = field(default=None, repr=False, compare=False)
    literals: frozenset[str] = field(default=frozenset(), repr=False, compare=False)
    is_fenced: bool = field(default=False, compare=False)

    @property
    def prefix(self) -> str:
        """What the ids of its items begin with."""
        return _PREFIXES[self.kind]

    def item(self, id: str, call_id: str, arguments: str, status: ItemStatus) -> Item:
        """The item of a call. `arguments` are JSON text, and for custom tools the raw input."""
        item: Item = {"id": id, "type": _TYPES[self.kind], "status": status, "call_id": call_id}
        if self.kind == "function":
            item |= {"name": self.name, "arguments": arguments}
        elif self.kind == "custom":
            # OpenAI's type of this item has no status.
            del item["status"]
            item |= {"name": self.name, "input": arguments}
        else:
            item |= _BUILT_IN[self.kind](_object(arguments))
        if self.namespace is not None:
            item["namespace"] = self.namespace
        return item

    def raw_input(self, arguments: str) -> str:
        """The input of a custom tool in the arguments of its function.

        Where there is a grammar, whitespace and a code fence around the input go if it fits then.
        What does not fit is passed on: the client's tool says why, which the model can read.
        """
        return self.unwrapped(_raw_text(arguments))

    def begins(self, line: str) -> bool:
        """Whether a custom input may begin with this line."""
        return self.pattern is not None or line.strip() in self.literals

    def may_be(self, text: str) -> bool:
        """Whether a text without its fence is a custom input, as far as the grammar tells."""
        if self.pattern is not None:
            return self._fits(self.unwrapped(text))
        lines = text.strip().split("\n")
        return len(lines) > 1 and {lines[0].strip(), lines[-1].strip()} <= self.literals

    def unwrapped(self, given: str) -> str:
        """A custom input without what is around it; see raw_input."""
        candidates = [given, given.strip(), given.strip() + "\n"]
        fence = _FENCED.fullmatch(given)
        if fence and not self.is_fenced:
            candidates = [fence["text"], fence["text"] + "\n", *candidates]
        if self.pattern is None:
            return candidates[0]
        return next(filter(self._fits, candidates), given)

    def _fits(self, text: str) -> bool:
        try:
            return self.pattern.fullmatch(text) is not None
        # Half of a character, which RE2 cannot read.
        except UnicodeEncodeError:
            return False


def past_call(item: Mapping[str, Any]) -> tuple[CallForm, str] | None:
    """(the form, the arguments as JSON text) of a call in a past turn; None for another item."""
    kind = _KINDS.get(str(item.get("type")))
    if kind is None:
        return None
    name, namespace = item.get("name"), item.get("namespace")
    form = CallForm(
        kind,
        name if isinstance(name, str) and name else kind,
        namespace if isinstance(namespace, str) and namespace else None,
    )
    return form, _past_arguments(kind, item)


def _past_arguments(kind: Kind, item: Mapping[str, Any]) -> str:
    """The arguments with which a call in a past turn was made."""
    if kind == "function":
        arguments = item.get("arguments")
        return arguments if isinstance(arguments, str) else _text_of(arguments)
    if kind == "custom":
        given = item.get("input")
        return _text_of({"input": given if isinstance(given, str) else ""})
    if kind == "tool_search":
        return _text_of(item.get("arguments"))
    inner = item.get("operation" if kind == "apply_patch" else "action")
    values = {
        name: value
        for name, value in (inner.items() if isinstance(inner, Mapping) else ())
        # The type of an action is always "exec"; that of an operation says what it does.
        if value is not None and (name != "type" or kind == "apply_patch")
    }
    return _text_of(values)


def past_result(item: Mapping[str, Any]) -> Any:
    """The result in an item of RESULT_TYPES: a text, parts, or data."""
    result = item.get(RESULT_TYPES[str(item["type"])])
    if item["type"] == "apply_patch_call_output":
        # Its output is optional, and only the status says whether the patch was applied.
        return f"{item.get('status')}: {result}" if result else str(item.get("status"))
    if item["type"] == "tool_search_output":
        names = [_tool_name(tool) for tool in (result if isinstance(result, list) else ())]
        return "Found: " + (", ".join(filter(None, names)) or "no tools")
    return result


def _tool_name(tool: Any) -> str:
    name = tool.get("name") if isinstance(tool, Mapping) else None
    return name if isinstance(name, str) else ""


def _text_of(value: Any) -> str:
    """A value as JSON text; whatever nests too deeply, or is nothing, as an empty object."""
    try:
        return json.dumps({} if value is None else value, ensure_ascii=False)
    except RecursionError:
        return "{}"


def _object(arguments: str) -> Mapping[str, Any]:
    """The arguments as an object; an empty one for what is none."""
    value = _parsed(arguments)
    return value if isinstance(value, dict) else {}


def _parsed(text: str) -> Any:
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def _raw_text(arguments: str) -> str:
    """The one text in the arguments. A model may also have written it without any JSON."""
    value = _parsed(arguments)
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return arguments
    texts = [text for text in value.values() if isinstance(text, str)]
    given = value.get("input")
    if isinstance(given, str):
        return given
    if len(texts) == len(value) <= 1:
        return "".join(texts)
    return arguments


def _strings(value: Any) -> list[str]:
    """A list of texts; a text alone is a list of one."""
    if isinstance(value, str):
        return [value]
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _shell(arguments: Mapping[str, Any]) -> Item:
    action = {
        "commands": _strings(arguments.get("commands") or arguments.get("command")),
        "timeout_ms": _count(arguments.get("timeout_ms")),
        "max_output_length": _count(arguments.get("max_output_length")),
    }
    return {"action": action, "environment": {"type": "local"}}


def _local_shell(arguments: Mapping[str, Any]) -> Item:
    command, env = arguments.get("command"), arguments.get("env")
    # A command line instead of a list needs a shell to read it.
    words = ["bash", "-lc", command] if isinstance(command, str) else _strings(command)
    texts = env.items() if isinstance(env, dict) else ()
    action = {
        "type": "exec",
        "command": words,
        "env": {name: text for name, text in texts if isinstance(text, str)},
        "timeout_ms": _count(arguments.get("timeout_ms")),
        "user": None,
        "working_directory": _string_or_none(arguments.get("working_directory")),
    }
    return {"action": action}


def _string_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _apply_patch(arguments: Mapping[str, Any]) -> Item:
    kind = arguments.get("type")
    operation = {
        "type": kind if kind in _OPERATIONS else "update_file",
        "path": _string_or_none(arguments.get("path")) or "",
    }
    if operation["type"] != "delete_file":
        operation["diff"] = _string_or_none(arguments.get("diff")) or ""
    return {"operation": operation}


def _tool_search(arguments: Mapping[str, Any]) -> Item:
    return {"arguments": dict(arguments), "execution": "client"}


_BUILT_IN = {
    "tool_search": _tool_search,
    "local_shell": _local_shell,
    "shell": _shell,
    "apply_patch": _apply_patch,
}
"""The fields of a built-in tool's item, made from the arguments of its function."""

"""Reads the tools of a request for a response: each kind becomes a function for the model. Pure.

    function, custom, tool_search        offered under their own names
    namespace                            its tools, each under its name, or NAMESPACE_NAME
    shell, local_shell, apply_patch      functions with the arguments that their calls have
    image_generation                     the function generate_image, which the proxy runs
    web_search, mcp, unknown types ...   left out with a warning: a server would have to run them

calls.py writes the calls of these functions back in the form of the client's tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import re2

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.generation_request import Tool
from horde_proxy.protocol.image_function import GENERATE_IMAGE
from horde_proxy.protocol.image_request import ImageRequest
from horde_proxy.protocol.images import read_images
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.responses.calls import CallForm, Kind
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS
from horde_proxy.protocol.tools import OfferedTools, ToolOffer, choose, leave_out, read_function
from horde_proxy.protocol.validation import param_name

IMAGE_TOOL = "image_generation"
_IMAGE_OPTIONS = (
    "model",
    "size",
    "quality",
    "output_format",
    "output_compression",
    "background",
    "moderation",
)
"""Options of the tool image_generation, which are those of OpenAI's images API."""
# A literal of a grammar of lark: "*** Begin Patch" in Codex' apply_patch.
_LITERAL = re.compile(r'"([^"\\\n]*)"')
_LONGEST_GRAMMAR = 20_000
"""Characters of a regular expression that is compiled."""
_MEMORY = 8 << 20
"""Bytes of RE2 for one expression, which then falls back to an automaton in less memory."""
_LONGEST_NAME = 128
"""Characters of a function's name; see protocol/tools.py."""

_STRING = {"type": "string"}
_STRINGS = {"type": "array", "items": _STRING}
_BUILT_IN: Mapping[Kind, Tool] = {
    "tool_search": Tool(
        "tool_search",
        "Searches for further tools. Call it when none of your tools fits.",
        {"type": "object", "properties": {"query": _STRING}, "required": ["query"]},
    ),
    "shell": Tool(
        "shell",
        "Runs shell commands on the user's machine, and returns what they print.",
        {
            "type": "object",
            "properties": {"commands": _STRINGS, "timeout_ms": {"type": "integer"}},
            "required": ["commands"],
        },
    ),
    "local_shell": Tool(
        "local_shell",
        "Runs a program on the user's machine, and returns what it prints. For a command line, "
        'use ["bash", "-lc", "..."].',
        {
            "type": "object",
            "properties": {
                "command": _STRINGS,
                "working_directory": _STRING,
                "timeout_ms": {"type": "integer"},
            },
            "required": ["command"],
        },
    ),
    "apply_patch": Tool(
        "apply_patch",
        "Creates, changes or deletes a file. `diff` is in the V4A format: a line `@@` before each "
        "part, then its lines, each with a space, `-` or `+` before it. To create a file, each "
        "line has `+` before it.",
        {
            "type": "object",
            "properties": {
                "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
                "path": _STRING,
                "diff": _STRING,
            },
            "required": ["type", "path"],
        },
    ),
}
"""The functions that stand for tools of OpenAI which the client runs."""
Place = tuple[str | int, ...]
"""The path of something in the body: ("tools", 0)."""


@dataclass
class ResponseTools:
    """The tools of one request. `forms` are by the names that the model knows them by.

    `image_tool` is GenerationRequest's.
    """

    offered: OfferedTools = field(default_factory=OfferedTools)
    forms: dict[str, CallForm] = field(default_factory=dict)
    image_tool: ImageRequest | None = None

    def name_of(self, form: CallForm) -> str:
        """The model's name of the tool that a past call was of, also of one that is gone."""
        # Most tools have the name that the client gave them.
        if self.forms.get(form.name) == form:
            return form.name
        same = [name for name, own in self.forms.items() if own == form]
        alike = [name for name, own in self.forms.items() if own.name == form.name]
        return (same or alike or [form.name])[0]


def read_response_tools(
    tools: Iterable[tuple[Place, Mapping[str, Any]]], choice: Any, leniency: Leniency
) -> ResponseTools:
    """The tools, each given with its path in the body, and the choice between them.

    Raises InvalidRequest for a function without a name and the like, and for a choice that forces
    a tool which is left out.
    """
    reader = _ToolCollector(leniency)
    for place, tool in tools:
        reader.add(tool, place)
    offered = choose(reader.offer(), _with_names(choice, reader))
    image_tool = reader.image_tool if GENERATE_IMAGE in offered.tools else None
    return ResponseTools(offered, reader.forms, image_tool)


class _ToolCollector:
    """Collects the tools of a request."""

    def __init__(self, leniency: Leniency) -> None:
        self._leniency = leniency
        self._left_out = ToolOffer()
        self.forms: dict[str, CallForm] = {}
        self.image_tool: ImageRequest | None = None
        self._tools: dict[str, Tool] = {}

    def offer(self) -> ToolOffer:
        """All tools, for the choice between them."""
        return ToolOffer([*self._tools.values()], self._left_out.left_out)

    def add(self, tool: Mapping[str, Any], place: Place, namespace: str | None = None) -> None:
        """Add one tool, or those of a namespace. Raises InvalidRequest."""
        if len(self._tools) >= MOST_ELEMENTS:
            raise InvalidRequest(
                f"The request has more than {MOST_ELEMENTS:,} tools.",
                param="tools",
                code="array_above_max_length",
            )
        type = _text(tool.get("type"))
        if type in ("", "function") or "input_schema" in tool:
            self._add_function(tool, place, namespace)
        elif type == "custom":
            self._add_custom(tool, place, namespace)
        elif type == "namespace" and namespace is None:
            for inner_place, inner in _inner_tools(tool, place):
                self.add(inner, inner_place, _text(tool.get("name")) or None)
        elif type == IMAGE_TOOL and self._tools.get(GENERATE_IMAGE.name) in (None, GENERATE_IMAGE):
            self._add_image_tool(tool, place)
        elif (kind := _built_in(tool)) is not None:
            self._add_built_in(tool, kind)
        else:
            leave_out(tool, param_name(place), self._left_out, self._leniency)

    def _add_function(self, tool: Mapping[str, Any], place: Place, namespace: str | None) -> None:
        # Chat clients nest the function, and Anthropic's have input_schema.
        inner = tool.get("function") if isinstance(tool.get("function"), dict) else tool
        schema = {"parameters": tool["input_schema"]} if "input_schema" in tool else {}
        read = read_function({**(inner or {}), **schema}, place)
        self._put(CallForm("function", read.name, namespace), read)

    def _add_custom(self, tool: Mapping[str, Any], place: Place, namespace: str | None) -> None:
        inner = tool.get("custom") if isinstance(tool.get("custom"), dict) else tool
        custom = _object(inner)
        written = {name: custom[name] for name in ("name", "description") if name in custom}
        read = read_function(written, place)
        format = _object(custom.get("format"))
        grammar = _object(format.get("grammar")) or format
        syntax, definition = _text(grammar.get("syntax")), _text(grammar.get("definition"))
        form = CallForm(
            "custom",
            read.name,
            namespace,
            pattern=self._pattern(definition, place) if syntax == "regex" else None,
            literals=frozenset(_LITERAL.findall(definition)) - {""},
            is_fenced="```" in definition,
        )
        description = read.description
        if definition:
            kind = "regular expression" if syntax == "regex" else f"grammar ({syntax or 'lark'})"
            description += f"\n\nThe input must fit this {kind}:\n{definition}"
        parameters = {
            "type": "object",
            "properties": {"input": {"type": "string", "description": "The raw input."}},
            "required": ["input"],
        }
        self._put(form, Tool(read.name, description.strip(), parameters))

    def _add_built_in(self, tool: Mapping[str, Any], kind: Kind) -> None:
        built_in = _BUILT_IN[kind]
        if kind == "tool_search":
            # The client says what its search takes.
            parameters = tool.get("parameters")
            written = {
                "name": kind,
                "description": _text(tool.get("description")) or built_in.description,
                "parameters": parameters if isinstance(parameters, dict) else built_in.parameters,
            }
            built_in = read_function(written, ("tools",))
        self._put(CallForm(kind, kind), built_in)

    def _add_image_tool(self, tool: Mapping[str, Any], place: Place) -> None:
        options = {name: tool[name] for name in _IMAGE_OPTIONS if tool.get(name) is not None}
        try:
            self.image_tool = read_images({**options, "prompt": IMAGE_TOOL}, "generation")
        except InvalidRequest as exc:
            error = InvalidRequest(str(exc), param=param_name(place), code=exc.code)
            self._leniency.tolerate(error, "options of 'image_generation' left out")
            self.image_tool = ImageRequest("", IMAGE_TOOL)
        self.forms[GENERATE_IMAGE.name] = CallForm("function", GENERATE_IMAGE.name, IMAGE_TOOL)
        self._tools[GENERATE_IMAGE.name] = GENERATE_IMAGE

    def _put(self, form: CallForm, tool: Tool) -> None:
        """Offer a tool under a name that no other tool has; the same tool again replaces itself.

        A history of Codex brings the same `additional_tools` many times.
        """
        names = _names(form)
        name = next(name for name in names if self.forms.get(name, form) == form)
        self.forms[name] = form
        self._tools[name] = Tool(name, tool.description, tool.parameters, tool.strict)

    def _pattern(self, definition: str, place: Place) -> Any:
        """The regular expression of a grammar; None for one that is not checked."""
        options = re2.Options()
        options.log_errors, options.max_mem = False, _MEMORY
        try:
            if len(definition) <= _LONGEST_GRAMMAR:
                return re2.compile(definition, options)
        except (re2.error, UnicodeEncodeError):
            pass
        error = InvalidRequest(
            "The grammar is no regular expression that can be read here.",
            param=param_name((*place, "format", "definition")),
            code="invalid_value",
        )
        self._leniency.tolerate(error, "grammar that cannot be read is not checked")
        return None


def _names(form: CallForm) -> Iterator[str]:
    """Names for a tool, the best first: "send", "mail_send", "send_2", "send_3", ..."""
    yield form.name
    if form.namespace:
        yield f"{form.namespace}_{form.name}"[:_LONGEST_NAME]
    for number in range(2, MOST_ELEMENTS + 2):
        yield f"{form.name}_{number}"


def _inner_tools(
    namespace: Mapping[str, Any], place: Place
) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """(path, tool) for the tools of a namespace. The first one says what the namespace is for."""
    tools = namespace.get("tools")
    about = _text(namespace.get("description"))
    for index, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict):
            if about:
                own = _text(tool.get("description"))
                tool, about = {**tool, "description": f"{own}\n\n{about}".strip()}, ""
            yield (*place, "tools", index), tool


def _built_in(tool: Mapping[str, Any]) -> Kind | None:
    """The kind of a built-in tool that the client runs; None where a server of OpenAI would."""
    kind = next((kind for kind in _BUILT_IN if kind == tool.get("type")), None)
    environment = _object(tool.get("environment")).get("type")
    if kind == "shell" and environment not in (None, "local"):
        return None
    return None if kind == "tool_search" and tool.get("execution") != "client" else kind


def _with_names(choice: Any, reader: _ToolCollector) -> Any:
    """The choice, with the model's names of the tools in it."""
    if not isinstance(choice, dict):
        return choice
    allowed = choice.get("tools")
    if choice.get("type") == "allowed_tools" and isinstance(allowed, list):
        return {**choice, "tools": [_with_names(tool, reader) for tool in allowed]}
    kind, namespace = _text(choice.get("type")), choice.get("namespace")
    name = kind if kind in _BUILT_IN else _text(choice.get("name"))
    if kind == IMAGE_TOOL and reader.image_tool is not None:
        return {"type": "function", "name": GENERATE_IMAGE.name}
    for own, form in reader.forms.items():
        is_other_kind = kind in _BUILT_IN and form.kind != kind
        if form.name == name and not is_other_kind and namespace in (None, form.namespace):
            return {"type": "function", "name": own}
    # {"type": "web_search"}: the type is all that names it.
    is_type = kind not in ("", "function", "custom", "none", "auto", "required", "any")
    return {"type": "function", "name": kind} if is_type and not name else choice


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""

"""Tools told to a model in its family's style, and how past calls and results are written. Pure.

Hermes is the style that most families were trained on and that survives the loss of control
tokens, which workers drop from what they return.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from horde_proxy.prompts.json_schema.slimming import slimmed
from horde_proxy.protocol.chat import Tool

_HERMES_HEAD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
"""
_HERMES_TAIL = """
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
_LLAMA3_HEAD = """Environment: ipython

You have access to the following functions. To call a function, respond with JSON for a \
function call, with its proper arguments.

Respond in the format {"name": function name, "parameters": dictionary of argument name and its \
value}. Do not use variables.

"""
_MISTRAL_TAIL = """

To call functions, answer with a JSON array and nothing else:
[{"name": <function-name>, "arguments": <args-json-object>}]"""
_PLAIN = "If no function is needed, answer in plain text. "
_HONEST = "Do not invent function results."
_SINGLE = "Call only one function at a time."
_OPENINGS = {"hermes": '<tool_call>\n{"name": ', "llama3": '{"name": ', "mistral": '[{"name": '}


def instructions(tools: Sequence[Tool], style: str, *, choice: str, parallel: bool) -> str:
    """The text for the system message: the tools, how to call them, and whether one must.

    `choice`: "auto", "required" or the name of the one tool to call.
    """
    rules = "" if choice == "auto" else _must(choice) + " "
    rules += (_PLAIN if choice == "auto" else "") + _HONEST
    if not parallel or style == "llama3":
        rules += " " + _SINGLE
    return f"{_listing(tools, style)}\n\n{rules}"


def _must(choice: str) -> str:
    if choice == "required":
        return "You must call a function: answer with a function call only."
    return f"You must call the function {_text(choice)}: answer with that function call only."


def _listing(tools: Sequence[Tool], style: str) -> str:
    signatures = [_signature(tool) for tool in tools]
    if style == "llama3":
        return _LLAMA3_HEAD + "\n\n".join(signatures)
    if style == "mistral":
        return f"[AVAILABLE_TOOLS] [{','.join(signatures)}][/AVAILABLE_TOOLS]" + _MISTRAL_TAIL
    return _HERMES_HEAD + "\n".join(signatures) + _HERMES_TAIL


def _signature(tool: Tool) -> str:
    function = {"name": tool.name, "description": tool.description}
    if not tool.description:
        del function["description"]
    body = {"type": "function", "function": {**function, "parameters": slimmed(tool.parameters)}}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def prefill(style: str, choice: str) -> str:
    """How the assistant's turn begins when it has to be a call; "" with "auto"."""
    if choice == "auto":
        return ""
    if choice == "required":
        return _OPENINGS[style] + '"'
    return f'{_OPENINGS[style]}{_text(choice)}, "{_arguments_key(style)}": {{'


def stops(style: str, *, parallel: bool) -> tuple[str, ...]:
    """Stop strings: a model must not write results, nor go on after its one call."""
    ends = ("</tool_call>",) if style == "hermes" and not parallel else ()
    return ("<tool_response>", *ends)


def style_for(format_name: str) -> str:
    """The style for a model whose turns are written in that chat format."""
    return "llama3" if format_name == "llama3" else "hermes"


def call_text(style: str, name: str, arguments_json: str) -> str:
    """A past call as the model itself would have written it."""
    arguments = arguments_json.strip() or "{}"
    call = f'{{"name": {_text(name)}, "{_arguments_key(style)}": {arguments}}}'
    if style == "hermes":
        return f"<tool_call>\n{call}\n</tool_call>"
    return f"[{call}]" if style == "mistral" else call


def result_text(style: str, name: str, text: str) -> str:
    """What a tool gave back, as the family was shown results in its training."""
    if style == "llama3":
        return f'{{"output": {_text(text)}}}'
    if style == "mistral":
        body = f'{{"name": {_text(name)}, "content": {_text(text)}}}'
        return f"[TOOL_RESULTS] {body}[/TOOL_RESULTS]"
    return f"<tool_response>\n{text}\n</tool_response>"


def _arguments_key(style: str) -> str:
    return "parameters" if style == "llama3" else "arguments"


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)

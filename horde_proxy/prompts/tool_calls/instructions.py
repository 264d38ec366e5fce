"""The texts in a prompt for tools, past calls and results, in the style of a family. Pure.

hermes   most families were trained on it, and it works with workers that drop control tokens
llama3   Llama 3.1 to 3.3, as in their chat template
mistral  Mistral 7B v0.3, Nemo and Large, as [AVAILABLE_TOOLS] in their template
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from horde_proxy.prompts.formats import neutralise
from horde_proxy.prompts.json_schema.slimming import FULL, Detail, shortened, slimmed
from horde_proxy.protocol.generation_request import Tool

# Literally the block in Qwen2.5's chat template, which Hermes' models know as well.
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
# From the chat template of Llama 3.1.
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
# The beginning of a call in each style, up to its name.
_OPENINGS = {"hermes": '<tool_call>\n{"name": ', "llama3": '{"name": ', "mistral": '[{"name": '}


def instructions(
    tools: Sequence[Tool], style: str, *, choice: str, parallel: bool, detail: Detail = FULL
) -> str:
    """The text for the system message: the tools, how to call them, and whether one must be called.

    `choice`: "auto", "required" or the name of the one tool to call. `detail`: how much of the
    tools is told.
    """
    rules = "" if choice == "auto" else _obligation(choice) + " "
    rules += (_PLAIN if choice == "auto" else "") + _HONEST
    # Llama 3 was trained on one call a turn.
    if not parallel or style == "llama3":
        rules += " " + _SINGLE
    return f"{_listing(tools, style, detail)}\n\n{rules}"


def _obligation(choice: str) -> str:
    if choice == "required":
        return "You must call a function: answer with a function call only."
    return f"You must call the function {_neutral(choice)}: answer with that function call only."


def _listing(tools: Sequence[Tool], style: str, detail: Detail) -> str:
    signatures = [_signature(tool, detail) for tool in tools]
    if style == "llama3":
        return _LLAMA3_HEAD + "\n\n".join(signatures)
    if style == "mistral":
        return f"[AVAILABLE_TOOLS] [{','.join(signatures)}][/AVAILABLE_TOOLS]" + _MISTRAL_TAIL
    return _HERMES_HEAD + "\n".join(signatures) + _HERMES_TAIL


def _signature(tool: Tool, detail: Detail) -> str:
    """A tool as compact JSON, which saves a twentieth of the tokens."""
    description = tool.description
    if detail.longest_tool is not None:
        description = shortened(description, detail.longest_tool)
    function = {"name": tool.name, "description": description}
    if not description:
        del function["description"]
    parameters = slimmed(tool.parameters, detail)
    body = {"type": "function", "function": {**function, "parameters": parameters}}
    # A description may come from a foreign server, so it may hold tags to break out of the listing.
    return neutralise(json.dumps(body, ensure_ascii=False, separators=(",", ":")))


def prefill(style: str, choice: str) -> str:
    """The beginning of an assistant's turn that must be a call; "" if `choice` is "auto"."""
    if choice == "auto":
        return ""
    if choice == "required":
        return _OPENINGS[style] + '"'
    return f'{_OPENINGS[style]}{_neutral(choice)}, "{_arguments_key(style)}": {{'


def stops(style: str, *, parallel: bool) -> tuple[str, ...]:
    """Stop strings: a model must not invent results, nor add a call if only one is allowed.

    They begin with a line break, as models were trained to write them: within a line, they belong
    to a value, such as a file about tool calls. In JSON, a value has no line breaks at all.
    """
    ends = ("\n</tool_call>",) if style == "hermes" and not parallel else ()
    return ("\n<tool_response>", *ends)


def style_for(format_name: str) -> str:
    """The style for models of a chat format."""
    return "llama3" if format_name == "llama3" else "hermes"


def call_text(style: str, name: str, arguments_json: str, call_id: str | None = None) -> str:
    """A past call, written as the model itself would write it.

    Its texts are neutralised already. `call_id` is for a call whose name is not its own.
    """
    arguments = arguments_json.strip() or "{}"
    id_field = f', "id": {_text(call_id)}' if call_id else ""
    call = f'{{"name": {_text(name)}, "{_arguments_key(style)}": {arguments}{id_field}}}'
    if style == "hermes":
        return f"<tool_call>\n{call}\n</tool_call>"
    return f"[{call}]" if style == "mistral" else call


def result_text(
    style: str, name: str, text: str, *, call_id: str | None = None, is_named: bool = False
) -> str:
    """The result of a tool, written as in the family's training. Texts are neutralised already.

    `is_named`: other results stand beside it, so it says whose it is: the tool's and, if the tool
    was called twice, the call's. Only Mistral was trained on results that do.
    """
    id_field = f', "call_id": {_text(call_id)}' if call_id else ""
    if style == "mistral":
        body = f'{{"name": {_text(name)}, "content": {_text(text)}{id_field}}}'
        return f"[TOOL_RESULTS] {body}[/TOOL_RESULTS]"
    if style == "llama3":
        name_field = f'"name": {_text(name)}, ' if is_named else ""
        return f'{{{name_field}"output": {_text(text)}{id_field}}}'
    label = f"Result of {name}{f' ({call_id})' if call_id else ''}:\n" if is_named else ""
    return f"<tool_response>\n{label}{text}\n</tool_response>"


def _arguments_key(style: str) -> str:
    return "parameters" if style == "llama3" else "arguments"


def _neutral(name: str) -> str:
    """The JSON string of a tool's name, which may be anything."""
    return neutralise(_text(name))


def _text(value: str) -> str:
    """A JSON string."""
    return json.dumps(value, ensure_ascii=False)

"""The markers that families of models put around calls, without regard to the text between them.

Most workers drop markers that are control tokens: koboldcpp and vLLM do.
"""

from __future__ import annotations

import re

# The beginning of a call. A marker directly after a backtick is quoted and does not count.
_OPENING = re.compile(
    r"(?<!`)(?:"
    # <tool_call> Hermes, Qwen, GLM; <|tool_call|> Granite, Phi-4-mini; <functioncall> models
    # trained on Glaive's data; <tools> Qwen2.5-Coder, which repeats the tag of its instructions
    r"<\|?(?:tool_calls?|function_?call|tools)\|?>"
    # Mistral: [TOOL_CALLS][{"name": ...}], since tokenizer v11 [TOOL_CALLS]name[ARGS]{...}
    r"|\[TOOL_CALLS\]"
    # Kimi K2: <|tool_call_begin|>functions.bash:0<|tool_call_argument_begin|>{...}
    r"|<\|tool_call_begin\|>"
    # DeepSeek V3 and R1: <｜tool▁call▁begin｜>function<｜tool▁sep｜>bash
    r"|<｜tool▁call▁begin｜>"
    # Qwen3-Coder and Llama 3.1 begin with the tag itself, as does <invoke name="bash">
    r"|(?=<function=|<function name=|<invoke name=))"
)
_CLOSING = re.compile(
    # </tool_call>, and </|tool_call|> of models that guess how <|tool_call|> is closed
    r"</\|?(?:tool_calls?|function_?call|tools)\|?>"
    # <|/tool_call|> Phi-4-mini
    r"|<\|/(?:tool_calls?|function_?call)\|>"
    r"|<\|tool_call_end\|>|<｜tool▁call▁end｜>|\[/TOOL_CALLS\]"
)
# Between a marker and its call: "<tool_call>\n```json\n{", as models for chat write it.
_LEAD = re.compile(r"\s*(?:```(?:json|xml)?\s*)?")
# Between two calls that share a marker: "}, {" in a list, "};\n{", "}\n</tool_call>\n{".
_SEPARATOR = re.compile(r"(?:[\s,;\]]|</tool_call>|```)*")
_MARKERS_OF_TEXT = ("<tool_call>", "<function=", "[TOOL_CALLS]")
_SHORTEST_PARTIAL = 3
"""Characters from which the beginning of a marker is recognised: "<to", not "<"."""


def next_opening(text: str, position: int) -> re.Match[str] | None:
    """The first opening marker from a position on."""
    return _OPENING.search(text, position)


def next_opening_at(text: str, position: int) -> int:
    """Where the next opening marker is; the text's length without one."""
    opening = _OPENING.search(text, position)
    return opening.start() if opening else len(text)


def next_closing(text: str, position: int, end: int) -> re.Match[str] | None:
    """The first closing marker in a part of a text."""
    return _CLOSING.search(text, position, end)


def last_closing(text: str, position: int, end: int) -> re.Match[str] | None:
    """The last closing marker in a part of a text."""
    return max(_CLOSING.finditer(text, position, end), key=lambda tag: tag.start(), default=None)


def after_lead(text: str, position: int) -> int:
    """The position after whitespace and a fence, which may follow a marker."""
    lead = _LEAD.match(text, position)
    return lead.end() if lead else position


def after_separator(text: str, position: int) -> int:
    """The position after the separator that may be between two calls."""
    separator = _SEPARATOR.match(text, position)
    return separator.end() if separator else position


def ends_in_marker(text: str) -> bool:
    """Whether a text ends with the beginning of a marker, such as "<tool_c"."""
    return any(
        text.endswith(marker[:size])
        for marker in _MARKERS_OF_TEXT
        for size in range(_SHORTEST_PARTIAL, len(marker))
    )

"""The chat formats: how each family of models wants its turns written. Data and one renderer.

The tag strings are the models' own chat templates; llama.cpp's src/llama-chat.cpp (MIT) lists
most of them. No format begins with a BOS: every worker adds its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """One message as the renderer takes it: tool calls and results are text already."""

    role: Role
    text: str


@dataclass(frozen=True)
class Format:
    """Tags around each role's text, and what makes the model begin (`opening`).

    `system` None: the system text goes into the first user turn, in the form of `inline_system`.
    `trims`: texts lose outer whitespace. `alternates`: user and assistant must take turns.
    `thinks`: models of this format may write a reasoning part whose opening tag is not seen.
    `is_literal`: texts are not ours to change.
    """

    name: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    opening: str
    stops: tuple[str, ...]
    system: tuple[str, str] | None = None
    inline_system: tuple[str, str] = ("", "\n\n")
    preamble: str = ""
    default_system: str = ""
    trims: bool = False
    alternates: bool = False
    thinks: bool = False
    is_literal: bool = False


def _roles(
    name: str,
    pattern: tuple[str, str],
    names: tuple[str, str, str] = ("system", "user", "assistant"),
    *,
    stops: tuple[str, ...],
    opening: str | None = None,
    trims: bool = False,
    preamble: str = "",
    thinks: bool = False,
) -> Format:
    """A format whose turns differ only in the role's name inside the tag (ROLE)."""
    before, after = pattern
    system, user, assistant = ((before.replace("ROLE", role), after) for role in names)
    return Format(
        name,
        user,
        assistant,
        assistant[0] if opening is None else opening,
        stops,
        system=system,
        trims=trims,
        preamble=preamble,
        thinks=thinks,
    )


_MISTRAL_STOPS = ("</s>", "[INST]")
_MISTRAL_SYSTEM_STOPS = ("</s>", "[INST]", "[SYSTEM_PROMPT]")
_DEEPSEEK_END = "<｜end▁of▁sentence｜>"
_CHATML = _roles(
    "chatml",
    ("<|im_start|>ROLE\n", "<|im_end|>\n"),
    stops=("<|im_end|>", "<|im_start|>"),
    thinks=True,
)
_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_HARMONY_SYSTEM = (
    "<|start|>system<|message|>You are a helpful assistant.\nReasoning: low\n\n"
    "# Valid channels: analysis, commentary, final. "
    "Channel must be included for every message.<|end|>"
)
_HARMONY_FINAL = "<|start|>assistant<|channel|>final<|message|>"

PLACEHOLDERS = Format(
    "placeholders",
    ("{{[INPUT]}}", "{{[INPUT_END]}}"),
    ("{{[OUTPUT]}}", "{{[OUTPUT_END]}}"),
    "{{[OUTPUT]}}",
    ("{{[INPUT]}}", "{{[OUTPUT]}}", "{{[INPUT_END]}}", "{{[OUTPUT_END]}}"),
    system=("{{[SYSTEM]}}", "{{[SYSTEM_END]}}"),
    thinks=True,
)

_ALL = (
    PLACEHOLDERS,
    _CHATML,
    replace(
        _CHATML,
        name="qwen3-nothink",
        thinks=False,
        opening="<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    Format(
        "mistral-v1",
        (" [INST] ", " [/INST]"),
        (" ", "</s>"),
        "",
        _MISTRAL_STOPS,
        alternates=True,
    ),
    Format(
        "mistral-v3",
        ("[INST] ", "[/INST]"),
        (" ", "</s>"),
        "",
        _MISTRAL_STOPS,
        trims=True,
        alternates=True,
    ),
    Format(
        "mistral-v3-tekken",
        ("[INST]", "[/INST]"),
        ("", "</s>"),
        "",
        _MISTRAL_STOPS,
        alternates=True,
    ),
    Format(
        "mistral-v7",
        ("[INST] ", "[/INST]"),
        (" ", "</s>"),
        "",
        _MISTRAL_SYSTEM_STOPS,
        system=("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"),
        alternates=True,
    ),
    Format(
        "mistral-v7-tekken",
        ("[INST]", "[/INST]"),
        ("", "</s>"),
        "",
        _MISTRAL_SYSTEM_STOPS,
        system=("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
        alternates=True,
    ),
    Format(
        "llama2",
        ("[INST] ", " [/INST]"),
        (" ", " </s>"),
        "",
        _MISTRAL_STOPS,
        inline_system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
        alternates=True,
    ),
    _roles(
        "llama3",
        ("<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>"),
        stops=("<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>"),
        trims=True,
    ),
    _roles(
        "llama4",
        ("<|header_start|>ROLE<|header_end|>\n\n", "<|eot|>"),
        stops=("<|eot|>", "<|header_start|>"),
        trims=True,
    ),
    Format(
        "alpaca",
        ("### Instruction:\n", "\n\n"),
        ("### Response:\n", "\n\n"),
        "### Response:\n",
        ("### Instruction:", "### Response:", "</s>"),
        system=("", "\n\n"),
        default_system=_ALPACA_SYSTEM,
    ),
    Format(
        "vicuna",
        ("USER: ", "\n"),
        ("ASSISTANT: ", "</s>\n"),
        "ASSISTANT:",
        ("USER:", "</s>"),
        system=("", "\n\n"),
    ),
    _roles(
        "metharme",
        ("<|ROLE|>", ""),
        ("system", "user", "model"),
        stops=("<|user|>", "<|system|>", "</s>"),
    ),
    Format(
        "gemma",
        ("<start_of_turn>user\n", "<end_of_turn>\n"),
        ("<start_of_turn>model\n", "<end_of_turn>\n"),
        "<start_of_turn>model\n",
        ("<end_of_turn>", "<start_of_turn>"),
        trims=True,
        alternates=True,
    ),
    _roles(
        "gemma4",
        ("<|turn>ROLE\n", "<turn|>\n"),
        ("system", "user", "model"),
        stops=("<turn|>", "<|turn>"),
    ),
    _roles("phi3", ("<|ROLE|>\n", "<|end|>\n"), stops=("<|end|>", "<|user|>")),
    _roles(
        "phi4",
        ("<|im_start|>ROLE<|im_sep|>", "<|im_end|>"),
        stops=("<|im_end|>", "<|im_start|>"),
    ),
    _roles("phi4-mini", ("<|ROLE|>", "<|end|>"), stops=("<|end|>", "<|user|>")),
    _roles(
        "command-r",
        ("<|START_OF_TURN_TOKEN|><|ROLE_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        ("SYSTEM", "USER", "CHATBOT"),
        stops=("<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>"),
    ),
    Format(
        "deepseek-v2",
        ("User: ", "\n\n"),
        ("Assistant: ", _DEEPSEEK_END),
        "Assistant:",
        (_DEEPSEEK_END, "User:"),
        system=("", "\n\n"),
    ),
    Format(
        "deepseek",
        ("<｜User｜>", ""),
        ("<｜Assistant｜>", _DEEPSEEK_END),
        "<｜Assistant｜>",
        (_DEEPSEEK_END, "<｜User｜>"),
        system=("", "\n\n"),
        thinks=True,
    ),
    _roles(
        "glm4",
        ("<|ROLE|>\n", ""),
        stops=("<|user|>", "<|observation|>", "<|system|>", "<|endoftext|>"),
        thinks=True,
    ),
    Format(
        "harmony",
        ("<|start|>user<|message|>", "<|end|>"),
        (_HARMONY_FINAL, "<|end|>"),
        "<|start|>assistant<|channel|>analysis<|message|>We can answer immediately.<|end|>"
        + _HARMONY_FINAL,
        ("<|return|>", "<|end|>", "<|start|>user"),
        system=("<|start|>developer<|message|># Instructions\n\n", "\n\n<|end|>"),
        preamble=_HARMONY_SYSTEM,
    ),
    Format(
        "kimi",
        ("<|im_user|>user<|im_middle|>", "<|im_end|>"),
        ("<|im_assistant|>assistant<|im_middle|>", "<|im_end|>"),
        "<|im_assistant|>assistant<|im_middle|>",
        ("<|im_end|>", "<|im_user|>"),
        system=("<|im_system|>system<|im_middle|>", "<|im_end|>"),
    ),
    _roles(
        "granite",
        ("<|start_of_role|>ROLE<|end_of_role|>", "<|end_of_text|>\n"),
        stops=("<|end_of_text|>", "<|start_of_role|>"),
    ),
    _roles(
        "zephyr",
        ("<|ROLE|>\n", "<|endoftext|>\n"),
        stops=("<|endoftext|>", "<|user|>", "</s>"),
    ),
    Format(
        "tulu",
        ("<|user|>\n", "\n"),
        ("<|assistant|>\n", "<|end_of_text|>\n"),
        "<|assistant|>\n",
        ("<|end_of_text|>", "<|user|>"),
        system=("<|system|>\n", "\n"),
    ),
    Format(
        "openchat",
        ("GPT4 Correct User: ", "<|end_of_turn|>"),
        ("GPT4 Correct Assistant: ", "<|end_of_turn|>"),
        "GPT4 Correct Assistant:",
        ("<|end_of_turn|>", "GPT4 Correct User:"),
        system=("", "<|end_of_turn|>"),
    ),
    _roles("seed-oss", ("<seed:bos>ROLE\n", "<seed:eos>"), stops=("<seed:eos>", "<seed:bos>")),
    _roles(
        "minimax",
        ("]~b]ROLE\n", "[e~[\n"),
        ("system", "user", "ai"),
        stops=("[e~[", "]~b]"),
        thinks=True,
    ),
    _roles(
        "jamba",
        ("<|bom|><|ROLE|> ", "<|eom|>"),
        stops=("<|eom|>", "<|bom|>"),
        opening="<|bom|><|assistant|>",
    ),
    Format(
        "dots",
        ("<|userprompt|>", "<|endofuserprompt|>"),
        ("<|response|>", "<|endofresponse|>"),
        "<|response|>",
        ("<|endofresponse|>", "<|userprompt|>"),
        system=("<|system|>", "<|endofsystem|>"),
    ),
    Format(
        "rwkv",
        ("User: ", "\n\n"),
        ("Assistant: ", "\n\n"),
        "Assistant:",
        ("\n\nUser:",),
        system=("", "\n\n"),
    ),
    Format(
        "plain",
        ("User: ", "\n"),
        ("Assistant: ", "\n"),
        "Assistant:",
        ("\nUser:",),
        system=("", "\n\n"),
    ),
)

RAW = Format("raw", ("", ""), ("", ""), "", (), is_literal=True)
"""No format at all, for prompts that are complete."""

FORMATS: dict[str, Format] = {each.name: each for each in _ALL}


def neutralise(text: str) -> str:
    """The text with `{{[` broken up: koboldcpp turns those tags into role tags everywhere."""
    return text.replace("{{[", "{ {[")


def render(format: Format, turns: Sequence[Turn]) -> str:
    """The prompt that makes a model write the next assistant turn, or go on with the last one.

    A last turn of the assistant is a prefill: it stays open and its text is kept as it is.
    """
    turns = _arranged(format, turns)
    prefill = turns[-1].text if turns and turns[-1].role == "assistant" else None
    finished = turns if prefill is None else turns[:-1]
    parts = [format.preamble] + [_closed(format, turn) for turn in finished]
    if prefill is None:
        return "".join(parts) + format.opening
    return "".join(parts) + max(format.opening, format.assistant[0], key=len) + prefill


def _closed(format: Format, turn: Turn) -> str:
    tags = {"system": format.system, "user": format.user, "assistant": format.assistant}
    before, after = tags[turn.role] or format.inline_system
    return before + (turn.text.strip() if format.trims else turn.text) + after


def _arranged(format: Format, turns: Sequence[Turn]) -> list[Turn]:
    """The turns as the format can take them: system placed, neighbours merged."""
    clean = str if format.is_literal else neutralise
    turns = [replace(turn, text=clean(turn.text)) for turn in turns]
    leading = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    system = "\n\n".join(turn.text for turn in turns[:leading] if turn.text)
    rest = turns[leading:]
    if format.alternates or format.system is None or not format.system[0]:
        rest = [Turn("user", turn.text) if turn.role == "system" else turn for turn in rest]
    if format.alternates:
        rest = _merged(rest)
    return _with_system(format, system or format.default_system, rest)


def _with_system(format: Format, system: str, rest: list[Turn]) -> list[Turn]:
    if not system:
        return rest
    if format.system is not None:
        return [Turn("system", system), *rest]
    before, after = format.inline_system
    if rest and rest[0].role == "user":
        return [Turn("user", before + system + after + rest[0].text), *rest[1:]]
    return [Turn("user", (before + system + after).rstrip("\n")), *rest]


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    return [
        Turn(role, "\n\n".join(turn.text for turn in group))
        for role, group in groupby(turns, key=lambda turn: turn.role)
    ]

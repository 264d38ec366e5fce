"""Generated text to a message: cut at the stop, without the format's residue, reasoning apart.

Workers may return the stop string with the text, and never say why a generation ended. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from horde_proxy.prompts.formats import Format
from horde_proxy.prompts.tokens import estimate, truncate

END_MARKERS = (
    "</s>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_text|>",
    "<|return|>",
)
"""What families end a turn with. A merge may write another one than its name promises."""
_ROLES = ("assistant", "model")
"""The roles of most families and of Gemma's: merges write them whatever their format is."""
# <think>Let me see.</think> as DeepSeek R1 and Qwen3 write it; cut off, the end tag is missing.
_OPENED_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)
# "Let me see.</think>\n\nHi" of GLM-4.7 and others whose format opens the thought in the prompt.
# An end tag in quotes, `</think>`, is a text about tags.
_UNOPENED_THOUGHT = re.compile(r"(.*?)(?<![`'\"])</think>(?![`'\"])", re.DOTALL)
# The last character of a sentence, a quotation, a list or a code block, in Latin and CJK scripts.
_SENTENCE_END = re.compile(r"[.!?…。！？\"'”’)\]}`*|>]\s*\Z")
# Stops that are tags: half of one at a text's end is residue. Half of "User:" may be a word.
_PARTIAL_STOP_STARTS = ("<", "[", "]", "{{[")
_SHORTEST_PARTIAL = 4
"""Characters of a tag that make it one: "<|im", but not "<|"."""
_NEARLY_FULL = 0.8
"""Share of max_length from which an unfinished sentence counts as cut off: tokens are estimated."""

Defect = Literal["empty", "tags", "loop"]
# {{[INPUT]}} at the beginning: a koboldcpp before 1.94.1, which does not fill in its own tags.
_TAGS = re.compile(r"\s*\{\{\[(?:INPUT|OUTPUT|SYSTEM)(?:_END)?\]\}\}")
# How long a repetition is before it is a loop: tables and refrains repeat as well.
_LEAST_LOOP = 300
_SHORT_UNIT, _LONGEST_UNIT = 60, 600
_SHORT_ROUNDS, _LONG_ROUNDS = 12, 8


@dataclass(frozen=True)
class Answer:
    """A message's parts. Tokens are estimated; `tokens` includes `reasoning_tokens`."""

    content: str
    reasoning: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    reasoning_tokens: int


def read_answer(
    text: str,
    format: Format,
    *,
    stops: Sequence[str] = (),
    max_length: int,
    max_tokens: int | None = None,
    prefilled: bool = False,
    may_be_thought: bool = True,
) -> Answer:
    """The message in a generated text.

    `stops` are the client's own. `max_length` is what was requested of the horde, `max_tokens`
    what the client requested, which may be less. `prefilled`: the text continues a beginning that
    was given, so its leading whitespace counts. `may_be_thought`: text before a `</think>` without
    its opening tag is reasoning.
    """
    body = text if prefilled else without_echo(text, format)
    body, stop = cut(body, (*stops, *format.stops))
    if stop is None:
        body, stop = _without_end(body, format)
    ran_out = stop is None and _ran_out(body, max_length)
    if max_tokens is not None and max_tokens < max_length:
        shortened = truncate(body, max_tokens)
        body, ran_out = shortened, ran_out or shortened != body
    may_be_unopened = format.thinks and may_be_thought
    reasoning, content = ("", body) if prefilled else _thought(body, may_be_unopened)
    if not prefilled:
        content = content.lstrip()
    # A client's stop is cut exactly; before the format's own, whitespace belongs to the format.
    if stop is not None and stop not in stops:
        content = content.rstrip()
    return Answer(
        content,
        reasoning,
        "length" if ran_out else "stop",
        min(estimate(body), max_length),
        min(estimate(reasoning), max_length),
    )


def cut(text: str, stops: Iterable[str]) -> tuple[str, str | None]:
    """The text before the first stop string in it, and that stop; (text, None) without one."""
    matches = [(text.index(stop), -len(stop), stop) for stop in stops if stop and stop in text]
    if not matches:
        return text, None
    position, _, stop = min(matches)
    return text[:position], stop


def without_echo(text: str, format: Format) -> str:
    """The text without a repetition of the tag that opened the turn."""
    opening = format.opening.strip()
    stripped = text.lstrip()
    if opening and stripped.startswith(opening):
        return stripped[len(opening) :]
    echo = _role_echo(role_names(format)).match(text)
    return text[echo.end() :] if echo else text


def role_names(format: Format) -> tuple[str, ...]:
    """The names of the model's role with which a generation may begin by mistake."""
    return _ROLES if format.role is None else (*_ROLES, format.role)


@cache
def _role_echo(names: tuple[str, ...]) -> re.Pattern[str]:
    """What is left of the opening tag once its control tokens are dropped.

    "assistant\\n\\nHi" (Llama 3), "model\\nHi" (Gemma), "ai\\nHi" (MiniMax). Without the line break
    it is the beginning of a sentence.
    """
    return re.compile(rf"\s*(?:{'|'.join(map(re.escape, names))})\s*\n+")


def end_marker(text: str) -> str | None:
    """The end marker, of whatever format, with which a text ends.

    `</s>` after a `<s>` is HTML: struck-through text.
    """
    bare = text.rstrip()
    return next(
        (
            marker
            for marker in END_MARKERS
            if bare.endswith(marker) and not (marker == "</s>" and "<s>" in bare)
        ),
        None,
    )


def _without_end(text: str, format: Format) -> tuple[str, str | None]:
    """The text without another format's end marker, or the first half of one of our own stops."""
    marker = end_marker(text)
    if marker:
        return text.rstrip().removesuffix(marker), marker
    for stop in format.stops:
        if stop.startswith(_PARTIAL_STOP_STARTS):
            for size in range(len(stop) - 1, _SHORTEST_PARTIAL - 1, -1):
                if text.endswith(stop[:size]):
                    return text[:-size], stop
    return text, None


def _thought(text: str, may_be_unopened: bool) -> tuple[str, str]:
    """(reasoning, the rest); "" without reasoning."""
    match = _OPENED_THOUGHT.match(text)
    if match is None and may_be_unopened:
        match = _UNOPENED_THOUGHT.match(text)
    if match is None:
        return "", text
    return match.group(1).strip(), text[match.end() :]


def _ran_out(text: str, max_length: int) -> bool:
    """Whether a text that no stop ended was probably cut off by max_length."""
    filled = estimate(text) / max_length
    return filled >= 1 or (filled >= _NEARLY_FULL and not ends_a_sentence(text))


def ends_a_sentence(text: str) -> bool:
    """Whether a text ends like one that is complete."""
    return _SENTENCE_END.search(text) is not None


def defect_in(text: str, format: Format, *, is_first: bool) -> Defect | None:
    """Why nobody could use a generation: empty, unfilled tags, endless repetition; else None.

    `is_first`: nothing was generated before. A later generation may be empty: all is said.
    """
    if is_first and _TAGS.match(text):
        return "tags"
    if is_first:
        answer = read_answer(text, format, max_length=10**6)
        if not answer.content.strip() and not answer.reasoning.strip():
            return "empty"
    return "loop" if loops(text) else None


def loops(text: str) -> bool:
    """Whether a text ends in one unit over and over: a word, a sentence or a whole paragraph.

    A unit of up to 60 characters twelve times, one of up to 600 eight times.
    """
    tail = text.rstrip()[-_LONGEST_UNIT * _LONG_ROUNDS :]
    # A longer unit cannot stand in the text often enough; most texts are short.
    longest = min(_LONGEST_UNIT, len(tail) // _LONG_ROUNDS)
    return any(_repeats(tail, size) for size in range(1, longest + 1))


def _repeats(tail: str, size: int) -> bool:
    """Whether the end is one unit of that size, over and over.

    It has a letter or digit in it: a line of dashes is no loop.
    """
    rounds = _SHORT_ROUNDS if size <= _SHORT_UNIT else _LONG_ROUNDS
    length = max(_LEAST_LOOP, size * rounds)
    loop = tail[-length:]
    return (
        len(loop) == length and loop[size:] == loop[:-size] and any(map(str.isalnum, loop[-size:]))
    )

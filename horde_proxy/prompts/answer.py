"""Generated text to a message: cut at the stop, free of the format's residue, reasoning apart.

Workers may return the stop string with the text, and never say why a generation ended. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
_ROLE_ECHO = re.compile(r"\s*(?:assistant|model)\s*\n+")
_OPENED_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)
_UNOPENED_THOUGHT = re.compile(r"(.*?)(?<![`'\"])</think>(?![`'\"])", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?…。！？\"'”’)\]}`*|>]\s*\Z")
_PARTIAL_STOP_STARTS = ("<", "[", "]", "{{[")
_SHORTEST_PARTIAL = 4
_NEARLY_FULL = 0.8
Defect = Literal["empty", "tags", "loop"]
_TAGS = re.compile(r"\s*\{\{\[(?:INPUT|OUTPUT|SYSTEM)(?:_END)?\]\}\}")
_LEAST_LOOP = 300
_SHORT_UNIT, _LONGEST_UNIT = 60, 600
_SHORT_ROUNDS, _LONG_ROUNDS = 12, 8


@dataclass(frozen=True)
class Answer:
    """A message's parts; `tokens` and `reasoning_tokens` are estimates, the first has both."""

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

    `stops`: the client's own. `max_length`: tokens asked of the horde; `max_tokens`: those the
    client asked for, which may be fewer. `prefilled`: the text goes on with a given beginning, so
    that its leading whitespace counts. `may_be_thought`: what stands before a bare `</think>` is
    reasoning.
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
    found = [(text.index(stop), -len(stop), stop) for stop in stops if stop and stop in text]
    if not found:
        return text, None
    position, _, stop = min(found)
    return text[:position], stop


def without_echo(text: str, format: Format) -> str:
    """The text without a repetition of the tag that opened the turn."""
    opening = format.opening.strip()
    stripped = text.lstrip()
    if opening and stripped.startswith(opening):
        return stripped[len(opening) :]
    return _ROLE_ECHO.sub("", text, count=1) if _ROLE_ECHO.match(text) else text


def end_marker(text: str) -> str | None:
    """The end marker, of whatever format, with which a text ends."""
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
    """(reasoning, the rest). Some formats open the thought in the prompt: only its end is seen."""
    match = _OPENED_THOUGHT.match(text)
    if match is None and may_be_unopened:
        match = _UNOPENED_THOUGHT.match(text)
    if match is None:
        return "", text
    return match.group(1).strip(), text[match.end() :]


def _ran_out(text: str, max_length: int) -> bool:
    """Whether a text that no stop ended was cut off by max_length, as far as can be told."""
    filled = estimate(text) / max_length
    return filled >= 1 or (filled >= _NEARLY_FULL and not ends_a_sentence(text))


def ends_a_sentence(text: str) -> bool:
    """Whether a text ends like one that is complete."""
    return _SENTENCE_END.search(text) is not None


def defect_in(text: str, format: Format, *, is_first: bool) -> Defect | None:
    """What is wrong with a generation; None when nothing is.

    `is_first`: nothing has been generated before; later on nothing more to say is no fault.
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

    Twelve times, or eight where the unit has more than 60 characters; at most 600 are seen.
    """
    tail = text.rstrip()[-_LONGEST_UNIT * _LONG_ROUNDS :]
    return any(_repeats(tail, size) for size in range(1, _LONGEST_UNIT + 1))


def _repeats(tail: str, size: int) -> bool:
    rounds = _SHORT_ROUNDS if size <= _SHORT_UNIT else _LONG_ROUNDS
    length = max(_LEAST_LOOP, size * rounds)
    loop = tail[-length:]
    return (
        len(loop) == length and loop[size:] == loop[:-size] and any(map(str.isalnum, loop[-size:]))
    )

"""Makes a message of generated text: cuts it at the stop, removes tags, separates the reasoning.

Workers may return the stop string with the text, and never tell why a generation ended. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from horde_proxy.prompts.formats import Format, restore
from horde_proxy.prompts.tokens import estimate, truncate
from horde_proxy.prompts.tool_calls.markers import marked_calls

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
"""The ends of turns in all families. A merged model may use another one than its name suggests."""
_ROLES = ("assistant", "model")
"""The roles of most families and of Gemma. Merged models write them, whatever their format is."""
# <think>Let me see.</think> as DeepSeek R1 and Qwen3 write it; cut off, the end tag is missing.
_OPENED_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)
# "Let me see.</think>\n\nHi" of GLM-4.7 and others whose format opens the thought in the prompt.
# In a text about tags, the end tag is in quotes: `</think>`.
_UNOPENED_THOUGHT = re.compile(r"(.*?)(?<![`'\"])</think>(?![`'\"])", re.DOTALL)
# The last character of a sentence, a quotation, a list or a code block, in Latin and CJK scripts.
_SENTENCE_END = re.compile(r"[.!?…。！？\"'”’)\]}`*|>]\s*\Z")
# Stops that are tags. Half of a tag at the end of a text is removed; half of "User:" may be a word.
_PARTIAL_STOP_STARTS = ("<", "[", "]", "{{[")
_SHORTEST_PARTIAL = 4
"""Characters from which a half tag is recognised: "<|im", but not "<|"."""
_NEARLY_FULL = 0.8
"""Share of max_length from which an unfinished sentence counts as cut off: tokens are estimated."""

Defect = Literal["empty", "tags", "loop"]
# {{[INPUT]}} at the beginning, from a koboldcpp before 1.94.1, which does not fill in its tags.
_TAGS = re.compile(r"\s*\{\{\[(?:INPUT|OUTPUT|SYSTEM)(?:_END)?\]\}\}")
# How long a repetition is before it is a loop: tables and refrains repeat as well.
_LEAST_LOOP = 300
_SHORT_UNIT, _LONGEST_UNIT = 60, 600
_SHORT_ROUNDS, _LONG_ROUNDS = 12, 8


@dataclass(frozen=True)
class Answer:
    """A message's parts. Tokens are estimated; `tokens` includes `reasoning_tokens`.

    `written` is the content as the model wrote it: tags of messages that it quotes are neutralised,
    as they were in its prompt. In it, tags of calls are calls.
    """

    content: str
    reasoning: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    reasoning_tokens: int
    written: str


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

    `stops` are the client's own. `max_length` was requested of the horde. The text is cut at
    `max_tokens`, by our estimate. `prefilled`: the text continues a given beginning, so its leading
    whitespace stays. `may_be_thought`: text before a `</think>` without an opening tag is
    reasoning.
    """
    body = text if prefilled else without_echo(text, format)
    body, stop = cut_turn(body, stops, format)
    if stop is None:
        body, stop = _without_end(body, format)
    ran_out = stop is None and _ran_out(body, max_length)
    if max_tokens is not None:
        shortened = truncate(body, max_tokens)
        body, ran_out = shortened, ran_out or shortened != body
    may_be_unopened = format.thinks and may_be_thought
    reasoning, content = ("", body) if prefilled else _thought(body, may_be_unopened)
    if not prefilled:
        content = content.lstrip()
    # Before the format's own stop, whitespace belongs to the format. A client's is cut exactly.
    if stop is not None and stop not in stops:
        content = content.rstrip()
    # Only now: a quoted <|im_end|> must not end the text.
    return Answer(
        restore(content, format),
        restore(reasoning, format),
        "length" if ran_out else "stop",
        min(estimate(body), max_length),
        min(estimate(reasoning), max_length),
        written=content,
    )


def cut(text: str, stops: Iterable[str]) -> tuple[str, str | None]:
    """(the text before its first stop string, this stop string); (text, None) without one."""
    matches = [(text.index(stop), -len(stop), stop) for stop in stops if stop and stop in text]
    if not matches:
        return text, None
    position, _, stop = min(matches)
    return text[:position], stop


def cut_turn(text: str, stops: Sequence[str], format: Format) -> tuple[str, str | None]:
    """As `cut`, at the stops and at the end of the turn.

    A tag of the format within a call, as in a file about chat formats, does not end the turn.
    """
    body, stop = cut(text, stops)
    tags = [tag for tag in format.stops if tag in body]
    calls = marked_calls(text) if tags else []
    positions = [(_position_outside(text, tag, calls), -len(tag), tag) for tag in tags]
    position, _, tag = min(positions, default=(len(body), 0, ""))
    return (text[:position], tag) if position < len(body) else (body, stop)


def _position_outside(text: str, tag: str, parts: Sequence[tuple[int, int]]) -> int:
    """Where a tag is first that is in none of the parts; the text's length without one."""
    position = text.find(tag)
    for start, end in parts:
        if start <= position < end:
            position = text.find(tag, end)
    return position if position >= 0 else len(text)


def without_echo(text: str, format: Format) -> str:
    """The text without a repetition of the turn's opening tag."""
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
    """The end marker at the end of a text, of any format; None without one.

    `</s>` after a `<s>` is HTML for struck-through text.
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
    """(the text without its end marker or half of a stop, the marker or stop or None)."""
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
    """(reasoning or "", the rest of the text)."""
    match = _OPENED_THOUGHT.match(text)
    if match is None and may_be_unopened:
        match = _UNOPENED_THOUGHT.match(text)
    if match is None:
        return "", text
    return match.group(1).strip(), text[match.end() :]


def _ran_out(text: str, max_length: int) -> bool:
    """Whether a text without a stop was probably cut off by max_length."""
    filled = estimate(text) / max_length
    return filled >= 1 or (filled >= _NEARLY_FULL and not ends_a_sentence(text))


def ends_a_sentence(text: str) -> bool:
    """Whether a text ends with a complete sentence, list or code block."""
    return _SENTENCE_END.search(text) is not None


def defect_in(text: str, format: Format, *, is_first: bool) -> Defect | None:
    """Why a generation is useless: empty, unfilled tags, or an endless repetition; else None.

    `is_first`: nothing was generated before. A later generation may be empty, if all was said.
    """
    if is_first and _TAGS.match(text):
        return "tags"
    if is_first:
        answer = read_answer(text, format, max_length=10**6)
        if not answer.content.strip() and not answer.reasoning.strip():
            return "empty"
    return "loop" if loops(text) else None


def loops(text: str) -> bool:
    """Whether a text ends with many repetitions of a word, a sentence or a whole paragraph.

    Up to 60 characters must be repeated twelve times, up to 600 characters eight times.
    """
    tail = text.rstrip()[-_LONGEST_UNIT * _LONG_ROUNDS :]
    # Longer units cannot be in the text often enough. Most texts are short, so this saves time.
    longest = min(_LONGEST_UNIT, len(tail) // _LONG_ROUNDS)
    return any(_repeats(tail, size) for size in range(1, longest + 1))


def _repeats(tail: str, size: int) -> bool:
    """Whether the text ends with repetitions of a unit of this size.

    The unit must contain a letter or digit: a line of dashes is not a loop.
    """
    rounds = _SHORT_ROUNDS if size <= _SHORT_UNIT else _LONG_ROUNDS
    length = max(_LEAST_LOOP, size * rounds)
    loop = tail[-length:]
    return (
        len(loop) == length and loop[size:] == loop[:-size] and any(map(str.isalnum, loop[-size:]))
    )

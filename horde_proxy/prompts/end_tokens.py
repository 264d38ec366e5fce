"""Where an answer ends: at stops and end tokens, but not where a text only mentions them.

Each end token and stop of a format is one of:
    use       the model ended its turn: "Paris.<|im_end|>", "...\nUSER: and now?"
    mention   a text about tags: "Use <|im_end|> as end.", "POSTGRES_USER: postgres"
    open      more text could decide it, and more may follow
Clients' own stops count everywhere, as the APIs promise. Pure; answer.py makes messages of it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

from horde_proxy.prompts.formats import Format
from horde_proxy.prompts.tool_calls.markers import marked_call_spans, next_opening_at

Use = Literal["use", "mention", "open"]

END_MARKERS = (
    "</s>",
    "<eos>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|EOT|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<turn|>",
    # Gemma 4 waits for its calls' results so.
    "<|tool_response>",
    "<|end|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|END_RESPONSE|>",
    "<|return|>",
    "<|call|>",
    "<｜end▁of▁sentence｜>",
    "<|eom|>",
    "<|endofresponse|>",
    "<|endofturn|>",
    "[|endofturn|]",
    "<seed:eos>",
    "[e~[",
)
"""The ends of turns in all families. A merged model may use another one than its name suggests."""
# Stops that are tags. Half of a tag at the end of a text is removed; half of "User:" may be a word.
_TAG_STARTS = ("<", "[", "]", "{{[")
_SHORTEST_PARTIAL = 4
"""Characters from which a half tag is recognised: "<|im", but not "<|"."""
_QUOTES = {"`": "`", '"': '"', "'": "'", "(": ")", "*": "*", "“": "”", "«": "»"}
# After a space and a tag, a sentence goes on: "<|im_end|> as end", "<|im_end|>, then", "| <eos> |".
_GOES_ON = re.compile(r"[.,;:!?)]|[ ]?[\w|(=–—-]")
# After <|end|> and <|call|> of gpt-oss, the same turn goes on in another channel.
_NEXT_CHANNEL = re.compile(r"\s*(?:<\|start\|>assistant|<\|channel\|>)")
_LONGEST_NEXT_CHANNEL = 24
"""Characters: <|start|>assistant has 18, and spaces may come before it."""
# After an end token of another family, a turn is over only if a line or a tag follows, or nothing.
_NOTHING = re.compile(r"\s*\Z")
# A merge of Qwen2.5 that does not stop writes "<|endoftext|>Human: ".
_AFTER_FOREIGN = re.compile(r"[ \t]*(?:[\n<\[]|(?:Human|User|Assistant):|\Z)")
_LONGEST_ROLE = 12
"""Characters: "Assistant:" has 10, and spaces may come before it."""
_NEXT_ROLES = ("Human:", "User:", "Assistant:")


@dataclass(frozen=True)
class TextEnd:
    """Where the text of an answer ends. `stop` is the stop or end token there, None without one."""

    position: int
    stop: str | None


def cut(text: str, stops: Iterable[str]) -> tuple[str, str | None]:
    """(the text before its first stop string, this stop string); (text, None) without one."""
    matches = [(text.index(stop), -len(stop), stop) for stop in stops if stop and stop in text]
    if not matches:
        return text, None
    position, _, stop = min(matches)
    return text[:position], stop


def sent_stops(format: Format) -> tuple[str, ...]:
    """The format's stops that a worker is told. It stops wherever they stand in its text.

    So stops without brackets begin with a line break, and those that may be a part of an answer are
    left out: a model whose turn ends with </s> stops there without being told.
    """
    return tuple(_anchored(stop) for stop in format.stops if stop in _sendable(format))


def _sendable(format: Format) -> tuple[str, ...]:
    # </s> is HTML as well, and gpt-oss ends each channel with <|end|>.
    unsent = ["</s>"] + ["<|end|>"] * ("<|channel|>" in format.opening)
    return tuple(stop for stop in _stops(format) if stop not in unsent)


def _stops(format: Format) -> list[str]:
    """The format's stops, without the words that begin the model's own turn.

    Alpaca's "### Response:" may be a heading of a text; a turn of somebody else begins with
    "### Instruction:".
    """
    own = format.opening.strip()
    return [stop for stop in format.stops if stop != own or stop.startswith(_TAG_STARTS)]


def _anchored(stop: str) -> str:
    """A stop as it stands in a text: "USER:" at the start of a line, a tag anywhere."""
    return stop if stop.startswith((*_TAG_STARTS, "\n")) else f"\n{stop}"


def text_end(text: str, format: Format, stops: Sequence[str] = (), *, is_open: bool) -> TextEnd:
    """Where a text ends. `stops` are the client's own.

    `is_open`: more text may follow. Then what may become a stop, and the whitespace before it, is
    not part of the text yet.
    """
    own = _format_end(text, format, is_open=is_open)
    before, stop = cut(text[: own.position] if own.stop is None else text, stops)
    if stop is not None and len(before) <= own.position:
        return TextEnd(len(before), stop)
    if own.stop is not None or not is_open:
        return own
    held = held_back(before, (*stops, *sent_stops(format), *format.stops, *END_MARKERS))
    return TextEnd(len(before[: len(before) - held].rstrip()), None)


def _format_end(text: str, format: Format, *, is_open: bool) -> TextEnd:
    """The first stop of the format or end token that is used, and not within a call.

    A call may write a file about chat formats.
    """
    struck, calls = 0, _Calls(text)
    for match in _ends(format).finditer(text):
        if match["struck"]:
            struck += 1
        elif match.group() == "</s>" and struck:
            struck -= 1
        else:
            use = _use(text, match, format, is_open=is_open)
            if use != "mention" and not calls.contain(match.start()):
                if is_open and calls.may_contain(match.start()):
                    use = "open"
                return TextEnd(match.start(), match.group() if use == "use" else None)
    return TextEnd(len(text), None) if is_open else _half_stop(text, format)


class _Calls:
    """The marked calls of a text, which are looked for once a tag is found."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _parts(self) -> list[tuple[int, int]]:
        return marked_call_spans(self._text)

    def contain(self, position: int) -> bool:
        """Whether a position is within a call."""
        index = bisect_right(self._parts, position, key=lambda part: part[0]) - 1
        return index >= 0 and position < self._parts[index][1]

    def may_contain(self, position: int) -> bool:
        """Whether a position may be within a call whose end has not come yet."""
        last = self._parts[-1][1] if self._parts else 0
        return next_opening_at(self._text, last) < position


@cache
def _ends(format: Format) -> re.Pattern[str]:
    """The format's stops and all end tokens; <s> as the group struck, for which </s> is HTML."""
    strings = sorted({*map(_anchored, _stops(format)), *END_MARKERS}, key=len, reverse=True)
    return re.compile(rf"(?P<struck><s(?=[ >]))|{'|'.join(map(re.escape, strings))}")


def _use(text: str, match: re.Match[str], format: Format, *, is_open: bool) -> Use:
    """Whether a stop or end token is used or mentioned."""
    if not match.group().startswith(_TAG_STARTS):
        return "use"
    if match.group() in ("<|end|>", "<|call|>"):
        after = text[match.end() : match.end() + _LONGEST_NEXT_CHANNEL]
        if _NEXT_CHANNEL.match(after):
            return "mention"
        if is_open and may_become(after.lstrip(), ("<|start|>assistant", "<|channel|>")):
            return "open"
    use = use_of_tag(text, match.start(), match.end(), is_open=is_open)
    if use != "use" or match.group() in format.stops:
        return use
    return _foreign_use(text, match, is_open=is_open)


def _foreign_use(text: str, match: re.Match[str], *, is_open: bool) -> Use:
    """Whether an end token of another family ends the text: at its end, or behind a word."""
    after = text[match.end() : match.end() + _LONGEST_ROLE].lstrip(" \t")
    if _NOTHING.match(text, match.end()) or (is_open and may_become(after, _NEXT_ROLES)):
        return "open" if is_open else "use"
    follows_a_word = match.start() and not text[match.start() - 1].isspace()
    return "use" if follows_a_word and _AFTER_FOREIGN.match(text, match.end()) else "mention"


def use_of_tag(text: str, start: int, end: int, *, is_open: bool) -> Use:
    """Whether a tag is used, or mentioned: in quotes, or as a word of a sentence."""
    before, after = text[start - 1 : start], text[end : end + 2]
    quote = _QUOTES.get(before)
    if quote is None and before != " ":
        return "use"
    if len(after) < 2 and is_open:
        return "open"
    if quote is not None:
        return "mention" if after.startswith(quote) else "use"
    return "mention" if _GOES_ON.match(after) else "use"


def _half_stop(text: str, format: Format) -> TextEnd:
    """The end of a text in the middle of a tag that would have been a stop: "Hi <|im_e"."""
    for stop in format.stops:
        if stop.startswith(_TAG_STARTS):
            for size in range(len(stop) - 1, _SHORTEST_PARTIAL - 1, -1):
                if text.endswith(stop[:size]):
                    return TextEnd(len(text) - size, stop)
    return TextEnd(len(text), None)


def may_become(beginning: str, strings: Iterable[str]) -> bool:
    """Whether more text could make one of the strings of a beginning."""
    return any(string.startswith(beginning) for string in strings)


def held_back(text: str, strings: Iterable[str]) -> int:
    """The number of characters at the end that may be the beginning of one of the strings."""
    return max(
        (
            size
            for string in strings
            for size in range(1, len(string))
            if text.endswith(string[:size])
        ),
        default=0,
    )

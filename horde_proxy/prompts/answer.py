"""Makes a message of generated text: cuts it at the stop, removes tags, separates the reasoning.

Workers may return the stop string with the text, and never tell why a generation ended. The steps
have modules of their own, each of which also reads a text that is not complete yet:

    echo       -> the opening tag that the model repeats
    end_tokens -> the stop
    channels   -> reasoning and content of gpt-oss
    thoughts   -> reasoning and content of all other models

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from horde_proxy.prompts.channels import (
    has_channels,
    may_have_channels,
    separate_channels,
    with_channel_closed,
)
from horde_proxy.prompts.echo import may_be_echo, without_echo, without_lead
from horde_proxy.prompts.end_tokens import TextEnd, text_end
from horde_proxy.prompts.formats import Format, restore, unfinished_tag
from horde_proxy.prompts.repetition import loops
from horde_proxy.prompts.thoughts import Separation, separate_thoughts, with_thought_closed
from horde_proxy.prompts.tokens import estimate, truncate

# The last character of a sentence, a quotation, a list or a code block, in Latin and CJK scripts.
_SENTENCE_END = re.compile(r"[.!?…。！？\"'”’)\]}`*|>]\s*\Z")
_NEARLY_FULL = 0.8
"""Share of max_length from which an unfinished sentence counts as cut off: tokens are estimated."""

Defect = Literal["empty", "tags", "loop"]
# {{[INPUT]}} at the beginning, from a koboldcpp before 1.94.1, which does not fill in its tags.
_TAGS = re.compile(r"\s*\{\{\[(?:INPUT|OUTPUT|SYSTEM)(?:_END)?\]\}\}")


@dataclass(frozen=True)
class Answer:
    """A message's parts. Tokens are estimated; `tokens` includes `reasoning_tokens`.

    `written` is the content as the model wrote it: tags of messages that it quotes are neutralised,
    as they were in its prompt. In it, tags of calls are calls. `was_unopened`: the reasoning had no
    opening tag. `stop` is the stop string at which it was cut, where that is the client's.
    """

    content: str
    reasoning: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    reasoning_tokens: int
    written: str
    was_unopened: bool = False
    stop: str | None = None

    @property
    def is_only_thought(self) -> bool:
        """Whether the model thought, and answered nothing."""
        return bool(self.reasoning) and not self.content.strip()

    @property
    def reported_reason(self) -> Literal["stop", "length"]:
        """The finish_reason for the client: an answer without content has not ended by itself."""
        return "length" if self.is_only_thought else self.finish_reason


def read_answer(
    text: str,
    format: Format,
    *,
    stops: Sequence[str] = (),
    max_length: int,
    max_tokens: int | None = None,
    prefilled: bool = False,
    may_be_thought: bool = True,
    may_call: bool = False,
    is_open: bool = False,
) -> Answer:
    """The message in a generated text.

    `stops` are the client's own. `max_length` was requested of the horde. The text is cut at
    `max_tokens`, by our estimate. `prefilled`: the text continues a given beginning, so its leading
    whitespace stays. `may_be_thought`: text before a `</think>` without an opening tag is
    reasoning. `may_call`: tools are on offer, and a call ends a thought. `is_open`: more text may
    follow, so only what is certain is returned.
    """
    body, end = _turn(text, format, stops, prefilled=prefilled, is_open=is_open)
    is_open = is_open and end.stop is None
    ran_out = end.stop is None and _ran_out(body, max_length)
    if max_tokens is not None:
        shortened = truncate(body, max_tokens)
        body, ran_out = shortened, ran_out or shortened != body
    parts = Separation(texts=[body])
    if not prefilled:
        may_be_unopened = format.thinks and may_be_thought
        parts = _separated(body, is_open, may_be_unopened, may_call)
    content, reasoning = parts.content, parts.reasoning
    if is_open:
        content, reasoning = _certain(content), reasoning if content else _certain(reasoning)
    elif end.stop is not None and end.stop not in stops:
        # Before the format's own stop, whitespace belongs to the format. A client's is cut exactly.
        content = content.rstrip()
    # Only now: a quoted <|im_end|> must not end the text.
    return Answer(
        restore(content, format),
        restore(reasoning, format),
        "length" if ran_out else "stop",
        min(estimate(body), max_length),
        min(estimate(reasoning), max_length),
        content,
        parts.was_unopened,
        # Models repeat a stop from the prompt, where tags in it are broken up.
        restore(end.stop, format) if end.stop is not None and end.stop in stops else None,
    )


def _turn(
    text: str, format: Format, stops: Sequence[str], *, prefilled: bool, is_open: bool
) -> tuple[str, TextEnd]:
    """(the text of the model's turn, without what is not certain in an open text; its end)."""
    body = text if prefilled else without_echo(text, format)
    end = text_end(body, format, stops, is_open=is_open)
    body = body[: end.position]
    if is_open and end.stop is None:
        if not prefilled and (may_be_echo(text, format) or may_have_channels(body)):
            body = ""
    return body, end


def _certain(text: str) -> str:
    """A part of an open text without the end that more text may change."""
    bare = text.rstrip()
    return bare[: len(bare) - unfinished_tag(bare)].rstrip()


def _separated(text: str, is_open: bool, may_be_unopened: bool, may_call: bool) -> Separation:
    """The thoughts and the answer in a text, in whichever form its model writes them."""
    if has_channels(text):
        parts = separate_channels(text, is_open=is_open)
    else:
        parts = separate_thoughts(
            text, is_open=is_open, may_be_unopened=may_be_unopened, may_call=may_call
        )
    return replace(parts, texts=[without_lead(parts.content)])


def end_of_answer(
    text: str, format: Format, *, stops: Sequence[str], prefilled: bool, is_open: bool
) -> TextEnd:
    """Where a generated text ends; see read_answer."""
    body = text if prefilled else without_echo(text, format)
    end = text_end(body, format, stops, is_open=is_open)
    return TextEnd(end.position + len(text) - len(body), end.stop)


def with_reasoning_closed(text: str) -> str:
    """A text that is only a thought, with what ends it, so that a model goes on with its answer."""
    if has_channels(text):
        return with_channel_closed(text)
    return with_thought_closed(text)


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
    defect = false_start(text, format) if is_first else None
    return defect or ("loop" if loops(text) else None)


def false_start(text: str, format: Format) -> Literal["empty", "tags"] | None:
    """Why an answer cannot begin with this generation: empty, or unfilled tags; else None."""
    if _TAGS.match(text):
        return "tags"
    answer = read_answer(text, format, max_length=10**6)
    is_empty = not answer.content.strip() and not answer.reasoning.strip()
    return "empty" if is_empty else None

"""What of a chat fits: which turns stay, how long the answer may be, what context to ask for.

Lengths are tokens, estimated. Workers are looked at as pairs of context and length: the largest
context of one and the largest length of another are no worker at all. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from horde_proxy.errors import ContextLengthExceeded
from horde_proxy.prompts.formats import Format, render
from horde_proxy.prompts.tokens import estimate
from horde_proxy.prompts.turns import to_turns
from horde_proxy.protocol.chat import Message

LEAST_LENGTH = 16
"""The horde refuses a smaller max_length."""
LEAST_ANSWER = 128
"""Old turns are dropped until this much of the asked length has room."""
LEFT_OUT = "(This result was left out to save room.)"
_NOTE = 32
_TAGS_OF_A_TOOL = 20
_ESTIMATE_MARGIN = 1.1
_SPARE = 32
_CONTEXT_STEP = 256
_LEAST_CONTEXT = 80


@dataclass(frozen=True)
class Capacity:
    """What one worker takes, in tokens."""

    max_length: int
    max_context_length: int


@dataclass(frozen=True)
class Fitted:
    """The prompt, and what to ask the horde for.

    `dropped` counts messages left out, `blanked` those tool results of which only a note is left.
    """

    prompt: str
    prompt_tokens: int
    max_length: int
    max_context_length: int
    dropped: int
    blanked: int = 0


def fit(
    messages: Sequence[Message],
    format: Format,
    asked: int,
    capacities: Sequence[Capacity],
    style: str = "hermes",
) -> Fitted:
    """The longest end of a chat for which some worker has room, and an answer of `asked` tokens.

    A long answer is shortened before anything is left out, but not below LEAST_ANSWER. Old tool
    results go first, then the oldest exchanges; the system message, the last user turn and the
    newest turn stay. `style` is that of tool calls. Raises ContextLengthExceeded.
    """
    tags = _tags(format)
    weights = [_weight(message, tags) for message in messages]
    least = max(LEAST_LENGTH, min(asked, LEAST_ANSWER))
    for kept in _shortened(messages, weights):
        if _room(kept.tokens, capacities) < least:
            continue
        prompt = render(format, to_turns(kept.messages(), style))
        tokens = estimate(prompt)
        if _room(tokens, capacities) >= least:
            fitted = _fitted(prompt, tokens, asked, capacities)
            return replace(fitted, dropped=len(kept.gone), blanked=len(kept.blanked - kept.gone))
    limit = max((each.max_context_length for each in capacities), default=0)
    raise ContextLengthExceeded(limit, sum(weights) + least)


@dataclass
class _Kept:
    """What is left of a chat: `gone` and `blanked` are indexes of messages."""

    all: Sequence[Message]
    tokens: int
    gone: set[int]
    blanked: set[int]

    def messages(self) -> list[Message]:
        return [
            replace(message, text=LEFT_OUT) if index in self.blanked else message
            for index, message in enumerate(self.all)
            if index not in self.gone
        ]


def _shortened(messages: Sequence[Message], weights: list[int]) -> Iterator[_Kept]:
    """The whole chat, then less and less of it."""
    kept = _Kept(messages, sum(weights), set(), set())
    weights = list(weights)
    yield kept
    for index in _emptiable(messages, weights):
        kept.blanked.add(index)
        kept.tokens -= weights[index] - _NOTE
        weights[index] = _NOTE
        yield kept
    for group in _droppable(messages):
        kept.gone.update(group)
        kept.tokens -= sum(weights[index] for index in group)
        yield kept


def _emptiable(messages: Sequence[Message], weights: Sequence[int]) -> list[int]:
    """Indexes of the long tool results but those that the newest turn answers, oldest first."""
    last = len(messages)
    while last and messages[last - 1].role in ("tool", "assistant"):
        last -= 1
        if messages[last].role == "assistant" and messages[last].tool_calls:
            break
    return [
        index
        for index, message in enumerate(messages[:last])
        if message.role == "tool" and weights[index] > 2 * _NOTE
    ]


def _fitted(prompt: str, tokens: int, asked: int, capacities: Sequence[Capacity]) -> Fitted:
    max_length = max(LEAST_LENGTH, min(asked, _room(tokens, capacities)))
    needed = _context_of(tokens) + max_length
    capable = [
        each.max_context_length
        for each in capacities
        if each.max_length >= max_length and each.max_context_length >= needed
    ]
    rounded = math.ceil(needed / _CONTEXT_STEP) * _CONTEXT_STEP
    context = max(_LEAST_CONTEXT, min([rounded, *capable]))
    return Fitted(prompt, tokens, max_length, context, 0)


def common_length(capacities: Sequence[Capacity]) -> int:
    """The longest answer that at least half of the workers can give."""
    lengths = sorted((each.max_length for each in capacities), reverse=True)
    return lengths[(len(lengths) - 1) // 2] if lengths else LEAST_LENGTH


def _tags(format: Format) -> int:
    """What a turn's tags take at most: weights below the rendered size would cost renderings."""
    turns = (format.user, format.assistant, format.system or format.inline_system)
    return 1 + max(estimate(before + after) for before, after in turns)


def _weight(message: Message, tags: int) -> int:
    calls = "".join(call.name + call.arguments for call in message.tool_calls)
    tool_tags = _TAGS_OF_A_TOOL * (len(message.tool_calls) + (message.role == "tool"))
    return estimate(message.text + calls) + tags + tool_tags


def _context_of(tokens: int) -> int:
    return math.ceil(tokens * _ESTIMATE_MARGIN) + _SPARE


def _room(tokens: int, capacities: Sequence[Capacity]) -> int:
    """The longest answer that a single worker can give after a prompt of so many tokens."""
    needed = _context_of(tokens)
    return max(
        (min(each.max_length, each.max_context_length - needed) for each in capacities), default=0
    )


def _droppable(messages: Sequence[Message]) -> list[tuple[int, ...]]:
    """Indexes of messages in the order in which they may go: oldest exchange first.

    An exchange is a user turn with all that answers it. Of the last one, only finished rounds of
    tool calls with their results may go: the newest stays, be its answer begun or not.
    """
    exchanges = _grouped(messages, starts=("user",))
    if not exchanges:
        return []
    last = exchanges.pop()
    rounds = _grouped([messages[index] for index in last], starts=("user", "assistant"))
    newest = messages[last[-1]]
    is_begun = newest.role == "assistant" and not newest.tool_calls
    finished = [tuple(last[index] for index in each) for each in rounds[1 : -2 if is_begun else -1]]
    return exchanges + finished


def _grouped(messages: Sequence[Message], starts: tuple[str, ...]) -> list[tuple[int, ...]]:
    groups: list[list[int]] = []
    for index, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role in starts or not groups:
            groups.append([])
        groups[-1].append(index)
    return [tuple(group) for group in groups]

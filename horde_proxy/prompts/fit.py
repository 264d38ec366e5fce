"""Fits a chat into the context of a worker: which turns stay, and how long the answer may be.

Lengths are in estimated tokens. Each worker is a pair of context and length: no worker may have
both the largest context and the largest length. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from horde_proxy.errors import ContextLengthExceeded
from horde_proxy.prompts.formats import Format, render
from horde_proxy.prompts.tokens import estimate
from horde_proxy.prompts.turns import to_turns
from horde_proxy.protocol.generation_request import Message

LEAST_LENGTH = 16
"""The horde refuses a smaller max_length."""
LEAST_ANSWER = 128
"""Old turns are dropped until there is room for this much of the requested length."""
LEFT_OUT = "(This result was left out to save room.)"
_NOTE = 32
"""Tokens of a tool result that was replaced by LEFT_OUT, with its tags."""
_TAGS_OF_A_TOOL = 20
"""Tokens of the tags and the JSON around one call or one result."""
_ESTIMATE_MARGIN = 1.1
_SPARE = 32
"""Tokens, like the margin in case the estimate is too low: workers silently cut the beginning of a
prompt that is too long."""
_CONTEXT_STEP = 256
"""max_context_length is rounded up to a multiple of this, but not beyond what workers offer."""
_LEAST_CONTEXT = 80
"""The horde refuses a smaller max_context_length."""


@dataclass(frozen=True)
class Capacity:
    """The lengths that one worker offers, in tokens."""

    max_length: int
    max_context_length: int

    def holds(self, max_length: int, max_context_length: int) -> bool:
        """Whether a job is not too large: the horde compares what it declares, not its prompt."""
        return self.max_length >= max_length and self.max_context_length >= max_context_length


@dataclass(frozen=True)
class Fitted:
    """The prompt, and the lengths to request of the horde.

    `dropped` is the number of dropped messages, `blanked` that of tool results replaced by a note.
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
    length: int,
    capacities: Sequence[Capacity],
    style: str = "hermes",
) -> Fitted:
    """As much of a chat as some worker has room for, with an answer of `length` tokens.

    A long answer is shortened before anything is left out, but not below LEAST_ANSWER. Then old
    tool results are left out, and then the oldest exchanges. The system message, the last user turn
    and the newest turn always stay. `style` is the style of tool calls. Raises
    ContextLengthExceeded.
    """
    tags = _tags(format)
    weights = [_weight(message, tags) for message in messages]
    least = max(LEAST_LENGTH, min(length, LEAST_ANSWER))
    for trimmed in _shortened(messages, weights):
        # Rendering takes the most time, so it waits until there is room by the weights.
        if room(trimmed.tokens, capacities) < least:
            continue
        prompt = render(format, to_turns(trimmed.messages(), format, style))
        tokens = estimate(prompt)
        if room(tokens, capacities) >= least:
            fitted = _fitted(prompt, tokens, length, capacities)
            blanked = trimmed.blanked - trimmed.dropped
            return replace(fitted, dropped=len(trimmed.dropped), blanked=len(blanked))
    limit = max((worker.max_context_length for worker in capacities), default=0)
    raise ContextLengthExceeded(limit, sum(weights) + least)


@dataclass
class _Trimmed:
    """A chat without some messages: `dropped` and `blanked` are indexes of messages."""

    all: Sequence[Message]
    tokens: int
    dropped: set[int]
    blanked: set[int]

    def messages(self) -> list[Message]:
        """The messages that are left, with a note for each blanked tool result."""
        return [
            replace(message, text=LEFT_OUT) if index in self.blanked else message
            for index, message in enumerate(self.all)
            if index not in self.dropped
        ]


def _shortened(messages: Sequence[Message], weights: list[int]) -> Iterator[_Trimmed]:
    """The whole chat, then less and less of it. The same object is yielded and changed."""
    trimmed = _Trimmed(messages, sum(weights), set(), set())
    weights = list(weights)
    yield trimmed
    for index in _blankable(messages, weights):
        trimmed.blanked.add(index)
        trimmed.tokens -= weights[index] - _NOTE
        weights[index] = _NOTE
        yield trimmed
    for group in _droppable(messages):
        trimmed.dropped.update(group)
        trimmed.tokens -= sum(weights[index] for index in group)
        yield trimmed


def _blankable(messages: Sequence[Message], weights: Sequence[int]) -> list[int]:
    """Indexes of long tool results, oldest first, without those of the newest round."""
    # The newest round consists of results and their calls.
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


def _fitted(prompt: str, tokens: int, length: int, capacities: Sequence[Capacity]) -> Fitted:
    max_length = max(LEAST_LENGTH, min(length, room(tokens, capacities)))
    # The horde gives a job only to workers that offer its whole context, so the smallest possible
    # context finds the most workers.
    needed = _context_of(tokens) + max_length
    capable = [
        worker.max_context_length for worker in capacities if worker.holds(max_length, needed)
    ]
    rounded = math.ceil(needed / _CONTEXT_STEP) * _CONTEXT_STEP
    context = max(_LEAST_CONTEXT, min([rounded, *capable]))
    return Fitted(prompt, tokens, max_length, context, 0)


def common_length(capacities: Sequence[Capacity]) -> int:
    """The longest answer that at least half of the workers can give."""
    # The upper median: the greatest length that half of the workers reach.
    lengths = sorted((worker.max_length for worker in capacities), reverse=True)
    return lengths[(len(lengths) - 1) // 2] if lengths else LEAST_LENGTH


def _tags(format: Format) -> int:
    """The largest number of tokens of a turn's tags: a low estimate would cost more renderings."""
    turns = (format.user, format.assistant, format.system or format.inline_system)
    return 1 + max(estimate(before + after) for before, after in turns)


def _weight(message: Message, tags: int) -> int:
    """The tokens of a message with its tags, without rendering it."""
    calls = "".join(call.name + call.arguments for call in message.tool_calls)
    tool_tags = _TAGS_OF_A_TOOL * (len(message.tool_calls) + (message.role == "tool"))
    return estimate(message.text + message.suffix + calls) + tags + tool_tags


def _context_of(tokens: int) -> int:
    """The context into which a prompt of this estimated length surely fits."""
    return math.ceil(tokens * _ESTIMATE_MARGIN) + _SPARE


def room(tokens: int, capacities: Sequence[Capacity]) -> int:
    """The longest answer that any one worker can give after a prompt of this length."""
    needed = _context_of(tokens)
    return max(
        (min(worker.max_length, worker.max_context_length - needed) for worker in capacities),
        default=0,
    )


def _droppable(messages: Sequence[Message]) -> list[tuple[int, ...]]:
    """Indexes of messages in the order in which they may be dropped: the oldest exchange first.

    An exchange is a user turn with everything that answers it. Of the last exchange, only finished
    rounds of tool calls with their results may be dropped. The newest round stays, even if its
    answer has begun: without it, an agent makes the same call again and again.
    """
    exchanges = _grouped(messages, starts=("user",))
    if not exchanges:
        return []
    # An agent's whole work may be one exchange: one user turn, then rounds of calls and results.
    last = exchanges.pop()
    rounds = _grouped([messages[index] for index in last], starts=("user", "assistant"))
    newest = messages[last[-1]]
    is_begun = newest.role == "assistant" and not newest.tool_calls
    old_rounds = rounds[1 : -2 if is_begun else -1]
    finished = [tuple(last[index] for index in turns) for turns in old_rounds]
    return exchanges + finished


def _grouped(messages: Sequence[Message], starts: tuple[str, ...]) -> list[tuple[int, ...]]:
    """Indexes of messages, except system ones, in groups that begin with one of the roles."""
    groups: list[list[int]] = []
    for index, message in enumerate(messages):
        if message.role == "system":
            continue
        if message.role in starts or not groups:
            groups.append([])
        groups[-1].append(index)
    return [tuple(group) for group in groups]

"""Fits a chat into the context of a worker: which turns stay, and how long the answer may be.

    the whole chat -> diet.py -> old tool results left out -> oldest exchanges dropped -> error

Lengths are in estimated tokens. Each worker is a pair of context and length: no worker may have
both the largest context and the largest length. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from horde_proxy.errors import ContextLengthExceeded, ModelTooSmall
from horde_proxy.prompts.diet import Diet, StepKind, has_instruction
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
_TEMPLATE = 96
"""Tokens that an unknown template adds to a chat: gpt-oss's begins with about 80 of its own."""
_TEMPLATE_TAGS = 8
"""Tokens that it adds to a message: those of Llama 3 are five, with the line ends."""
_ESTIMATE_MARGIN = 1.1
_SPARE = 32
"""Tokens, like the margin in case the estimate is too low: workers silently cut the beginning of a
prompt that is too long."""
_CONTEXT_STEP = 256
"""max_context_length is rounded up to a multiple of this, but not beyond what workers offer."""
_LEAST_CONTEXT = 80
"""The horde refuses a smaller max_context_length."""
_ANSWER_SHARE = 4
"""The diet makes room for the whole answer, up to this part of the context. opencode compacts a
chat as soon as less is left, by the limits that horde_proxy.opencode gives it."""
_BLOCKS = 16
"""The diet saves this part of the context, or a multiple of it. So a conversation that grows keeps
the same prompt for some turns, which the worker has in its cache."""
_NO_DIET = Diet(is_on=False)


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
    `steps` counts the messages that the diet shortened, which saved so many tokens. A chat for a
    server with the model's own template has `messages` instead of a prompt.
    """

    prompt: str
    prompt_tokens: int
    max_length: int
    max_context_length: int
    dropped: int
    blanked: int = 0
    steps: Mapping[StepKind, int] = field(default_factory=dict)
    saved: int = 0
    messages: tuple[Message, ...] = ()

    @property
    def is_shortened(self) -> bool:
        """Whether the chat has lost anything."""
        return bool(self.dropped or self.blanked or self.steps)


Measure = Callable[[Sequence[Message]], tuple[str, int]]
"""The prompt of some messages, and its tokens."""


def fit(
    messages: Sequence[Message],
    format: Format,
    length: int,
    capacities: Sequence[Capacity],
    style: str = "hermes",
    diet: Diet = _NO_DIET,
) -> Fitted:
    """As much of a chat as some worker has room for, with an answer of `length` tokens.

    First the diet makes room for the whole answer, but for no more than a quarter of the context.
    A long answer is shortened before anything is left out, but not below LEAST_ANSWER. Then old
    tool results are left out, and then the oldest exchanges. The system message, the last user turn
    and the newest turn always stay. `style` is the style of tool calls. Raises
    ContextLengthExceeded, or ModelTooSmall where a shorter history would not help.
    """

    def measure(kept: Sequence[Message]) -> tuple[str, int]:
        prompt = render(format, to_turns(kept, format, style))
        return prompt, estimate(prompt)

    fitted, _ = _fit(messages, measure, _tags(format), length, capacities, diet)
    return fitted


def fit_chat(
    messages: Sequence[Message], length: int, capacities: Sequence[Capacity], diet: Diet = _NO_DIET
) -> Fitted:
    """The same for a server that renders the messages itself, by a template that is not known."""

    def measure(kept: Sequence[Message]) -> tuple[str, int]:
        return "", _TEMPLATE + sum(_weight(message, _TEMPLATE_TAGS) for message in kept)

    fitted, kept = _fit(messages, measure, _TEMPLATE_TAGS, length, capacities, diet)
    return replace(fitted, messages=tuple(kept))


def _fit(
    messages: Sequence[Message],
    measure: Measure,
    tags: int,
    length: int,
    capacities: Sequence[Capacity],
    diet: Diet,
) -> tuple[Fitted, list[Message]]:
    """(as fit, the messages that are left). `tags` are the tokens around a message."""
    slim = _Slim.of(messages, tags)
    compared = sum(slim.weights)
    least = max(LEAST_LENGTH, min(length, LEAST_ANSWER))
    limit = _largest_context(capacities, least)
    slim.save(_tokens_to_save(slim, limit, _answer_room(diet, limit), least), diet, tags)
    # The first one is the whole chat.
    tries = None if diet.drops_messages else 1
    for trimmed in islice(_shortened(slim.messages, slim.weights), tries):
        # Rendering takes the most time, so it waits until there is room by the weights.
        if room(trimmed.tokens, capacities) < least:
            continue
        kept = trimmed.messages()
        prompt, tokens = measure(kept)
        if room(tokens, capacities) >= least:
            fitted = _fitted(prompt, tokens, length, capacities)
            blanked = len(trimmed.blanked - trimmed.dropped)
            steps, saved = slim.steps, slim.saved
            fitted = replace(fitted, blanked=blanked, steps=steps, saved=saved)
            return replace(fitted, dropped=len(trimmed.dropped)), kept
        compared = max(compared, tokens)
    _refuse_hopeless(messages, tags, diet, limit, least)
    raise ContextLengthExceeded(limit, _context_of(compared) + least)


@dataclass
class _Slim:
    """A chat on its diet: its messages, their weights, and what was saved by which steps."""

    messages: list[Message]
    weights: list[int]
    steps: Counter[StepKind] = field(default_factory=Counter)
    saved: int = 0

    @classmethod
    def of(cls, messages: Sequence[Message], tags: int) -> _Slim:
        """The chat as the client sent it."""
        return cls(list(messages), [_weight(message, tags) for message in messages])

    def save(self, goal: int, diet: Diet, tags: int) -> None:
        """Take the steps of a diet until so many tokens are saved."""
        if goal <= 0:
            return
        kinds: dict[int, StepKind] = {}
        for step in diet.steps(tuple(self.messages)):
            weight = _weight(step.message, tags)
            # Not each step saves something: tools may have no annotations.
            if weight >= self.weights[step.index]:
                continue
            self.saved += self.weights[step.index] - weight
            self.messages[step.index], self.weights[step.index] = step.message, weight
            kinds[step.index] = step.kind
            if self.saved >= goal:
                break
        self.steps = Counter(kinds.values())


def _largest_context(capacities: Sequence[Capacity], length: int) -> int:
    """The largest context of the workers that may write so many tokens, or else of all."""
    able = [worker for worker in capacities if worker.max_length >= length]
    return max((worker.max_context_length for worker in able or capacities), default=0)


def _answer_room(diet: Diet, limit: int) -> int:
    """The tokens that the diet keeps free for the answer in a context of `limit` tokens."""
    return min(diet.answer, limit // _ANSWER_SHARE)


def _tokens_to_save(slim: _Slim, limit: int, answer: int, least: int) -> int:
    """How many of a chat's tokens the diet should save; 0 if it has room for its answer."""
    tokens = sum(slim.weights)
    # What is written of the answer has its room already. So all segments share one prompt.
    has_beginning = bool(slim.messages) and is_begun(slim.messages[-1])
    before = tokens - slim.weights[-1] if has_beginning else tokens
    excess = max(_context_of(before) + answer, _context_of(tokens) + least) - limit
    if excess <= 0 or not limit:
        return 0
    block = max(limit // _BLOCKS, 1)
    return math.ceil(excess / _ESTIMATE_MARGIN / block) * block


def _refuse_hopeless(
    messages: Sequence[Message], tags: int, diet: Diet, limit: int, least: int
) -> None:
    """Raise ModelTooSmall if system messages, tools and the last user turn alone have no room."""
    tools, system = 0, 0
    for message in messages:
        if message.role == "system":
            tools += estimate(diet.shortest_instruction) if has_instruction(message) else 0
            system += _weight(replace(message, suffix=""), tags)
    turns = [_weight(message, tags) for message in messages if message.role == "user"]
    # A text alone is no agent's request. Libraries that split texts look for OpenAI's code.
    if not tools and not system:
        return
    # With less room than this, a compacted chat would be too long again after the next call.
    answer = _SPARE + max(least, _answer_room(diet, limit))
    parts = {"system prompt": system, "tools and formats": tools, "last message": sum(turns[-1:])}
    needs = {name: math.ceil(tokens * _ESTIMATE_MARGIN) for name, tokens in parts.items()}
    if sum(needs.values()) + answer > limit:
        raise ModelTooSmall(limit, needs, answer)


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
    text = message.reasoning + message.text + message.suffix
    return estimate(text + calls) + tags + tool_tags


def is_begun(last: Message) -> bool:
    """Whether the last message of a chat is the beginning of the answer."""
    return last.role == "assistant" and not last.tool_calls


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
    old_rounds = rounds[1 : -2 if is_begun(messages[last[-1]]) else -1]
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

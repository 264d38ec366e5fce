"""An answer as a chain of segments: each goes on with what was written, and is given out at once.

    choices that are not over --> groups with the same words so far --> a job for each group
             ^                                                              |
             '--- each generation is added to its choice, or ends it <------'

A chain that fails later ends with what it has. What a segment is, and when a choice is over, is
the matter of the kinds: chained_answer.py (texts) and chat_chain.py (chats).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from horde_proxy.aihorde import kudos
from horde_proxy.errors import (
    ClientGone,
    ContextLengthExceeded,
    InsufficientKudos,
    ProxyError,
    ShuttingDown,
    TimedOut,
    UpstreamFailed,
)
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk, FinishReason, Head
from horde_proxy.upstreams.base import ANSWER_MARGIN, DeadlinePassed, Waiting
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.jobs import G, Generation
from horde_proxy.upstreams.horde.lifecycle import (
    Answered,
    Finished,
    Grown,
    Lifecycle,
    LifecycleItem,
    Submitted,
    too_expensive,
)
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.segment import Segment
from horde_proxy.upstreams.horde.submit_queue import Ticket
from horde_proxy.upstreams.interleave import take_turns

CutOff = Literal["time", "context", "kudos", "failure"]
_CUT_OFFS: dict[type[ProxyError], CutOff] = {
    TimedOut: "time",
    ContextLengthExceeded: "context",
    InsufficientKudos: "kudos",
}
LEAST_BOUGHT = 16
"""Tokens, below which the horde takes no max_length."""
AnswerItem = Waiting | Submitted | Answered | Chunk


@dataclass
class ChainedChoice:
    """One choice; `worker` is that of its last segment. `reason` is None while it goes on.

    `grown` is what has come of a segment that is still being written; `rescued`: how many of its
    segments were lost while they were written.
    """

    index: int
    worker: str | None = None
    reason: FinishReason | None = None
    grown: str = ""
    rescued: int = 0


C = TypeVar("C", bound=ChainedChoice)


@dataclass
class AnswerChain(ABC, Generic[C, G]):
    """The choices of an answer to one plan. Its chunks have the id and time of `head`.

    Shortly before `deadline` it ends with what it has. None: whoever drives it looks at the clock.
    `may_grow`: a segment may be given out while a worker writes it. `failure` is what cut it off.
    """

    horde: HordeContext
    plan: Plan
    ticket: Ticket
    head: Head
    deadline: float | None = None
    cost: AnswerCost = field(default_factory=AnswerCost)
    cut_off: CutOff | None = None
    failure: ProxyError | None = field(init=False, default=None)
    may_grow: bool = True
    _choices: list[C] = field(init=False, default_factory=list)

    @abstractmethod
    def _segment(self, choices: Sequence[C]) -> Segment[G]:
        """The next segment of choices with the same words so far, by who is online now."""

    @abstractmethod
    def _grow(self, choice: C, text: str) -> Iterator[Chunk]:
        """The chunks of what is certain of a segment that is still being written."""

    @abstractmethod
    def _add(self, choice: C, generation: G) -> Iterator[Chunk]:
        """The chunks of what a generation made certain."""

    @abstractmethod
    def _finish(self, choice: C, is_full: bool | None) -> Iterator[Chunk]:
        """The rest of a choice, and its end. `is_full`: a limit ended it; None: by its look."""

    @abstractmethod
    def _keep(self, choice: C) -> None:
        """Keep what had come of a segment that was lost, as a segment of its own."""

    @abstractmethod
    def _words(self, choice: C) -> Hashable:
        """What was written so far; falsy for nothing."""

    def run(self) -> Generator[AnswerItem, None, None]:
        """Waitings, what was submitted, and the chunks of the choices until each has ended.

        Raises a ProxyError where there is nothing to give: what was generated is never lost.
        """
        while groups := self._groups():
            with self._cut_off_by_errors(), closing(self._segments(groups)) as turns:
                for position, item in turns:
                    yield from self._answered(groups[position], item)
            if self.cut_off:
                for choice in self._choices:
                    if choice.reason is None:
                        yield from self._finish(choice, is_full=True)

    def _groups(self) -> list[list[C]]:
        """Choices that go on, by the words so far: one request can go on with all of a group.

        All choices of an answer begin as one group; after the first segment they mostly differ.
        """
        groups: dict[Hashable, list[C]] = {}
        for choice in self._choices:
            if choice.reason is None:
                groups.setdefault(self._words(choice), []).append(choice)
        return list(groups.values())

    @contextmanager
    def _cut_off_by_errors(self) -> Iterator[None]:
        """An error ends the chain with what it has. Raises it when that is nothing."""
        try:
            yield
        except ProxyError as exc:
            if self._rescue() and isinstance(exc, UpstreamFailed):
                return
            # What was sent already is the answer; only a first segment's error is the client's.
            has_text = all(self._words(choice) or choice.reason for choice in self._choices)
            if not has_text or isinstance(exc, ShuttingDown | ClientGone):
                raise
            reasons = (word for kind, word in _CUT_OFFS.items() if isinstance(exc, kind))
            self.cut_off, self.failure = next(reasons, "failure"), exc

    def _rescue(self) -> bool:
        """Keep the texts of segments that were lost. Whether the chain goes on from them."""
        lost = [choice for choice in self._choices if choice.grown]
        for choice in lost:
            self._keep(choice)
            choice.grown, choice.worker = "", None
            choice.rescued += 1
        is_chained = self.plan.is_chained
        return is_chained and any(0 < c.rescued <= self.horde.options.retries for c in lost)

    def _segments(
        self, groups: Sequence[Sequence[C]]
    ) -> Generator[tuple[int, LifecycleItem[G]], None, None]:
        """The items of each group's next segment, with the position of the group."""
        running = [
            Lifecycle(self.horde, self._segment(group), self.ticket, self.cost).items()
            for group in groups
        ]
        return take_turns(running, len(running))

    def _answered(self, choices: Sequence[C], item: LifecycleItem[G]) -> Iterator[AnswerItem]:
        """What an item of the segment of these choices means for the client. Raises TimedOut."""
        if isinstance(item, Finished):
            for choice, generation in zip(choices, item.generations, strict=True):
                yield from self._add(choice, generation)
            return
        if isinstance(item, Grown):
            yield from self._grow(choices[0], item.text)
            return
        yield item
        # Not after Answered: the generations are there, and come next.
        if isinstance(item, Waiting):
            check_time(self.horde.clock, self.deadline)

    def _affordable(self, length: int, n: int) -> int:
        """The length, or less where the client would pay too much. Raises InsufficientKudos."""
        most = self.plan.max_kudos
        if most is None:
            return length
        context = self.plan.fitted.max_context_length
        while kudos.price(length, context, self.plan.size, n) > most - self.cost.committed:
            # A shorter answer than the one that it is made beside would be no gain.
            is_beside = self.plan.caller.is_second and not self.cost.committed
            if length <= LEAST_BOUGHT or is_beside:
                raise too_expensive()
            # The price has no inverse that is worth its formula: context and tax are in it.
            length = max(length // 2, LEAST_BOUGHT)
        return length

    def _is_read_growing(self, choices: Sequence[C]) -> bool:
        """Whether the client reads the next segment of these choices as it grows.

        Not where one of several models answers, since the first chunk names it.
        """
        is_alone = len(choices) == 1 and len(self.plan.models) == 1
        return is_alone and self.may_grow and self.plan.request.stream

    def _chunk(self, choice: C, delta: dict[str, Any], reason: FinishReason | None = None) -> Chunk:
        return chunks.chunk(self.head, delta, index=choice.index, finish_reason=reason)

    def _adopt_model(self, generation: Generation) -> None:
        """Name the model that answered in all further chunks, where several might have."""
        if self.head.model != generation.model and len(self.plan.models) > 1:
            self.head = Head(self.head.id, self.head.created, generation.model)


def check_time(clock: Callable[[], float], deadline: float | None) -> None:
    """Raises TimedOut when the client's time is over but for the seconds to send what there is."""
    if deadline is not None and clock() > deadline - ANSWER_MARGIN:
        raise DeadlinePassed()

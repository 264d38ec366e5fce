"""Answers that are checked, and corrected by the model that wrote them.

    the model answers --> it is read --> it fits, or no try is left: the best one
           ^                               |  it does not fit
           '---------- the problem --------'

How an answer is generated, read and sent is the matter of the kinds: structured_answer.py (texts)
and chat_answer.py (chats).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from horde_proxy.errors import ContextLengthExceeded, UpstreamFailed
from horde_proxy.prompts.structured_reading import StructuredReading
from horde_proxy.protocol.generation_request import Message
from horde_proxy.upstreams.horde.answer_chain import CutOff
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.guided_values import Steps
from horde_proxy.upstreams.horde.plan import Plan
from horde_proxy.upstreams.horde.running_request import NotPossible
from horde_proxy.upstreams.horde.submit_queue import Ticket

A = TypeVar("A")
log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class CheckedAnswer(ABC, Generic[A]):
    """The answer to one plan. `retries`: corrections of one choice."""

    horde: HordeContext
    plan: Plan
    ticket: Ticket
    retries: int
    cost: AnswerCost = field(default_factory=AnswerCost)
    cut_off: CutOff | None = None

    @abstractmethod
    def _generated(self, messages: Sequence[Message]) -> Steps[A | None]:
        """One more answer; None for a censored one."""

    @abstractmethod
    def _reading(self, answer: A) -> StructuredReading:
        """What an answer says, and what is wrong with it."""

    @abstractmethod
    def _is_cut_off(self, answer: A, reading: StructuredReading) -> bool:
        """Whether a limit ended the answer before its call or its JSON did."""

    @abstractmethod
    def _corrected(self, answer: A, reading: StructuredReading) -> list[Message]:
        """The chat that requests a corrected answer."""

    def _may_correct(self, answer: A, reading: StructuredReading) -> bool:
        """Whether the model is told of the problem."""
        return not self._is_cut_off(answer, reading)

    def _read(self, answer: A) -> Steps[tuple[A, StructuredReading]]:
        """The best of the answer and its corrections, as many as are allowed, with its reading."""
        best = latest = answer, self._reading(answer)
        for _ in range(self.retries):
            answer, reading = latest
            if not reading.problem or not self._may_correct(answer, reading):
                break
            again = self._corrected(answer, reading)
            corrected = (yield from self._ask_again(again)) if self._has_room(again) else None
            if corrected is None:
                break
            latest = corrected, self._reading(corrected)
            # A correction may be worse, such as an apology after a call that lacks an argument.
            best = max(latest, best, key=lambda candidate: candidate[1].quality)
        return best

    def _has_room(self, messages: Sequence[Message]) -> bool:
        """Whether a correction fits without leaving out the question itself."""
        try:
            dropped = self.plan.with_messages(messages, 1).fitted.dropped
        except ContextLengthExceeded:
            return False
        turns = [msg for msg in self.plan.request.messages if msg.role != "system"]
        return not turns or dropped < len(turns)

    def _ask_again(self, messages: Sequence[Message]) -> Steps[A | None]:
        """The answer to a correction; None when that failed, or was censored."""
        self.cost.retries += 1
        self.horde.telemetry.retried("misfit")
        try:
            return (yield from self._generated(messages))
        except (UpstreamFailed, NotPossible) as exc:
            # A faulty answer is better than none: agents can handle it.
            log.info("a correction failed, and the answer stays as it was: %s", exc)
            return None

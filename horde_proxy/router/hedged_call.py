"""A proxied call by one candidate, or by the quicker one of two; see hedge.py.

The first response whose first event has come decides, or the first whole one. Bytes pass unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

from horde_proxy.errors import ProxyError
from horde_proxy.router.candidates import Candidate, Candidates
from horde_proxy.router.hedge import (
    LONGEST_TURN,
    HedgeRules,
    Lateness,
    Lead,
    entered_beside,
    may_go_on,
    name_of,
)
from horde_proxy.upstreams.base import Caller, Waiting
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest, ProxyResponse

Outcome = tuple[ProxyResponse | None, bool]
"""What a call has come to: the response, and whether the client should get it."""
log = logging.getLogger(__name__)


@dataclass
class _Call:
    """One of the calls of a proxied request. `steps` ends the attempt when it is closed."""

    lead: Lead
    steps: Generator[Waiting, None, Outcome]
    lateness: Lateness

    def close(self) -> None:
        """End its call, if it still runs. Idempotent."""
        try:
            self.steps.close()
        finally:
            # One whose steps had not begun has not ended its attempt.
            self.lead.attempt.end()


class HedgedCall:
    """A proxied call, by one candidate or by the quicker one of two.

    `lead` is changed to the candidate that answers. `begin` makes the call at a candidate, beside
    the request's thread. `may_take`: whether a candidate can be sent it.
    """

    def __init__(
        self,
        rules: HedgeRules,
        candidates: Candidates,
        lead: Lead,
        begin: Callable[[Lead], Generator[Waiting, None, Outcome]],
        may_take: Callable[[Candidate], bool],
    ) -> None:
        self._rules, self._candidates, self._lead = rules, candidates, lead
        self._begin, self._may_take = begin, may_take
        self._calls: list[_Call] = []
        self._was_late = False

    def outcome(self, call: ProxyRequest, caller: Caller) -> Generator[Waiting, None, Outcome]:
        """Waitings, then what the call has come to. Raises what the last one raises."""
        name = f"{self._lead.candidate.models[0]} {'stream' if call.body.is_stream else 'whole'}"
        self._add(Lead(self._lead.candidate, self._lead.attempt), name)
        turn = 0
        try:
            while True:
                running = self._calls[turn % len(self._calls)]
                try:
                    waiting = next(running.steps)
                except StopIteration as end:
                    if self._is_decided(running, end.value):
                        return cast(Outcome, end.value)
                    continue
                except ProxyError as exc:
                    is_second = running is not self._calls[0]
                    if len(self._calls) == 1 or not may_go_on(exc, is_second=is_second):
                        raise
                    self._calls.remove(running)
                    continue
                turn += 1
                yield waiting
                if not self._was_late and running.lateness.is_late(waiting):
                    self._begin_second(call, caller, name)
        finally:
            with ExitStack() as stack:
                for other in self._calls:
                    stack.callback(other.close)

    def _add(self, lead: Lead, name: str) -> None:
        lateness = Lateness(self._rules, lead.candidate, name)
        self._calls.append(_Call(lead, self._begin(lead), lateness))

    def _begin_second(self, call: ProxyRequest, caller: Caller, name: str) -> None:
        """Make the call at another endpoint as well, where one has a slot and somebody waits."""
        if caller.is_job or caller.is_gone:
            return
        first = self._calls[0].lead
        lead = entered_beside(self._candidates, first.candidate, caller, self._may_take)
        if lead is None:
            return
        log.info("%s is late, and %s is tried beside it", name_of(first), name_of(lead))
        self._was_late = True
        if call.helper is not None:
            call.helper.pause = min(call.helper.pause, LONGEST_TURN)
        self._add(lead, name)

    def _is_decided(self, ended: _Call, outcome: Outcome) -> bool:
        """Whether the client gets what this call has come to; else the other one goes on."""
        response, is_good = outcome
        # A second endpoint's refusal says nothing of the first one, which may have more context.
        is_refused = ended is not self._calls[0] and response is not None and response.status >= 400
        self._calls.remove(ended)
        if self._calls and (not is_good or is_refused):
            if response is not None:
                response.close()
            return False
        self._lead.candidate, self._lead.attempt = ended.lead.candidate, ended.lead.attempt
        if is_good:
            # Those that go on take this long at least.
            for call in (ended, *self._calls):
                call.lateness.learn()
        return True


def may_hedge(call: ProxyRequest) -> bool:
    """Whether a proxied call may be made at two endpoints at once.

    It is a generation whose body can be sent twice; pictures cost too much for that.
    """
    is_text = call.model is not None and not call.path.startswith("images/")
    return is_text and call.helper is not None and isinstance(call.body, JsonBody)

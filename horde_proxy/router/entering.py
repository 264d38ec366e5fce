"""How a request enters an endpoint: at once, or through the lines of all that serve it as well.

A candidate whose machine sleeps is woken first. One whose slots are taken is no failure: the
request waits, at that endpoint and at each other of the same priority that has the models, and goes
to the first with a free slot. One of lower priority, or a fallback, is tried when no line takes one
more request. If the candidate has read the conversation, the request waits for that one alone at
first. Nothing is sent here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from horde_proxy.errors import Unreachable
from horde_proxy.router.candidates import Candidate, Candidates
from horde_proxy.router.health import EndpointAttempt
from horde_proxy.router.line import HeldSlot, LineFull, LinesClosed, wait_in_lines
from horde_proxy.router.wake import awake, wake_later
from horde_proxy.upstreams.base import IN_LINE, Caller, Sleeper, Waiting

_WARM_PATIENCE = 10.0
"""How long a request waits for the endpoint that has read its conversation (s), before it goes to
the first with a free slot. A server at home reads some thousand tokens anew in that time."""
_COOLDOWN_PATIENCE = 10.0
"""How long a request that has waited for its slot waits for the end of a cooldown as well (s)."""
Entered = tuple[Candidate, EndpointAttempt]
"""A candidate that has taken the request up, and the attempt, which holds the slot."""


def _any(candidate: Candidate) -> bool:
    """Any candidate that is as good may take the request."""
    return True


def entered(
    candidates: Candidates,
    candidate: Candidate,
    attempt: EndpointAttempt,
    caller: Caller,
    may_take: Callable[[Candidate], bool] = _any,
) -> Generator[Waiting, None, Entered | None]:
    """Waitings until the candidate, or another one as good, has a slot; then that one.

    None where no line takes one more request, or the operator has paused the endpoints meanwhile:
    the next candidate is to be tried. `may_take` says which others can take the request. Raises
    DeadlinePassed, or what stops the caller's sleeper.
    """
    if (yield from woken(candidates, candidate, attempt, caller)) is None:
        return None
    try:
        attempt.slot = candidate.endpoint.line.try_enter(candidate.models[0], caller)
    except BaseException:
        attempt.end()
        raise
    if attempt.slot is not None:
        return candidate, attempt
    # It was acquired only to see whether the endpoint is up. One that waits must not be the probe
    # of an endpoint that has failed, nor count as running there.
    attempt.end()
    candidates.current = None
    others = list(filter(may_take, candidates.equals(candidate)))
    # The others are busy: those that sleep boot now, and help with the requests that come next.
    wake_later(other.endpoint for other in others)
    equals = [candidate, *(other for other in others if other.endpoint.is_awake)]
    try:
        index, slot = yield from _first_slot(equals, caller, is_warm=candidates.has_read(candidate))
    except LineFull as exc:
        candidates.busy(candidate, exc)
        return None
    except LinesClosed:
        candidates.paused(candidate)
        return None
    return (yield from _begun(candidates, candidate, equals[index], slot, caller))


def woken(
    candidates: Candidates, candidate: Candidate, attempt: EndpointAttempt, caller: Caller
) -> Generator[Waiting, None, Entered | None]:
    """Waitings until the candidate's machine is awake.

    None where it does not wake up, or the operator has paused it meanwhile.
    """
    candidates.current = None
    try:
        yield from caller.wait_for_client()
        if candidate.endpoint.power is not None:
            yield from awake(candidate.endpoint.power, caller)
        # A boot takes minutes, and so may a client that has gone.
        if candidate.endpoint.paused_at is not None:
            attempt.end()
            candidates.paused(candidate)
            return None
    except Unreachable as exc:
        candidates.failed(candidate, attempt, exc)
        return None
    except BaseException:
        attempt.end()
        raise
    candidates.current = candidate
    return candidate, attempt


def _first_slot(
    equals: list[Candidate], caller: Caller, *, is_warm: bool
) -> Generator[Waiting, None, tuple[int, HeldSlot]]:
    """Waitings until one of the candidates has a slot; then its index, and the slot.

    `is_warm`: the first one has read the conversation, and is worth a short wait.
    """
    lines = [(candidate.endpoint.line, candidate.models[0]) for candidate in equals]

    def is_open(index: int) -> bool:
        return equals[index].endpoint.paused_at is None

    if is_warm and len(lines) > 1:
        return (yield from wait_in_lines(lines, caller, _WARM_PATIENCE, is_open))
    for index, (line, model) in enumerate(lines[1:], 1):
        if (slot := line.try_enter(model, caller)) is not None:
            return index, slot
    return (yield from wait_in_lines(lines, caller, is_open=is_open))


def _begun(
    candidates: Candidates, first: Candidate, chosen: Candidate, slot: HeldSlot, caller: Caller
) -> Generator[Waiting, None, Entered | None]:
    """The candidate with the slot, and a new attempt; None if it has failed meanwhile."""
    if chosen is not first:
        candidates.swap(first, chosen)
    attempt = None
    try:
        attempt = yield from _attempt(candidates, chosen, caller)
    finally:
        if attempt is None:
            slot.free()
    if attempt is None:
        return None
    attempt.slot = slot
    return chosen, attempt


def _attempt(
    candidates: Candidates, candidate: Candidate, caller: Caller
) -> Generator[Waiting, None, EndpointAttempt | None]:
    """Waitings while the candidate cools down for a short time and no other may answer.

    The slot is held meanwhile: given to the next one in line, it would end the wait of each of them
    with an error, for one request that a server cannot answer.
    """
    endpoint, model = candidate.endpoint, candidate.models[0]
    sleeper, until = caller.sleeper or Sleeper(), endpoint.line.clock() + _COOLDOWN_PATIENCE
    while (attempt := candidates.acquire(candidate)) is None:
        left = endpoint.health.cooldown_left(model)
        is_over = endpoint.paused_at is not None or caller.is_gone
        is_long = endpoint.line.clock() + left >= until
        if is_over or is_long or candidates.has_ready_endpoint(candidate):
            return None
        yield Waiting(IN_LINE)
        # Without a cooldown left, another request probes the endpoint.
        sleeper.wait(left or 1.0)
        caller.check_deadline(endpoint.line.clock())
    return attempt

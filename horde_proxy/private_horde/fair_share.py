"""The order of a horde without kudos: the accounts that got least lately come first. Pure.

Every account has a turn, a point in time. A request is queued at its account's turn, which then
moves on by the tokens that the request may take; the turn of an account that asks for nothing
comes back to the present:

    account A   [ 500 tokens ][ 500 tokens ]         turns: now, now + 50 s
    account B   [ 100 tokens ]                       turn: now: before A's second request

So no request waits for those of others who got more, and none for longer than `_LATELY`.
"""

from __future__ import annotations

from horde_proxy.aihorde.limits import AGEING_KUDOS, AGEING_SECONDS
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import ALCHEMY, IMAGE, TEXT, HordeAccount, HordeRequest

_SECONDS_PER_WORK = {TEXT: 0.1, IMAGE: 1e-6, ALCHEMY: 5.0}
"""How far a token, a pixel-step or a form moves a turn: 10 tokens a second is the speed of a small
home server, and a million pixel-steps are that of a small graphics card."""
_LATELY = 3600.0
"""What an account got before so many seconds does not count any more."""


def take_turn(account: HordeAccount, request: HordeRequest) -> float:
    """The rank of a new request of an account, which the caller has locked and will save."""
    now = request.queued_at
    turn = min(max(now, account.turn), now + _LATELY)
    account.turn = min(turn + _whole(request), now + _LATELY)
    flagged = _LATELY if "flagged" in account.roles else 0.0
    # In the unit of the ranks of kudos, so that a horde may change its mind (see `queue.rank`).
    return (turn + flagged) * AGEING_KUDOS / AGEING_SECONDS


def give_back(op: Operation, request: HordeRequest) -> None:
    """Move an account's turn back by the results of a request that no worker has begun."""
    if op.rules.kudos or not request.waiting:
        return
    account = op.tx.lock(HordeAccount, request.account_id)
    if account is not None:
        account.turn -= _taken(request) * request.waiting / request.n
        op.tx.save(account)


def _taken(request: HordeRequest) -> float:
    """How far `take_turn` moved the turn for a request (s): less where it reached `_LATELY`.

    0 for a request of a flagged account, whose rank is an hour later than its turn.
    """
    begin = request.rank * AGEING_SECONDS / AGEING_KUDOS
    return max(0.0, min(_whole(request), request.queued_at + _LATELY - begin))


def _whole(request: HordeRequest) -> float:
    """How long all results of a request keep a small server busy (s)."""
    return request.n * request.work * _SECONDS_PER_WORK[request.kind]

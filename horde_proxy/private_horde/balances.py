"""Kudos: every movement is an entry of the ledger, and the balance changes with it.

So the entries of an account always sum up to its balance. Callers have locked the account.
"""

from __future__ import annotations

from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import (
    NEW,
    Charge,
    HordeAccount,
    LedgerEntry,
    TextRequest,
)

OPENING = "opening"
"""What an account begins with."""
TAX = "tax"
"""The price of a submit."""
JOB = "job"
"""The price of a delivered job."""
REWARD = "reward"
"""What a delivered job earns its worker's owner."""
FLOOR = "floor"
"""What lifts a balance to its floor (horde-api: FLOOR_ADJUSTMENT)."""


def give(op: Operation, account: HordeAccount, amount: float, reason: str) -> None:
    """Add kudos that the account did not earn."""
    _move(op, account, amount, reason)


def earn(
    op: Operation,
    account: HordeAccount,
    amount: float,
    reason: str,
    *,
    request_id: str,
    job_id: str,
) -> None:
    """Add earned kudos."""
    account.accumulated += amount
    _move(op, account, amount, reason, request_id, job_id)


def charge(
    op: Operation,
    account: HordeAccount,
    request: TextRequest,
    amount: float,
    reason: str,
    job_id: str | None = None,
) -> None:
    """Bill kudos to the account of a request: now, or at the next multiple of `settle_every`.

    The real horde's ledger is applied every 3 s (horde-api-2.md, section 4). The caller saves the
    request.
    """
    every = op.rules.settle_every
    if every:
        due = (op.now // every + 1) * every
        op.tx.add(Charge(NEW, due, account.id, request.id, amount, reason, job_id))
        return
    _pay(op, account, amount, reason, request.id, job_id)
    request.kudos += amount


def settle(op: Operation, charge: Charge) -> None:
    """Bill a charge that is due. Locks its request and its account."""
    request = op.tx.lock(TextRequest, charge.request_id)
    account = op.tx.lock(HordeAccount, charge.account_id)
    op.tx.delete(charge)
    if account is not None:
        _pay(op, account, charge.amount, charge.reason, charge.request_id, charge.job_id)
    if request is not None:
        request.kudos += charge.amount
        op.tx.save(request)


def release(op: Operation, request: TextRequest) -> None:
    """Give back the kudos that are held for a request. Locks its account; saves both."""
    if not request.held:
        return
    account = op.tx.lock(HordeAccount, request.account_id)
    if account is not None:
        account.held -= request.held
        op.tx.save(account)
    request.held = 0.0


def _pay(
    op: Operation,
    account: HordeAccount,
    amount: float,
    reason: str,
    request_id: str | None,
    job_id: str | None,
) -> None:
    """Take kudos, but not below the floor."""
    account.accumulated -= amount
    _move(op, account, -amount, reason, request_id, job_id)
    # At the floor, requests are free and have the lowest priority.
    if account.kudos < account.floor:
        _move(op, account, account.floor - account.kudos, FLOOR, request_id, job_id)


def _move(
    op: Operation,
    account: HordeAccount,
    amount: float,
    reason: str,
    request_id: str | None = None,
    job_id: str | None = None,
) -> None:
    account.kudos += amount
    entry = LedgerEntry(NEW, account.id, op.now, amount, reason, request_id, job_id)
    op.tx.add(entry)
    op.tx.save(account)

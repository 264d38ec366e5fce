"""Kudos: every movement is an entry of the ledger, and the balance changes with it.

So the entries of an account always sum up to its balance. Callers have locked the account. What a
shared key spends is counted at the key as well, and paid by its account.
"""

from __future__ import annotations

from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import (
    NEW,
    Charge,
    HordeAccount,
    HordeRequest,
    HordeSharedKey,
    LedgerEntry,
)

OPENING = "opening"
"""What an account begins with."""
TAX = "tax"
"""The price of a submit."""
JOB = "job"
"""The price of a delivered job."""
REWARD = "reward"
"""What a delivered job earns its worker's owner."""
UPTIME = "uptime"
"""What a worker earns its owner for being online."""
ESCROW = "escrow"
"""Earned kudos that are put aside (negative), and paid out once the account is trusted."""
FLOOR = "floor"
"""What lifts a balance to its floor (horde-api: FLOOR_ADJUSTMENT)."""
GIFT = "gift"
"""What an account sent to another (negative)."""
RECEIVED = "received"
"""What an account got from another."""
GRANT = "grant"
"""What an administrator gave, or took."""
MONTHLY = "monthly"
"""What an account gets each month."""
AWARD = "award"
"""What an administrator awarded for a contribution."""
WIPED = "wiped"
"""The rest of a deleted account."""

_COUNTED = {
    GIFT: "gifted",
    RECEIVED: "received",
    GRANT: "granted",
    MONTHLY: "recurring",
    AWARD: "awarded",
}
"""The field of an account that sums up the movements of a reason."""


def give(op: Operation, account: HordeAccount, amount: float, reason: str) -> None:
    """Add kudos that the account did not earn. A negative amount takes them."""
    if (name := _COUNTED.get(reason)) is not None:
        setattr(account, name, getattr(account, name) + amount)
    _move(op, account, amount, reason)
    _lift(op, account)


def transfer(op: Operation, sender: HordeAccount, receiver: HordeAccount, amount: float) -> None:
    """Move kudos from one account to another."""
    sender.gifted -= amount
    receiver.received += amount
    _move(op, sender, -amount, GIFT, partner_id=receiver.id)
    _move(op, receiver, amount, RECEIVED, partner_id=sender.id)


def earn(
    op: Operation,
    account: HordeAccount,
    amount: float,
    reason: str,
    *,
    request_id: str | None = None,
    job_id: str | None = None,
) -> None:
    """Add earned kudos. Of an untrusted account, some go into escrow (horde-api-2.md, section 4).

    The escrow is the negative sum of the entries with that reason.
    """
    if not op.rules.kudos:
        return
    account.accumulated += amount
    _move(op, account, amount, reason, request_id, job_id)
    if account.trusted:
        release_escrow(op, account)
        return
    aside = amount if reason == UPTIME else amount / 2
    account.accumulated -= aside
    account.escrow += aside
    _move(op, account, -aside, ESCROW, request_id, job_id)


def release_escrow(op: Operation, account: HordeAccount) -> None:
    """Pay out what is in escrow."""
    if account.escrow:
        amount, account.escrow = account.escrow, 0.0
        account.accumulated += amount
        _move(op, account, amount, ESCROW)


def charge(
    op: Operation,
    account: HordeAccount,
    request: HordeRequest,
    amount: float,
    reason: str,
    job_id: str | None = None,
) -> None:
    """Bill kudos to the account of a request: now, or at the next multiple of `settle_every`.

    The real horde's ledger is applied every 3 s (horde-api-2.md, section 4). The caller saves the
    request.
    """
    if not op.rules.kudos:
        return
    every = op.rules.settle_every
    amount *= account.usage_multiplier
    key_id = request.shared_key
    if every:
        due = (op.now // every + 1) * every
        op.tx.add(Charge(NEW, due, account.id, request.id, amount, reason, job_id, key_id))
        return
    _pay(op, account, amount, reason, request.id, job_id)
    request.kudos += amount
    _spend(op, key_id, amount, request)


def settle(op: Operation, charge: Charge) -> None:
    """Bill a charge that is due, once. Locks its request and its account."""
    request = op.tx.lock(HordeRequest, charge.request_id)
    account = op.tx.lock(HordeAccount, charge.account_id)
    newest = op.tx.lock(Charge, charge.id)
    # Another process may have billed it since it was read.
    if newest is None:
        return
    op.tx.delete(newest)
    if account is not None:
        _pay(op, account, charge.amount, charge.reason, charge.request_id, charge.job_id)
    if request is not None:
        request.kudos += charge.amount
        op.tx.save(request)
    _spend(op, charge.shared_key, charge.amount, request)


def release(op: Operation, request: HordeRequest) -> None:
    """Give back the kudos that are held for a request. Locks its account; saves it.

    The caller saves the request.
    """
    if request.held:
        account = op.tx.lock(HordeAccount, request.account_id)
        if account is not None:
            account.held -= request.held
            op.tx.save(account)
        request.held = 0.0
    if request.key_held:
        _spend(op, request.shared_key, 0.0, None, request.key_held)
        request.key_held = 0.0


def _spend(
    op: Operation,
    key_id: str | None,
    amount: float,
    request: HordeRequest | None,
    released: float = 0.0,
) -> None:
    """Count at a shared key what it has spent; less is held for its request then."""
    key = None if key_id is None else op.tx.lock(HordeSharedKey, key_id)
    if request is not None:
        released = min(amount, request.key_held)
        request.key_held -= released
    # It may have been deleted while its request waited.
    if key is not None:
        key.utilized += amount
        key.held -= released
        op.tx.save(key)


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
    _lift(op, account, request_id, job_id)


def _lift(
    op: Operation, account: HordeAccount, request_id: str | None = None, job_id: str | None = None
) -> None:
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
    partner_id: int | None = None,
) -> None:
    account.kudos += amount
    entry = LedgerEntry(NEW, account.id, op.now, amount, reason, request_id, job_id, partner_id)
    op.tx.add(entry)
    op.tx.save(account)

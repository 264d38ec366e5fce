"""Kudos that one account sends to another, and what administrators award.

The rules and codes are the real horde's (captures kudos_*). A transfer with an Idempotency-Key
counts once, however often it is sent within a day.
"""

from __future__ import annotations

from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import accounts, balances, shared_keys
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import NEW, HordeAccount, KudosTransfer

_REMEMBERED_SECONDS = 86_400.0
"""How long an Idempotency-Key is known, and a transfer beside its entries in the ledger."""
_RETURN_SECONDS = 60.0
"""So long after a transfer, its receiver may not send kudos back (TooFastKudosTransfers)."""


def transfer(
    op: Operation, sender: HordeAccount, target: str, amount: float, token: str = ""
) -> float:
    """Send kudos to an account ("alias#id") or a shared key. What was sent.

    Raises HordeError (400) with the real horde's codes.
    """
    receiver = _receiver(op, sender, target, amount)
    locked = op.tx.lock_all(HordeAccount, sorted({sender.id, receiver.id}))
    sender, receiver = locked[sender.id], locked[receiver.id]
    # Only a digest is kept: clients choose the text.
    digest = key_digest(token) if token else ""
    if digest:
        for earlier in op.tx.find(KudosTransfer, sender_id=sender.id):
            if earlier.token == digest and _is_remembered(op, earlier):
                return earlier.amount
    if _has_sent_recently(op, receiver, sender):
        raise refusal("TooFastKudosTransfers")
    if sender.spendable < amount:
        raise refusal("KudosTransferNotEnough")
    balances.transfer(op, sender, receiver, amount)
    shared_keys.top_up(op, target.lower(), amount)
    _remember(op, KudosTransfer(NEW, sender.id, receiver.id, op.now, amount, digest))
    return amount


def _receiver(op: Operation, sender: HordeAccount, target: str, amount: float) -> HordeAccount:
    """The account that gets the kudos, after all checks that need no lock."""
    if sender.anonymous:
        raise refusal("KudosTransferFromAnon")
    if amount < 0:
        raise refusal("NegativeKudosTransfer")
    if amount < 1 or amount != int(amount):
        raise refusal("InvalidKudosTransferAmount")
    owner = shared_keys.owner_of(op, target)
    matches = [owner] if owner is not None else accounts.named(op, [target])
    if not matches or matches[0].deleted is not None:
        raise refusal("InvalidTargetUsername")
    if matches[0].anonymous:
        raise refusal("KudosTransferToAnon")
    if matches[0].id == sender.id:
        raise refusal("KudosTransferToSelf")
    return matches[0]


def _has_sent_recently(op: Operation, account: HordeAccount, to: HordeAccount) -> bool:
    return any(
        transfer.receiver_id == to.id and 0 <= op.now - transfer.at < _RETURN_SECONDS
        for transfer in op.tx.find(KudosTransfer, sender_id=account.id)
    )


def _remember(op: Operation, transfer: KudosTransfer) -> None:
    """Keep a transfer, and drop those of the same sender that are too old to matter."""
    for earlier in op.tx.find(KudosTransfer, sender_id=transfer.sender_id):
        if not _is_remembered(op, earlier):
            op.tx.delete(earlier)
    op.tx.add(transfer)


def _is_remembered(op: Operation, transfer: KudosTransfer) -> bool:
    # A clock that was put back must not keep a transfer for years.
    return abs(op.now - transfer.at) <= _REMEMBERED_SECONDS


def award(op: Operation, admin: HordeAccount, target: str, amount: float) -> float:
    """Give kudos for a contribution. Raises NotAllowedAwards (403) and InvalidTargetUsername."""
    if not admin.admin:
        raise refusal("NotAllowedAwards")
    matches = accounts.named(op, [target])
    if not matches or matches[0].anonymous:
        raise refusal("InvalidTargetUsername")
    account = op.tx.lock(HordeAccount, matches[0].id)
    assert account is not None
    balances.give(op, account, amount, balances.AWARD)
    return amount

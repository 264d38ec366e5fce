"""What may be changed of an account, by whom; deletion; and the kudos of each month.

The rules and codes are the real horde's (horde-api-2.md, section 4; captures user_put_*), except
for `blocked`, which it does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from horde_proxy.private_horde import api_keys, balances, worker_changes
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import HordeAccount, HordeSharedKey, Worker
from horde_proxy.private_horde.registration import checked_name
from horde_proxy.private_horde.roles import BY_MODERATORS, MODERATOR, concurrency_of, with_role

Body = dict[str, Any]

WIPE_SECONDS = 30 * 86_400.0
"""An account that was deleted so long ago may be wiped, by the same call again."""
_OWN_FIELDS = ("username", "contact", "public_workers")
_ADMIN_FIELDS = ("kudos", "monthly_kudos", "usage_multiplier", MODERATOR)


def change(op: Operation, actor: HordeAccount, account: HordeAccount, fields: Body) -> Body:
    """Change what `fields` names (see `schema.USER_CHANGE`). The answer of PUT users/{id}.

    The account is locked. Raises NoUserModSelected (400), NotAdmin and NotModerator (403).
    """
    wanted = {name: value for name, value in fields.items() if value is not None}
    _check_rights(actor, account, wanted)
    answer: Body = {}
    for name, value in wanted.items():
        answer |= _CHANGES[name](op, account, name, value)
    if not answer:
        raise refusal("NoUserModSelected")
    op.tx.save(account)
    return answer


def _check_rights(actor: HordeAccount, account: HordeAccount, wanted: Body) -> None:
    if any(name in _ADMIN_FIELDS for name in wanted) and not actor.admin:
        raise refusal("NotAdmin")
    is_own = actor.id == account.id and not actor.anonymous
    if not actor.moderator and not (is_own and all(name in _OWN_FIELDS for name in wanted)):
        raise refusal("NotModerator")
    # Otherwise one moderator could block all others, or rename an administrator.
    if account.moderator and not is_own and not actor.admin:
        raise refusal("NotAdmin")


def _rename(op: Operation, account: HordeAccount, name: str, value: str) -> Body:
    account.alias = checked_name(value)
    return {"username": account.alias}


def _set(op: Operation, account: HordeAccount, name: str, value: Any) -> Body:
    setattr(account, name, value)
    return {name: value}


def set_role(op: Operation, account: HordeAccount, role: str, has_it: bool) -> Body:
    """Give or take a role, with what comes with it. What was changed; the caller saves the account.

    Raises AnonForbidden (403) for the anonymous account: everybody would have the role.
    """
    if account.anonymous:
        raise refusal("AnonForbidden")
    before = concurrency_of(account.roles)
    account.roles = with_role(account.roles, role, has_it)
    if account.trusted:
        balances.release_escrow(op, account)
    after = concurrency_of(account.roles)
    if after == before:
        return {role: has_it}
    account.concurrency = after
    return {"concurrency": after, role: has_it}


def _give(op: Operation, account: HordeAccount, name: str, value: float) -> Body:
    balances.give(op, account, value, balances.GRANT)
    return {"new_kudos": round(account.kudos, 2)}


def _give_monthly(op: Operation, account: HordeAccount, name: str, value: int) -> Body:
    """Add to the kudos of each month, and pay the whole once now."""
    account.monthly_kudos = max(account.monthly_kudos + value, 0)
    account.monthly_due = op.now if account.monthly_kudos else None
    if account.monthly_kudos:
        pay_month(op, account)
    return {"monthly_kudos": account.monthly_kudos}


def _reset_suspicion(op: Operation, account: HordeAccount, name: str, value: bool) -> Body:
    """Forget what the account's workers are suspected of. Members themselves never are."""
    if not value:
        return {}
    for worker in op.tx.find(Worker, owner_id=account.id):
        if worker.suspicions:
            worker.suspicions = ()
            op.tx.save(worker)
    return {"new_suspicion": 0}


def _undelete(op: Operation, account: HordeAccount, name: str, value: bool) -> Body:
    if not value:
        return {}
    account.deleted = None
    return {"undeleted": True}


_CHANGES: Mapping[str, Callable[[Operation, HordeAccount, str, Any], Body]] = {
    "username": _rename,
    **dict.fromkeys(("contact", "public_workers", "admin_comment"), _set),
    **dict.fromkeys(("concurrency", "usage_multiplier", "worker_invited", "blocked"), _set),
    **dict.fromkeys((*BY_MODERATORS, MODERATOR), set_role),
    "kudos": _give,
    "monthly_kudos": _give_monthly,
    "reset_suspicion": _reset_suspicion,
    "undelete": _undelete,
}


def delete(op: Operation, actor: HordeAccount, account: HordeAccount) -> None:
    """Mark an account as deleted; a month later, wipe it. The account is locked.

    Raises NotUserOrMod, CannotDeleteMod and CannotWipeActiveUser (403).
    """
    if account.anonymous or not (actor.moderator or actor.id == account.id):
        raise refusal("NotUserOrMod")
    if account.moderator:
        raise refusal("CannotDeleteMod")
    if account.deleted is None:
        account.deleted = op.now
        op.tx.save(account)
        return
    end = account.deleted + WIPE_SECONDS
    if op.now < end:
        until = datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d %H:%M:%S")
        raise refusal("CannotWipeActiveUser", until=until)
    _wipe(op, account)


def _wipe(op: Operation, account: HordeAccount) -> None:
    """Remove all that says who it was. The row stays: the ledger refers to it."""
    api_keys.delete_all(op, account)
    for key in op.tx.find(HordeSharedKey, account_id=account.id):
        op.tx.delete(key)
    account.alias, account.contact, account.admin_comment = "deleted", "", ""
    account.roles, account.floor = (), 0.0
    account.monthly_kudos, account.monthly_due = 0, None
    balances.release_escrow(op, account)
    balances.give(op, account, -account.kudos, balances.WIPED)
    for worker in op.tx.find(Worker, owner_id=account.id):
        worker_changes.remove(op, worker)


def pay_month(op: Operation, account: HordeAccount) -> None:
    """Pay the kudos of a month, and note when the next ones are due. The account is locked."""
    balances.give(op, account, float(account.monthly_kudos), balances.MONTHLY)
    assert account.monthly_due is not None
    account.monthly_due = month_after(account.monthly_due)
    op.tx.save(account)


def pay_due(op: Operation, account: HordeAccount) -> None:
    """Pay the kudos of a month, unless another process has done so, or will at once."""
    # An account that is locked stays due: the caller's own request need not wait for it.
    locked = op.tx.try_lock(HordeAccount, account.id)
    if locked is not None and locked.monthly_due is not None and locked.monthly_due <= op.now:
        pay_month(op, locked)


def month_after(time: float) -> float:
    """The same day and time of the next month (UTC), the 28th at most."""
    date = datetime.fromtimestamp(time, UTC)
    year, month = (date.year + 1, 1) if date.month == 12 else (date.year, date.month + 1)
    # Days that not every month has would make the day of payment wander.
    return date.replace(year=year, month=month, day=min(date.day, 28)).timestamp()

"""What the operator of a horde does without a key: `horde-proxy users` works on the store itself.

Answers are plain dicts, as those of the routes; refusals are HordeError. An account is named by
its number, its full name ("ann#3"), or its alias where only one account has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from horde_proxy.private_horde import api_keys, membership, people_responses, registration
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.people_responses import AccountDetail, view_of
from horde_proxy.private_horde.records import HordeAccount
from horde_proxy.private_horde.roles import ROLES

Body = dict[str, Any]

_PAGE = 500
"""Accounts that are read at a time."""

OPERATOR = HordeAccount(-1, "operator", 0.0, roles=ROLES)
"""Whoever may write to the database has all rights."""
_MADE_BY_OPERATOR = 0
"""The account that made the operator's invitations: nobody's."""


class Administration:
    """The accounts of a horde, for its operator. Thread-safe."""

    def __init__(self, changing: Begin, reading: Begin) -> None:
        self._changing, self._reading = changing, reading

    def add(
        self, name: str, *, roles: tuple[str, ...] = (), kudos: float = 0.0, contact: str = ""
    ) -> Body:
        """A new account as in `show`, with its `api_key`, which cannot be shown again."""
        ordered = tuple(role for role in ROLES if role in roles)
        with self._changing() as op:
            account, secret = registration.add(
                op, name, roles=ordered, kudos=kudos, contact=contact
            )
            return {**_shown(op, account), "api_key": secret}

    def users(self) -> list[Body]:
        """All accounts, the oldest first."""
        with self._reading() as op:
            return [_shown(op, account) for account in _accounts(op)]

    def show(self, who: str) -> Body:
        """An account as moderators see it, with its `roles` and `keys`."""
        with self._reading() as op:
            return _shown(op, _named(op, who))

    def invite(self, **invitation: Any) -> Body:
        """A new invitation, with its token `invitation`, which cannot be shown again."""
        with self._changing() as op:
            record, token = registration.invite(op, _MADE_BY_OPERATOR, **invitation)
            return {"invitation": token, **people_responses.invitation(record)}

    def invitations(self) -> list[Body]:
        """The invitations that still work, the newest first."""
        with self._reading() as op:
            return [people_responses.invitation(one) for one in registration.invitations(op)]

    def withdraw(self, invitation_id: int) -> None:
        """Make an invitation useless. Raises InvitationNotFound."""
        with self._changing() as op:
            registration.withdraw(op, invitation_id)

    def change(self, who: str, **fields: Any) -> Body:
        """An account after changes as PUT users/{id} makes them."""
        with self._changing() as op:
            account = _locked(op, who)
            membership.change(op, OPERATOR, account, fields)
            return _shown(op, account)

    def set_role(self, who: str, role: str, has_it: bool) -> Body:
        """An account after a role was given or taken; of any role, also administrators'."""
        with self._changing() as op:
            account = _locked(op, who)
            membership.set_role(op, account, role, has_it)
            op.tx.save(account)
            return _shown(op, account)

    def delete(self, who: str) -> Body:
        """An account after it was marked as deleted, or wiped a month later."""
        with self._changing() as op:
            account = _locked(op, who)
            membership.delete(op, OPERATOR, account)
            return _shown(op, account)

    def make_key(self, who: str, name: str = "", *, rotate: bool = False) -> Body:
        """{"api_key", "username"}: a new key. With `rotate`, all others stop working."""
        with self._changing() as op:
            account = _locked(op, who)
            if account.anonymous:
                raise HordeError(403, "The anonymous account has the key 0000000000 only.")
            if rotate:
                api_keys.delete_all(op, account)
            secret = api_keys.make(op, account, name)
            return {"username": account.username, "api_key": secret}

    def delete_key(self, who: str, fingerprint: str) -> None:
        """Remove a key of an account. Raises KeyNotFound."""
        with self._changing() as op:
            api_keys.delete(op, _locked(op, who), fingerprint)


def _accounts(op: Operation) -> Iterator[HordeAccount]:
    offset = 0
    while page := op.tx.page(HordeAccount, "id", descending=False, offset=offset, limit=_PAGE):
        yield from page
        offset += len(page)


def _named(op: Operation, who: str) -> HordeAccount:
    """The account that somebody means. Raises HordeError (404) for none or several."""
    matches = [
        account
        for account in _accounts(op)
        if who in (account.username, account.alias, str(account.id))
    ]
    # "7" may be a number and somebody's alias; the number is what cannot be meant otherwise.
    exact = [account for account in matches if who in (account.username, str(account.id))]
    matches = exact or matches
    if not matches:
        raise HordeError(404, f"There is no account {who!r}. `users list` shows all.")
    if len(matches) > 1:
        names = ", ".join(account.username for account in matches)
        raise HordeError(404, f"Several accounts are called {who!r}: name one of {names}.")
    return matches[0]


def _locked(op: Operation, who: str) -> HordeAccount:
    account = op.tx.lock(HordeAccount, _named(op, who).id)
    assert account is not None
    return account


def _shown(op: Operation, account: HordeAccount) -> Body:
    body = people_responses.user(view_of(op, account), AccountDetail.FULL)
    keys = [people_responses.account_key(key) for key in api_keys.listed(op, account)]
    return {**body, "roles": list(account.roles), "blocked": account.blocked, "keys": keys}

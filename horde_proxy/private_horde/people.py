"""The routes of people: accounts, keys, invitations, kudos and shared keys, a method for each.

Bodies come in as parsed JSON, answers go out as plain dicts, refusals as HordeError. The rules are
in membership, registration, api_keys, transfers and shared_keys.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde import (
    accounts,
    api_keys,
    membership,
    people_responses,
    registration,
    schema,
    shared_keys,
    transfers,
)
from horde_proxy.private_horde.errors import refusal, user_not_found
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.people_responses import AccountDetail, view_of
from horde_proxy.private_horde.records import HordeAccount, HordeSharedKey, LedgerEntry

Body = dict[str, Any]

_PAGE = 25
"""Accounts of a page of GET users (contract: apis/v2/base.py, Users)."""
_MOST_PAGES = 1_000_000
_ONLY_DIGITS = "Please use only the numerical part of the userID. E.g. the '1' in 'someone#1'"


class People:
    """The accounts of a horde, as its routes show and change them. Thread-safe."""

    def __init__(self, changing: Begin, reading: Begin) -> None:
        self._changing, self._reading = changing, reading

    # Accounts.

    def find_user(self, api_key: str | None) -> Body:
        """GET find_user: the caller's account. Raises InvalidAPIKey and UserNotFound.

        A shared key gets what everybody may see of its owner. The real horde repeats a wrong key
        in its message (capture find_user_404). This one does not, so that no log or page shows it.
        """
        # As captured: 401 without a key, 404 with a wrong key.
        if api_key is None:
            raise refusal("InvalidAPIKey")
        with self._reading() as op:
            payer = accounts.find_payer(op, api_key)
            if payer is None:
                raise refusal("UserNotFound")
            detail = AccountDetail.OWN if payer.shared_key is None else AccountDetail.PUBLIC
            body = people_responses.user(view_of(op, payer.account), detail)
            return {**body, "username": payer.username}

    def caller(self, api_key: str) -> Body:
        """Who a key belongs to: {"id", "username", "moderator", "admin", "state"}.

        `state` is "active", "blocked" or "deleted". Raises InvalidAPIKey for all keys but those of
        accounts, and AnonForbidden for the anonymous one.
        """
        with self._reading() as op:
            account = accounts.known(op, api_key)
            if account.anonymous:
                raise refusal("AnonForbidden")
            return people_responses.caller(account, accounts.moderates(account))

    def kudos_history(self, api_key: str, limit: int = 50) -> list[Body]:
        """The newest movements of the caller's kudos. Raises InvalidAPIKey and AnonForbidden."""
        with self._reading() as op:
            account = accounts.known(op, api_key)
            # Its movements are those of many people, who are none of each other's business.
            if account.anonymous:
                raise refusal("AnonForbidden")
            entries = op.tx.newest(LedgerEntry, limit, account_id=account.id)
            partners = {entry.partner_id for entry in entries} - {None}
            names = {
                partner.id: partner.username
                for number in partners
                if (partner := op.tx.get(HordeAccount, number)) is not None
            }
            return [people_responses.movement(entry, names) for entry in entries]

    def users(self, page: int = 1, sort: str = "kudos") -> list[Body]:
        """GET users: a page of all accounts, the richest first, or with `age` the oldest.

        Any other order is that of kudos (capture users_list_bad_sort).
        """
        by_age = sort == "age"
        # A larger number would not fit into the database's.
        offset = (min(max(page, 1), _MOST_PAGES) - 1) * _PAGE
        with self._reading() as op:
            accounts = op.tx.page(
                HordeAccount,
                "created" if by_age else "kudos",
                descending=not by_age,
                offset=offset,
                limit=_PAGE,
            )
            return [people_responses.listed_user(view_of(op, account)) for account in accounts]

    def user(self, api_key: str | None, user_id: str) -> Body:
        """GET users/{id}: more of it for the account itself and for moderators.

        Raises InvalidAPIKey (401) for an unknown key, and UserNotFound.
        """
        with self._reading() as op:
            caller = None if api_key is None else accounts.known(op, api_key)
            account = _numbered(op, user_id)
            return people_responses.user(view_of(op, account), _detail(caller, account))

    def change(self, api_key: str | None, user_id: str, body: Any) -> Body:
        """PUT users/{id}: what was changed. Raises what `membership.change` raises."""
        fields = schema.read(schema.USER_CHANGE, body)
        with self._changing() as op:
            actor = accounts.require(op, api_key or "")
            account = _locked(op, user_id)
            return membership.change(op, actor, account, fields)

    def delete(self, api_key: str | None, user_id: str) -> Body:
        """DELETE users/{id}: {"message": "OK"}. Raises what `membership.delete` raises."""
        with self._changing() as op:
            actor = accounts.known(op, api_key or "")
            account = _locked(op, user_id)
            # A deleted account may wipe itself, but a blocked moderator deletes nobody else.
            if actor.id != account.id:
                actor = accounts.require(op, api_key or "")
            membership.delete(op, actor, account)
            return {"message": "OK"}

    # Keys.

    def keys(self, api_key: str | None, user_id: str) -> list[Body]:
        """GET users/{id}/keys: the keys of an account, without the keys themselves."""
        with self._reading() as op:
            account = _manageable(op, api_key, _numbered(op, user_id))
            return [people_responses.account_key(key) for key in api_keys.listed(op, account)]

    def make_key(self, api_key: str | None, user_id: str, body: Any) -> Body:
        """POST users/{id}/keys: {"api_key", "name"}; the key cannot be shown again.

        The key with the fingerprint `replace` stops working.
        """
        fields = schema.read(schema.NEW_KEY, body)
        with self._changing() as op:
            account = _manageable(op, api_key, _locked(op, user_id))
            secret = api_keys.make(op, account, fields["name"], fields["replace"])
            return {"api_key": secret, "name": fields["name"]}

    def delete_key(self, api_key: str | None, user_id: str, fingerprint: str) -> Body:
        """DELETE users/{id}/keys/{fingerprint}: {"message": "OK"}. Raises KeyNotFound."""
        with self._changing() as op:
            account = _manageable(op, api_key, _locked(op, user_id))
            api_keys.delete(op, account, fingerprint)
            return {"message": "OK"}

    # Joining.

    def register(self, body: Any) -> Body:
        """POST register: {"id", "username", "api_key"}; the key cannot be shown again."""
        fields = schema.read(schema.REGISTRATION, body)
        with self._changing() as op:
            account, secret = registration.register(
                op, fields["username"], fields["invitation"], fields["contact"] or ""
            )
            return {"id": account.id, "username": account.username, "api_key": secret}

    def invite(self, api_key: str | None, body: Any) -> Body:
        """POST invitations: the invitation with its token, which cannot be shown again.

        Raises NotModerator, and NotAdmin for an invitation that brings kudos.
        """
        fields = schema.read(schema.INVITATION, body)
        with self._changing() as op:
            moderator = _moderator(op, api_key)
            if fields["kudos"] and not moderator.admin:
                raise refusal("NotAdmin")
            fields["days"] = fields["days"] or None
            invitation, token = registration.invite(op, moderator.id, **fields)
            return {"invitation": token, **people_responses.invitation(invitation)}

    def invitations(self, api_key: str | None) -> list[Body]:
        """GET invitations: those that still work, without their tokens. For moderators."""
        with self._reading() as op:
            _moderator(op, api_key)
            return [people_responses.invitation(one) for one in registration.invitations(op)]

    def withdraw(self, api_key: str | None, invitation_id: str) -> Body:
        """DELETE invitations/{id}: {"message": "OK"}. Raises InvitationNotFound (404)."""
        with self._changing() as op:
            _moderator(op, api_key)
            number = _number(invitation_id)
            if number is None:
                raise refusal("InvitationNotFound", id=invitation_id)
            registration.withdraw(op, number)
            return {"message": "OK"}

    # Kudos.

    def transfer(self, api_key: str | None, body: Any, token: str = "") -> Body:
        """POST kudos/transfer: {"transferred": kudos}. `token` is the Idempotency-Key."""
        fields = schema.read(schema.TRANSFER, body)
        with self._changing() as op:
            sender = accounts.require(op, api_key or "")
            amount = transfers.transfer(op, sender, fields["username"], fields["amount"], token)
            return {"transferred": float(amount)}

    def award(self, api_key: str | None, body: Any) -> Body:
        """POST kudos/award: {"awarded": kudos}. Raises NotAllowedAwards (403)."""
        fields = schema.read(schema.TRANSFER, body)
        with self._changing() as op:
            admin = accounts.require(op, api_key or "")
            return {
                "awarded": float(transfers.award(op, admin, fields["username"], fields["amount"]))
            }

    # Shared keys.

    def shared_key(self, key_id: str) -> Body:
        """GET sharedkeys/{id}: its limits and what is left. Whoever knows it may see that."""
        with self._reading() as op:
            return _shared_key(op, shared_keys.find(op, key_id))

    def make_shared_key(self, api_key: str | None, body: Any) -> Body:
        """PUT sharedkeys: a new key. Raises AnonForbidden and Forbidden (403)."""
        fields = schema.read(schema.SHARED_KEY, body)
        with self._changing() as op:
            owner = accounts.require(op, api_key or "")
            return _shared_key(op, shared_keys.make(op, owner, fields))

    def change_shared_key(self, api_key: str | None, key_id: str, body: Any) -> Body:
        """PATCH sharedkeys/{id}: the changed key. Raises what `shared_keys.change` raises."""
        fields = schema.read(schema.SHARED_KEY, body)
        with self._changing() as op:
            owner = accounts.require(op, api_key or "")
            return _shared_key(op, shared_keys.change(op, owner, key_id, fields))

    def delete_shared_key(self, api_key: str | None, key_id: str) -> Body:
        """DELETE sharedkeys/{id}: {"message": "OK"}. Raises Forbidden (403)."""
        with self._changing() as op:
            shared_keys.delete(op, accounts.require(op, api_key or ""), key_id)
            return {"message": "OK"}


def _number(text: str) -> int | None:
    """A number in a path; None if it is none, or larger than a database's numbers."""
    is_number = text.isascii() and text.isdecimal() and len(text) < 19
    return int(text) if is_number else None


def _numbered(op: Operation, user_id: str) -> HordeAccount:
    """The account of a path. Raises UserNotFound (404)."""
    number = _number(user_id)
    if number is None:
        # Somebody has sent "alice#2" (capture user_not_digits).
        raise user_not_found(user_id if user_id.isdecimal() else _ONLY_DIGITS)
    account = op.tx.get(HordeAccount, number)
    if account is None:
        raise user_not_found(user_id)
    return account


def _locked(op: Operation, user_id: str) -> HordeAccount:
    """As `_numbered`, for an account that is to be changed."""
    account = op.tx.lock(HordeAccount, _numbered(op, user_id).id)
    assert account is not None
    return account


def _moderator(op: Operation, api_key: str | None) -> HordeAccount:
    account = accounts.require(op, api_key or "")
    if not account.moderator:
        raise refusal("NotModerator")
    return account


def _manageable(op: Operation, api_key: str | None, account: HordeAccount) -> HordeAccount:
    """An account that the caller may make keys for: its own, or as a moderator those of others.

    A key of a moderator is made by itself or by an administrator: else it would give its maker the
    same rights. Raises AnonForbidden, NotModerator and NotAdmin (403).
    """
    actor = accounts.require(op, api_key or "")
    if actor.anonymous or account.anonymous:
        raise refusal("AnonForbidden")
    if actor.id != account.id:
        if not actor.moderator:
            raise refusal("NotModerator")
        if account.moderator and not actor.admin:
            raise refusal("NotAdmin")
    return account


def _detail(caller: HordeAccount | None, account: HordeAccount) -> AccountDetail:
    if caller is None:
        return AccountDetail.PUBLIC
    is_own = caller.id == account.id and not caller.anonymous
    if accounts.moderates(caller):
        return AccountDetail.FULL if is_own or caller.admin else AccountDetail.MODERATOR
    return AccountDetail.OWN if is_own else AccountDetail.PUBLIC


def _shared_key(op: Operation, key: HordeSharedKey) -> Body:
    owner = op.tx.get(HordeAccount, key.account_id)
    assert owner is not None
    return people_responses.shared_key(key, owner)

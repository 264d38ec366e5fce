"""The JSON objects of accounts, shared keys, invitations and keys, each made by one function.

Records in, plain dicts out, with fields in the real horde's order (captures user_*, sharedkey_*).
What a caller sees of an account depends on who it is: see `AccountDetail`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import IntEnum
from typing import Any

from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import (
    ALCHEMY,
    IMAGE,
    TEXT,
    AccountKey,
    HordeAccount,
    HordeRequest,
    HordeSharedKey,
    Invitation,
    LedgerEntry,
    Worker,
)

Body = dict[str, Any]


class AccountDetail(IntEnum):
    """How much a caller sees of an account: that of everybody, of itself, or of moderators.

    FULL is MODERATOR with the shared keys of a moderator: for that moderator and administrators.
    """

    PUBLIC = 0
    OWN = 1
    MODERATOR = 2
    FULL = 3


@dataclass(frozen=True)
class AccountView:
    """An account with what belongs to it, at the time `now` (Unix s)."""

    account: HordeAccount
    workers: Sequence[Worker]
    shared_keys: Sequence[HordeSharedKey]
    requests: Sequence[HordeRequest]
    now: float

    @property
    def worker_ids(self) -> list[str]:
        """The ids of its workers."""
        return [worker.id for worker in self.workers]

    @property
    def active_generations(self) -> Body:
        """Its open requests by kind; a kind that it never used is missing (find_user_moderator)."""
        sent = {
            TEXT: self.account.requests_sent,
            IMAGE: self.account.images_requested,
            ALCHEMY: self.account.forms_requested,
        }
        ids: dict[str, list[str]] = {kind: [] for kind in sent}
        # The forms of alchemy are requests of their own, which clients know by their group.
        for request in self.requests:
            request_id = request.needs.get("group", request.id)
            if request_id not in ids[request.kind]:
                ids[request.kind].append(request_id)
        return {kind: ids[kind] for kind in sent if ids[kind] or sent[kind]}


def view_of(op: Operation, account: HordeAccount) -> AccountView:
    """An account with all that belongs to it."""
    return AccountView(
        account,
        op.tx.find(Worker, owner_id=account.id),
        op.tx.find(HordeSharedKey, account_id=account.id),
        op.tx.open_requests(account.id),
        op.now,
    )


def user(view: AccountView, detail: AccountDetail) -> Body:
    """GET find_user and GET users/{id}: fields that the caller may not see are missing."""
    account = view.account
    is_own, is_moderator = detail >= AccountDetail.OWN, detail >= AccountDetail.MODERATOR
    body = {name: value for name, value in _all(view).items() if value is not None}
    hidden = []
    if not is_own:
        hidden += [*_OWN_FIELDS, *(() if account.public_workers else ("worker_ids",))]
    if not is_moderator:
        hidden += _MODERATOR_FIELDS
    # The id of a shared key is the key. A moderator may make keys for members (and sees theirs:
    # capture user_as_moderator), but not for other moderators and administrators.
    if account.moderator and detail == AccountDetail.MODERATOR:
        hidden.append("sharedkey_ids")
    if not account.contact:
        hidden.append("contact")
    if not account.admin_comment:
        hidden.append("admin_comment")
    if not view.active_generations:
        hidden.append("active_generations")
    return {name: value for name, value in body.items() if name not in hidden}


_OWN_FIELDS = ("sharedkey_ids", "active_generations", "vpn", "special", "contact", "blocked")
_MODERATOR_FIELDS = ("evaluating_kudos", "monthly_kudos", "suspicious", "admin_comment")


def listed_user(view: AccountView) -> Body:
    """An element of GET users: what only some may see is null (capture users_list)."""
    body = _all(view)
    hidden = (*_OWN_FIELDS, *_MODERATOR_FIELDS)
    body |= dict.fromkeys(hidden)
    if not view.account.public_workers:
        body["worker_ids"] = None
    body.pop("blocked")
    return {**body, "active_generations": {}, "monthly_kudos": {}}


def _all(view: AccountView) -> Body:
    account, roles = view.account, view.account.roles
    return {
        "username": account.username,
        "id": account.id,
        "kudos": round(account.kudos, 2),
        "evaluating_kudos": round(account.escrow, 2),
        "concurrency": account.concurrency,
        "worker_invited": account.worker_invited,
        "moderator": account.moderator,
        "kudos_details": _kudos_details(account),
        "worker_count": len(view.workers),
        "worker_ids": view.worker_ids,
        "styles": [],
        "sharedkey_ids": [key.id for key in view.shared_keys],
        "active_generations": view.active_generations,
        "monthly_kudos": _monthly(account),
        "trusted": account.trusted,
        "flagged": "flagged" in roles,
        "vpn": "vpn" in roles,
        "service": account.service,
        "education": "education" in roles,
        "customizer": "customizer" in roles,
        "special": "special" in roles,
        "deleted": account.deleted is not None,
        "suspicious": 0,
        # Accounts with a login elsewhere (oauth) do not exist here, so none lacks one.
        "pseudonymous": False,
        "contact": account.contact,
        "admin_comment": account.admin_comment,
        "proxy_passkey": None,
        "blocked": account.blocked or None,
        "account_age": max(0, int(view.now - account.created)),
        "usage": {"megapixelsteps": None, "requests": None},
        "contributions": {"megapixelsteps": None, "fulfillments": None},
        "records": _records(account),
    }


def _kudos_details(account: HordeAccount) -> Body:
    details = {
        "accumulated": account.accumulated,
        "gifted": account.gifted,
        "donated": 0,
        "admin": account.granted,
        "received": account.received,
        "recurring": account.recurring,
        "awarded": account.awarded,
        "styled": 0,
    }
    return {name: round(amount, 2) for name, amount in details.items()}


def _monthly(account: HordeAccount) -> Body:
    if account.monthly_due is None:
        return {"amount": account.monthly_kudos}
    return {"amount": account.monthly_kudos, "next": formatdate(account.monthly_due)}


def _mega(pixelsteps: int) -> float:
    return round(pixelsteps / 1_000_000, 2)


def _records(account: HordeAccount) -> Body:
    return {
        "usage": {
            "megapixelsteps": _mega(account.pixelsteps_requested),
            "tokens": account.tokens_requested,
        },
        "contribution": {
            "megapixelsteps": _mega(account.pixelsteps_made),
            "tokens": account.tokens_made,
        },
        "fulfillment": {
            "image": account.images_made,
            "text": account.jobs_done,
            "interrogation": account.forms_made,
        },
        "request": {
            "image": account.images_requested,
            "text": account.requests_sent,
            "interrogation": account.forms_requested,
        },
        "style": {"image": 0, "text": 0, "interrogation": 0},
    }


def shared_key(key: HordeSharedKey, owner: HordeAccount) -> Body:
    """GET sharedkeys/{id}: `kudos` are left, `utilized` were spent.

    `name` and `expiry` are missing where there are none, and so is what the real horde does not
    have: `max_requests` of a key that counts its requests, with `requests`, those that were sent.
    """
    body: Body = {"id": key.id, "username": owner.username}
    if key.name:
        body["name"] = key.name
    body["kudos"] = -1 if key.kudos < 0 else int(key.kudos_left)
    if key.expires is not None:
        body["expiry"] = formatdate(key.expires)
    body["utilized"] = round(key.utilized)
    for limit in ("max_image_pixels", "max_image_steps", "max_text_tokens"):
        body[limit] = getattr(key, limit)
    if key.max_requests >= 0:
        body |= {"max_requests": key.max_requests, "requests": key.requests}
    return body


def invitation(record: Invitation) -> Body:
    """An element of GET invitations; times are Unix seconds, `expires` is null without an end."""
    return {
        "id": record.id,
        "uses_left": record.uses_left,
        "expires": record.expires,
        "created": record.created,
        "made_by": record.made_by,
        "kudos": record.kudos,
        "note": record.note,
    }


def account_key(key: AccountKey) -> Body:
    """An element of GET users/{id}/keys. `origin` is "settings" or "start" for the owner's keys."""
    return {
        "fingerprint": key.fingerprint,
        "name": key.name,
        "created": key.created,
        "origin": key.origin or None,
    }


def caller(account: HordeAccount, moderates: bool) -> Body:
    """Who signed in, and what the account may do now."""
    state = "blocked" if account.blocked else "active"
    return {
        "id": account.id,
        "username": account.username,
        "moderator": moderates,
        "admin": account.admin and moderates,
        "state": "deleted" if account.deleted is not None else state,
    }


def movement(entry: LedgerEntry, usernames: Mapping[int, str]) -> Body:
    """A movement of kudos: time (Unix s), amount, cause, and the other account of a transfer."""
    return {
        "at": entry.at,
        "amount": entry.amount,
        "reason": entry.reason,
        "request": entry.request_id,
        "partner": None if entry.partner_id is None else usernames.get(entry.partner_id),
    }

"""What the templates of the private horde's pages get: the horde's own dicts, gathered by page.

The functions call the methods behind the routes of /api/v2 with the visitor's key, so what a
visitor may not see is missing already.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from horde_proxy.key_digest import key_fingerprint
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.web import form_filters
from horde_proxy.web.horde_access import HordeVisitor
from horde_proxy.web.horde_forms import ROLES
from horde_proxy.web.list_pages import page_number, page_of
from horde_proxy.web.tables import number

Facts = dict[str, Any]
Arguments = Mapping[str, str]

_PER_PAGE = 25
"""Accounts of a page of GET users."""
_MOST_ROWS = 100
"""Filters or time-outs of a page: each has forms of its own."""

_REASONS = {
    "opening": "what the account began with",
    "tax": "a request that was sent",
    "job": "a result of a request",
    "reward": "work of your workers",
    "uptime": "uptime of your workers",
    "escrow": "put aside until the account is trusted, or paid then",
    "floor": "lifted to the least balance",
    "gift": "sent",
    "received": "received",
    "grant": "from an administrator",
    "monthly": "of the month",
    "award": "an award",
    "wiped": "the account was deleted",
}
"""What people read for the reasons of the kudos ledger."""


def account(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The visitor's account, keys, shared keys, and why its kudos moved."""
    number_ = str(visitor.id)
    user = horde.people.user(visitor.key, number_)
    # What strangers see tells whether the account's workers are public.
    user["public_workers"] = "worker_ids" in horde.people.user(None, number_)
    # Blocked and deleted accounts may look, but a list of keys is for those who may change it.
    keys = horde.people.keys(visitor.key, number_) if visitor.state == "active" else []
    for key in keys:
        key["is_current"] = str(visitor.key).startswith(key["fingerprint"])
    return {
        "user": user,
        "keys": keys,
        "shared_keys": [
            {**horde.people.shared_key(key_id), "fingerprint": key_fingerprint(key_id)}
            for key_id in user.get("sharedkey_ids", [])
        ],
        "movements": horde.people.kudos_history(visitor.key),
        "is_free": horde.moderation.modes().get("kudos") == "off",
        "once": secrets.token_urlsafe(16),
    }


def queue(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """What waits and why."""
    return horde.queue(visitor.key)


def news(horde: PrivateHorde, visitor: HordeVisitor | None, arguments: Arguments) -> Facts:
    """What administrators have published, the newest first."""
    items = horde.moderation.news(with_ids=True)
    for item in items:
        # Other schemes, such as javascript:, are shown as text.
        urls = item["more_info_urls"]
        item["links"] = [url for url in urls if url.startswith(("http://", "https://"))]
        item["other_links"] = [url for url in urls if url not in item["links"]]
    return {"news": items}


def filters(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The filters of prompts, the newest first."""
    newest = horde.moderation.filters(visitor.key)[::-1]
    return {"page": page_of(newest, arguments, _MOST_ROWS)}


def timeouts(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The addresses that are in time-out, the longest first."""
    return {"page": page_of(horde.operations.timeouts(visitor.key), arguments, _MOST_ROWS)}


def people(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """A page of all accounts, the oldest first."""
    page = page_number(arguments)
    users = horde.people.users(page, "age")
    return {"users": users, "page": page, "has_more": len(users) == _PER_PAGE}


def person(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """An account, as moderators see it."""
    # People search for "ann#3", and the API wants the 3.
    number_ = arguments.get("id", "").strip().rpartition("#")[2]
    return {"user": horde.people.user(visitor.key, number_), "roles": ROLES}


def invitations(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The invitations that still work."""
    return {
        "invitations": horde.people.invitations(visitor.key),
        "registration": horde.access.registration,
    }


def rules(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The modes and limits of the horde."""
    return {
        "modes": horde.moderation.modes(),
        "access": horde.access,
        "limits": horde.time_limits,
        "upfront_kudos": horde.upfront_kudos,
        "rate_limits": horde.rate_limits,
        "load": horde.statistics.performance(),
    }


def kudos(amount: float) -> str:
    """An amount with its sign: +1,234 or -0.5."""
    return f"+{number(amount)}" if amount > 0 else number(amount)


def cause(reason: str) -> str:
    """The reason of a movement of kudos, in words."""
    return _REASONS.get(reason, reason)


FILTERS = (*form_filters.FILTERS, kudos, cause)
"""The filters of the templates, by the names of the functions."""

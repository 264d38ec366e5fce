"""What the templates of the private horde's pages get: the horde's own dicts, gathered by page.

The functions call the methods behind the routes of /api/v2 with the visitor's key, so what a
visitor may not see is missing already.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

from horde_proxy.private_horde import PrivateHorde
from horde_proxy.web.horde_access import HordeVisitor
from horde_proxy.web.horde_actions import shared_key_fingerprint
from horde_proxy.web.horde_forms import ROLES
from horde_proxy.web.tables import number, seconds

Facts = dict[str, Any]
Arguments = Mapping[str, str]

_PER_PAGE = 25
"""Accounts of a page of GET users."""
_MOST_WORKERS = 100
"""Workers of other people on a page."""

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
            {**horde.people.shared_key(key_id), "fingerprint": shared_key_fingerprint(key_id)}
            for key_id in user.get("sharedkey_ids", [])
        ],
        "movements": horde.people.kudos_history(visitor.key),
        "is_free": horde.moderation.modes().get("kudos") == "off",
        "once": secrets.token_urlsafe(16),
    }


def queue(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """What waits and why."""
    return horde.queue(visitor.key)


def workers(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The visitor's workers, online or not, and those of others that are online."""
    user = horde.people.user(visitor.key, str(visitor.id))
    own = set(user.get("worker_ids", []))
    others = [worker["id"] for worker in horde.fleet.workers() if worker["id"] not in own]
    return {
        "own": [horde.fleet.worker(worker_id, visitor.key) for worker_id in sorted(own)],
        "others": [
            horde.fleet.worker(worker_id, visitor.key) for worker_id in others[:_MOST_WORKERS]
        ],
        "more": max(len(others) - _MOST_WORKERS, 0),
    }


def people(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """A page of all accounts, the oldest first."""
    text = arguments.get("page", "1")
    page = int(text) if text.isascii() and text.isdecimal() and len(text) < 7 else 1
    users = horde.people.users(page, "age")
    return {"users": users, "page": page, "has_more": len(users) == _PER_PAGE}


def person(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """An account, as moderators see it."""
    return {"user": horde.people.user(visitor.key, arguments.get("id", "")), "roles": ROLES}


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
        "load": horde.performance(),
    }


def link(page: str, **arguments: str) -> str:
    """A relative link to a page."""
    return f"{page}?{urlencode(arguments)}" if arguments else page


def kudos(amount: float) -> str:
    """An amount with its sign: +1,234 or -0.5."""
    return f"+{number(amount)}" if amount > 0 else number(amount)


def cause(reason: str) -> str:
    """The reason of a movement of kudos, in words."""
    return _REASONS.get(reason, reason)


def day(time: float | None) -> str:
    """A time, such as 2026-11-29 16:04 UTC; a dash for None."""
    if time is None:
        return "–"
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def date(text: str) -> str:
    """A date of the API, such as "Tue, 29 Dec 2026 16:20:36 -0000", as `day` shows times."""
    return day(parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp())


FILTERS = (number, seconds, kudos, cause, day, date)
"""The filters of the templates, by the names of the functions."""

"""What the templates of the pages about workers get: workers, teams, and messages to workers.

As `horde_tables`, it calls the methods behind the routes of /api/v2 with the visitor's key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.web.horde_access import HordeVisitor
from horde_proxy.web.list_pages import page_of

Facts = dict[str, Any]
Arguments = Mapping[str, str]

OWN_PAGE = "own"
"""The argument of an address for the page of the visitor's own workers."""
_PER_PAGE = 50
"""Workers, teams or messages of a page: each has forms of its own."""
_MOST_CHOICES = 1000
"""Options of one select element; so many workers an account has at most."""


def workers(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The visitor's workers, online or not, and those of others that are online.

    For moderators with `owner`, the number of an account: only its workers.
    """
    of = arguments.get("owner", "") if visitor.moderator else ""
    user = horde.people.user(visitor.key, of or str(visitor.id))
    owned = _workers_of(horde, visitor, user)
    ids = {worker["id"] for worker in owned}
    others = [] if of else [worker for worker in _online(horde) if worker["id"] not in ids]
    page = page_of([worker["id"] for worker in others], arguments, _PER_PAGE)
    return {
        "of": user if of else None,
        "own": page_of(owned, arguments, _PER_PAGE, OWN_PAGE),
        # Again by its id: moderators see more of a worker than the list shows.
        "others": [horde.fleet.worker(worker_id, visitor.key) for worker_id in page.items],
        "page": page,
    }


def _online(horde: PrivateHorde) -> list[Facts]:
    return sorted(horde.fleet.workers(), key=_name)


def _workers_of(horde: PrivateHorde, visitor: HordeVisitor, user: Facts) -> list[Facts]:
    """An account's workers by name, those that are online first."""
    owned = [horde.fleet.worker(worker_id, visitor.key) for worker_id in user.get("worker_ids", [])]
    return sorted(owned, key=lambda worker: (not worker["online"], _name(worker)))


def _name(thing: Facts) -> str:
    return str(thing["name"]).casefold()


def teams(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The teams by name, and which workers of the visitor are in them."""
    user = horde.people.user(visitor.key, str(visitor.id))
    own = _workers_of(horde, visitor, user)
    by_name = sorted(horde.moderation.teams(), key=_name)
    page = page_of(by_name, arguments, _PER_PAGE)
    for team in page.items:
        team["is_mine"] = team["creator"] == visitor.username
        team["mine"] = _choices(worker for worker in own if worker["team"]["id"] == team["id"])
    return {
        "page": page,
        "may_found": user["trusted"] or visitor.moderator,
        "own": _choices(own),
        "choices": _choices(by_name),
        "chosen": arguments.get("join", ""),
    }


def _choices(things: Any) -> dict[str, str]:
    """Names by id, for a select element."""
    names = {str(thing["id"]): str(thing["name"]) for thing in things}
    return dict(list(names.items())[:_MOST_CHOICES])


def messages(horde: PrivateHorde, visitor: HordeVisitor, arguments: Arguments) -> Facts:
    """The messages that the visitor wrote, for moderators all, and to whom it may write."""
    if visitor.state != "active":
        return {"page": page_of([], arguments, _PER_PAGE), "choices": {}, "chosen": ""}
    user = horde.people.user(visitor.key, str(visitor.id))
    choices = _choices(_workers_of(horde, visitor, user))
    if visitor.moderator:
        choices |= _choices(_online(horde))
    chosen = arguments.get("worker", "")
    if visitor.moderator and chosen and chosen not in choices:
        choices[chosen] = _worker_name(horde, chosen)
    page = page_of(horde.moderation.messages(visitor.key), arguments, _PER_PAGE)
    _name_receivers(horde, page.items, choices)
    return {"page": page, "choices": choices, "chosen": chosen}


def _name_receivers(
    horde: PrivateHorde, written: Sequence[Facts], known: Mapping[str, str]
) -> None:
    """Note in `to` the name of the worker of each message; "" for all workers."""
    names = dict(known)
    for message in written:
        worker_id = message["worker_id"] or ""
        if worker_id and worker_id not in names:
            names[worker_id] = _worker_name(horde, worker_id)
        message["to"] = names.get(worker_id, "")


def _worker_name(horde: PrivateHorde, worker_id: str) -> str:
    try:
        return str(horde.fleet.worker(worker_id)["name"])
    except HordeError:
        return "a worker that was deleted"

"""The routes of people: accounts, keys, invitations, kudos and shared keys. Read, call, return."""

from __future__ import annotations

from typing import Any

from flask import g, request

from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.routing import HordeRoute, api_key, body, checked_key, count


def _find_user(horde: PrivateHorde) -> tuple[Any, int]:
    result = horde.people.find_user(api_key())
    g.username = result["username"]
    return result, 200


def _users(horde: PrivateHorde) -> tuple[Any, int]:
    sort = request.args.get("sort", "kudos")
    return horde.people.users(count("page") or 1, sort), 200


def _user(horde: PrivateHorde, user_id: str) -> tuple[Any, int]:
    if (key := api_key()) is not None:
        g.username = horde.identify(key)
    return horde.people.user(key, user_id), 200


def _change_user(horde: PrivateHorde, user_id: str) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.change(key, user_id, body()), 200


def _delete_user(horde: PrivateHorde, user_id: str) -> tuple[Any, int]:
    # Not `checked_key`: a deleted account may wipe itself a month later.
    g.username = horde.identify(key := api_key())
    return horde.people.delete(key, user_id), 200


def _keys(horde: PrivateHorde, user_id: str) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.keys(key, user_id), 200


def _make_key(horde: PrivateHorde, user_id: str) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.make_key(key, user_id, body()), 201


def _delete_key(horde: PrivateHorde, user_id: str, fingerprint: str) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.delete_key(key, user_id, fingerprint), 200


def _register(horde: PrivateHorde) -> tuple[Any, int]:
    result = horde.people.register(body())
    g.username = result["username"]
    return result, 201


def _invitations(horde: PrivateHorde) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.invitations(key), 200


def _invite(horde: PrivateHorde) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.invite(key, body()), 201


def _withdraw(horde: PrivateHorde, invitation_id: str) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.withdraw(key, invitation_id), 200


def _transfer(horde: PrivateHorde) -> tuple[Any, int]:
    key = checked_key(horde)
    token = request.headers.get("Idempotency-Key", "")
    return horde.people.transfer(key, body(), token), 200


def _award(horde: PrivateHorde) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.award(key, body()), 200


def _shared_key(horde: PrivateHorde, key_id: str) -> tuple[Any, int]:
    return horde.people.shared_key(key_id), 200


def _make_shared_key(horde: PrivateHorde) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.make_shared_key(key, body()), 200


def _change_shared_key(horde: PrivateHorde, key_id: str) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.change_shared_key(key, key_id, body()), 200


def _delete_shared_key(horde: PrivateHorde, key_id: str) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.people.delete_shared_key(key, key_id), 200


PEOPLE_ROUTES = (
    HordeRoute("/find_user", {"GET": _find_user}),
    HordeRoute("/users", {"GET": _users}),
    HordeRoute(
        "/users/<user_id>", {"GET": _user, "PUT": _change_user, "DELETE": _delete_user}, "user"
    ),
    HordeRoute("/kudos/transfer", {"POST": _transfer}, "transfer"),
    HordeRoute("/kudos/award", {"POST": _award}),
    HordeRoute("/sharedkeys", {"PUT": _make_shared_key}, "new_shared_key"),
    HordeRoute(
        "/sharedkeys/<key_id>",
        {"GET": _shared_key, "PATCH": _change_shared_key, "DELETE": _delete_shared_key},
    ),
    # The rest are not AI-Horde's: there, people register on a page.
    HordeRoute("/register", {"POST": _register}, "register", guarded=True),
    HordeRoute("/invitations", {"GET": _invitations, "POST": _invite}),
    HordeRoute("/invitations/<invitation_id>", {"DELETE": _withdraw}),
    HordeRoute("/users/<user_id>/keys", {"GET": _keys, "POST": _make_key}),
    HordeRoute("/users/<user_id>/keys/<fingerprint>", {"DELETE": _delete_key}),
)
"""The routes of people, for `views.blueprint`."""

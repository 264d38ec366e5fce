"""What a request brings: its JSON body, its key in every form that clients send, its address."""

from __future__ import annotations

import json

from flask import g, request

from horde_proxy.api.context import AppContext, current_context
from horde_proxy.errors import InvalidApiKey, InvalidRequest
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import ClientKey
from horde_proxy.router import EVERYTHING
from horde_proxy.upstreams.proxying import JsonBody

_KEY_HEADERS = ("api-key", "x-api-key", "apikey")
_NO_KEYS = frozenset({"", "null", "undefined", "none", "anonymous", "empty"})
_NOT_JSON = "We could not parse the JSON body of your request."
_NO_KEY_PREFIX = "sk-no-key"
_SHORT = 16
_MOST = 999_999_999
ANONYMOUS_ACCOUNT = "anybody"
"""Whose requests are that no key comes with."""


def read_json() -> JsonBody:
    """The body, decoded, whatever its Content-Type says. Raises InvalidRequest."""
    content = request.get_data(cache=False)
    try:
        return JsonBody(content, json.loads(content))
    except json.JSONDecodeError as exc:
        place = f" {exc.msg} (line {exc.lineno}, column {exc.colno})."
        reason = place if exc.doc else " It is empty."
        raise InvalidRequest(_NOT_JSON + reason) from exc
    except UnicodeDecodeError as exc:
        raise InvalidRequest(_NOT_JSON + " It is not UTF-8.") from exc
    except ValueError as exc:
        raise InvalidRequest(_NOT_JSON + " A number in it is too long.") from exc
    except RecursionError as exc:
        raise InvalidRequest(_NOT_JSON + " It is nested too deeply.") from exc


def client_key() -> str | None:
    """The key that the client sent, or None where it sent none or a stand-in for none."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    sent = [token if scheme.lower() == "bearer" else ""]
    sent += [request.headers.get(name, "") for name in _KEY_HEADERS]
    keys = (key.strip() for key in sent)
    return next((key for key in keys if _is_key(key)), None)


def guard() -> None:
    """Let in who may; for the blueprints that want a key. Raises InvalidApiKey."""
    ctx = current_context()
    g.key, g.scope = None, EVERYTHING
    if not ctx.access.requires_key:
        return
    sent = client_key()
    if sent is None:
        raise InvalidApiKey(
            "You didn't provide an API key. Send it as Authorization: Bearer YOUR_KEY."
        )
    key = ctx.access.keys.find(sent)
    if key is None:
        raise InvalidApiKey("Incorrect API key provided.")
    use(key)


def use(key: ClientKey) -> None:
    """Let this request do what the key may."""
    g.key, g.record.key = key, key.name
    if key.models or key.endpoints:
        g.scope = key


def admit() -> None:
    """Count the request among those of its key. Raises RateLimited when it may make no more."""
    ctx = current_context()
    g.record.account = g.record.key or _account(ctx)
    if g.key is not None:
        g.closing.append(ctx.access.limits.admit(g.key))


def is_admin() -> bool:
    """Whether the key is one that may see what is everybody's."""
    key: ClientKey | None = g.key
    return key is not None and (key.admin or key.name in current_context().access.admins)


def whole_number(name: str, least: int, most: int = _MOST) -> int | None:
    """A number of the query; None where it is not given. Raises InvalidRequest with param."""
    given = request.args.get(name)
    if given is None:
        return None
    is_number = given.isascii() and given.isdigit() and len(given) <= len(str(_MOST))
    if not is_number or not least <= int(given) <= most:
        raise unusable(name, f"it must be a whole number from {least} to {most}")
    return int(given)


def unusable(name: str, why: str) -> InvalidRequest:
    """The error for a parameter of the query."""
    return InvalidRequest(f"`{name}` is not usable: {why}.", param=name, code="invalid_value")


def _account(ctx: AppContext) -> str:
    """Whom a request without a key of ours is counted for."""
    return client_name()[:_SHORT] if ctx.access.passthrough else ANONYMOUS_ACCOUNT


def client_name() -> str:
    """Who asks: the digest of the key that was sent, or the address of who sent none.

    `g.visitor`: the digest of the key that somebody has logged in with at the page.
    """
    if "visitor" in g:
        return f"key {g.visitor[:32]}"
    key = client_key()
    if key is None:
        return f"address {client_address()}"
    return "key " + key_digest(key)[:32]


def client_address() -> str:
    """The peer, or whom a trusted proxy names as the client: the last address it did not add."""
    trusted, address = current_context().access.trusted_proxies, request.remote_addr or ""
    forwarded = [each.strip() for each in request.headers.get("X-Forwarded-For", "").split(",")]
    while address in trusted and forwarded and forwarded[-1]:
        address = forwarded.pop()
    return address


def _is_key(key: str) -> bool:
    return key.lower() not in _NO_KEYS and not key.lower().startswith(_NO_KEY_PREFIX)

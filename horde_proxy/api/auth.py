"""What a request brings: its JSON body, its key in every form that clients send, its address.

It decides who a client is and whether it may go on; what a client gets is not decided here.
"""

from __future__ import annotations

import json

from flask import g, request
from werkzeug.exceptions import RequestEntityTooLarge

from horde_proxy.api import addresses
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.errors import InvalidApiKey, InvalidRequest, TooManyWrongKeys
from horde_proxy.json_reading import TooManyValues, parse_json
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import ClientKey
from horde_proxy.networks import network_of
from horde_proxy.router import EVERYTHING
from horde_proxy.upstreams.proxying import JsonBody

_KEY_HEADERS = ("api-key", "x-api-key", "apikey")
# What clients send that must send some key: "null" and "undefined" come from scripts in JavaScript.
_NO_KEYS = frozenset({"", "null", "undefined", "none", "anonymous", "empty"})
_NOT_JSON = "We could not parse the JSON body of your request."
# "sk-no-key-required" is what llama.cpp's examples send.
_NO_KEY_PREFIX = "sk-no-key"
ANONYMOUS_ACCOUNT = "anybody"
"""The account that requests without a key are counted for."""


def read_json() -> JsonBody:
    """The decoded JSON body. Raises InvalidRequest, or RequestEntityTooLarge for too many values.

    Content-Type does not matter: curl and many scripts send JSON as a form.
    """
    content = request.get_data(cache=False)
    try:
        return JsonBody(content, parse_json(content))
    except TooManyValues as exc:
        raise RequestEntityTooLarge(f"The JSON of the request body is too large: {exc}.") from exc
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
    """The key that the client sent, or None without one. Placeholders for a key are not one."""
    scheme, _, token = request.headers.get("Authorization", "").strip().partition(" ")
    sent = [token if scheme.lower() == "bearer" else ""]
    sent += [request.headers.get(name, "") for name in _KEY_HEADERS]
    keys = (key.strip() for key in sent)
    return next((key for key in keys if _is_key(key)), None)


def authenticate() -> None:
    """Find the key of the current request, where one is required. Raises InvalidApiKey."""
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
        count_wrong_key(ctx, sent)
        raise InvalidApiKey("Incorrect API key provided.")
    act_as(key)


def count_wrong_key(ctx: AppContext, key: str) -> None:
    """Count a wrong key of the client's address. Raises TooManyWrongKeys above the bound."""
    address = client_address(ctx)
    wait = ctx.live.wrong_keys.count(network_of(address) or address, key)
    if wait:
        raise TooManyWrongKeys(
            f"Too many wrong API keys came from this address. Wait {wait} s, or send the right "
            f"key.{_hint_at_proxy(ctx)}",
            retry_after=wait,
        )


def _hint_at_proxy(ctx: AppContext) -> str:
    """What to add to a refusal by address where a proxy's clients share one address, or ""."""
    peer = request.remote_addr or ""
    if peer in ctx.access.trusted_proxies or not addresses.is_forwarded(request.headers):
        return ""
    return (
        " All clients of the reverse proxy count as one address, because server.trusted_proxies "
        "does not name that proxy."
    )


def act_as(key: ClientKey) -> None:
    """Give the current request the rights of a key."""
    g.key, g.record.key = key, key.name
    if key.models or key.endpoints:
        g.scope = key


def check_limits(*, makes_images: bool = False) -> None:
    """Count the request against the limits of its key. Raises RateLimited above one of them."""
    ctx = current_context()
    g.record.account = account_name(ctx)
    if g.key is not None:
        g.closing.append(ctx.access.limits.admit(g.key, makes_images=makes_images))


def is_admin() -> bool:
    """Whether the current key may see the requests and the usage of all clients."""
    key: ClientKey | None = g.key
    return key is not None and (key.admin or key.name in current_context().access.admins)


def is_operator() -> bool:
    """Whether the client may see how the proxy fares: an admin, or without keys this machine."""
    return is_admin() if current_context().access.requires_key else _is_local()


def account_name(ctx: AppContext) -> str:
    """The name that the usage of the current request is filed under."""
    key: ClientKey | None = g.key
    if key is not None:
        return key.name
    # The whole name: "address 192.168.1.5" and "address 192.168.7.77" begin alike.
    return client_name() if ctx.access.passthrough else ANONYMOUS_ACCOUNT


def client_name() -> str:
    """What tells clients apart: the digest of the key that was sent, or else the address.

    `g.visitor` is the digest of the key that a visitor of the page has logged in with.
    """
    if "visitor" in g:
        return f"key {g.visitor[:32]}"
    key = client_key()
    if key is None:
        return f"address {client_address(current_context())}"
    return "key " + key_digest(key)[:32]


def client_address(ctx: AppContext) -> str:
    """The address of the current request's client; see addresses.client_address."""
    peer, trusted = request.remote_addr or "", ctx.access.trusted_proxies
    return addresses.client_address(peer, request.headers, trusted)


def _is_local() -> bool:
    trusted = current_context().access.trusted_proxies
    return addresses.is_local(request.remote_addr or "", request.headers, trusted)


def _is_key(key: str) -> bool:
    return key.lower() not in _NO_KEYS and not key.lower().startswith(_NO_KEY_PREFIX)

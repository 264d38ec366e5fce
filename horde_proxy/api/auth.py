"""What a request brings: its JSON body, its key in every form that clients send, its address.

It decides who a client is and whether it may go on; what a client gets is not decided here. A call
that is made for a job (internal_call.py) brings the identity of the client that the job is for.
"""

from __future__ import annotations

import json
from typing import cast

from flask import g, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import RequestEntityTooLarge

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.api import addresses
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.internal_call import JobIdentity, current_job
from horde_proxy.api.places import allowed_places, scope_of_request, take_places
from horde_proxy.api.this_request import current_request, current_values
from horde_proxy.errors import InvalidApiKey, InvalidRequest, RequestRefused, TooManyWrongKeys
from horde_proxy.json_reading import TooManyValues, parse_json
from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import ClientKey, DayBudget
from horde_proxy.networks import network_of
from horde_proxy.router import EVERYTHING
from horde_proxy.upstreams.proxying import JsonBody

_KEY_IN_ENVIRON = "horde_proxy.client_key"
"""Where the key is kept that was found in the headers. No header can have such a name there."""
_KEY_HEADERS = ("api-key", "x-api-key", "apikey")
# What clients send that must send some key: "null" and "undefined" come from scripts in JavaScript.
_NO_KEYS = frozenset({"", "null", "undefined", "none", "anonymous", "empty"})
_NOT_JSON = "We could not parse the JSON body of your request."
# "sk-no-key-required" is what llama.cpp's examples send.
_NO_KEY_PREFIX = "sk-no-key"
_ANONYMOUS_DIGEST = key_digest(ANONYMOUS_KEY)
ANONYMOUS_ACCOUNT = "anybody"
"""The account that requests without a key are counted for."""


def read_json() -> JsonBody:
    """The decoded JSON body. Raises InvalidRequest, or RequestEntityTooLarge for too many values.

    Its field `places` is taken out, and binds the request: no other reader of bodies may skip that.
    Content-Type does not matter: curl and many scripts send JSON as a form.
    """
    g.content = content = request.get_data(cache=False)
    try:
        return take_places(JsonBody(content, parse_json(content)))
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
    """The key that the client sent, or None without one. Placeholders for a key are not one.

    That of a job is its client's own key for the horde, where such a key pays.
    """
    job = current_job()
    if job is not None:
        return job.horde_key
    sent = current_request()
    # A call needs its key several times, and its headers do not change.
    if _KEY_IN_ENVIRON not in sent.environ:
        sent.environ[_KEY_IN_ENVIRON] = _sent_key(sent.headers)
    return cast("str | None", sent.environ[_KEY_IN_ENVIRON])


def _sent_key(headers: Headers) -> str | None:
    scheme, _, token = headers.get("Authorization", "").strip().partition(" ")
    sent = [token if scheme.lower() == "bearer" else ""]
    sent += [headers.get(name, "") for name in _KEY_HEADERS]
    keys = (key.strip() for key in sent)
    return next((key for key in keys if _is_key(key)), None)


def guard_request() -> None:
    """Refuse what nobody without a key may send, see request_guard.py. Raises RequestRefused."""
    guard = current_context().access.guard
    if not guard.refuses or current_job() is not None:
        return
    protocol = request.environ.get("SERVER_PROTOCOL", "")
    refusal = guard.refusal(request.remote_addr or "", request.headers, protocol)
    if refusal is not None:
        # Browsers must not let the page read why.
        g.is_refused = True
        raise RequestRefused(refusal)


def authenticate() -> None:
    """Find the key of the current request, where one is required. Raises InvalidApiKey."""
    ctx, values = current_context(), current_values()
    values.key, values.scope = None, EVERYTHING
    if not ctx.access.requires_key:
        values.scope = scope_of_request(EVERYTHING)
        return
    job = current_job()
    if job is not None:
        act_as(_key_of_job(ctx, job))
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


def _key_of_job(ctx: AppContext, job: JobIdentity) -> ClientKey:
    """The key that a job was begun with. Raises InvalidApiKey once it is revoked."""
    key = ctx.access.keys.find_digest(job.key_digest) if job.key_digest else None
    if key is None:
        raise InvalidApiKey("The API key that this job was begun with is not valid any more.")
    return key


def job_identity(job_id: str) -> JobIdentity:
    """The identity for a job that goes on after the current request, for the same client."""
    ctx = current_context()
    # The page's visitors have logged in with a key, of which the session keeps the digest.
    digest = g.get("visitor")
    if digest is None and (key := client_key()) is not None:
        digest = key_digest(key)
    return JobIdentity(
        job_id,
        client_name(),
        client_address(ctx),
        key_digest=digest if ctx.access.requires_key else None,
        horde_key=client_key() if ctx.access.passthrough else None,
        places=allowed_places(),
    )


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
    values = current_values()
    values.key, values.record.key = key, key.name
    is_limited = key.models or key.endpoints or key.places
    values.scope = scope_of_request(key if is_limited else EVERYTHING)


def check_limits(*, makes_images: bool = False) -> None:
    """Count the request against the limits of its key. Raises RateLimited above one of them."""
    ctx, values = current_context(), current_values()
    values.record.account = account_name(ctx)
    if values.key is not None:
        job = current_job()
        admit = ctx.access.limits.admit
        is_new = job is None or job.is_new
        values.closing.append(admit(values.key, makes_images=makes_images, is_new=is_new))


def kudos_budget(ctx: AppContext) -> DayBudget | None:
    """What the current request may spend of its key's kudos, until it ends; None: no limit."""
    budget = ctx.access.limits.budget(g.key) if g.key is not None else None
    if budget is not None:
        g.closing.append(budget.close)
    return budget


def is_admin() -> bool:
    """Whether the current key may see the requests and the usage of all clients."""
    key: ClientKey | None = g.key
    return key is not None and (key.admin or key.name in current_context().access.admins)


def is_operator() -> bool:
    """Whether the client may see how the proxy fares: an admin, or without keys this machine."""
    return is_admin() if current_context().access.requires_key else _is_local()


def account_name(ctx: AppContext) -> str:
    """The owner of what the current request uses and stores, which no other client finds.

    It outlives a restart. Without keys, all clients are one owner.
    """
    key: ClientKey | None = g.key
    if key is not None:
        return key.name
    # The whole name: "address 192.168.1.5" and "address 192.168.7.77" begin alike.
    return client_name() if ctx.access.passthrough else ANONYMOUS_ACCOUNT


def client_name() -> str:
    """What tells clients apart: the digest of the key that was sent, or else the address.

    The horde's anonymous key is anybody's, so that it tells nobody apart. `g.visitor` is the
    digest of the key that a visitor of the page has logged in with.
    """
    job = current_job()
    if job is not None:
        return job.client
    digest = g.get("visitor")
    if digest is None and (key := client_key()) is not None:
        digest = key_digest(key)
    if digest is None or digest == _ANONYMOUS_DIGEST:
        return f"address {client_address(current_context())}"
    return f"key {digest[:32]}"


def client_weight() -> float:
    """The weight of the client's key where requests wait in line; 1 without one."""
    key: ClientKey | None = g.key
    return key.weight if key is not None else 1.0


def client_address(ctx: AppContext) -> str:
    """The address of the current request's client; see addresses.client_address."""
    sent = current_request()
    return addresses.client_address(
        sent.remote_addr or "", sent.headers, ctx.access.trusted_proxies
    )


def _is_local() -> bool:
    guard, protocol = current_context().access.guard, request.environ.get("SERVER_PROTOCOL", "")
    return guard.is_this_machine(request.remote_addr or "", request.headers, protocol)


def _is_key(key: str) -> bool:
    return key.lower() not in _NO_KEYS and not key.lower().startswith(_NO_KEY_PREFIX)


def horde_key(ctx: AppContext) -> str | None:
    """The client's own horde key, which pays for its requests; None: the proxy's key pays."""
    if ctx.access.passthrough:
        return client_key() or ANONYMOUS_KEY
    return g.key.horde_key if g.key else None

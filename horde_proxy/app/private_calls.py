"""Calls of the private horde from outside: logged, counted, and refused where they guess keys.

    client or worker --HTTP--> private app with these hooks
    a chat's own calls ------> private app; the hooks leave them alone, the chat is logged itself

The private horde knows nothing of it. Its calls are not in the page's history, which counts chats.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from flask import Flask, Response, g, jsonify, request

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.api.access_log import RequestLog, shown_path
from horde_proxy.api.addresses import public_base
from horde_proxy.api.auth import client_address, count_wrong_key
from horde_proxy.api.context import AppContext
from horde_proxy.errors import RequestRefused, TooManyWrongKeys
from horde_proxy.metrics import OTHER
from horde_proxy.web.login import is_https
from horde_proxy.web.sessions import Sessions

if TYPE_CHECKING:
    from horde_proxy.web.horde_access import PageHost

FROM_OUTSIDE = "horde_proxy.from_outside"
"""In the WSGI environ of calls that came over HTTP. No client can set it: it is no header."""
_WRONG_KEY = frozenset({"InvalidAPIKey", "UserNotFound"})
"""The codes of a wrong key; GET find_user answers with the second. Where the key was known, they
are about a shared key or an account of the path."""


_READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing and cost nothing. A browser sends the last one without the key, to
ask whether a page may call (Fetch standard)."""


def register(private: Flask, proxy: Flask) -> None:
    """Put the hooks on an app of the private horde. `proxy` is the app that it belongs to."""

    def context() -> AppContext:
        return _context(proxy)

    def begin() -> Response | None:
        if FROM_OUTSIDE not in request.environ:
            return None
        g.began = time.monotonic()
        client = g.client_address = client_address(context())
        g.public_base = _public_base(context())
        g.record = RequestLog(uuid.uuid4().hex, request.method, shown_path(request.path), client)
        return _refusal(context())

    def finish(response: Response) -> Response:
        if "record" in g:
            _refuse_guess(context(), response)
            _log_at_the_end(context(), response)
        return response

    private.before_request(begin)
    private.after_request(finish)


def page_host(proxy: Flask, sessions: Sessions) -> PageHost:
    """What the private horde's pages need of the proxy that serves them."""
    # It imports the private horde, which most proxies do without.
    from horde_proxy.web.horde_access import PageHost

    return PageHost(
        sessions,
        client_address=lambda: client_address(_context(proxy)),
        is_https=lambda: is_https(_context(proxy)),
        count_wrong_key=lambda key: count_wrong_key(_context(proxy), key),
    )


def _context(proxy: Flask) -> AppContext:
    return cast(AppContext, proxy.extensions["horde_proxy"])


def _public_base(ctx: AppContext) -> str:
    """The root of the URL that the client used, by which it reaches links of the horde."""
    peer, headers = request.remote_addr or "", request.headers
    return ctx.serving.public_url or public_base(
        peer, headers, request.host_url, ctx.access.trusted_proxies
    )


def _refusal(ctx: AppContext) -> Response | None:
    """The response to what request_guard.py refuses; None: the horde answers.

    Pages of any origin, such as KoboldAI Lite, may read what is public, and use a horde with a key
    of their visitor's own.
    """
    guard = ctx.access.guard
    protocol = request.environ.get("SERVER_PROTOCOL", "")
    has_key = request.headers.get("apikey", ANONYMOUS_KEY) != ANONYMOUS_KEY
    if has_key or request.method in _READING:
        guard = replace(guard, guards_pages=False)
    reason = guard.refusal(request.remote_addr or "", request.headers, protocol)
    if reason is None:
        return None
    g.record.error = RequestRefused.code
    response = jsonify(message=reason)
    response.status_code = RequestRefused.status
    return response


def _refuse_guess(ctx: AppContext, response: Response) -> None:
    """Make a 429 of the answer to a wrong key where there were too many."""
    key = request.headers.get("apikey")
    g.record.error = g.get("refusal")
    if key is None or "username" in g or g.record.error not in _WRONG_KEY:
        return
    try:
        count_wrong_key(ctx, key)
    except TooManyWrongKeys as exc:
        # Without `rc`, as the real horde's own limits (capture err_429_ratelimit_async).
        response.set_data(json.dumps({"message": exc.message}) + "\n")
        response.status_code, g.record.error = exc.status, exc.code
        response.headers.update(exc.headers())


def _log_at_the_end(ctx: AppContext, response: Response) -> None:
    """Log and count the call when its response is closed."""
    record, began, rule = g.record, g.began, request.url_rule
    record.status, record.key = response.status_code, g.get("username")
    response.headers["X-Request-Id"] = record.id
    route = OTHER if rule is None or g.get("is_unknown_path") else rule.rule
    # Workers and clients that wait repeat these calls every second.
    is_logged = response.status_code >= 400 or not g.get("is_poll")

    def close() -> None:
        if is_logged:
            record.write(began)
        else:
            record.seconds = round(time.monotonic() - began, 3)
        ctx.live.metrics.answered(route, record, ctx.was_offered)

    response.call_on_close(close)

"""The page at /: what runs, what is on offer, how it went, and a box to try a chat.

What it shows follows the keys: everything where there are none, the visitor's own part for a key,
and only what is public where each client brings its horde key.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    g,
    jsonify,
    make_response,
    redirect,
    render_template,
    request,
    send_from_directory,
)

from horde_proxy.api.auth import client_address, client_key, client_name, guard, is_admin, use
from horde_proxy.api.chat import chat_completions
from horde_proxy.api.connection import is_open
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.generation import horde_key
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS
from horde_proxy.errors import InvalidApiKey, ProxyError, Refused, ShuttingDown
from horde_proxy.key_digest import key_digest
from horde_proxy.protocol import sse
from horde_proxy.router import EVERYTHING
from horde_proxy.web import charts, tables
from horde_proxy.web.sessions import SESSION_SECONDS, Session

COOKIE, FORM_COOKIE = "horde_proxy_page", "horde_proxy_form"
TOKEN_HEADER = "X-Page-Token"
LONGEST_WATCH = 300.0
_INTERVAL = 1.0
_KEEPALIVE = 15.0
_LOGINS_PER_MINUTE = 10
"""From one address, so that nobody guesses short keys."""
_RETRY = b"retry: 3000\n\n"
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_SEE = ["/v1/models", "/v1/endpoints", "/v1/usage", "/health/ready"]
_NO_TOKEN = "The form is too old, or comes from another site. Please send it once more."

blueprint = Blueprint("page", __name__, template_folder="templates")


@blueprint.after_request
def _strict(response: Response) -> Response:
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


@blueprint.get("/")
def index() -> Response:
    """The page, or the form to log in; for clients that want no HTML, where to look."""
    if "text/html" not in request.headers.get("Accept", ""):
        hint = {"object": "horde-proxy", "version": current_context().serving.version, "see": _SEE}
        response = jsonify(hint)
    elif _let_in():
        html = render_template("page.html", page=_state(current_context()), base="")
        # Half a character, which JSON allows in a name, is none in UTF-8.
        response = make_response(html.encode("utf-8", "replace"))
    else:
        response = _login_form("", 200)
    response.headers["Vary"] = "Accept, Cookie"
    return response


@blueprint.get("/page/state.json")
def state() -> Response:
    """All that the page shows to this visitor."""
    _must_be_let_in()
    return jsonify(_state(current_context()))


@blueprint.get("/page/events")
def events() -> Response:
    """The table of what runs, each time that it changes, for five minutes."""
    _must_be_let_in()
    ctx = current_context()
    if ctx.access.passthrough:
        raise Refused("What runs is not public.")
    g.closing.append(ctx.live.page.watchers.take())
    session_id, sock = request.cookies.get(COOKIE, ""), request.environ.get("gunicorn.socket")
    has_session = "visitor" in g

    app = current_app.extensions

    def stays() -> bool:
        is_known = not has_session or ctx.live.page.sessions.find(session_id) is not None
        is_served = app["horde_proxy"] is ctx and not ctx.live.shutdown.is_near
        return is_known and is_served and is_open(sock)

    return Response(_events(ctx, _owner(), stays), content_type=CONTENT_TYPE, headers=HEADERS)


@blueprint.post("/page/login")
def login() -> Response:
    """A session for who brings a key."""
    ctx, key = current_context(), request.form.get("key", "").strip()
    g.key, g.scope = None, EVERYTHING
    if not ctx.access.requires_key:
        return _to_the_page()
    if not _same(request.cookies.get(FORM_COOKIE), request.form.get("token")) or _is_foreign():
        return _login_form(_NO_TOKEN, 400)
    if wait := ctx.live.page.logins.hit(client_address(), _LOGINS_PER_MINUTE):
        response = _login_form(f"Too many tries from this address. Wait {wait} s.", 429)
        response.headers["Retry-After"] = str(wait)
        return response
    if ctx.access.keys.find(key) is None:
        g.record.error = InvalidApiKey.code
        return _login_form("This key is not known.", 401)
    response = _to_the_page()
    _set_cookie(response, COOKIE, ctx.live.page.sessions.begin(key_digest(key)), SESSION_SECONDS)
    response.delete_cookie(FORM_COOKIE)
    return response


@blueprint.post("/page/logout")
def logout() -> Response:
    """The end of the session."""
    _must_be_let_in()
    _check_token(request.form.get("token"))
    current_context().live.page.sessions.end(request.cookies.get(COOKIE, ""))
    response = _to_the_page()
    response.delete_cookie(COOKIE)
    return response


@blueprint.post("/page/chat")
def chat() -> Response:
    """What /v1/chat/completions answers, for the key that the visitor has logged in with."""
    _must_be_let_in()
    _check_token(request.headers.get(TOKEN_HEADER))
    return chat_completions()


@blueprint.get("/page/static/<name>")
def static(name: str) -> Response:
    """The script and the style; asked for anew each time, and told when they are the same."""
    return send_from_directory(_STATIC, name)


def _let_in() -> bool:
    """Whether the visitor may see the page; by a key in a header, or by a session."""
    ctx = current_context()
    g.key, g.scope = None, EVERYTHING
    if not ctx.access.requires_key or client_key() is not None:
        guard()
        return True
    session = _session(ctx)
    key = ctx.access.keys.find_digest(session.digest) if session else None
    if session is None or key is None:
        return False
    use(key)
    g.visitor, g.page_token = session.digest, session.token
    return True


def _must_be_let_in() -> None:
    if not _let_in():
        raise InvalidApiKey("You are not logged in. Log in at the page, or send an API key.")


def _session(ctx: AppContext) -> Session | None:
    return ctx.live.page.sessions.find(request.cookies.get(COOKIE, ""))


def _check_token(sent: str | None) -> None:
    """Raises Refused for what another site made the browser send."""
    if _is_foreign() or ("visitor" in g and not _same(g.page_token, sent)):
        raise Refused(_NO_TOKEN)


def _same(one: str | None, other: str | None) -> bool:
    return bool(one and other) and hmac.compare_digest(
        (one or "").encode("utf-8", "replace"), (other or "").encode("utf-8", "replace")
    )


def _is_foreign() -> bool:
    """Whether the browser says that another site sent this."""
    return request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")


def _login_form(message: str, status: int) -> Response:
    token = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(32)
    base = "../" if request.path.startswith("/page/") else ""
    response = make_response(
        render_template("login.html", token=token, message=message, base=base), status
    )
    _set_cookie(response, FORM_COOKIE, token, 3600)
    return response


def _to_the_page() -> Response:
    # Relative, for those who see the proxy under another path.
    return make_response(redirect("../", 303))


def _set_cookie(response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        name, value, max_age=seconds, secure=_is_https(), httponly=True, samesite="Strict"
    )


def _is_https() -> bool:
    """Whether the client's own connection is encrypted, as far as can be told."""
    is_told = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip() == "https"
    return request.is_secure or (
        is_told and request.remote_addr in current_context().access.trusted_proxies
    )


def _owner() -> str | None:
    """Whose running requests are shown; None: everybody's."""
    return None if g.key is None or is_admin() else client_name()


def _state(ctx: AppContext) -> dict[str, Any]:
    """All sections; those that are not for this visitor are None."""
    models, problem = _models(ctx)
    states = ctx.router.states(g.scope)
    found: dict[str, Any] = {
        "object": "page.state",
        "version": ctx.serving.version,
        "time": int(time.time()),
        "mode": "keys"
        if ctx.access.requires_key
        else "passthrough"
        if ctx.access.passthrough
        else "open",
        "name": g.key.name if g.key else None,
        "admin": is_admin(),
        "token": g.get("page_token"),
        "models": tables.models(models),
        "models_error": problem,
        "endpoints": tables.endpoints(states),
        "running": None,
        "account": None,
        "charts": None,
        "hours": None,
        "errors": None,
    }
    if not ctx.access.passthrough:
        found.update(_own(ctx))
    return found


def _models(ctx: AppContext) -> tuple[list[dict[str, Any]], str | None]:
    """The models that may be used, and why there are none where that is known."""
    try:
        return ctx.router.models(g.scope), None
    except ProxyError as exc:
        return [], exc.message


def _own(ctx: AppContext) -> dict[str, Any]:
    """The sections that are one's own: everybody's for an admin, and where there are no keys."""
    name = None if g.key is None or is_admin() else g.key.name
    history = ctx.live.page.history
    buckets = history.buckets(name)
    return {
        "running": _running(ctx, _owner()),
        "account": _account(ctx),
        "charts": charts.charts(buckets),
        "hours": tables.hours(buckets),
        "errors": tables.errors(history.errors(name)),
    }


def _account(ctx: AppContext) -> list[list[str]] | None:
    """The horde's account, and what a key with a daily limit has left."""
    rows = []
    if ctx.horde is not None:
        rows = tables.account(ctx.live.page.accounts.of(ctx.horde, horde_key(ctx)))
    if g.key is not None and (g.key.tokens_per_day or g.key.kudos_per_day):
        rows += tables.allowance(g.key, ctx.access.usage.used_today(g.key.name))
    return rows or None


def _running(ctx: AppContext, owner: str | None) -> tables.Table:
    found = [*ctx.live.in_flight.list(owner), *ctx.live.in_flight.relayed(owner)]
    return tables.running(found, time.time())


def _events(ctx: AppContext, owner: str | None, stays: Callable[[], bool]) -> Iterator[bytes]:
    """Ends by itself, so that no thread is held for ever; browsers then come again."""
    until = ctx.clock() + LONGEST_WATCH
    told, spoke = None, ctx.clock()
    yield _RETRY
    while ctx.clock() < until and stays():
        table = _running(ctx, owner)
        if table != told:
            told, spoke = table, ctx.clock()
            yield sse.event({"running": table})
        elif ctx.clock() - spoke >= _KEEPALIVE:
            spoke = ctx.clock()
            yield sse.comment("nothing new")
        try:
            ctx.live.shutdown.sleep(_INTERVAL)
        except ShuttingDown:
            return

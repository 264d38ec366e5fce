"""The views of the page at /: requests, models, endpoints, the last day, chatting and pictures.

If the proxy requires no key, a visitor sees everything; if it does, only the requests of the
visitor's key. If each client brings its own horde key, only public facts are shown.
"""

from __future__ import annotations

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
    render_template,
    request,
    send_from_directory,
)

from horde_proxy.api import images
from horde_proxy.api.auth import client_key, client_name, is_admin
from horde_proxy.api.chat import chat_completions
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.endpoints import settings_problem
from horde_proxy.api.generation import horde_key
from horde_proxy.api.stream import CONTENT_TYPE, HEADERS
from horde_proxy.errors import ProxyError, Refused, ShuttingDown
from horde_proxy.key_digest import key_digest
from horde_proxy.protocol import sse
from horde_proxy.protocol.models import facts_of, is_available
from horde_proxy.router import EVERYTHING, Scope
from horde_proxy.upstreams.disconnects import is_open
from horde_proxy.web import charts, login, tables

LONGEST_WATCH = 300.0
"""Seconds after which a stream of events ends and the browser opens another: no thread is held
forever, not even by a browser that has vanished without closing its connection."""
_INTERVAL = 1.0
"""Seconds between two looks at the running requests."""
_KEEPALIVE = 15.0
"""Seconds. Proxies in between close silent connections, many of them after 30 or 60 s."""
_RETRY = b"retry: 3000\n\n"
_STATIC = Path(__file__).parent / "static"
_HEADERS = {
    # Pictures are blobs that the page's scripts have made, or files of this proxy: what a model
    # writes loads nothing from other servers.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Other sites can neither embed the page's files nor keep a reference to its window.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_SEE = ["/v1/models", "/v1/endpoints", "/v1/usage", "/health/ready"]
_SEE_OF_HORDE = ["/page/horde/", "/api/v2/status/models?type=text", "/api/v2/workers"]

blueprint = Blueprint("page", __name__, template_folder="templates")


@blueprint.after_request
def _add_headers(response: Response) -> Response:
    response.headers.update(_HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    return response


@blueprint.get("/")
def index() -> Response:
    """The page, or the login form; for clients that do not accept HTML, a list of routes."""
    if "text/html" not in request.headers.get("Accept", ""):
        serving = current_context().serving
        see = _SEE + (_SEE_OF_HORDE if serving.has_horde_pages else [])
        response = jsonify({"object": "horde-proxy", "version": serving.version, "see": see})
    elif login.visitor_is_allowed():
        response = _page(current_context())
    else:
        response = login.login_form("", 200)
    response.headers["Vary"] = "Accept, Cookie"
    return response


@blueprint.get("/page/live")
def live() -> Response:
    """The page again: page.js takes the changed parts from it."""
    login.require_visitor()
    return _page(current_context())


@blueprint.get("/page/state.json")
def state() -> Response:
    """Everything that the page shows to this visitor, as JSON."""
    login.require_visitor()
    return jsonify(_state(current_context()))


@blueprint.get("/page/events")
def events() -> Response:
    """A stream of events for five minutes: the table of running requests after each change."""
    login.require_visitor()
    ctx = current_context()
    if ctx.access.passthrough:
        raise Refused("Running requests are not public.")
    g.closing.append(ctx.live.page.watchers.acquire())
    stream = _events(ctx, _owner(), _macros().running_table, _still_watching(ctx))
    return Response(stream, content_type=CONTENT_TYPE, headers=HEADERS)


@blueprint.post("/page/login")
def log_in() -> Response:
    """Log in with the key in the form."""
    return login.log_in()


@blueprint.post("/page/logout")
def log_out() -> Response:
    """Log out."""
    return login.log_out()


@blueprint.post("/page/chat")
def chat() -> Response:
    """/v1/chat/completions, with the key of the visitor's session."""
    _act_for_visitor()
    return chat_completions()


@blueprint.post("/page/images/generations")
def generate_pictures() -> Response:
    """/v1/images/generations, with the key of the visitor's session."""
    _act_for_visitor()
    return images.generations()


@blueprint.post("/page/images/edits")
def edit_picture() -> Response:
    """/v1/images/edits, with the key of the visitor's session."""
    _act_for_visitor()
    return images.edits()


def _act_for_visitor() -> None:
    """Give the request the rights of the visitor. Raises InvalidApiKey, and Refused by a token."""
    login.require_visitor()
    login.check_token(request.headers.get(login.TOKEN_HEADER))


@blueprint.get("/page/static/<name>")
def static(name: str) -> Response:
    """The script, the style or the icon, with an ETag."""
    return send_from_directory(_STATIC, name)


def _page(ctx: AppContext) -> Response:
    html = render_template("page.html", page=_state(ctx), base="")
    # A model's name in JSON may hold half a surrogate pair, which UTF-8 cannot encode.
    return make_response(html.encode("utf-8", "replace"))


def _macros() -> Any:
    """The macros of parts.html, which also work outside of a request."""
    return current_app.jinja_env.get_template("parts.html").module


def _still_watching(ctx: AppContext) -> Callable[[], bool]:
    """A function that tells, during the stream, whether the visitor is still watching."""
    # gunicorn's socket shows a closed tab. Writing would only fail at the second event after it.
    sock, app = request.environ.get("gunicorn.socket"), current_app.extensions
    cookie, key, keys = request.cookies.get(login.SESSION_COOKIE, ""), g.key, ctx.access.keys
    digest = g.get("visitor") or key_digest(client_key() or "")
    has_session = "visitor" in g

    def still_watching() -> bool:
        is_visitor = not has_session or ctx.live.page.sessions.find(cookie) is not None
        # A key that was revoked, or that has other rights now, may not see what it saw before.
        is_visitor = is_visitor and (key is None or keys.find_digest(digest) == key)
        # New settings make a new context, perhaps with other rights. The browser connects again.
        is_current = app["horde_proxy"] is ctx and not ctx.live.shutdown.has_begun
        return is_visitor and is_current and is_open(sock)

    return still_watching


def _events(
    ctx: AppContext,
    owner: str | None,
    draw: Callable[[tables.Table], str],
    still_watching: Callable[[], bool],
) -> Iterator[bytes]:
    """Events with the table as HTML, and comments while nothing changes."""
    end, last_sent = ctx.clock() + LONGEST_WATCH, ctx.clock()
    shown: tables.Table | None = None
    yield _RETRY
    while ctx.clock() < end and still_watching():
        table = _running(ctx, owner)
        if table != shown:
            shown, last_sent = table, ctx.clock()
            yield sse.event({"html": str(draw(table))})
        elif ctx.clock() - last_sent >= _KEEPALIVE:
            last_sent = ctx.clock()
            yield sse.comment("no change")
        try:
            ctx.live.shutdown.sleep(_INTERVAL)
        except ShuttingDown:
            return


def _owner() -> str | None:
    """The name of the client that owns the shown requests; None to show those of all clients."""
    return None if g.key is None or is_admin() else client_name()


def _state(ctx: AppContext) -> dict[str, Any]:
    """All sections of the page. Sections that the visitor may not see are None."""
    models, problem = _models(ctx)
    image_models = _image_models(ctx)
    sections: dict[str, Any] = {
        "object": "page.state",
        "version": ctx.serving.version,
        "time": int(ctx.now()),
        "mode": _mode(ctx),
        "has_horde_pages": ctx.serving.has_horde_pages,
        "name": g.key.name if g.key else None,
        "admin": is_admin(),
        "token": g.get("page_token"),
        "public_url": ctx.serving.public_url,
        "models": tables.models(models),
        "models_error": problem,
        "chat_models": tables.chat_models(models),
        "image_models": tables.image_models(image_models),
        "image_models_missing": None if image_models else _missing_image_models(ctx),
        "endpoints": tables.endpoints(ctx.router.states(g.scope)),
        "settings_problem": settings_problem(ctx),
        "running": None,
        "account": None,
        "charts": None,
        "hours": None,
        "errors": None,
    }
    if not ctx.access.passthrough:
        sections.update(_private_sections(ctx))
    return sections


def _mode(ctx: AppContext) -> str:
    if ctx.access.requires_key:
        return "keys"
    return "passthrough" if ctx.access.passthrough else "open"


def _models(ctx: AppContext) -> tuple[list[dict[str, Any]], str | None]:
    """(the models that the visitor may use, the error if they could not be listed)."""
    try:
        return ctx.router.models(g.scope), None
    except ProxyError as exc:
        return [], exc.message


def _image_models(ctx: AppContext, scope: Scope | None = None) -> list[dict[str, Any]]:
    """The models that make pictures for the visitor: of hordes, then those of other endpoints."""
    models: dict[str, dict[str, Any]] = {}
    for router in (ctx.image_router, ctx.router):
        try:
            listed = router.models(scope or g.scope)
        except ProxyError:
            continue
        for model in filter(is_available, listed):
            if router is ctx.image_router or "image" in facts_of(model).outputs:
                models.setdefault(model["id"], model)
    return list(models.values())


def _missing_image_models(ctx: AppContext) -> dict[str, str]:
    """Why the visitor has no model that makes pictures, and a command that helps; "" for none."""
    if _image_models(ctx, EVERYTHING):
        return tables.no_image_model_for_key()
    if not ctx.image_router.endpoints:
        return tables.no_image_endpoint()
    # The private horde is at the page's own address.
    own = ctx.serving.public_url or request.host_url
    return tables.no_image_worker(own if ctx.serving.has_horde_pages else "URL")


def _private_sections(ctx: AppContext) -> dict[str, Any]:
    """The visitor's own requests; all requests for an admin, or if no key is required."""
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
    """The horde account, and the visitor's usage of daily limits; None if there is neither."""
    rows = []
    if ctx.horde is not None:
        rows = tables.account(ctx.horde.account(horde_key(ctx)))
    if g.key is not None and tables.has_daily_limits(g.key):
        rows += tables.daily_limits(g.key, ctx.access.usage.used_today(g.key.name))
    return rows or None


def _running(ctx: AppContext, owner: str | None) -> tables.Table:
    in_flight = ctx.live.in_flight
    return tables.running(
        [*in_flight.summaries(owner), *in_flight.proxied_summaries(owner)], ctx.now()
    )

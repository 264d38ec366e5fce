"""The views of the page at /: requests, models, endpoints, the last day, chatting and pictures.

If the proxy requires no key, a visitor sees everything; if it does, only the requests of the
visitor's key. If each client brings its own horde key, only public facts are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
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

from horde_proxy.api import images
from horde_proxy.api.auth import (
    account_name,
    client_key,
    client_name,
    horde_key,
    is_admin,
    is_operator,
)
from horde_proxy.api.background import cancelled
from horde_proxy.api.chat import chat_completions
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.endpoints import settings_problem
from horde_proxy.api.front import EVENT_STREAM
from horde_proxy.api.stream import HEADERS
from horde_proxy.errors import ProxyError, Refused, ShuttingDown
from horde_proxy.key_digest import key_digest
from horde_proxy.protocol import sse
from horde_proxy.protocol.models import is_available, makes_images
from horde_proxy.protocol.stored import ResponseNotFound
from horde_proxy.router import EVERYTHING, Scope
from horde_proxy.upstreams.disconnects import is_open
from horde_proxy.web import charts, first_run, inbox, login, tables
from horde_proxy.web.html_response import PICTURES_CSP, add_page_headers
from horde_proxy.web.live_parts import LiveParts, rows_of
from horde_proxy.web.week import ShownModel, Visitor

LONGEST_WATCH = 300.0
"""Seconds after which a stream of events ends and the browser opens another: no thread is held
forever, not even by a browser that has vanished without closing its connection."""
_INTERVAL = 1.0
"""Seconds between two looks at the running requests."""
_KEEPALIVE = 15.0
"""Seconds. Proxies in between close silent connections, many of them after 30 or 60 s."""
_RETRY = b"retry: 3000\n\n"
_STATIC = Path(__file__).parent / "static"
_SEE = ["/v1/models", "/v1/endpoints", "/v1/usage", "/health/ready"]
_SEE_OF_HORDE = ["/page/horde/", "/api/v2/status/models?type=text", "/api/v2/workers"]

blueprint = Blueprint("page", __name__, template_folder="templates")


@blueprint.after_request
def _add_headers(response: Response) -> Response:
    return add_page_headers(response, PICTURES_CSP)


@blueprint.get("/")
def index() -> Response:
    """The page, or the login form; for programs a list of routes, or the text of an Ollama.

    n8n, JetBrains' IDEs and others look for that text before they use an Ollama. What accepts
    JSON by name gets the list.
    """
    accepted = request.headers.get("Accept", "")
    if "text/html" not in accepted and "application/json" not in accepted:
        response = Response("Ollama is running", content_type="text/plain; charset=utf-8")
    elif "text/html" not in accepted:
        serving = current_context().serving
        see = _SEE + (_SEE_OF_HORDE if serving.has_horde_pages else [])
        response = jsonify({"object": "horde-proxy", "version": serving.version, "see": see})
    elif first_run.leads_there():
        response = make_response(redirect("page/first-run", 303))
    elif login.visitor_is_allowed():
        response = _page(current_context())
    else:
        response = login.login_form("", 200)
    response.headers["Vary"] = "Accept, Cookie"
    return response


@blueprint.get("/page/live")
def live() -> Response:
    """The parts of the page that differ from the version in the query, as JSON.

    `version` names what is shown now, `elements` and `rows` are markup: see LiveParts.
    """
    login.require_visitor()
    ctx = current_context()
    shown, since = _state(ctx), request.args.get("since", "")
    versions, digest = ctx.live.page.versions, _digest(shown)
    if versions.shows(digest, since):
        return jsonify(version=since, elements=[], rows={})
    changes = versions.changes(LiveParts.of(_drawn(shown)), since)
    versions.note_state(digest, changes["version"])
    return jsonify(changes)


@blueprint.get("/page/state.json")
def state() -> Response:
    """Everything that the page shows to this visitor, as JSON."""
    login.require_visitor()
    return jsonify(_state(current_context()))


@blueprint.get("/page/events")
def events() -> Response:
    """A stream of events for five minutes: the running requests that began, changed or ended."""
    login.require_visitor()
    ctx = current_context()
    if ctx.access.passthrough:
        raise Refused("Running requests are not public.")
    g.closing.append(ctx.live.page.watchers.acquire())
    stream = _events(ctx, _owner(), _macros().running_table, _still_watching(ctx))
    return Response(stream, content_type=EVENT_STREAM, headers=HEADERS)


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


@blueprint.post("/page/background/<response_id>/cancel")
def cancel_background(response_id: str) -> Response:
    """Cancel one of the visitor's background responses. A redirect to the inbox."""
    login.require_visitor()
    login.check_token(request.form.get("token") or request.headers.get(login.TOKEN_HEADER))
    ctx = current_context()
    if not inbox.may_see(ctx):
        raise ResponseNotFound(response_id)
    cancelled(ctx, account_name(ctx), response_id)
    return make_response(redirect("../../../#inbox", 303))


def _act_for_visitor() -> None:
    """Give the request the rights of the visitor. Raises InvalidApiKey, and Refused by a token."""
    login.require_visitor()
    login.check_token(request.headers.get(login.TOKEN_HEADER))


@blueprint.get("/page/static/<name>")
def static(name: str) -> Response:
    """The script, the style or the icon, with an ETag."""
    return send_from_directory(_STATIC, name)


def _page(ctx: AppContext) -> Response:
    shown = _state(ctx)
    html = _drawn(shown)
    version = ctx.live.page.versions.remember(LiveParts.of(html))
    ctx.live.page.versions.note_state(_digest(shown), version)
    # The version is known only once the page is drawn.
    html = html.replace('data-version=""', f'data-version="{version}"', 1)
    return make_response(html.encode("utf-8"))


def _digest(shown: Mapping[str, Any]) -> bytes:
    """A digest of what the page is drawn from; the time of the state is not shown."""
    timeless = {name: section for name, section in shown.items() if name != "time"}
    return blake2b(current_app.json.dumps(timeless).encode(), digest_size=16).digest()


def _drawn(shown: Mapping[str, Any]) -> str:
    """The page as markup. It must depend on the state alone: see `_digest`."""
    html = render_template("page.html", page=shown, base="")
    # A model's name in JSON may hold half a surrogate pair, which UTF-8 cannot encode.
    return html.encode("utf-8", "replace").decode()


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
    """Events with the rows that changed, as /page/live sends them; comments in between."""
    end, last_sent = ctx.clock() + LONGEST_WATCH, ctx.clock()
    shown: Mapping[str, bytes] | None = None
    yield _RETRY
    while ctx.clock() < end and still_watching():
        rows = rows_of(str(draw(_running(ctx, owner))))
        changes, shown = rows.changes(shown), rows.digests()
        if changes:
            last_sent = ctx.clock()
            yield sse.event({"rows": {"rows-running": changes}})
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
        "inspects": ctx.live.inspections.count > 0,
        "operator": is_operator(),
        "has_guide": is_operator() and ctx.settings is not None,
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
        "inbox": inbox.inbox(ctx),
        "charts": None,
        "hours": None,
        "errors": None,
        **_week(ctx),
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
    """The models that make pictures for the visitor."""
    try:
        listed = ctx.image_router.models(scope or g.scope)
    except ProxyError:
        return []
    return [model for model in listed if is_available(model) and makes_images(model)]


def _missing_image_models(ctx: AppContext) -> dict[str, str]:
    """Why the visitor has no model that makes pictures, and a command that helps; "" for none."""
    if _image_models(ctx, EVERYTHING):
        return tables.no_image_model_for_key()
    if all(endpoint.can_proxy for endpoint in ctx.image_router.endpoints):
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


def _week(ctx: AppContext) -> dict[str, Any]:
    """The last seven days: of what the visitor may see, and of a horde, which is public.

    The query chooses a horde and one of its models.
    """
    facts, week, now = ctx.live.hourly, ctx.live.page.week, ctx.now()
    key = None if g.key is None or is_admin() else g.key.name
    visitor = Visitor(key, sees_requests=not ctx.access.passthrough)
    chosen, model = request.args.get("horde", ""), ShownModel.read(request.args.get("model", ""))
    horde = chosen if chosen in ctx.hordes else next(iter(ctx.hordes), None)
    return {
        "week": week.of_endpoints(facts, now, visitor),
        "week_horde": None if horde is None else week.of_horde(facts, now, horde, model),
        "hordes": list(ctx.hordes),
        "shown_horde": horde,
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

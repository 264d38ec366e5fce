"""The routes of the private horde as a Flask blueprint: read, call, return.

No other module of this room knows Flask. Headers and errors here are always those of AI-Horde,
whatever the rest of the application does. For the application's log, `g` has the caller's
`username` and the code of a `refusal`, where there are any; `is_poll` marks calls that are repeated
every second and brought nothing, `is_unknown_path` those of no route.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import HTTPException, NotFound

from horde_proxy.content_codings import UnsupportedCoding
from horde_proxy.database.errors import DatabaseError
from horde_proxy.json_reading import parse_json
from horde_proxy.private_horde import responses, x_fields
from horde_proxy.private_horde.errors import HordeError, invalid, too_fast, unreadable
from horde_proxy.private_horde.horde import PrivateHorde

# The real horde answers other methods of a known path with its own JSON, so all are routed here.
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# "host:port:version", as in the real horde. Here, there is only one node.
_NODE = f"private-horde:80:{responses.VERSION}"

_NO_ROUTE = "There is no such route here: this horde serves texts only."

_NO_DATABASE = "The horde's database does not answer. Send the request again in some seconds."

log = logging.getLogger(__name__)

View = Callable[..., tuple[Any, int]]


@dataclass(frozen=True)
class _Route:
    """A path below /api/v2, its views by method, and the name of its rate limit."""

    rule: str
    views: Mapping[str, View]
    rate: str = "default"


def blueprint(horde: PrivateHorde) -> Blueprint:
    """The blueprint that serves a private horde below /api/v2, with CORS for all origins."""
    routes = Blueprint("private_horde", __name__, url_prefix="/api/v2")
    for number, route in enumerate(_ROUTES):
        routes.add_url_rule(
            route.rule,
            f"route_{number}",
            _endpoint(horde, route),
            methods=_METHODS,
            # Werkzeug would answer OPTIONS without the CORS headers below.
            provide_automatic_options=False,
        )
    # Flask would answer an unknown path with the application's own error pages.
    for rule in ("/", "/<path:rest>"):
        routes.add_url_rule(rule, "unknown_path", _unknown_path, methods=_METHODS)
    routes.register_error_handler(HordeError, _refused)
    routes.register_error_handler(DatabaseError, _unavailable)
    routes.register_error_handler(HTTPException, _failed)
    routes.after_request(_with_headers)
    return routes


def _endpoint(horde: PrivateHorde, route: _Route) -> Callable[..., Response]:
    def endpoint(**arguments: str) -> Response:
        if request.method == "OPTIONS":
            return Response(status=200, headers={"Allow": _allowed(route)})
        view = route.views.get("GET" if request.method == "HEAD" else request.method)
        if view is None:
            message = {"message": "The method is not allowed for the requested URL."}
            return _json(message, 405, {"Allow": _allowed(route)})
        _check_rate(horde, route.rate)
        body, status = view(horde, **arguments)
        # The mask applies to successful answers only: a refusal was raised before this line.
        return _json(x_fields.apply(request.headers.get("X-Fields"), body), status)

    return endpoint


def _check_rate(horde: PrivateHorde, rate: str) -> None:
    """Count the call, set the rate headers for the answer, and refuse a call too many (429)."""
    address = request.remote_addr or ""
    apikey = request.headers.get("apikey")
    state = horde.count_call(rate, address, request.method, request.path, apikey)
    if state is None:
        return
    # The real horde sends all four with every answer, even Retry-After. Clients must obey that one
    # only on 429.
    g.rate_headers = {
        "Retry-After": str(state.retry_after),
        "X-Ratelimit-Limit": str(state.limit.amount),
        "X-Ratelimit-Remaining": str(state.remaining),
        "X-Ratelimit-Reset": str(int(horde.wall_clock() + state.reset)),
    }
    if state.exceeded and horde.rate_limits:
        raise too_fast(state.limit)


def _checked_key(horde: PrivateHorde, *, as_worker: bool = False) -> str | None:
    """The call's key. Raises HordeError for a wrong one, so that no stranger's body is read.

    The real horde reads the body first: there, a body with a fault and a wrong key is a 400.
    """
    key = request.headers.get("apikey")
    g.username = horde.authenticate(key, as_worker=as_worker)
    return key


def _submit(horde: PrivateHorde) -> tuple[Any, int]:
    # The answer to a dry run has no id and status 200 (capture text_dry_run).
    key = _checked_key(horde)
    answer = horde.submit(key, _body(), request.remote_addr or "")
    return answer, 202 if "id" in answer else 200


def _status(horde: PrivateHorde, request_id: str) -> tuple[Any, int]:
    g.is_poll = True
    return horde.status(request_id), 200


def _cancel(horde: PrivateHorde, request_id: str) -> tuple[Any, int]:
    return horde.cancel(request_id), 200


def _pop(horde: PrivateHorde) -> tuple[Any, int]:
    key = _checked_key(horde, as_worker=True)
    answer = horde.pop(key, _body())
    g.is_poll = answer["id"] is None
    return answer, 200


def _submit_generation(horde: PrivateHorde) -> tuple[Any, int]:
    key = _checked_key(horde)
    return horde.submit_generation(key, _body()), 200


def _models(horde: PrivateHorde) -> tuple[Any, int]:
    models = horde.models(
        request.args.get("type", "image"),
        request.args.get("model_state", "all"),
        _count("min_count"),
        _count("max_count"),
    )
    return models, 200


def _model(horde: PrivateHorde, name: str) -> tuple[Any, int]:
    # Clients encode a slash twice (%252F), since servers read %2F as a slash of the path.
    return horde.model(unquote(name)), 200


def _workers(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.workers(request.args.get("type"), request.args.get("name")), 200


def _worker(horde: PrivateHorde, worker_id: str) -> tuple[Any, int]:
    return horde.worker(worker_id), 200


def _change_worker(horde: PrivateHorde, worker_id: str) -> tuple[Any, int]:
    key = _checked_key(horde)
    return horde.set_maintenance(key, worker_id, _body()), 200


def _worker_named(horde: PrivateHorde, name: str) -> tuple[Any, int]:
    return horde.worker_named(unquote(name)), 200


def _performance(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.performance(), 200


def _heartbeat(horde: PrivateHorde) -> tuple[Any, int]:
    g.is_poll = True
    return responses.heartbeat(), 200


def _modes(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.modes(), 200


def _news(horde: PrivateHorde) -> tuple[Any, int]:
    return [], 200


def _find_user(horde: PrivateHorde) -> tuple[Any, int]:
    answer = horde.find_user(request.headers.get("apikey"))
    g.username = answer["username"]
    return answer, 200


def _text_models(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.text_models(), 200


def _text_totals(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.text_totals(), 200


def _image_models(horde: PrivateHorde) -> tuple[Any, int]:
    return responses.image_models(), 200


def _image_totals(horde: PrivateHorde) -> tuple[Any, int]:
    return responses.image_totals(), 200


_ROUTES = (
    _Route("/generate/text/async", {"POST": _submit}, "async"),
    _Route("/generate/text/status/<request_id>", {"GET": _status, "DELETE": _cancel}, "status"),
    _Route("/generate/text/pop", {"POST": _pop}, "worker_queue"),
    _Route("/generate/text/submit", {"POST": _submit_generation}, "worker_queue"),
    _Route("/status/models", {"GET": _models}),
    _Route("/status/models/<name>", {"GET": _model}),
    _Route("/status/performance", {"GET": _performance}),
    _Route("/status/heartbeat", {"GET": _heartbeat}, "none"),
    _Route("/status/modes", {"GET": _modes}, "modes"),
    _Route("/status/news", {"GET": _news}),
    _Route("/workers", {"GET": _workers}),
    _Route("/workers/<worker_id>", {"GET": _worker, "PUT": _change_worker}, "worker"),
    _Route("/workers/name/<name>", {"GET": _worker_named}),
    _Route("/find_user", {"GET": _find_user}),
    _Route("/stats/text/models", {"GET": _text_models}),
    _Route("/stats/text/totals", {"GET": _text_totals}),
    _Route("/stats/img/models", {"GET": _image_models}),
    _Route("/stats/img/totals", {"GET": _image_totals}),
)


def _unknown_path(rest: str = "") -> Response:
    """The answer for an unknown path: JSON, and for browsers the real horde's HTML page.

    The real horde sends the page to everybody (capture err_404_unknown_route), which clients that
    read JSON take for a broken horde.
    """
    g.is_unknown_path = True
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
        return _json({"message": _NO_ROUTE}, 404)
    page = NotFound().get_body()
    return Response(page, 404, content_type="text/html; charset=utf-8")


def _body() -> Any:
    """The request's JSON. Raises HordeError (400) if it is not JSON or not declared as JSON."""
    if not request.is_json:
        raise unreadable()
    try:
        return parse_json(request.get_data(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise unreadable() from exc


def _refuse_constant(constant: str) -> None:
    # Python reads NaN and Infinity, which are not JSON. The real horde refuses them, too.
    raise ValueError(f"{constant} is not JSON")


def _count(name: str) -> int | None:
    """A whole number in the query string; None if it is missing. Raises HordeError (400)."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as exc:
        # flask-restx, too, answers with Python's own message.
        raise invalid({name: str(exc)}) from exc


def _json(body: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    # Every capture has the charset and the newline.
    content_type = "application/json; charset=utf-8"
    return Response(json.dumps(body) + "\n", status, headers, content_type=content_type)


def _allowed(route: _Route) -> str:
    return ", ".join(sorted((*route.views, "OPTIONS")))


def _refused(error: HordeError) -> Response:
    g.refusal = error.rc
    return _json(error.body(), error.status)


def _unavailable(error: DatabaseError) -> Response:
    # Its message may name files and hosts, which callers should not see.
    log.warning("the private horde cannot answer: %s", error)
    return _json({"message": _NO_DATABASE}, 503, {"Retry-After": "2"})


def _failed(error: HTTPException) -> Response:
    if isinstance(error, UnsupportedCoding):
        return _json({"message": error.description}, 415, error.headers)
    # Flask has turned an unexpected exception into a 500 already.
    return _json({"message": error.name}, error.code or 500)


def _with_headers(response: Response) -> Response:
    headers = response.headers
    # Pages such as KoboldAI Lite, of any origin, call a horde from the browser.
    headers["Access-Control-Allow-Origin"] = "*"
    headers["Horde-Node"] = _NODE
    if request.method == "OPTIONS":
        requested = request.headers.get("Access-Control-Request-Headers", "*")
        headers["Access-Control-Allow-Headers"] = requested
        headers["Access-Control-Allow-Methods"] = ", ".join(_METHODS)
    headers.update(g.get("rate_headers", {}))
    return response

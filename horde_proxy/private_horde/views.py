"""The routes of the private horde as a Flask blueprint: read, call, return.

Beside it, only `routing` and the modules `*_views` know Flask. Headers and errors here are
always those of AI-Horde, whatever the rest of the application does. The application may set
`g.client_address`, where a proxy in front has another address. For the application's log, `g`
has the caller's `username` and the code of a `refusal`, where there are any; `is_poll` marks calls
that are repeated every second and brought nothing, `is_unknown_path` those of no route.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from urllib.parse import unquote

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import HTTPException, NotFound

from horde_proxy.aihorde.rest import EXTENSIONS_HEADER
from horde_proxy.content_codings import UnsupportedCoding
from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde import responses, x_fields
from horde_proxy.private_horde.alchemy_views import ALCHEMY_ROUTES
from horde_proxy.private_horde.errors import HordeError, too_fast
from horde_proxy.private_horde.fleet_views import FLEET_ROUTES
from horde_proxy.private_horde.horde import PrivateHorde
from horde_proxy.private_horde.image_views import IMAGE_ROUTES
from horde_proxy.private_horde.moderation_views import MODERATION_ROUTES
from horde_proxy.private_horde.operations_views import OPERATIONS_ROUTES
from horde_proxy.private_horde.people_views import PEOPLE_ROUTES
from horde_proxy.private_horde.routing import (
    MOST_VALUES_OF_A_TEXT,
    HordeRoute,
    answer,
    api_key,
    body,
    caller_address,
    checked_key,
    count,
)
from horde_proxy.private_horde.stream_views import stream_routes

# The real horde answers other methods of a known path with its own JSON, so all are routed here.
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# "host:port:version", as in the real horde. Here, there is only one node.
_NODE = f"private-horde:80:{responses.VERSION}"

_NO_ROUTE = "There is no such route here."

_NO_DATABASE = "The horde's database does not answer. Send the request again in some seconds."

log = logging.getLogger(__name__)


def blueprint(horde: PrivateHorde) -> Blueprint:
    """The blueprint that serves a private horde below /api/v2, with CORS for all origins."""
    routes = Blueprint("private_horde", __name__, url_prefix="/api/v2")
    for number, route in enumerate((*_ROUTES, *stream_routes(horde))):
        routes.add_url_rule(
            route.rule,
            f"route_{number}",
            _endpoint(horde, route),
            methods=_METHODS,
            # Werkzeug would answer OPTIONS without the CORS headers below.
            provide_automatic_options=False,
        )
    # Flask would answer an unknown path with the application's own error pages.
    for rule in ("", "/", "/<path:rest>"):
        routes.add_url_rule(rule, "unknown_path", _unknown_path, methods=_METHODS)
    routes.register_error_handler(HordeError, _refused)
    routes.register_error_handler(DatabaseError, _unavailable)
    routes.register_error_handler(HTTPException, _failed)
    routes.after_request(_with_headers)
    if horde.streams.extensions:
        routes.after_request(partial(_announced, horde.streams.extensions))
    return routes


def _endpoint(horde: PrivateHorde, route: HordeRoute) -> Callable[..., Response]:
    def endpoint(**arguments: str) -> Response:
        if request.method == "OPTIONS":
            return Response(status=200, headers={"Allow": _allowed(route)})
        view = route.views.get("GET" if request.method == "HEAD" else request.method)
        if view is None:
            message = {"message": "The method is not allowed for the requested URL."}
            return answer(message, 405, {"Allow": _allowed(route)})
        _check_rate(horde, route)
        result, status = view(horde, **arguments)
        if isinstance(result, Response):
            return result
        # The mask applies to successful answers only: a refusal was raised before this line.
        return answer(x_fields.apply(request.headers.get("X-Fields"), result), status)

    return endpoint


def _check_rate(horde: PrivateHorde, route: HordeRoute) -> None:
    """Count the call, set the rate headers for the answer, and refuse a call too many (429)."""
    address = caller_address()
    state = horde.count_call(route.rate, address, request.method, request.path, api_key())
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
    if state.exceeded and (horde.rate_limits or route.guarded):
        raise too_fast(state.limit)


def _submit(horde: PrivateHorde) -> tuple[Any, int]:
    # The answer to a dry run has no id and status 200 (capture text_dry_run).
    key = checked_key(horde, shared=True)
    result = horde.submit(key, body(), caller_address())
    return result, 202 if "id" in result else 200


def _status(horde: PrivateHorde, request_id: str) -> tuple[Any, int]:
    g.is_poll = True
    return horde.status(request_id), 200


def _cancel(horde: PrivateHorde, request_id: str) -> tuple[Any, int]:
    return horde.cancel(request_id), 200


def _pop(horde: PrivateHorde) -> tuple[Any, int]:
    key = checked_key(horde, as_worker=True)
    result = horde.pop(key, body(), caller_address())
    g.is_poll = result["id"] is None
    return result, 200


def _submit_generation(horde: PrivateHorde) -> tuple[Any, int]:
    key = checked_key(horde)
    return horde.submit_generation(key, body(MOST_VALUES_OF_A_TEXT)), 200


def _models(horde: PrivateHorde) -> tuple[Any, int]:
    models = horde.statistics.models(
        request.args.get("type", "image"),
        request.args.get("model_state", "all"),
        count("min_count"),
        count("max_count"),
    )
    return models, 200


def _model(horde: PrivateHorde, name: str) -> tuple[Any, int]:
    # Clients encode a slash twice (%252F), since servers read %2F as a slash of the path.
    return horde.statistics.model(unquote(name)), 200


def _performance(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.statistics.performance(), 200


def _heartbeat(horde: PrivateHorde) -> tuple[Any, int]:
    g.is_poll = True
    return responses.heartbeat(), 200


def _text_models(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.statistics.text_models(), 200


def _text_totals(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.statistics.text_totals(), 200


def _image_models(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.statistics.image_models(), 200


def _image_totals(horde: PrivateHorde) -> tuple[Any, int]:
    return horde.statistics.image_totals(), 200


_ROUTES = (
    HordeRoute("/generate/text/async", {"POST": _submit}, "async"),
    HordeRoute("/generate/text/status/<request_id>", {"GET": _status, "DELETE": _cancel}, "status"),
    HordeRoute("/generate/text/pop", {"POST": _pop}, "worker_queue"),
    HordeRoute("/generate/text/submit", {"POST": _submit_generation}, "worker_queue"),
    HordeRoute("/status/models", {"GET": _models}),
    HordeRoute("/status/models/<name>", {"GET": _model}),
    HordeRoute("/status/performance", {"GET": _performance}),
    HordeRoute("/status/heartbeat", {"GET": _heartbeat}, "none"),
    HordeRoute("/stats/text/models", {"GET": _text_models}),
    HordeRoute("/stats/text/totals", {"GET": _text_totals}),
    HordeRoute("/stats/img/models", {"GET": _image_models}),
    HordeRoute("/stats/img/totals", {"GET": _image_totals}),
    *IMAGE_ROUTES,
    *ALCHEMY_ROUTES,
    *PEOPLE_ROUTES,
    *FLEET_ROUTES,
    *MODERATION_ROUTES,
    *OPERATIONS_ROUTES,
)


def _unknown_path(rest: str = "") -> Response:
    """The answer for an unknown path: JSON, and for browsers the real horde's HTML page.

    The real horde sends the page to everybody (capture err_404_unknown_route), which clients that
    read JSON take for a broken horde.
    """
    g.is_unknown_path = True
    if request.accept_mimetypes.best_match(["application/json", "text/html"]) != "text/html":
        return answer({"message": _NO_ROUTE}, 404)
    page = NotFound().get_body()
    return Response(page, 404, content_type="text/html; charset=utf-8")


def _allowed(route: HordeRoute) -> str:
    return ", ".join(sorted((*route.views, "OPTIONS")))


def _refused(error: HordeError) -> Response:
    g.refusal = error.rc
    return answer(error.body(), error.status)


def _unavailable(error: DatabaseError) -> Response:
    # Its message may name files and hosts, which callers should not see.
    log.warning("the private horde cannot answer: %s", error)
    return answer({"message": _NO_DATABASE}, 503, {"Retry-After": "2"})


def _failed(error: HTTPException) -> Response:
    if isinstance(error, UnsupportedCoding):
        return answer({"message": error.description}, 415, error.headers)
    # Flask has turned an unexpected exception into a 500 already.
    return answer({"message": error.name}, error.code or 500)


def _announced(extensions: Sequence[str], response: Response) -> Response:
    """The response with what this horde can do: plain clients and workers ignore the header."""
    response.headers[EXTENSIONS_HEADER] = ", ".join(extensions)
    return response


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

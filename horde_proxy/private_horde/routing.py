"""What all routes of the private horde share: reading a call, its key and its body.

Every answer leaves through `answer`. Views are in `views` and `people_views`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Response, g, request

from horde_proxy.json_reading import MOST_VALUES, parse_json
from horde_proxy.private_horde.errors import invalid, unreadable
from horde_proxy.private_horde.horde import PrivateHorde

View = Callable[..., tuple[Any, int]]
"""Takes the horde and the arguments of the path; returns the body and the status."""


MOST_VALUES_OF_A_TEXT = 1_000_000
"""Values in a body with what a worker wrote. Signs in a text count as values, and the transcript of
4,096 tokens has 700,000 of them with twenty log-probabilities for each."""


@dataclass(frozen=True)
class HordeRoute:
    """A path below /api/v2, its views by method, and the name of its rate limit.

    A `guarded` limit holds in any horde, also without `rate_limits`.
    """

    rule: str
    views: Mapping[str, View]
    rate: str = "default"
    guarded: bool = False


def api_key() -> str | None:
    """The key that the call came with."""
    return request.headers.get("apikey")


def caller_address() -> str:
    """The caller's address, also where the application knows it from a proxy in front."""
    return str(g.get("client_address", request.remote_addr or ""))


def checked_key(horde: PrivateHorde, *, as_worker: bool = False, shared: bool = False) -> str:
    """The call's key. Raises HordeError for a wrong one, so that no stranger's body is read.

    The real horde reads the body first: there, a body with a fault and a wrong key is a 400.
    `shared`: a shared key will do.
    """
    key = api_key()
    g.username = horde.authenticate(key, as_worker=as_worker, shared=shared)
    return key or ""


def body(most_values: int = MOST_VALUES) -> Any:
    """The request's JSON. Raises HordeError (400) if it is not JSON or not declared as JSON."""
    if not request.is_json:
        raise unreadable()
    try:
        return parse_json(request.get_data(), most_values, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise unreadable() from exc


def _refuse_constant(constant: str) -> None:
    # Python reads NaN and Infinity, which are not JSON. The real horde refuses them, too.
    raise ValueError(f"{constant} is not JSON")


def count(name: str) -> int | None:
    """A whole number in the query string; None if it is missing. Raises HordeError (400)."""
    text = request.args.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as exc:
        # flask-restx, too, answers with Python's own message.
        raise invalid({name: str(exc)}) from exc


def answer(body: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer in the real horde's form."""
    # Every capture has the charset and the newline.
    content_type = "application/json; charset=utf-8"
    return Response(json.dumps(body) + "\n", status, headers, content_type=content_type)

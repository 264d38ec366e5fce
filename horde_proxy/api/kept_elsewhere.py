"""What an endpoint keeps itself: answers, files and batches, fetched there.

The owner of an answer is noted while it is proxied (proxied_ids.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Response

from horde_proxy.api.auth import account_name
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.proxying import UnsupportedEndpoint, proxy_stored, proxy_to_named
from horde_proxy.api.recall import reading_store
from horde_proxy.errors import ProxyError
from horde_proxy.protocol.stored import KeepsNothing
from horde_proxy.upstreams.proxying import NO_BODY, Body

_View = TypeVar("_View", bound=Callable[..., Response])


def or_elsewhere(unknown: type[ProxyError]) -> Callable[[_View], _View]:
    """Have a server answer where a view raises `unknown`, or where nothing is stored here.

    The view's own error counts where no server has the route.
    """

    def with_servers(view: _View) -> _View:
        @wraps(view)
        def answer(*arguments: Any, **named: Any) -> Response:
            try:
                return view(*arguments, **named)
            except (unknown, UnsupportedEndpoint):
                response = proxy_stored(current_context())
                if response is None:
                    raise
                return response

        return cast(_View, answer)

    return with_servers


def fetched_elsewhere(
    ctx: AppContext, answer_id: str, unknown: ProxyError, body: Body = NO_BODY
) -> Response:
    """The response of the endpoint that keeps an answer of this owner to the current call.

    Raises `unknown` where none does, and KeepsNothing where owners cannot be noted.
    """
    if ctx.store.proxied is None:
        # Nothing is noted. An endpoint may be asked only where any client may have any answer.
        response = proxy_stored(ctx, body) if _has_one_owner(ctx) else None
        if response is None:
            raise KeepsNothing()
        return response
    endpoint = endpoint_of(ctx, answer_id)
    response = proxy_to_named(ctx, endpoint, body) if endpoint else None
    if response is None:
        raise unknown
    return response


def endpoint_of(ctx: AppContext, answer_id: str) -> str | None:
    """The name of the endpoint that keeps an answer of this owner, or None."""
    if ctx.store.proxied is None:
        return None
    with reading_store():
        return ctx.store.proxied.endpoint(account_name(ctx), answer_id)


def previous_elsewhere(ctx: AppContext, body: Any) -> str | None:
    """The name of the endpoint that has the previous response of a body; None: none has it."""
    previous = body.get("previous_response_id") if isinstance(body, dict) else None
    return endpoint_of(ctx, previous) if isinstance(previous, str) and previous else None


def is_foreign_previous(ctx: AppContext, body: Any) -> bool:
    """Whether a body names a previous response that this owner may not go on from.

    An endpoint would find it, since it sees the proxy's key only.
    """
    previous = body.get("previous_response_id") if isinstance(body, dict) else None
    if not isinstance(previous, str) or not previous:
        return False
    if ctx.store.proxied is None:
        return not _has_one_owner(ctx)
    return endpoint_of(ctx, previous) is None


def _has_one_owner(ctx: AppContext) -> bool:
    """Whether all clients are one owner: then it does not matter who asked for an answer."""
    return not (ctx.access.requires_key or ctx.access.passthrough)

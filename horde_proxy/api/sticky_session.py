"""The identity of the current request's conversation, for the router's sticky sessions.

Clients are kept apart: no client can move another one's conversation.
"""

from __future__ import annotations

from typing import Any

from flask import g, request

from horde_proxy.api.auth import client_name
from horde_proxy.api.context import AppContext
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.session_identity import (
    beginning_of_body,
    beginning_of_request,
    named_identity,
)


def note_body(document: Any) -> None:
    """Keep the body of the current request, by which its conversation is known."""
    g.session_body = document


def session_identity(ctx: AppContext, generation: Any = None) -> str | None:
    """The conversation and its client; None where none is known, or it makes no difference.

    `generation` is what was read of the body: it has the earlier turns that are stored here.
    """
    if not ctx.router.has_sessions:
        return None
    body = g.get("session_body")
    identity = named_identity(request.headers.get, body)
    if identity is None and isinstance(generation, GenerationRequest) and _goes_on(body):
        identity = beginning_of_request(generation)
    elif identity is None:
        identity = beginning_of_body(body)
    return None if identity is None else f"{client_name()}\0{identity}"


def _goes_on(body: Any) -> bool:
    """Whether a body has only what follows a stored response."""
    return isinstance(body, dict) and bool(body.get("previous_response_id"))

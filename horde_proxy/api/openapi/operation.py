"""What the document says about one route, and about the API that it belongs to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from horde_proxy.api.openapi.shapes import Shape

EVENTS = "text/event-stream"
Rights = Literal["anybody", "key", "operator", "member", "moderator"]
"""Who may call a route: anybody; a client, with a key where `access.mode` asks for one; an admin's
key, or without keys this machine; members of the private horde; its owner and moderators."""


@dataclass(frozen=True)
class RouteEntry:
    """One route and method.

    `call` is "GET /models/{name}", without /v1. `answer` is the JSON of a success of `status`, or
    `media` the type of one that is not JSON. `events` is the JSON of each event of a stream of the
    type `stream`. `query` has "name:type" for each parameter. `others` are answers of further
    statuses; errors are those of the API. `has_etag`: If-None-Match gets a 304.
    """

    call: str
    summary: str
    answer: Shape | None = None
    body: Shape | type[BaseModel] | None = None
    events: Shape | None = None
    stream: str = EVENTS
    media: str | None = None
    form: Shape | None = None
    query: tuple[str, ...] = ()
    rights: Rights = "key"
    status: int = 200
    others: Mapping[int, Shape] = field(default_factory=dict)
    has_etag: bool = False
    example: Any = None

    @property
    def method(self) -> str:
        return self.call.partition(" ")[0]

    @property
    def path(self) -> str:
        return self.call.partition(" ")[2]


@dataclass(frozen=True)
class Api:
    """Routes with the same shape of errors. `at_root`: they have no twins below /v1."""

    tag: str
    about: str
    error: Shape
    operations: tuple[RouteEntry, ...]
    at_root: bool = False

"""From a model's name to the upstreams that offer it, and from one to the next. No Flask here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from horde_proxy.errors import ModelNotFound, ShuttingDown, Unavailable, UpstreamFailed
from horde_proxy.naming import resolve
from horde_proxy.protocol.chat import ChatRequest
from horde_proxy.protocol.completion import Chunk
from horde_proxy.upstreams import Accepted, Route, StreamItem, Upstream, Waiting

_NEAR_NAMES = 3
_NEAR_CUTOFF = 0.4
_LONGEST_NAME = 200

log = logging.getLogger(__name__)


class Router:
    """Knows all upstreams, in the order in which they are asked, and the aliases of models."""

    def __init__(
        self, upstreams: Sequence[Upstream], aliases: Mapping[str, str] | None = None
    ) -> None:
        self._upstreams = upstreams
        self._aliases = aliases or {}

    def models(self) -> list[dict[str, Any]]:
        """OpenAI's model objects of all upstreams; the first to offer a name describes it."""
        found: dict[str, dict[str, Any]] = {}
        for upstream in self._upstreams:
            for model in upstream.models():
                found.setdefault(model["id"], model)
        return list(found.values())

    def model(self, name: str) -> dict[str, Any]:
        """One model object. Raises ModelNotFound, which names near ones, or some."""
        models = {model["id"]: model for model in self.models()}
        return models[self._resolved(name, list(models.values()))[0][0]]

    def candidates(self, name: str) -> list[Route]:
        """The routes to what a name stands for, best first. Raises ModelNotFound.

        Models that are as good as each other and may share a request share a route.
        """
        offers = {upstream: upstream.models() for upstream in self._upstreams}
        groups = self._resolved(name, [each for models in offers.values() for each in models])
        served = {
            upstream: {model["id"] for model in models} for upstream, models in offers.items()
        }
        return [
            route for group in groups for upstream in self._upstreams
            for route in _routes(upstream, [each for each in group if each in served[upstream]])
        ]

    def stream(self, request: ChatRequest) -> Iterator[StreamItem]:
        """The answer of the first candidate that gives one; see horde_proxy.upstreams.

        Another is asked only while the client has seen no content.
        """
        routes = self.candidates(request.model)
        shown = _Shown()
        for number, route in enumerate(routes, 1):
            try:
                yield from shown.only_new(route.upstream.stream(request, route))
                return
            except (UpstreamFailed, Unavailable) as exc:
                if number == len(routes) or shown.content or isinstance(exc, ShuttingDown):
                    raise
                log.info("%s of %s failed, the next is asked: %s", route.model,
                         route.upstream.name, exc)

    def _resolved(self, name: str, models: Sequence[dict[str, Any]]) -> list[list[str]]:
        found = resolve(name, models, self._aliases)
        if found:
            return found
        ids = list(dict.fromkeys(model["id"] for model in models))
        near = get_close_matches(name[:_LONGEST_NAME], ids, _NEAR_NAMES, _NEAR_CUTOFF)
        raise ModelNotFound(name[:_LONGEST_NAME], near or ids[:_NEAR_NAMES])


class _Shown:
    """What the client has seen of one answer, however many upstreams are asked for it."""

    def __init__(self) -> None:
        self.content = False
        self._accepted = False
        self._first: Chunk | None = None
        self._roles: set[int] = set()

    def only_new(self, items: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """The items but those that an earlier upstream gave; all chunks share one id."""
        for item in items:
            if isinstance(item, Accepted):
                if not self._accepted:
                    yield item
                self._accepted = True
            elif isinstance(item, Waiting):
                yield item
            elif not self._is_repeated_role(item):
                yield self._same_id(item)

    def _is_repeated_role(self, chunk: Chunk) -> bool:
        roles = {each["index"] for each in chunk["choices"] if "role" in each["delta"]}
        is_repeated = bool(roles) and roles <= self._roles
        self._roles |= roles
        self.content = self.content or not roles
        return is_repeated

    def _same_id(self, chunk: Chunk) -> Chunk:
        if self._first is None:
            self._first = chunk
        if chunk["id"] == self._first["id"]:
            return chunk
        return {**chunk, "id": self._first["id"], "created": self._first["created"]}


def _routes(upstream: Upstream, models: list[str]) -> list[Route]:
    routes = []
    while models:
        shared = upstream.shared(models)
        routes.append(Route(upstream, shared))
        models = [each for each in models if each not in shared]
    return routes

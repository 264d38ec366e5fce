"""From a model's name to the upstreams that offer it. Knows no wire format and no Flask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from horde_proxy.errors import ModelNotFound
from horde_proxy.naming import resolve
from horde_proxy.upstreams import Route, Upstream

_NEAR_NAMES = 3
_NEAR_CUTOFF = 0.4
_LONGEST_NAME = 200


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

    def _resolved(self, name: str, models: Sequence[dict[str, Any]]) -> list[list[str]]:
        found = resolve(name, models, self._aliases)
        if found:
            return found
        ids = list(dict.fromkeys(model["id"] for model in models))
        near = get_close_matches(name[:_LONGEST_NAME], ids, _NEAR_NAMES, _NEAR_CUTOFF)
        raise ModelNotFound(name[:_LONGEST_NAME], near or ids[:_NEAR_NAMES])


def _routes(upstream: Upstream, models: list[str]) -> list[Route]:
    routes = []
    while models:
        shared = upstream.shared(models)
        routes.append(Route(upstream, shared))
        models = [each for each in models if each not in shared]
    return routes

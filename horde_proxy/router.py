"""From a model's name to the upstreams that offer it. Knows no wire format and no Flask."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from horde_proxy.errors import ModelNotFound
from horde_proxy.upstreams import Route, Upstream

_NEAR_NAMES = 3
_NEAR_CUTOFF = 0.4
_LONGEST_NAME = 200


class Router:
    """Knows all upstreams, in the order in which they are asked."""

    def __init__(self, upstreams: Sequence[Upstream]) -> None:
        self._upstreams = upstreams

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
        if name not in models:
            raise self._not_found(name, list(models))
        return models[name]

    def _not_found(self, name: str, models: Sequence[str]) -> ModelNotFound:
        name = name[:_LONGEST_NAME]
        near = get_close_matches(name, models, _NEAR_NAMES, _NEAR_CUTOFF)
        return ModelNotFound(name, near or models[:_NEAR_NAMES])

    def candidates(self, model: str) -> list[Route]:
        """The routes to a model, best first. Raises ModelNotFound."""
        found = [
            Route(upstream, model)
            for upstream in self._upstreams
            if any(each["id"] == model for each in upstream.models())
        ]
        if not found:
            raise self._not_found(model, [each["id"] for each in self.models()])
        return found

"""What all endpoints offer together at a moment, and what a name stands for among that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.model_names import resolve

Offered = Mapping[str, dict[str, Any]]
_MOST_RESOLVED = 1000
_LONGEST_KEPT = 200


class Scope(Protocol):
    """What a client may use; hashable."""

    def allows_model(self, name: str) -> bool:
        """Whether it may use a model, by the name that clients see."""

    def allows_endpoint(self, name: str) -> bool:
        """Whether it may use an endpoint."""


class Everything:
    """The scope of whoever is not limited."""

    def allows_model(self, name: str) -> bool:
        return True

    def allows_endpoint(self, name: str) -> bool:
        return True


EVERYTHING = Everything()


class VisibleModels:
    """The models that one scope sees: `models` by name, `serving` the endpoints of each."""

    def __init__(
        self, endpoints: Sequence[Endpoint], lists: Sequence[Offered], scope: Scope
    ) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.serving: dict[str, list[Endpoint]] = {}
        self._resolved: dict[str, list[list[str]]] = {}
        for endpoint, offered in zip(endpoints, lists, strict=True):
            if scope.allows_endpoint(endpoint.name):
                for name, model in offered.items():
                    if scope.allows_model(name):
                        self._add(endpoint, name, model)

    def groups(self, name: str, aliases: Mapping[str, str]) -> list[list[str]]:
        """See model_names.resolve. Raises InvalidRequest."""
        found = self._resolved.get(name)
        if found is None:
            found = resolve(name, list(self.models.values()), aliases)
            if len(name) <= _LONGEST_KEPT and len(self._resolved) < _MOST_RESOLVED:
                self._resolved[name] = found
        return found

    def _add(self, endpoint: Endpoint, name: str, model: dict[str, Any]) -> None:
        serving = self.serving.setdefault(name, [])
        serving.append(endpoint)
        if name not in self.models:
            self.models[name] = {**model, "endpoints": []}
        self.models[name]["endpoints"].append(endpoint.name)


class ModelIndex:
    """The lists of all endpoints, in the order in which they describe models."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = sorted(endpoints, key=lambda endpoint: endpoint.priority)
        self._lists: list[Offered] = []
        self._views: dict[Scope, VisibleModels] = {}

    def seen_by(self, scope: Scope) -> VisibleModels:
        """What a scope sees now; made anew only when some list has changed."""
        if not self._lists:
            # All at once, so that several that hang are not waited for one after another.
            for endpoint in self._endpoints:
                endpoint.upstream.refresh()
        lists = [endpoint.offers() for endpoint in self._endpoints]
        if len(self._lists) != len(lists) or any(map(_differ, lists, self._lists)):
            self._lists, self._views = lists, {}
        views = self._views
        if scope not in views:
            views[scope] = VisibleModels(self._endpoints, lists, scope)
        return views[scope]


def _differ(one: object, other: object) -> bool:
    return one is not other

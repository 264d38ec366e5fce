"""The models of all endpoints together, limited to those that a client may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from horde_proxy.caching.derived import Derived
from horde_proxy.router.endpoint import Endpoint, Models
from horde_proxy.router.model_names import resolve

# Clients choose the names, so the cache of resolved names needs bounds. Later or longer names are
# resolved anew for each request.
_MAX_RESOLVED = 1000
_MAX_RESOLVED_LENGTH = 200
"""Characters of a name."""


class Scope(Protocol):
    """The models and endpoints that a client may use; hashable."""

    @property
    def allows_all_models(self) -> bool:
        """Whether the client may use every model, also in requests that name no model."""

    def allows_model(self, name: str) -> bool:
        """Whether the client may use a model, by the name that clients see."""

    def allows_endpoint(self, name: str) -> bool:
        """Whether the client may use an endpoint."""


class Everything:
    """The scope of a client without limits."""

    allows_all_models = True

    def allows_model(self, name: str) -> bool:
        return True

    def allows_endpoint(self, name: str) -> bool:
        return True


EVERYTHING = Everything()


class VisibleModels:
    """The models in one scope: `models` by name, and `serving`, the endpoints of each model.

    Any thread may use it, without a lock: two threads that resolve a name at once get the same
    groups.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], lists: Sequence[Models], scope: Scope
    ) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.serving: dict[str, list[Endpoint]] = {}
        self._resolved: dict[str, list[list[str]]] = {}
        for endpoint, models in zip(endpoints, lists, strict=True):
            if not scope.allows_endpoint(endpoint.name):
                continue
            for name, model in models.items():
                if scope.allows_model(name):
                    self._add(endpoint, name, model)

    def groups(self, name: str, aliases: Mapping[str, str]) -> list[list[str]]:
        """The models that a name refers to, see model_names.resolve. Raises InvalidRequest."""
        groups = self._resolved.get(name)
        if groups is None:
            groups = resolve(name, list(self.models.values()), aliases)
            if len(name) <= _MAX_RESOLVED_LENGTH and len(self._resolved) < _MAX_RESOLVED:
                self._resolved[name] = groups
        return groups

    def _add(self, endpoint: Endpoint, name: str, model: dict[str, Any]) -> None:
        serving = self.serving.setdefault(name, [])
        serving.append(endpoint)
        # The endpoints come by priority, so the first one describes the model. Its object belongs
        # to the endpoint's list, and is copied before it gets a field.
        if name not in self.models:
            # A `name` is OpenRouter's, for people; without one it is the id, which has the prefix.
            self.models[name] = {"name": model["id"], **model, "endpoints": []}
        self.models[name]["endpoints"].append(endpoint.name)


class ModelIndex:
    """The models of all endpoints. The description of a model is the first priority's.

    The visible models of each scope are cached until the list of an endpoint changes.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._endpoints = sorted(endpoints, key=lambda endpoint: endpoint.priority)
        self._current = Derived(self._lists, _CurrentModels)

    def visible_to(self, scope: Scope) -> VisibleModels:
        """The models in a scope; the same object until the list of an endpoint changes."""
        current = self._current.get()
        visible = current.by_scope.get(scope)
        if visible is None:
            visible = VisibleModels(self._endpoints, current.lists, scope)
            current.by_scope[scope] = visible
        return visible

    def _lists(self) -> tuple[Models, ...]:
        if self._current.peek() is None:
            # At the start, all lists begin to load before any is waited for, so that the waits for
            # several hanging endpoints do not add up.
            for endpoint in self._endpoints:
                endpoint.upstream.refresh()
        return tuple(endpoint.models() for endpoint in self._endpoints)


class _CurrentModels:
    """The current lists of all endpoints, and the visible models by scope."""

    def __init__(self, lists: tuple[Models, ...]) -> None:
        self.lists = lists
        # At most one scope for each key. Without a lock: two threads may both make the same one.
        self.by_scope: dict[Scope, VisibleModels] = {}

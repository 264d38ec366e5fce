"""The models of all endpoints together, limited to those that a client may see."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from horde_proxy.caching.derived import Derived
from horde_proxy.protocol.models import is_available
from horde_proxy.router.endpoint import Endpoint, Models
from horde_proxy.router.model_names import resolve
from horde_proxy.router.scope import Scope
from horde_proxy.router.short_ids import short_ids

# Clients choose the names, so the cache of resolved names needs bounds. Later or longer names are
# resolved anew for each request.
_MAX_RESOLVED = 1000
_MAX_RESOLVED_LENGTH = 200
"""Characters of a name."""


class VisibleModels:
    """The models in one scope: `models` by name, and `serving`, the endpoints of each model.

    `listing` are the models as clients see them: by their short ids, unless `reserved` is None.
    Those are the names that no short id may have. `short_ids` are by full id, and by the name that
    the endpoint has for the model.

    Any thread may use it, without a lock: two threads that resolve a name at once get the same
    groups.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        lists: Sequence[Models],
        scope: Scope,
        reserved: Collection[str] | None = None,
    ) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.serving: dict[str, list[Endpoint]] = {}
        self._resolved: dict[str, list[list[str]]] = {}
        for endpoint, models in zip(endpoints, lists, strict=True):
            for name, model in models.items():
                if endpoint.is_open_to(scope, endpoint.own_name(name)) and scope.allows_model(name):
                    self._add(endpoint, name, model)
        short = {} if reserved is None else short_ids(self.models, reserved)
        self._short = {name: listed for name, listed in short.items() if listed != name}
        self._by_short = {listed.casefold(): name for name, listed in self._short.items()}
        self.short_ids = {**self._short_by_own_name(), **self._short}
        self.listing = [self.listed(name) for name in self.models]

    def groups(self, name: str, aliases: Mapping[str, str]) -> list[list[str]]:
        """The models that a name refers to, see model_names.resolve. Raises InvalidRequest."""
        groups = self._resolved.get(name)
        if groups is None:
            # A short id is an alias that the model brings along.
            groups = resolve(name, list(self.models.values()), {**self._by_short, **aliases})
            if len(name) <= _MAX_RESOLVED_LENGTH and len(self._resolved) < _MAX_RESOLVED:
                self._resolved[name] = groups
        return groups

    def listed(self, name: str) -> dict[str, Any]:
        """A model as clients see it, by its full id; beside a short id it has the full one."""
        model, short = self.models[name], self._short.get(name)
        return model if short is None else {**model, "id": short, "full_id": name}

    def _short_by_own_name(self) -> dict[str, str]:
        """The short ids by the endpoints' own names of the models, which may have no prefix."""
        return {
            endpoint.own_name(name): short
            for name, short in self._short.items()
            for endpoint in self.serving[name]
        }

    def _add(self, endpoint: Endpoint, name: str, model: dict[str, Any]) -> None:
        serving = self.serving.setdefault(name, [])
        serving.append(endpoint)
        # The endpoints come by priority, so the first one describes the model, or the first one
        # where it can be used. Its object belongs to the endpoint's list, and is copied before it
        # gets a field.
        known = self.models.get(name)
        if known is None or (is_available(model) and not is_available(known)):
            # A `name` is OpenRouter's, for people; without one it is the id, which has the prefix.
            self.models[name] = {"name": model["id"], **model}
        described = self.models[name]
        described["endpoints"] = [endpoint.name for endpoint in serving]
        # One endpoint with the model in memory is enough: requests go there first.
        states = [other.get("loaded") for other in (model, described)]
        if any(isinstance(state, bool) for state in states):
            described["loaded"] = True in states


class ModelIndex:
    """The models of all endpoints. The description of a model is the first priority's.

    `reserved` are the names that no short id may have; None: models are listed by their full ids.

    The visible models of each scope are cached until the list of an endpoint changes.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], reserved: Collection[str] | None = None
    ) -> None:
        self._reserved = reserved
        self._endpoints = sorted(endpoints, key=lambda endpoint: endpoint.priority)
        self._current = Derived(self._lists, _CurrentModels)

    def visible_to(self, scope: Scope) -> VisibleModels:
        """The models in a scope; the same object until the list of an endpoint changes."""
        current = self._current.get()
        visible = current.by_scope.get(scope)
        if visible is None:
            visible = VisibleModels(self._endpoints, current.lists, scope, self._reserved)
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
        # For each key at most one scope, and one for each of the 15 sets of places that requests
        # can be bound to. Without a lock: two threads may both make the same one.
        self.by_scope: dict[Scope, VisibleModels] = {}

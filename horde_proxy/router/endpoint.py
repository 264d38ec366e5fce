"""An upstream as the router sees it: its priority, its models and its health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.caching.derived import Derived
from horde_proxy.errors import ProxyError, Unreachable
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.health import EndpointHealth
from horde_proxy.upstreams.base import Upstream

Models = Mapping[str, dict[str, Any]]
"""OpenAI's model objects by the names that clients see."""
NO_MODELS: Models = {}


@dataclass(eq=False)
class Endpoint:
    """An upstream with its settings.

    The lowest `priority` is tried first; `weight` is the share of requests within a priority.
    `globs` select models by the upstream's own names; without globs, all are selected. The names
    that clients see begin with `prefix`. `error` is set if the models could not be listed.
    `breaker` is that of the endpoint as a whole; `health` has one for each model as well.
    """

    upstream: Upstream
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    priority: int = 0
    weight: float = 1.0
    globs: Sequence[str] = ()
    prefix: str = ""
    error: ProxyError | None = field(default=None, init=False)
    health: EndpointHealth = field(init=False)

    def __post_init__(self) -> None:
        self.health = EndpointHealth(self.breaker, lambda: len(self.last_models()))
        # Upstreams return the same list until it changes, so the names are prefixed once for each.
        self._models: Derived[tuple[Sequence[dict[str, Any]]], Models]
        self._models = Derived(lambda: (self.upstream.models(),), self._visible)

    @property
    def name(self) -> str:
        return self.upstream.name

    @property
    def can_proxy(self) -> bool:
        """Whether calls can be passed on unchanged."""
        return self.upstream.proxy is not None

    def models(self) -> Models:
        """The models for clients; the same object as long as the upstream's list stays the same.

        It is empty if they cannot be listed, and `error` is set.
        """
        try:
            models = self._models.get()
        except ProxyError as exc:
            self.error = exc
            return NO_MODELS
        self.error = None
        return models

    def down(self) -> ProxyError | None:
        """Why it counts as down: its models were never listed, or it cannot be reached."""
        error = self.upstream.error()
        return self.error or (error if isinstance(error, Unreachable) else None)

    def last_models(self) -> Models:
        """The last result of `models`, without calling the upstream."""
        return self._models.peek() or NO_MODELS

    def may_serve(self, name: str) -> bool:
        """Whether the upstream lists no models, and may be tried for a client's name."""
        own = self.own_name(name)
        is_ours = name.startswith(self.prefix) and self._is_selected(own)
        return self.upstream.offers_any and is_ours

    def own_name(self, name: str) -> str:
        """The upstream's own name for the name that clients see."""
        return name.removeprefix(self.prefix)

    def _visible(self, source: tuple[Sequence[dict[str, Any]]]) -> Models:
        [models] = source
        return {
            self.prefix + model["id"]: {**model, "id": self.prefix + model["id"]}
            for model in models
            if self._is_selected(model["id"])
        }

    def _is_selected(self, own_name: str) -> bool:
        return not self.globs or any(matches_glob(own_name, glob) for glob in self.globs)

"""An upstream with its place among the others: what it offers to clients, and how it fares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.errors import ProxyError
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.upstreams.base import Proxies, Upstream

NOTHING: dict[str, dict[str, Any]] = {}


@dataclass(eq=False)
class Endpoint:
    """Lower `priority` is asked first; `weight` is its share within a priority.

    `globs` of the upstream's own names, none for all; `prefix` comes before the names that
    clients see.
    """

    upstream: Upstream
    health: CircuitBreaker = field(default_factory=CircuitBreaker)
    priority: int = 0
    weight: float = 1.0
    globs: Sequence[str] = ()
    prefix: str = ""

    def __post_init__(self) -> None:
        self._told: tuple[Sequence[dict[str, Any]], Mapping[str, dict[str, Any]]] | None = None
        self.error: ProxyError | None = None
        self.relays = self.upstream if isinstance(self.upstream, Proxies) else None

    @property
    def name(self) -> str:
        return self.upstream.name

    def offers(self) -> Mapping[str, dict[str, Any]]:
        """The model objects by the names that clients see; the same while nothing changed.

        Empty when they cannot be had; `error` says why.
        """
        try:
            models = self.upstream.models()
        except ProxyError as exc:
            self.error = exc
            return NOTHING
        self.error = None
        if self._told is None or self._told[0] is not models:
            self._told = (
                models,
                {
                    self.prefix + model["id"]: {**model, "id": self.prefix + model["id"]}
                    for model in models
                    if self._is_allowed(model["id"])
                },
            )
        return self._told[1]

    def told(self) -> Mapping[str, dict[str, Any]]:
        """What `offers` gave the last time; asks nobody."""
        return self._told[1] if self._told else NOTHING

    @property
    def is_silent(self) -> bool:
        """Whether it cannot say what it offers: there are servers that list no models."""
        return self.upstream.offers_any

    def may_serve(self, name: str) -> bool:
        """Whether it might, though it cannot say."""
        own = name.removeprefix(self.prefix)
        return self.is_silent and name.startswith(self.prefix) and self._is_allowed(own)

    def own_name(self, name: str) -> str:
        """The upstream's own name for what clients call so."""
        return name.removeprefix(self.prefix)

    def _is_allowed(self, name: str) -> bool:
        return not self.globs or any(matches_glob(name, glob) for glob in self.globs)

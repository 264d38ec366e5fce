"""An upstream as the router sees it: its priority, its models and its health."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.caching.derived import Derived
from horde_proxy.errors import ProxyError, Unreachable
from horde_proxy.places import EndpointPlace
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.health import EndpointHealth
from horde_proxy.router.line import EndpointLine
from horde_proxy.router.missing_paths import MissingPaths
from horde_proxy.router.pauses import Pauses
from horde_proxy.router.scope import Scope
from horde_proxy.upstreams.base import Penalizes, Upstream
from horde_proxy.upstreams.power import Power

Models = Mapping[str, dict[str, Any]]
"""OpenAI's model objects by the names that clients see."""
NO_MODELS: Models = {}

# Ollama's tags for models that ollama.com runs for a server at home: "gpt-oss:120b-cloud",
# "glm-4.6:cloud". It takes them in any case, and with spaces around them.
_RUN_BY_OLLAMA_COM = re.compile(r"[:-]\s*cloud\s*$", re.IGNORECASE)


@dataclass(eq=False)
class Endpoint:
    """An upstream with its settings.

    The lowest `priority` is tried first; `weight` is the share of requests within a priority.
    `globs` select models by the upstream's own names; without globs, all are selected. The names
    that clients see begin with `prefix`. `error` is set if the models could not be listed.
    `breaker` is that of the endpoint as a whole; `health` has one for each model as well. `missing`
    are the paths of optional calls that its server does not have. `place` is where its server is;
    with None, nothing that is bound to places goes there. `line` is before all that is sent to the
    server, texts and pictures alike. `power` is its machine, where that may sleep. `pauses` are
    those of all endpoints.
    """

    upstream: Upstream
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    priority: int = 0
    weight: float = 1.0
    globs: Sequence[str] = ()
    prefix: str = ""
    missing: MissingPaths = field(default_factory=MissingPaths)
    place: EndpointPlace | None = None
    line: EndpointLine = field(default_factory=EndpointLine)
    power: Power | None = None
    pauses: Pauses = field(default_factory=Pauses)
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

    @property
    def paused_at(self) -> float | None:
        """When the operator paused it (Unix s); None while it is in use."""
        return self.pauses.since(self.name)

    def may_be_used(self, model: str) -> bool:
        """Whether it may get a request for one of its own models now: no pause, no cooldown."""
        return self.paused_at is None and not self.health.cooldown_left(model)

    def is_ready(self, model: str) -> bool:
        """The same, and no request probes it: one more would be sent at once."""
        if not self.may_be_used(model):
            return False
        attempt = self.health.try_acquire(model)
        if attempt is not None:
            attempt.end()
        return attempt is not None

    @property
    def is_awake(self) -> bool:
        """Whether a request may be sent at once: False while its machine sleeps or boots."""
        return self.power is None or self.power.is_awake

    def seconds_to_wake(self) -> float:
        """The expected seconds until its machine is awake; 0 if it is."""
        return self.power.seconds_to_wake() if self.power else 0.0

    def down(self) -> ProxyError | None:
        """Why it counts as down: its models were never listed, or it cannot be reached.

        A machine that sleeps is not down.
        """
        if not self.is_awake:
            return None
        error = self.upstream.error()
        return self.error or (error if isinstance(error, Unreachable) else None)

    def penalties(self) -> Sequence[Mapping[str, Any]]:
        """What the upstream has forbidden this proxy for a time; see Penalizes."""
        return self.upstream.penalties() if isinstance(self.upstream, Penalizes) else ()

    def last_models(self) -> Models:
        """The last result of `models`, without calling the upstream."""
        return self._models.peek() or NO_MODELS

    def is_open_to(self, scope: Scope, own_name: str = "") -> bool:
        """Whether a client may use the endpoint, or a model there by the upstream's own name."""
        return scope.allows_endpoint(self.name, self.place_of(own_name))

    def place_of(self, own_name: str) -> EndpointPlace | None:
        """Where a model runs, by the upstream's own name; "" stands for the server itself."""
        if self.place != "home" or not own_name:
            return self.place
        # A copy of such a model may have any name. Ollama tells it where it lists its models.
        listed = self.last_models().get(self.prefix + own_name, {})
        is_elsewhere = _RUN_BY_OLLAMA_COM.search(own_name) or listed.get("remote_host")
        return "paid" if is_elsewhere else self.place

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

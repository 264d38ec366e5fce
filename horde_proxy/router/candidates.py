"""The candidates for one request, the best first, and the reasons why some did not answer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass

from horde_proxy.errors import (
    AllEndpointsFailed,
    InMaintenance,
    ProxyError,
    RateLimited,
    Unreachable,
    UpstreamRefused,
)
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.health import EndpointAttempt
from horde_proxy.upstreams.base import Route

_WHOLE_ENDPOINT = (Unreachable, InMaintenance)
"""The errors that concern all models of an endpoint."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An endpoint, and its own names of the models that may answer; the first is best.

    A request that names no model has the one name "". `is_fallback`: the models are fallbacks for
    the requested ones.
    """

    endpoint: Endpoint
    models: tuple[str, ...]
    is_fallback: bool = False

    @property
    def route(self) -> Route:
        return Route(self.endpoint.upstream, self.models)

    @property
    def model(self) -> str | None:
        """The best model by the name that clients see; None if the request names no model."""
        return self.endpoint.prefix + self.models[0] if self.models[0] else None

    @property
    def sees(self) -> bool:
        """Whether the best model looks at pictures, as far as its endpoint says."""
        architecture = self.endpoint.last_models().get(self.model or "", {}).get("architecture")
        # The list is a foreign server's, so that it may hold anything.
        inputs = architecture.get("input_modalities") if isinstance(architecture, dict) else None
        return isinstance(inputs, list) and "image" in inputs


class Candidates:
    """The candidates that were not tried yet. One thread uses it, for one request.

    Iterating yields each candidate whose circuit breaker allows a request now, with the attempt,
    which the caller must end; `current` is the last one. `best` is the model of the first
    candidate. `absent` are the reasons why other endpoints are no candidates, by name.
    """

    def __init__(
        self, model: str, candidates: Iterable[Candidate], absent: Mapping[str, str]
    ) -> None:
        self._model, self._left = model, deque(candidates)
        self.current: Candidate | None = None
        self.is_only = len(self._left) == 1
        self.best = self._left[0].model if self._left else None
        self._reasons: dict[str, str] = {}
        self._absent = absent
        self._errors: list[ProxyError] = []
        self._retry_after: list[int] = []
        self._overflow: ProxyError | None = None

    def __bool__(self) -> bool:
        return bool(self._left)

    def __iter__(self) -> Iterator[tuple[Candidate, EndpointAttempt]]:
        while self._left:
            candidate = self._left.popleft()
            health, model = candidate.endpoint.health, candidate.models[0]
            attempt = health.try_acquire(model)
            if attempt is None:
                self._reasons[candidate.endpoint.name] = health.reason(model)
                # There is no cooldown left to wait for while another request probes the endpoint.
                self._retry_after.append(health.cooldown_left(model) or 1)
                continue
            self.current = candidate
            yield candidate, attempt

    def proxying(self) -> Iterator[tuple[Candidate, EndpointAttempt]]:
        """The same as iterating, but it ends at the first candidate that cannot proxy."""
        for candidate, attempt in self:
            if not candidate.endpoint.can_proxy:
                attempt.end()
                self.put_back(candidate)
                return
            yield candidate, attempt

    def prefer_seeing(self) -> None:
        """Put the candidates that look at pictures before the others for the same models."""
        self._left = deque(
            sorted(self._left, key=lambda other: other.is_fallback or not other.sees)
        )

    def put_back(self, candidate: Candidate) -> None:
        """Keep a candidate that cannot proxy: the caller translates the request for it."""
        self._left.appendleft(candidate)

    def keep_proxying(self) -> None:
        """Drop the candidates that cannot proxy."""
        self._left = deque(candidate for candidate in self._left if candidate.endpoint.can_proxy)

    def has_fallback(self) -> bool:
        """Whether a candidate for another model is left."""
        return any(candidate.is_fallback for candidate in self._left)

    def has_other_endpoint(self, candidate: Candidate) -> bool:
        """Whether a candidate at another endpoint than this one's is left that is not cooling."""
        return any(
            other.endpoint is not candidate.endpoint
            and not other.endpoint.health.cooldown_left(other.models[0])
            for other in self._left
        )

    def has_equal(self) -> bool:
        """Whether a candidate for the same models is left that can proxy as well."""
        return any(
            candidate.endpoint.can_proxy and not candidate.is_fallback for candidate in self._left
        )

    def failed(self, candidate: Candidate, attempt: EndpointAttempt, error: ProxyError) -> None:
        """Record an error. The model cools down there, or the endpoint if it fails as a whole."""
        name = candidate.endpoint.name
        self._errors.append(error)
        self._reasons[name] = str(error).rstrip(".")  # it becomes a part of a longer sentence
        if error.retry_after:
            self._retry_after.append(error.retry_after)
        # A horde that faults one request is still good for others; a server that is down is not.
        # Without a model, a refusal is about a path or a file: any client could close the endpoint.
        is_about_path = isinstance(error, UpstreamRefused) and candidate.model is None
        if isinstance(error, candidate.endpoint.upstream.cooldown_errors) and not is_about_path:
            is_whole = isinstance(error, _WHOLE_ENDPOINT)
            attempt.failed(str(error), error.retry_after, is_whole=is_whole)
        attempt.end()
        log.info("%s failed%s: %s", name, ", trying the next" if self._left else "", error)

    def not_supported(self, candidate: Candidate, status: int) -> None:
        """Record that an endpoint does not know the request's file or path."""
        self._reasons[candidate.endpoint.name] = f"it answered with status {status}"

    def overflowed(self, error: ProxyError) -> None:
        """Keep only fallbacks: the request is too long for the model at any endpoint."""
        self._overflow = error
        self._left = deque(candidate for candidate in self._left if candidate.is_fallback)

    def error(self) -> ProxyError:
        """The error when no candidate answered: every endpoint with its reason."""
        if self._overflow is not None:
            return self._overflow
        # With one endpoint, its own error tells more than a list of one reason.
        if self._errors and not self._absent and len(self._reasons) == 1:
            [name] = self._reasons
            return named(name, self._errors[-1])
        soonest = min(self._retry_after, default=None)
        # A 429 says that waiting helps, which is true only if every endpoint was busy.
        if self._errors and all(isinstance(error, RateLimited) for error in self._errors):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._reasons.items())
            return RateLimited(
                f"Every endpoint for `{self._model}` is busy. {reasons}.", retry_after=soonest
            )
        return AllEndpointsFailed(self._model, {**self._reasons, **self._absent}, soonest)


def named(endpoint: str, error: ProxyError) -> ProxyError:
    """The error, with the endpoint's name where its message says "it" or "its"."""
    text = str(error)
    if text.partition(" ")[0] not in ("it", "its"):
        return error
    with_name = copy(error)
    with_name.args = (f"The endpoint {endpoint!r} failed: {text}",)
    return with_name

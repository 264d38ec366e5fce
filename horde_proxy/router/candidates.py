"""The routes to one model, best first, and why those that were tried did not answer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from horde_proxy.errors import AllEndpointsFailed, ProxyError, RateLimited
from horde_proxy.router.circuit_breaker import Attempt
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.upstreams.base import Proxies, Route

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An endpoint and the names it has for what was asked; `is_fallback`: for another model."""

    endpoint: Endpoint
    models: tuple[str, ...]
    is_fallback: bool = False

    @property
    def route(self) -> Route:
        return Route(self.endpoint.upstream, self.models)

    @property
    def model(self) -> str | None:
        """The first of the models by the name that clients see; None where none is named."""
        return self.endpoint.prefix + self.models[0] if self.models[0] else None

    @property
    def relays(self) -> Proxies | None:
        """Its upstream, where that takes requests as they are."""
        return self.endpoint.relays


class Candidates:
    """Iterating gives each candidate that may be asked now, with the attempt that this is.

    `best` is the model of the first one.
    """

    def __init__(
        self, model: str, candidates: Iterable[Candidate], others: Mapping[str, str]
    ) -> None:
        self._model, self._left = model, deque(candidates)
        self.is_alone = len(self._left) == 1
        self.best = self._left[0].model if self._left else None
        self._reasons: dict[str, str] = {}
        self._others = others
        self._errors: list[ProxyError] = []
        self._retry: list[int] = []
        self._overflow: ProxyError | None = None

    def __bool__(self) -> bool:
        return bool(self._left)

    def __iter__(self) -> Iterator[tuple[Candidate, Attempt]]:
        while self._left:
            candidate = self._left.popleft()
            attempt = candidate.endpoint.health.ask()
            if attempt is None:
                health = candidate.endpoint.health
                self._reasons[candidate.endpoint.name] = health.why_not()
                self._retry.append(health.cools_for() or 1)
                continue
            yield candidate, attempt

    def relaying(self) -> Iterator[tuple[Candidate, Attempt]]:
        """As iterating, up to the first one that does not relay."""
        for candidate, attempt in self:
            if candidate.relays is None:
                attempt.end()
                self._left.appendleft(candidate)
                return
            yield candidate, attempt

    def only_relaying(self) -> None:
        """Leave out those that cannot take a request as it is."""
        self._left = deque(each for each in self._left if each.relays is not None)

    def has_fallback(self) -> bool:
        """Whether another model may be asked."""
        return any(each.is_fallback for each in self._left)

    def failed(self, candidate: Candidate, attempt: Attempt, error: ProxyError) -> None:
        """It did not answer; it is left alone for a while where that is its own fault."""
        name = candidate.endpoint.name
        self._errors.append(error)
        self._reasons[name] = str(error).rstrip(".")
        if error.retry_after:
            self._retry.append(error.retry_after)
        if isinstance(error, candidate.endpoint.upstream.cooldown_errors):
            attempt.failed(str(error), error.retry_after)
        attempt.end()
        log.info("%s failed%s: %s", name, ", the next is asked" if self._left else "", error)

    def lacking(self, candidate: Candidate, status: int) -> None:
        """It has not what was asked for, a file or a whole path; another may have it."""
        self._reasons[candidate.endpoint.name] = f"it answered with status {status}"

    def overflowed(self, error: ProxyError) -> None:
        """The request is too long for the model, wherever that runs: only fallbacks are left."""
        self._overflow = error
        self._left = deque(each for each in self._left if each.is_fallback)

    def error(self) -> ProxyError:
        """Why there is no answer: every endpoint with its reason."""
        if self._overflow is not None:
            return self._overflow
        if self._errors and not self._others and len(self._reasons) == 1:
            return self._errors[-1]
        soonest = min(self._retry, default=None)
        if self._errors and all(isinstance(each, RateLimited) for each in self._errors):
            told = "; ".join(f"{name}: {why}" for name, why in self._reasons.items())
            return RateLimited(
                f"Every endpoint for `{self._model}` is busy. {told}.", retry_after=soonest
            )
        return AllEndpointsFailed(self._model, {**self._reasons, **self._others}, soonest)

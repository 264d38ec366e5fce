"""The candidates for one request, the best first, and the reasons why some did not answer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial

from horde_proxy.errors import (
    AllEndpointsClosed,
    AllEndpointsFailed,
    AllEndpointsUnfit,
    InMaintenance,
    ProxyError,
    RateLimited,
    Unreachable,
    UpstreamRefused,
)
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.health import EndpointAttempt
from horde_proxy.router.scope import Scope
from horde_proxy.router.sticky import StickySession
from horde_proxy.router.wake import wake_later
from horde_proxy.upstreams.base import Route

_WHOLE_ENDPOINT = (Unreachable, InMaintenance)
"""The errors that concern all models of an endpoint."""

_PAUSED = "the operator has paused it"
"""The reason of an endpoint that gets no requests for that."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An endpoint, and its own names of the models that may answer; the first is best.

    A request that names no model has the one name "". `is_fallback`: the models are fallbacks for
    the requested ones. `group` are the names that clients see of the models that fit the request
    as well as these do. `is_put_off`: its machine sleeps, and another endpoint answers meanwhile.
    """

    endpoint: Endpoint
    models: tuple[str, ...]
    is_fallback: bool = False
    group: tuple[str, ...] = ()
    is_put_off: bool = False

    @property
    def route(self) -> Route:
        return Route(self.endpoint.upstream, self.models)

    @property
    def model(self) -> str | None:
        """The best model by the name that clients see; None if the request names no model."""
        return self.endpoint.prefix + self.models[0] if self.models[0] else None

    def is_open_to(self, scope: Scope) -> bool:
        """Whether a client may use the endpoint, and each of the models there."""
        return all(self.endpoint.is_open_to(scope, model) for model in self.models)

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
    which the caller must end; `current` is the one that is being sent the request: None while that
    waits in line, or for a machine that sleeps. `best` is the model of the first
    candidate. `absent` are the reasons why other endpoints are no candidates, by name. `missing`
    are the models of the request that nothing offers now. `on_failure` is given the endpoint and
    the model of each attempt that failed. `session` is the request's, if any.

    Nothing outside `scope` is ever a candidate, however the list came about: retries, fallbacks and
    whatever else sends a request take their endpoints from here.
    """

    def __init__(
        self,
        model: str,
        candidates: Iterable[Candidate],
        absent: Mapping[str, str],
        scope: Scope,
        missing: Sequence[str] = (),
        session: StickySession | None = None,
    ) -> None:
        self.missing, self._session = missing, session
        self._reader = session.endpoint if session else None
        self._model = model
        self._left = deque(candidate for candidate in candidates if candidate.is_open_to(scope))
        self.current: Candidate | None = None
        self.on_failure: Callable[[str, str], None] = lambda endpoint, model: None
        self.is_only = len(self._left) == 1
        self.best = self._left[0].model if self._left else None
        self._reasons: dict[str, str] = {}
        self._paused: set[str] = set()
        self._failed: set[str] = set()
        self._absent = absent
        self._errors: list[ProxyError] = []
        self._retry_after: list[int] = []
        self._overflow: ProxyError | None = None
        self._shows_pictures = self._is_begun = False

    def __bool__(self) -> bool:
        return bool(self._left)

    def __iter__(self) -> Iterator[tuple[Candidate, EndpointAttempt]]:
        wake_later(
            candidate.endpoint
            for candidate in self._left
            if candidate.is_put_off and candidate.endpoint.paused_at is None
        )
        while self._left:
            candidate = self._left.popleft()
            attempt = self.acquire(candidate)
            if attempt is not None:
                yield candidate, attempt

    def acquire(self, candidate: Candidate) -> EndpointAttempt | None:
        """An attempt at a candidate; None where a pause or a circuit breaker allows none now."""
        if candidate.endpoint.paused_at is not None:
            self.paused(candidate)
            return None
        health, model = candidate.endpoint.health, candidate.models[0]
        attempt = health.try_acquire(model)
        if attempt is None:
            self._reasons[candidate.endpoint.name] = health.reason(model)
            # There is no cooldown left to wait for while another request probes the endpoint.
            self._retry_after.append(health.cooldown_left(model) or 1)
        else:
            self.current = candidate
            self._note_session(candidate.endpoint.name, attempt)
        return attempt

    def has_read(self, candidate: Candidate) -> bool:
        """Whether the candidate's endpoint has answered the turns before."""
        return candidate.endpoint.name == self._reader

    def equals(self, candidate: Candidate) -> list[Candidate]:
        """The candidates of `beside` that also have the same priority."""
        return [
            other
            for other in self.beside(candidate)
            if other.endpoint.priority == candidate.endpoint.priority
        ]

    def beside(self, candidate: Candidate) -> list[Candidate]:
        """The candidates left at other endpoints that may answer the same request, best first.

        They are for the same models, of any priority, and not cooling down.
        """
        if self._is_begun:
            return []
        return [
            other
            for other in self._left
            if other.endpoint is not candidate.endpoint
            and other.is_fallback == candidate.is_fallback
            and other.group == candidate.group
            and not (self._shows_pictures and other.sees != candidate.sees)
            and other.endpoint.may_be_used(other.models[0])
        ]

    def model_names(self) -> list[str]:
        """The models that are left by the names that clients see, in the order of trying."""
        names = (
            candidate.endpoint.prefix + model
            for candidate in self._left
            for model in candidate.models
        )
        return list(dict.fromkeys(names))

    def take(self, candidate: Candidate) -> None:
        """Take a candidate out, which is tried beside the current one."""
        self._left.remove(candidate)

    def swap(self, candidate: Candidate, other: Candidate) -> None:
        """Put a candidate back that was not tried, because another one takes the request."""
        self._left.remove(other)
        self._left.appendleft(candidate)

    def busy(self, candidate: Candidate, error: RateLimited) -> None:
        """Record that an endpoint takes no more requests now. It has not failed."""
        self._errors.append(error)
        self._reasons[candidate.endpoint.name] = str(error).rstrip(".")
        self._retry_after.append(error.retry_after or 1)

    def paused(self, candidate: Candidate) -> None:
        """Record that the operator has paused an endpoint. It has not failed."""
        self._paused.add(candidate.endpoint.name)
        self._reasons[candidate.endpoint.name] = _PAUSED

    def _note_session(self, endpoint: str, attempt: EndpointAttempt) -> None:
        """Have the session go to the endpoint that answers.

        A new one goes there at once: clients begin with several requests, as opencode does with the
        chat and its title.
        """
        if self._session is None:
            return
        if self._session.endpoint is None:
            self._session.move_to(endpoint)
        attempt.on_answered = partial(self._session.move_to, endpoint)

    def proxying(self) -> Iterator[tuple[Candidate, EndpointAttempt]]:
        """The same as iterating, but it ends at the first candidate that cannot proxy."""
        for candidate, attempt in self:
            if not candidate.endpoint.can_proxy:
                attempt.end()
                self.put_back(candidate)
                return
            yield candidate, attempt

    @property
    def endpoint_names(self) -> tuple[str, ...]:
        """The names of the endpoints that may still answer, without repeats."""
        return tuple(dict.fromkeys(candidate.endpoint.name for candidate in self._left))

    def prefer_seeing(self) -> None:
        """Put the candidates that look at pictures before the others for the same models."""
        self._shows_pictures = True
        self._left = deque(
            sorted(self._left, key=lambda other: other.is_fallback or not other.sees)
        )

    def go_on_at(self, endpoint: str, models: Sequence[str]) -> bool:
        """Put first the endpoint and those of its models that an answer was begun by.

        False where they are no candidates any more.
        """
        for candidate in self._left:
            begun = tuple(model for model in models if model in candidate.models)
            if candidate.endpoint.name == endpoint and begun:
                self._is_begun = True
                self._left.remove(candidate)
                self._left.appendleft(replace(candidate, models=begun))
                return True
        return False

    def put_back(self, candidate: Candidate) -> None:
        """Keep a candidate that cannot proxy: the caller translates the request for it."""
        self._left.appendleft(candidate)

    def skip(self) -> None:
        """Drop the next candidate, which does not know an optional path."""
        self._left.popleft()

    def keep_proxying(self) -> None:
        """Drop the candidates that cannot proxy."""
        self._left = deque(candidate for candidate in self._left if candidate.endpoint.can_proxy)

    def keep_endpoint(self, name: str) -> None:
        """Drop the candidates of other endpoints."""
        self._left = deque(candidate for candidate in self._left if candidate.endpoint.name == name)

    def has_requested(self) -> bool:
        """Whether a candidate for the requested models is left."""
        return any(not candidate.is_fallback for candidate in self._left)

    def has_fallback(self) -> bool:
        """Whether a candidate for another model is left."""
        return any(candidate.is_fallback for candidate in self._left)

    def has_other_endpoint(self, candidate: Candidate) -> bool:
        """Whether a candidate at another endpoint than this one's is left that is not cooling."""
        return any(
            other.endpoint is not candidate.endpoint and other.endpoint.may_be_used(other.models[0])
            for other in self._left
        )

    def has_ready_endpoint(self, candidate: Candidate) -> bool:
        """The same, but one that another request probes is none: it would refuse this one."""
        return any(
            other.endpoint is not candidate.endpoint and other.endpoint.is_ready(other.models[0])
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
        # It fell asleep since it last answered: the next request wakes it.
        if isinstance(error, Unreachable) and candidate.endpoint.power is not None:
            candidate.endpoint.power.unreachable()
        self._errors.append(error)
        self._failed.add(name)
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
        self.on_failure(name, candidate.model or "")
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
        return self._kind()(self._model, {**self._reasons, **self._absent}, soonest)

    def _kind(self) -> type[AllEndpointsFailed]:
        """What several endpoints that did not answer are together."""
        lasting = self._failed | self._paused
        # While one endpoint cools down, or may recover, the same request may be answered soon.
        is_passing = not lasting.issuperset(self._reasons) or any(
            error.should_retry is not False for error in self._errors
        )
        if is_passing or not lasting:
            return AllEndpointsFailed
        is_closed = self._paused or any(error.jobs_wait for error in self._errors)
        return AllEndpointsClosed if is_closed else AllEndpointsUnfit


def named(endpoint: str, error: ProxyError) -> ProxyError:
    """The error, with the endpoint's name where its message says "it" or "its"."""
    text = str(error)
    if text.partition(" ")[0] not in ("it", "its"):
        return error
    with_name = copy(error)
    with_name.args = (f"The endpoint {endpoint!r} failed: {text}",)
    return with_name

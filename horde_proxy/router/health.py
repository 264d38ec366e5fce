"""The health of one endpoint: a circuit breaker of its own, and one for each of its models.

    a model fails          its breaker opens; requests for other models are not touched
    the endpoint fails     its own breaker opens: it cannot be reached, or is in maintenance
    several models fail    its own breaker opens too, until the first of them may be tried again
    a request may be sent  if both breakers allow it; without a model, if the endpoint's own does

Any thread may call any method. A model's breaker is made for its first request, and forgotten once
the model is up and no request for it runs.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from horde_proxy.router.circuit_breaker import Attempt, CircuitBreaker
from horde_proxy.router.line import HeldSlot

_SEVERAL = 3
"""Models that fail at a time make the endpoint fail. One or two may be too large for it."""
_MOST_MODELS = 1000
"""Breakers. Clients choose the names of models where a server lists none."""
_IN_USE_SECONDS = 30.0
"""How long after an answer a model counts as in use (s): longer than what a server says of its
loaded models may be old."""

T = TypeVar("T")


class EndpointHealth:
    """The circuit breakers of one endpoint. Models have the endpoint's own names; "" is no model.

    `count` returns the number of models that the endpoint lists. The models' breakers have the
    settings of `own`.
    """

    def __init__(self, own: CircuitBreaker, count: Callable[[], int]) -> None:
        self.own, self._count = own, count
        # Guards `_models` and `_answered`; no I/O under it. The breakers have locks of their own,
        # which are only taken after this one.
        self._lock = threading.Lock()
        # The latest ones come last, and the first ones go where there are too many. Each call
        # changes both, for which cachetools' caches take some microseconds each.
        self._models: OrderedDict[str, CircuitBreaker] = OrderedDict()
        self._answered: OrderedDict[str, float] = OrderedDict()

    def try_acquire(self, model: str) -> EndpointAttempt | None:
        """A new attempt; None while no request for the model may be sent, see `reason`."""
        # Under the lock, so that no other thread forgets the breaker in between.
        with self._lock:
            own = self.own.try_acquire()
            if own is None or not model:
                return EndpointAttempt(self, own) if own else None
            breaker = self._models.get(model) or self.own.similar()
            of_model = breaker.try_acquire()
            if of_model is None:
                own.end()
                return None
            _put_last(self._models, model, breaker)
        return EndpointAttempt(self, own, model, of_model)

    def reason(self, model: str) -> str:
        """Why no request for the model may be sent now."""
        return self._strictest(model).reason()

    def cooldown_left(self, model: str) -> int:
        """Whole seconds until the next attempt for the model; 0 if it may be made now."""
        return self._strictest(model).cooldown_left()

    def is_in_use(self, model: str) -> bool:
        """Whether a request for the model runs, or was answered within the last seconds."""
        with self._lock:
            breaker = self._models.get(model)
            since = self._answered.get(model, -math.inf)
        is_recent = self.own.clock() - since < _IN_USE_SECONDS
        return is_recent or (breaker is not None and breaker.running > 0)

    def failing(self) -> dict[str, CircuitBreaker]:
        """The breakers of the models whose last request failed, by model."""
        with self._lock:
            models = dict(self._models)
        return {model: breaker for model, breaker in models.items() if breaker.is_open()}

    def _strictest(self, model: str) -> CircuitBreaker:
        """The one of the two breakers that refuses requests the longest."""
        with self._lock:
            breaker = self._models.get(model, self.own)
        return max(self.own, breaker, key=lambda one: (one.seconds_left(), one.is_open()))

    def _model_failed(self, own: Attempt, reason: str) -> None:
        failing = [breaker for breaker in self.failing().values() if breaker.has_failed_lately()]
        if failing and len(failing) >= min(_SEVERAL, self._count() or _SEVERAL):
            # At least the usual cooldown where none of them has one left.
            own.failed(reason, min(breaker.seconds_left() for breaker in failing) or None)
        else:
            own.noted(reason)

    def _has_answered(self, model: str) -> None:
        with self._lock:
            _put_last(self._answered, model, self.own.clock())

    def _ended(self, model: str) -> None:
        with self._lock:
            breaker = self._models.get(model)
            if breaker is not None and not breaker.running and not breaker.is_open():
                del self._models[model]


def _put_last(entries: OrderedDict[str, T], model: str, value: T) -> None:
    """Set a model's entry, as the latest of at most `_MOST_MODELS`."""
    entries[model] = value
    entries.move_to_end(model)
    if len(entries) > _MOST_MODELS:
        entries.popitem(last=False)


class EndpointAttempt:
    """One request to an endpoint. The caller that acquired it must always `end` it.

    `slot` is the one that it holds at the endpoint, and gives back at its end. `on_answered` is
    called once the endpoint has answered.
    """

    def __init__(
        self, health: EndpointHealth, own: Attempt, model: str = "", of_model: Attempt | None = None
    ) -> None:
        self._health, self._own = health, own
        self._model, self._of_model = model, of_model
        self.slot: HeldSlot | None = None
        self._was_answered = False
        self.on_answered: Callable[[], object] | None = None

    def answered(self) -> None:
        """Record that the endpoint answered. Its failures, and the model's, are forgotten."""
        self._was_answered = True
        self._own.answered()
        if self._of_model is not None:
            self._of_model.answered()
            self._health._has_answered(self._model)
        if self.on_answered is not None:
            self.on_answered()

    def failed(self, reason: str, seconds: float | None = None, *, is_whole: bool = False) -> None:
        """Record that the model failed, or with `is_whole` the endpoint for all of its models.

        `seconds`: the cooldown that the endpoint asked for, if any.
        """
        if is_whole or self._of_model is None:
            self._own.failed(reason, seconds)
        else:
            self._of_model.failed(reason, seconds)
            self._health._model_failed(self._own, reason)

    def end(self) -> None:
        """End the attempt. Idempotent."""
        if self.slot is not None:
            self.slot.free(was_answered=self._was_answered)
        self._own.end()
        if self._of_model is not None:
            self._of_model.end()
            self._health._ended(self._model)

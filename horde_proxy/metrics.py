"""What the proxy counts and measures, for Prometheus; the only module that knows its client.

The values of labels are bounded: what is neither configured nor on offer counts as "other".
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeGuard, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from horde_proxy.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER, NONE = "other", "none"
MOST_MODELS = 200
"""How many models are told apart; all further ones are "other"."""
_MOST_NAMES = 100
_LONGEST_NAME = 200
_TOO_MUCH = 1e12
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, float("inf"))
"""From a relayed chunk to the longest that anybody waits for the horde (s)."""
_WAITING_STATES = ("arrived", "held back", "queued")
Family = TypeVar("Family", bound=MetricWrapperBase)


class AnsweredRequests(Protocol):
    """A request that was answered; times in seconds, None for what is not known.

    `model` is the name under which it was served, `asked` that under which it was asked for.
    """

    status: int
    seconds: float
    model: str | None
    asked: str | None
    upstream: str | None
    error: str | None
    waited: float | None
    generated: float | None
    first_text: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    kudos: float | None


@dataclass(frozen=True)
class EndpointNow:
    """How an endpoint fares; `cooling` is the seconds until it may be asked again."""

    name: str
    is_up: bool
    running: int
    cooling: float


@dataclass(frozen=True)
class Now:
    """How things stand at one moment. `waiting`: clients that wait, by the state of the wait."""

    waiting: Mapping[str, int] = field(default_factory=dict)
    places: int = 0
    places_taken: int = 0
    endpoints: Sequence[EndpointNow] = ()


class Metrics(Telemetry):
    """Counts from its making on; thread-safe. Each has a registry of its own."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._registry = CollectorRegistry(auto_describe=True)
        self._of_requests = _OfRequests(self._registry)
        self._of_the_horde = _OfTheHorde(self._registry)
        self._of_caches = _OfCaches(self._registry)
        self._loaded_at: dict[str, float] = {}
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def answered(
        self, route: str, request: AnsweredRequests, is_offered: Callable[[str], bool]
    ) -> None:
        """Count a request. `is_offered` tells whether a name is a model's on offer."""
        self._of_requests.add(route, request, is_offered)

    def text(self, now: Now = Now()) -> bytes:
        """All of it in Prometheus' text format."""
        scrape = CollectorRegistry(auto_describe=False)
        ages = {cache: self._clock() - at for cache, at in list(self._loaded_at.items())}
        scrape.register(_Scrape(self._registry, now, ages))
        return generate_latest(scrape)

    def called(self, call: str, status: int | None) -> None:
        self._of_the_horde.called(call, status)

    def held_back(self, seconds: float) -> None:
        self._of_the_horde.held_back.observe(max(seconds, 0.0))

    def cancelled(self) -> None:
        self._of_the_horde.cancellations.inc()

    def retried(self, reason: str) -> None:
        self._of_the_horde.retries[reason,].inc()

    def late(self, seconds: float) -> None:
        self._of_the_horde.lateness.observe(seconds)

    def hit(self, cache: str) -> None:
        self._of_caches.hits[cache,].inc()

    def refreshed(self, cache: str, ok: bool) -> None:
        if ok:
            self._loaded_at[cache] = self._clock()
        self._of_caches.refreshes[cache, "ok" if ok else "failed"].inc()


class _Names:
    """The values of a label: at most `most`, each short and printable in UTF-8."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._labels: dict[str, str] = {}

    def label(self, name: str, is_known: Callable[[str], bool] = bool) -> str | None:
        """The label of a name; None for one that is not known, or too many."""
        found = self._labels.get(name)
        if found is None and len(self._labels) < self._most and is_known(name):
            found = name[:_LONGEST_NAME].encode("utf-8", "replace").decode()
            with self._lock:
                if len(self._labels) >= self._most:
                    return None
                self._labels[name] = found
        return found


class _By(dict[tuple[str, ...], Family], Generic[Family]):
    """The series of a family by the values of its labels: quicker than asking the family."""

    def __init__(self, family: Family) -> None:
        super().__init__()
        self._family = family

    def __missing__(self, values: tuple[str, ...]) -> Family:
        series = self[values] = self._family.labels(*values)
        return series


class _OfRequests:
    """What clients asked, and what they were given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._models, self._upstreams = _Names(MOST_MODELS), _Names(_MOST_NAMES)
        self._statuses, self._errors = _Names(_MOST_NAMES), _Names(_MOST_NAMES)
        self._requests = _By(
            Counter(
                "horde_proxy_requests",
                "Requests answered, but for /health and /metrics.",
                ("route", "model", "upstream", "status"),
                registry=registry,
            )
        )
        self._failures = _By(
            Counter(
                "horde_proxy_request_failures",
                "Requests that failed or broke off, by the code of the error.",
                ("route", "upstream", "error"),
                registry=registry,
            )
        )
        self._tokens = _By(
            Counter(
                "horde_proxy_tokens",
                "Tokens of prompts and completions, as far as known.",
                ("model", "upstream", "kind"),
                registry=registry,
            )
        )
        self._kudos = _By(
            Counter(
                "horde_proxy_kudos",
                "Kudos that answers took.",
                ("model", "upstream"),
                registry=registry,
            )
        )
        self._duration, self._first_text, self._queue, self._generation = (
            _By(
                Histogram(
                    f"horde_proxy_{name}_seconds",
                    text,
                    (label,),
                    registry=registry,
                    buckets=_BUCKETS,
                )
            )
            for name, text, label in (
                ("request_duration", "From a request to the end of its answer.", "route"),
                ("first_text", "From a request to the first text of its answer.", "upstream"),
                ("queue", "What an answer's requests spent in the horde's queue.", "upstream"),
                ("generation", "What an answer's requests spent in generation.", "upstream"),
            )
        )

    def add(self, route: str, request: AnsweredRequests, is_offered: Callable[[str], bool]) -> None:
        model = self._model(request, is_offered)
        upstream = self._upstreams.label(request.upstream) or OTHER if request.upstream else NONE
        status = self._statuses.label(str(request.status)) or OTHER
        self._requests[route, model, upstream, status].inc()
        self._duration[route,].observe(request.seconds)
        if request.error or request.status >= 400:
            error = self._errors.label(request.error or f"status_{status}") or OTHER
            self._failures[route, upstream, error].inc()
        for histogram, seconds in (
            (self._first_text, request.first_text),
            (self._queue, request.waited),
            (self._generation, request.generated),
        ):
            if _is_amount(seconds):
                histogram[upstream,].observe(seconds)
        self._use(request, model, upstream)

    def _use(self, request: AnsweredRequests, model: str, upstream: str) -> None:
        if _is_amount(request.prompt_tokens):
            self._tokens[model, upstream, "prompt"].inc(request.prompt_tokens)
        if _is_amount(request.completion_tokens):
            self._tokens[model, upstream, "completion"].inc(request.completion_tokens)
        if _is_amount(request.kudos):
            self._kudos[model, upstream].inc(request.kudos)

    def _model(self, request: AnsweredRequests, is_offered: Callable[[str], bool]) -> str:
        names = [name for name in (request.model, request.asked) if name]
        labels = (self._models.label(name, is_offered) for name in names)
        return next((label for label in labels if label), OTHER if names else NONE)


class _OfTheHorde:
    """What the horde was asked, and what became of it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._names = _Names(_MOST_NAMES)
        self._calls = _By(
            Counter(
                "horde_proxy_horde_calls",
                'Calls of the horde\'s API; status "none" where no answer came.',
                ("call", "status"),
                registry=registry,
            )
        )
        self.retries = _By(
            Counter(
                "horde_proxy_retries",
                "What was asked of the horde again, by the reason.",
                ("reason",),
                registry=registry,
            )
        )
        self.cancellations = Counter(
            "horde_proxy_cancellations",
            "Requests cancelled on the horde before their end.",
            registry=registry,
        )
        self.held_back = Histogram(
            "horde_proxy_held_back_seconds",
            "How long submits stood in line, of those that did.",
            registry=registry,
            buckets=_BUCKETS,
        )
        self.lateness = Histogram(
            "horde_proxy_lateness_seconds",
            "How much later than expected at its submit a request on the horde ended.",
            registry=registry,
            buckets=_BUCKETS,
        )

    def called(self, call: str, status: int | None) -> None:
        name = self._names.label(call) or OTHER
        answer = NONE if status is None else self._names.label(str(status)) or OTHER
        self._calls[name, answer].inc()


class _OfCaches:
    """What is loaded in the background, each by its name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.hits = _By(
            Counter(
                "horde_proxy_cache_hits", "Values given from memory.", ("cache",), registry=registry
            )
        )
        self.refreshes = _By(
            Counter(
                "horde_proxy_cache_refreshes",
                "Loads of a value anew: ok or failed.",
                ("cache", "result"),
                registry=registry,
            )
        )


class _Scrape(Collector):
    """What was counted, and how things stand now. `ages`: of the caches' values, in seconds."""

    def __init__(self, counted: CollectorRegistry, now: Now, ages: Mapping[str, float]) -> None:
        self._counted, self._now, self._ages = counted, now, ages

    def collect(self) -> Iterator[Metric]:
        for family in self._counted.collect():
            # When each series began doubles their number, and Prometheus knows it by itself.
            family.samples = [each for each in family.samples if not each.name.endswith("_created")]
            yield family
        yield from self._of_now()

    def _of_now(self) -> Iterator[Metric]:
        now = self._now
        waiting = {state: now.waiting.get(state, 0) for state in _WAITING_STATES}
        running = max(now.places_taken - sum(waiting.values()), 0)
        yield _gauge(
            "waiting_requests",
            "Clients that wait for their turn, by state.",
            (((state.replace(" ", "_"),), count) for state, count in waiting.items()),
            "state",
        )
        yield _gauge(
            "running_requests", "Clients whose answer is being made or relayed.", [((), running)]
        )
        yield _gauge(
            "places",
            "Places for waiting.",
            [
                (("taken",), now.places_taken),
                (("free",), now.places - now.places_taken),
            ],
            "state",
        )
        yield _gauge(
            "endpoint_up",
            "Whether an endpoint is asked: 1, or 0.",
            (((each.name,), each.is_up) for each in now.endpoints),
            "upstream",
        )
        yield _gauge(
            "endpoint_running_requests",
            "What runs at an endpoint.",
            (((each.name,), each.running) for each in now.endpoints),
            "upstream",
        )
        yield _gauge(
            "endpoint_cooling_seconds",
            "How long an endpoint is left alone yet.",
            (((each.name,), each.cooling) for each in now.endpoints),
            "upstream",
        )
        yield _gauge(
            "cache_age_seconds",
            "How old a cached value is.",
            (((cache,), age) for cache, age in self._ages.items()),
            "cache",
        )


def _is_amount(value: object) -> TypeGuard[float]:
    """Whether it can be counted: servers tell what they like."""
    return isinstance(value, int | float) and 0 <= value < _TOO_MUCH


def _gauge(
    name: str, text: str, values: Iterable[tuple[Sequence[str], float]], *labels: str
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"horde_proxy_{name}", text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, float(value))
    return family

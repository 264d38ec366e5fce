"""The proxy's metrics, and the only module that imports prometheus_client.

It must not let label values grow without bounds: clients choose models and paths. A name that is
neither configured nor available counts as "other". Names and units of metrics follow
https://prometheus.io/docs/practices/naming/: the application as prefix, base units (seconds) as
suffix, and `_total` for counters, which prometheus_client adds.
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

from horde_proxy import printable
from horde_proxy.numbers import finite
from horde_proxy.telemetry import Telemetry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of Prometheus' text format, which `generate_latest` writes."""
OTHER, NONE = "other", "none"
"""The labels of a value that gets no series of its own, and of a missing value."""
MOST_MODELS = 200
"""How many models get series of their own; all further ones are "other". Each model costs a series
for every route, upstream and status that it is met with."""
_MOST_NAMES = 100
"""The same for upstreams, statuses and error codes: servers choose some of them freely."""
_LONGEST_NAME = 200
"""Characters of a label, which is sent with every sample of each scrape."""
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, float("inf"))
"""Seconds: from a proxied chunk to the longest wait for the horde (server.stream_timeout, 1200)."""
_WAITING_STATES = ("arrived", "held back", "in line", "waking", "queued", "horde unreachable")
"""The states of a request before it generates. Each is shown at 0 too: a series that comes and goes
looks like missing data."""
Family = TypeVar("Family", bound=MetricWrapperBase)


class AnsweredRequest(Protocol):
    """A request that was answered; times in seconds, None where a value is not known.

    `requested` is the model's name in the request, `model` the name of the model that answered.
    `cached_tokens` are those of the prompt that were in the server's cache.
    """

    status: int
    seconds: float
    model: str | None
    requested: str | None
    upstream: str | None
    error: str | None
    waited: float | None
    generated: float | None
    first_text: float | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    kudos: float | None
    images: int | None


@dataclass(frozen=True)
class EndpointGauges:
    """One endpoint at one moment. `cooling`: seconds until it may be tried again.

    `waiting`: requests in its line. `slots`: how many may run; None: any number.
    """

    name: str
    is_up: bool
    running: int
    cooling: float
    is_asleep: bool = False
    is_paused: bool = False
    waiting: int = 0
    slots: int | None = None


@dataclass(frozen=True)
class CurrentGauges:
    """The proxy at one moment. `waiting`: the number of waiting clients by state."""

    waiting: Mapping[str, int] = field(default_factory=dict)
    places: int = 0
    places_taken: int = 0
    endpoints: Sequence[EndpointGauges] = ()


class Metrics(Telemetry):
    """All counters of one app. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Not the library's global registry: several apps in one process must not share counters.
        self._registry = CollectorRegistry(auto_describe=True)
        self._requests = _RequestMetrics(self._registry)
        self._horde = _HordeMetrics(self._registry)
        self._caches = _CacheMetrics(self._registry)
        self._machines = _MachineMetrics(self._registry)
        self._loaded_at: dict[str, float] = {}
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def answered(
        self, route: str, request: AnsweredRequest, is_offered: Callable[[str], bool]
    ) -> None:
        """Count a request. `is_offered` says whether a name is that of an available model."""
        self._requests.add(route, request, is_offered)

    def charged(
        self, request: AnsweredRequest, kudos: float, is_offered: Callable[[str], bool]
    ) -> None:
        """Count kudos of an answered request that came to be known late."""
        self._requests.add_kudos(request, kudos, is_offered)

    def text(self, gauges: CurrentGauges = CurrentGauges()) -> bytes:
        """All metrics in Prometheus' text format."""
        # With auto_describe, `register` would already collect once, only to learn the names.
        scrape = CollectorRegistry(auto_describe=False)
        # Copied, because a loader in another thread may add a cache meanwhile.
        ages = {cache: self._clock() - at for cache, at in list(self._loaded_at.items())}
        scrape.register(_Scrape(self._registry, gauges, ages))
        return generate_latest(scrape)

    def called(self, call: str, status: int | None) -> None:
        self._horde.called(call, status)

    def held_back(self, seconds: float) -> None:
        # The submit queue measures by the wall clock, which may be set back meanwhile. A sum that
        # decreases looks like a restart to Prometheus.
        self._horde.held_back.observe(max(seconds, 0.0))

    def in_line(self, endpoint: str, seconds: float) -> None:
        self._requests.in_line(endpoint, seconds)

    def cancelled(self) -> None:
        self._horde.cancellations.inc()

    # A key with a comma is a tuple of one: the values of the family's only label.

    def retried(self, reason: str) -> None:
        self._horde.retries[reason,].inc()

    def late(self, seconds: float) -> None:
        self._horde.lateness.observe(seconds)

    def hit(self, cache: str) -> None:
        self._caches.hits[cache,].inc()

    def refreshed(self, cache: str, ok: bool) -> None:
        if ok:
            self._loaded_at[cache] = self._clock()
        self._caches.refreshes[cache, "ok" if ok else "failed"].inc()

    def woken(self, endpoint: str, seconds: float | None) -> None:
        self._machines.wake_ups[_label(endpoint), "failed" if seconds is None else "ok"].inc()
        if seconds is not None:
            self._machines.boots[_label(endpoint),].observe(seconds)

    def idle_hook_ran(self, endpoint: str, ok: bool) -> None:
        self._machines.idle_hooks[_label(endpoint), "ok" if ok else "failed"].inc()


class _LabelValues:
    """The values of a label: at most `most`, each short and printable in UTF-8."""

    def __init__(self, most: int) -> None:
        # The lock guards the size of `_labels` while one is added; reading needs none, since
        # entries are never changed or removed. No I/O happens under it.
        self._most, self._lock = most, threading.Lock()
        self._labels: dict[str, str] = {}

    def label(self, name: str, is_known: Callable[[str], bool] = bool) -> str | None:
        """The label of a name; None if it is unknown, or if there are too many already."""
        label = self._labels.get(name)
        if label is None and len(self._labels) < self._most and is_known(name):
            label = _label(name)
            with self._lock:
                if len(self._labels) >= self._most:
                    return None
                self._labels[name] = label
        return label


class _Series(dict[tuple[str, ...], Family], Generic[Family]):
    """The series of a family by their label values.

    A look-up here takes a fraction of what Family.labels() takes, which locks and formats.
    """

    def __init__(self, family: Family) -> None:
        super().__init__()
        self._family = family

    def __missing__(self, values: tuple[str, ...]) -> Family:
        # No lock: of two threads that miss at once, both get the same series from labels().
        series = self[values] = self._family.labels(*values)
        return series


def _counters(
    registry: CollectorRegistry, name: str, text: str, labels: Sequence[str]
) -> _Series[Counter]:
    return _Series(Counter(f"horde_proxy_{name}", text, labels, registry=registry))


def _histograms(
    registry: CollectorRegistry, name: str, text: str, label: str
) -> _Series[Histogram]:
    return _Series(
        Histogram(
            f"horde_proxy_{name}_seconds", text, (label,), registry=registry, buckets=_BUCKETS
        )
    )


class _RequestMetrics:
    """Requests of clients and their answers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._models, self._upstreams = _LabelValues(MOST_MODELS), _LabelValues(_MOST_NAMES)
        self._statuses, self._errors = _LabelValues(_MOST_NAMES), _LabelValues(_MOST_NAMES)
        self._requests = _counters(
            registry,
            "requests",
            "Requests answered, except /health and /metrics.",
            ("route", "model", "upstream", "status"),
        )
        self._failures = _counters(
            registry,
            "request_failures",
            "Requests that failed or broke off, by error code.",
            ("route", "upstream", "error"),
        )
        self._tokens = _counters(
            registry,
            "tokens",
            "Tokens of prompts and completions, where known.",
            ("model", "upstream", "kind"),
        )
        self._cache_tokens = _counters(
            registry,
            "prompt_cache_tokens",
            "Tokens of prompts, where the server tells which of them it had in its cache (warm).",
            ("model", "upstream", "state"),
        )
        self._images = _counters(registry, "images", "Pictures in answers.", ("model", "upstream"))
        self._kudos = _counters(registry, "kudos", "Kudos spent on answers.", ("model", "upstream"))
        self._add_histograms(registry)

    def _add_histograms(self, registry: CollectorRegistry) -> None:
        self._duration = _histograms(
            registry, "request_duration", "From a request to the end of its answer.", "route"
        )
        self._first_text = _histograms(
            registry, "first_text", "From a request to the first text of its answer.", "upstream"
        )
        self._queue = _histograms(
            registry, "queue", "Time that an answer's requests spent in the queue.", "upstream"
        )
        self._generation = _histograms(
            registry, "generation", "Time that an answer's requests spent generating.", "upstream"
        )

        self._line = _histograms(
            registry,
            "line",
            "Wait in the line of an endpoint, of those who waited.",
            "upstream",
        )

    def in_line(self, endpoint: str, seconds: float) -> None:
        self._line[self._upstreams.label(endpoint) or OTHER,].observe(max(seconds, 0.0))

    def add(self, route: str, request: AnsweredRequest, is_offered: Callable[[str], bool]) -> None:
        model, upstream = self._model(request, is_offered), self._upstream(request)
        status = self._statuses.label(str(request.status)) or OTHER
        self._requests[route, model, upstream, status].inc()
        self._duration[route,].observe(request.seconds)
        # A stream that breaks off fails with an error code, although its status was 200.
        if request.error or request.status >= 400:
            error = self._errors.label(request.error or f"status_{status}") or OTHER
            self._failures[route, upstream, error].inc()
        for histogram, seconds in (
            (self._first_text, request.first_text),
            (self._queue, request.waited),
            (self._generation, request.generated),
        ):
            if _is_amount(seconds):  # e.g. no seconds in the queue for a proxied request
                histogram[upstream,].observe(seconds)
        self._add_usage(request, model, upstream)

    def _add_usage(self, request: AnsweredRequest, model: str, upstream: str) -> None:
        if _is_amount(request.prompt_tokens):
            self._tokens[model, upstream, "prompt"].inc(request.prompt_tokens)
        if _is_amount(request.completion_tokens):
            self._tokens[model, upstream, "completion"].inc(request.completion_tokens)
        if _is_amount(request.prompt_tokens) and _is_amount(request.cached_tokens):
            warm = min(request.cached_tokens, request.prompt_tokens)
            self._cache_tokens[model, upstream, "warm"].inc(warm)
            self._cache_tokens[model, upstream, "cold"].inc(request.prompt_tokens - warm)
        if _is_amount(request.kudos):
            self._kudos[model, upstream].inc(request.kudos)
        if _is_amount(request.images):
            self._images[model, upstream].inc(request.images)

    def add_kudos(
        self, request: AnsweredRequest, kudos: float, is_offered: Callable[[str], bool]
    ) -> None:
        self._kudos[self._model(request, is_offered), self._upstream(request)].inc(kudos)

    def _upstream(self, request: AnsweredRequest) -> str:
        return self._upstreams.label(request.upstream) or OTHER if request.upstream else NONE

    def _model(self, request: AnsweredRequest, is_offered: Callable[[str], bool]) -> str:
        # A model counts by its own name, even if the request has an alias or a pattern ("box/*").
        names = [name for name in (request.model, request.requested) if name]
        labels = (self._models.label(name, is_offered) for name in names)
        return next((label for label in labels if label), OTHER if names else NONE)


class _HordeMetrics:
    """Calls of the horde's API, and the fate of what was submitted."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._names = _LabelValues(_MOST_NAMES)
        self._calls = _counters(
            registry,
            "horde_calls",
            'Calls of the horde\'s API; the status is "none" where no answer came.',
            ("call", "status"),
        )
        self.retries = _counters(
            registry, "retries", "Requests submitted to the horde again, by reason.", ("reason",)
        )
        self.cancellations = Counter(
            "horde_proxy_cancellations",
            "Requests cancelled on the horde before they were complete.",
            registry=registry,
        )
        self.held_back = Histogram(
            "horde_proxy_held_back_seconds",
            "Wait in the submit queue, of the submits that had to wait.",
            registry=registry,
            buckets=_BUCKETS,
        )
        self.lateness = Histogram(
            "horde_proxy_lateness_seconds",
            "How much later than estimated at its submit a request on the horde ended.",
            registry=registry,
            buckets=_BUCKETS,
        )

    def called(self, call: str, status: int | None) -> None:
        name = self._names.label(call) or OTHER
        answer = NONE if status is None else self._names.label(str(status)) or OTHER
        self._calls[name, answer].inc()


class _CacheMetrics:
    """Values that are loaded in the background, by name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.hits = _counters(registry, "cache_hits", "Values served from memory.", ("cache",))
        self.refreshes = _counters(
            registry, "cache_refreshes", "Loads of a value: ok or failed.", ("cache", "result")
        )


class _MachineMetrics:
    """Machines that sleep, by the names of their endpoints, which are in the settings."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.wake_ups = _counters(
            registry,
            "wake_ups",
            "Machines woken for a request: ok, or failed.",
            ("upstream", "result"),
        )
        self.boots = _histograms(
            registry, "boot", "From the first magic packet to the server's answer.", "upstream"
        )
        self.idle_hooks = _counters(
            registry, "idle_hooks", "Idle hooks that ran: ok, or failed.", ("upstream", "result")
        )


class _Scrape(Collector):
    """The counters and the current gauges. `ages`: of cached values, in seconds."""

    def __init__(
        self, counted: CollectorRegistry, gauges: CurrentGauges, ages: Mapping[str, float]
    ) -> None:
        self._counted, self._gauges, self._ages = counted, gauges, ages

    def collect(self) -> Iterator[Metric]:
        for family in self._counted.collect():
            # prometheus_client adds a *_created sample to each series. That doubles their
            # number, and Prometheus finds resets without it.
            family.samples = [
                sample for sample in family.samples if not sample.name.endswith("_created")
            ]
            yield family
        yield from self._places()
        yield from self._endpoints()
        yield from self._lines()
        yield _gauge(
            "cache_age_seconds",
            "Age of a cached value.",
            (((cache,), age) for cache, age in self._ages.items()),
            "cache",
        )

    def _places(self) -> Iterator[Metric]:
        gauges = self._gauges
        waiting = {state: gauges.waiting.get(state, 0) for state in _WAITING_STATES}
        # Both numbers are read one after the other, so a client may be missing in the first.
        running = max(gauges.places_taken - sum(waiting.values()), 0)
        yield _gauge(
            "waiting_requests",
            "Waiting clients, by state.",
            (((state.replace(" ", "_"),), count) for state, count in waiting.items()),
            "state",
        )
        yield _gauge(
            "running_requests",
            "Clients whose answer is being generated or proxied.",
            [((), running)],
        )
        yield _gauge(
            "places",
            "Chats that may wait at a time (server.places).",
            [(("taken",), gauges.places_taken), (("free",), gauges.places - gauges.places_taken)],
            "state",
        )

    def _endpoints(self) -> Iterator[Metric]:
        endpoints = self._gauges.endpoints
        yield _gauge(
            "endpoint_up",
            "Whether an endpoint is used: 1, or 0.",
            (((_label(endpoint.name),), endpoint.is_up) for endpoint in endpoints),
            "upstream",
        )
        yield _gauge(
            "endpoint_running_requests",
            "Requests running at an endpoint.",
            (((_label(endpoint.name),), endpoint.running) for endpoint in endpoints),
            "upstream",
        )
        yield _gauge(
            "endpoint_asleep",
            "Whether the machine of an endpoint sleeps or boots: 1, or 0.",
            (((_label(endpoint.name),), endpoint.is_asleep) for endpoint in endpoints),
            "upstream",
        )
        yield _gauge(
            "endpoint_paused",
            "Whether the operator has paused an endpoint: 1, or 0.",
            (((_label(endpoint.name),), endpoint.is_paused) for endpoint in endpoints),
            "upstream",
        )
        yield _gauge(
            "endpoint_cooling_seconds",
            "Time until a failed endpoint is tried again.",
            (((_label(endpoint.name),), endpoint.cooling) for endpoint in endpoints),
            "upstream",
        )

    def _lines(self) -> Iterator[Metric]:
        endpoints = self._gauges.endpoints
        yield _gauge(
            "endpoint_waiting_requests",
            "Requests that wait in line for a slot of an endpoint.",
            (((_label(endpoint.name),), endpoint.waiting) for endpoint in endpoints),
            "upstream",
        )
        yield _gauge(
            "endpoint_slots",
            "Requests that an endpoint gets at a time (max_concurrent), where that is limited.",
            (
                ((_label(endpoint.name),), endpoint.slots)
                for endpoint in endpoints
                if endpoint.slots is not None
            ),
            "upstream",
        )


def _label(name: str) -> str:
    """A label without what a terminal obeys; the library escapes its quotes and newlines."""
    return printable.lines(name[:_LONGEST_NAME].encode("utf-8", "replace").decode())


def _is_amount(value: object) -> TypeGuard[float]:
    """Whether a value from an upstream is a number that can be counted."""
    # Counter.inc raises for a negative number, and one NaN would spoil a sum for good.
    return finite(value) is not None


def _gauge(
    name: str, text: str, values: Iterable[tuple[Sequence[str], float]], *labels: str
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"horde_proxy_{name}", text, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, float(value))
    return family

"""A worker's metrics, in Prometheus' text format. The proxy's are in horde_proxy.metrics.

Labels are hordes of the settings and the few states of a job, so series cannot grow without bounds.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from horde_proxy.worker.status import StatusSnapshot


def metrics_text(snapshot: StatusSnapshot) -> bytes:
    """The metrics of one moment."""
    registry = CollectorRegistry()
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: StatusSnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        jobs = CounterMetricFamily(
            "horde_worker_jobs",
            "Jobs by horde and state: ok, faulted, or lost where the horde took nothing.",
            labels=["horde", "state"],
        )
        for (horde, state), count in sorted(snapshot.jobs.items()):
            jobs.add_metric([horde, state], count)
        yield jobs
        kudos = CounterMetricFamily("horde_worker_kudos", "Kudos earned.", labels=["horde"])
        for horde, earned in sorted(snapshot.kudos.items()):
            kudos.add_metric([horde], earned)
        yield kudos
        yield CounterMetricFamily(
            "horde_worker_chats", "Jobs done that were chats.", value=snapshot.done.get("chat", 0)
        )
        yield CounterMetricFamily(
            "horde_worker_images", "Images made.", value=snapshot.done.get("image", 0)
        )
        yield CounterMetricFamily(
            "horde_worker_forms", "Forms of alchemy done.", value=snapshot.forms
        )
        yield CounterMetricFamily(
            "horde_worker_tokens",
            "Tokens written (estimated where the server does not count).",
            value=snapshot.tokens,
        )
        gauges = {
            "running_jobs": ("Jobs that run now.", len(snapshot.running)),
            "held_backends": ("Backends for which no jobs are popped now.", len(snapshot.holds)),
            "failing_hordes": ("Hordes that fail or refuse now.", len(snapshot.failing)),
            "uptime_seconds": ("Seconds since the start.", snapshot.uptime),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"horde_worker_{name}", text, value=value)

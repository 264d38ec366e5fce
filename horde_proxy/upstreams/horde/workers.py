"""Which workers may answer: the filters of settings and request, and which failed of late. Pure.

A submit may list five workers, which either alone may take it or must not; the horde ignores
further ones.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.aihorde.agents import VALIDATED_BACKENDS
from horde_proxy.aihorde.limits import MOST_WORKERS
from horde_proxy.upstreams.horde.catalog import CatalogWorker


@dataclass(frozen=True)
class Filters:
    """The workers that may answer. `allow` and `deny` hold ids or names; an empty `allow` is all.

    `least_speed` is in tokens a second. `trusted` and `validated` leave all others out, `slow`
    leaves nobody out: the horde has these three filters itself.
    """

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    least_speed: float = 0.0
    trusted: bool = False
    slow: bool = True
    validated: bool = True

    def overridden(self, options: Mapping[str, Any]) -> Filters:
        """These filters, where the `horde` object of a request has no others."""
        listed = options.get("workers")
        is_deny = bool(options.get("worker_blacklist"))
        return Filters(
            allow=listed if listed and not is_deny else self.allow,
            deny=[*self.deny, *listed] if listed and is_deny else self.deny,
            least_speed=options.get("least_speed", self.least_speed),
            trusted=options.get("trusted_workers", self.trusted),
            slow=options.get("slow_workers", self.slow),
            validated=options.get("validated_backends", self.validated),
        )

    def admits(self, worker: CatalogWorker) -> bool:
        """Whether a worker may answer. One that was never measured counts as fast enough."""
        names = {worker.id, worker.name} - {""}
        return (
            (worker.trusted or not self.trusted)
            and (not self.validated or not worker.agent or worker.agent in VALIDATED_BACKENDS)
            and (not self.allow or not names.isdisjoint(self.allow))
            and names.isdisjoint(self.deny)
            and (not worker.speed or worker.speed >= self.least_speed)
        )

    def options(self) -> dict[str, bool]:
        """The fields of a submit for the horde's own filters."""
        return {
            "trusted_workers": self.trusted,
            "slow_workers": self.slow,
            "validated_backends": self.validated,
        }


def worker_list(
    serving: Sequence[CatalogWorker],
    eligible: Sequence[CatalogWorker],
    failed: Collection[str],
    preferred: str | None = None,
) -> dict[str, Any]:
    """The fields {"workers", "worker_blacklist"} of a submit, or {} when any worker will do.

    `serving` are all workers of the models, `eligible` those that the filters admit, `failed` ids
    of workers that failed of late, worst first. Where only failed workers are left, they may try
    again. `preferred` alone is listed while it is eligible.
    """
    if preferred and any(worker.id == preferred for worker in eligible):
        return {"workers": [preferred], "worker_blacklist": False}
    good = [worker for worker in eligible if worker.id not in failed] or list(eligible)
    unwanted = [worker for worker in serving if worker not in good and worker.id]
    if not unwanted:
        return {}
    # The horde reads no more than five: a deny list where that is enough, since it
    # leaves more workers to choose from. Else the five fastest, or, where only failures count and
    # not a filter, the worst five denied.
    if len(unwanted) <= MOST_WORKERS:
        return {"workers": [worker.id for worker in unwanted], "worker_blacklist": True}
    if len(good) <= MOST_WORKERS or len(eligible) < len(serving):
        best = sorted(good, key=lambda worker: (-worker.speed, worker.id))[:MOST_WORKERS]
        return {"workers": [worker.id for worker in best], "worker_blacklist": False}
    unwanted_ids = {worker.id for worker in unwanted}
    worst = [worker_id for worker_id in failed if worker_id in unwanted_ids]
    return {"workers": worst[:MOST_WORKERS], "worker_blacklist": True}

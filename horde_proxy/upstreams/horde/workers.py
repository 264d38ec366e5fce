"""Which workers may answer: the filters of settings and request, and who failed of late. Pure.

The horde takes at most five workers in a request, either to be asked or to be left out.
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
    """Who may answer. `allow` and `deny` hold ids or names; `least_speed` is in tokens/s.

    `trusted`, `slow` and `validated` are the horde's own filters.
    """

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    least_speed: float = 0.0
    trusted: bool = False
    slow: bool = True
    validated: bool = True

    def overridden(self, options: Mapping[str, Any]) -> Filters:
        """These, with the `horde` object of a request put over them."""
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
        """Whether a worker may answer; one that has not been measured is quick enough."""
        names = {worker.id, worker.name} - {""}
        return (
            (worker.trusted or not self.trusted)
            and (not self.validated or not worker.agent or worker.agent in VALIDATED_BACKENDS)
            and (not self.allow or not names.isdisjoint(self.allow))
            and names.isdisjoint(self.deny)
            and (not worker.speed or worker.speed >= self.least_speed)
        )

    def options(self) -> dict[str, bool]:
        """The horde's own filters, as its request has them."""
        return {
            "trusted_workers": self.trusted,
            "slow_workers": self.slow,
            "validated_backends": self.validated,
        }


def listed(
    serving: Sequence[CatalogWorker],
    admitted: Sequence[CatalogWorker],
    avoided: Collection[str],
    preferred: str | None = None,
) -> dict[str, Any]:
    """{} or {"workers", "worker_blacklist"} that keep to the admitted, and best off the avoided.

    `serving` are all workers of the models, `avoided` ids of workers that failed, worst first;
    `preferred` alone is asked when it is there. Where nobody else is left, they are asked again.
    """
    if preferred and any(worker.id == preferred for worker in admitted):
        return {"workers": [preferred], "worker_blacklist": False}
    good = [worker for worker in admitted if worker.id not in avoided] or list(admitted)
    unwanted = [worker for worker in serving if worker not in good and worker.id]
    if not unwanted:
        return {}
    if len(unwanted) <= MOST_WORKERS:
        return {"workers": [each.id for each in unwanted], "worker_blacklist": True}
    if len(good) <= MOST_WORKERS or len(admitted) < len(serving):
        best = sorted(good, key=lambda worker: (-worker.speed, worker.id))[:MOST_WORKERS]
        return {"workers": [each.id for each in best], "worker_blacklist": False}
    worst = [each for each in avoided if any(each == other.id for other in unwanted)]
    return {"workers": worst[:MOST_WORKERS], "worker_blacklist": True}

"""Which workers can take a job: the one place that excludes, prefers and counts them. Pure.

    serving     the online workers of the request's models
    active      those of them that are not in maintenance
    eligible    those of them that the filters of settings and request admit
    able        those of them that offer the lengths of this very job

A worker that failed of late is avoided only where another able one is there. A submit may list five
workers, which either alone may take it or must not; the horde ignores further ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from horde_proxy.aihorde.limits import MOST_WORKERS
from horde_proxy.prompts.fit import Capacity, Fitted, room
from horde_proxy.upstreams.horde.catalog import CatalogWorker

LEAST_SHORTENED = 64
"""Tokens: a job this short did not fail because it was too long for its workers."""

_OF_THE_HORDE = frozenset({"validated_backends", "trusted_workers", "slow_workers", "chat_jobs"})
"""The filters that the horde has itself, see `Filters.options`."""
_OF_IMAGES = _OF_THE_HORDE - {"validated_backends"}
"""The same for image requests, whose API has no such field."""
_REMEDIES = {
    "validated_backends": "`validated_backends` to false",
    "trusted_workers": "`trusted_workers` to false",
    "slow_workers": "`slow_workers` to true",
    "chat_jobs": "`chat_jobs` to false",
    "least_speed": "a lower `least_speed`",
    "allow_workers": "other `allow_workers` (in a request: `workers`)",
    "deny_workers": "other `deny_workers`",
}
"""What to change for each setting that leaves workers out."""


class FilteredWorker(Protocol):
    """What filters look at. `speed` is in tokens a second, 0 for one that was never measured."""

    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def speed(self) -> float: ...
    @property
    def trusted(self) -> bool: ...
    @property
    def validated(self) -> bool: ...
    @property
    def is_slow(self) -> bool: ...
    @property
    def takes_chats(self) -> bool: ...


@dataclass(frozen=True)
class Filters:
    """The workers that may answer. `allow` and `deny` hold ids or names; an empty `allow` is all.

    `least_speed` is in tokens a second. `trusted` and `validated` leave all others out, `slow`
    leaves nobody out: the horde has these three filters itself. `chats` leaves out those that take
    no chats, to whom the horde gives none.
    """

    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    least_speed: float = 0.0
    trusted: bool = False
    slow: bool = True
    validated: bool = True
    chats: bool = False

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
            chats=self.chats,
        )

    def for_images(self) -> Filters:
        """These filters without those that say something of texts only."""
        return replace(self, least_speed=0.0, chats=False)

    def admits(self, worker: FilteredWorker) -> bool:
        """Whether a worker may answer. One that was never measured counts as fast enough."""
        return not self.exclusions(worker)

    def exclusions(self, worker: FilteredWorker) -> list[str]:
        """The settings that leave a worker out; none for one that may answer."""
        names = {worker.id, worker.name} - {""}
        excludes = {
            "validated_backends": self.validated and not worker.validated,
            "trusted_workers": self.trusted and not worker.trusted,
            "slow_workers": worker.is_slow and not self.slow,
            "chat_jobs": self.chats and not worker.takes_chats,
            "least_speed": 0 < worker.speed < self.least_speed,
            "allow_workers": bool(self.allow) and names.isdisjoint(self.allow),
            "deny_workers": not names.isdisjoint(self.deny),
        }
        return [setting for setting, is_excluded in excludes.items() if is_excluded]

    def must_name(self, worker: FilteredWorker, *, is_image: bool = False) -> bool:
        """Whether a submit has to name a worker for the horde to leave it out.

        The horde has four of the filters itself. The others count also for workers that are in
        maintenance or too small now: they may come back, or grow, while the request waits.
        """
        own = _OF_IMAGES if is_image else _OF_THE_HORDE
        return not own.issuperset(self.exclusions(worker))

    def options(self) -> dict[str, bool]:
        """The fields of a submit for the horde's own filters."""
        return {
            "trusted_workers": self.trusted,
            "slow_workers": self.slow,
            "validated_backends": self.validated,
        }

    def description(self) -> str:
        """The horde's own filters that leave workers out, in words; "" for none."""
        active = {
            "trusted_workers = true": self.trusted,
            "slow_workers = false": not self.slow,
            "validated_backends = true": self.validated,
            "for chats": self.chats,
        }
        return ", ".join(setting for setting, is_active in active.items() if is_active)


def exclusion(active: Sequence[FilteredWorker], filters: Filters) -> str:
    """Which filters leave all of these workers out, and what to change; a part of a sentence."""
    counts = Counter(name for worker in active for name in filters.exclusions(worker))
    settings = ", ".join(
        f"`{setting}`" if len(active) == 1 else f"`{setting}` {count}"
        for setting, count in counts.items()
    )
    remedies = ", ".join(_REMEDIES[setting] for setting in counts)
    is_one = len(active) == 1
    workers = "its only online worker" if is_one else f"all of its {len(active)} online workers"
    return (
        f"the settings leave out {workers} ({settings}). To use {'it' if is_one else 'them'}, set "
        f"{remedies} under [horde], or in the request's object `horde`"
    )


def worker_list(
    choice: Sequence[FilteredWorker], unwanted: Sequence[str], *, must_list: bool
) -> dict[str, Any]:
    """The fields {"workers", "worker_blacklist"} of a submit, or {} when any worker will do.

    `choice` are the workers that may take it, `unwanted` the ids of others, `must_list`: none but
    those of the choice, whoever comes while the request waits.
    """
    if not unwanted and not must_list:
        return {}
    # The horde reads no more than five: a deny list where that is enough, since it leaves more
    # workers to choose from. Else the five fastest.
    if len(unwanted) <= MOST_WORKERS and not must_list:
        return {"workers": list(unwanted), "worker_blacklist": True}
    best = sorted(choice, key=lambda worker: (-worker.speed, worker.id))[:MOST_WORKERS]
    return {"workers": [worker.id for worker in best], "worker_blacklist": False}


@dataclass(frozen=True)
class WorkerPool:
    """The online workers of a request's models, and the filters for them.

    `failed` in its methods: ids of the workers that failed of late, most failures first.
    """

    serving: tuple[CatalogWorker, ...]
    filters: Filters

    @cached_property
    def eligible(self) -> tuple[CatalogWorker, ...]:
        """The workers that take requests, and that the filters admit."""
        return tuple(worker for worker in self.active if self.filters.admits(worker))

    @cached_property
    def active(self) -> tuple[CatalogWorker, ...]:
        """The workers that are not in maintenance."""
        return tuple(worker for worker in self.serving if not worker.in_maintenance)

    def exclusion(self) -> str:
        """Why none of the workers may answer, and what to change; for a pool without eligible ones.

        A part of a sentence: "the settings leave out ...".
        """
        if not self.active:
            several = len(self.serving) > 1
            who = f"all of its {len(self.serving)} workers are" if several else "its only worker is"
            return f"{who} in maintenance"
        return exclusion(self.active, self.filters)

    @property
    def capacities(self) -> list[Capacity]:
        """The lengths that each of the eligible workers offers."""
        return [worker.capacity for worker in self.eligible]

    @property
    def largest_context(self) -> int:
        """The largest context of the eligible workers, in tokens."""
        return max((capacity.max_context_length for capacity in self.capacities), default=0)

    def able(self, job: Fitted) -> list[CatalogWorker]:
        """The eligible workers that offer the lengths of a job."""
        lengths = job.max_length, job.max_context_length
        return [worker for worker in self.eligible if worker.capacity.holds(*lengths)]

    def wanted(self, job: Fitted, failed: Collection[str]) -> list[CatalogWorker]:
        """The workers that may take a job: without those that failed, unless only they are able."""
        able = self.able(job)
        return [worker for worker in able if worker.id not in failed] or able

    def fields(
        self, job: Fitted, failed: Collection[str], preferred: str | None = None
    ) -> dict[str, Any]:
        """The fields of a submit about workers. `preferred` alone is listed while it is wanted."""
        return {**self.filters.options(), **self._worker_list(job, failed, preferred)}

    def _worker_list(
        self, job: Fitted, failed: Collection[str], preferred: str | None
    ) -> dict[str, Any]:
        """The fields {"workers", "worker_blacklist"}, or {} when any worker will do."""
        wanted = self.wanted(job, failed)
        if preferred and any(worker.id == preferred for worker in wanted):
            return {"workers": [preferred], "worker_blacklist": False}
        excluded = [worker for worker in self.serving if self.filters.must_name(worker)]
        failing = [worker for worker in self.able(job) if worker not in wanted]
        unwanted = [worker.id for worker in (*excluded, *failing) if worker.id]
        # With a deny list, a worker that comes while the request waits could take it.
        must_list = bool(self.filters.allow)
        choice = wanted or self.eligible
        only_failed = not excluded and not must_list
        # Where only failures count and not a filter, the worst five are denied.
        if only_failed and min(len(unwanted), len(choice)) > MOST_WORKERS:
            worst = [worker_id for worker_id in failed if worker_id in set(unwanted)]
            return {"workers": worst[:MOST_WORKERS], "worker_blacklist": True}
        return worker_list(choice, unwanted, must_list=must_list)

    def shorter_length(self, job: Fitted, failed: Collection[str]) -> int | None:
        """The max_length that lets a worker take a job which only failed ones, or none, can take.

        None where there is no need to shorten it, or where it would become very short.
        """
        able = self.able(job)
        if any(worker.id not in failed for worker in able):
            return None
        others = [worker for worker in self.eligible if worker.id not in failed]
        # With no able worker at all, one that failed is better than a job that nobody takes.
        if not able:
            others = others or list(self.eligible)
        length = room(job.prompt_tokens, [worker.capacity for worker in others])
        return length if LEAST_SHORTENED <= length < job.max_length else None

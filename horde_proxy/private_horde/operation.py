"""What the rules work with: one transaction, its time, and what holds for the whole horde."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.store.base import Tx
from horde_proxy.private_horde.view import QueueView


@dataclass
class Rulebook:
    """What holds for the whole horde.

    `job_ttl`, `expiry` and `offline_after` are seconds. A request is faulted after `max_faults`
    failed jobs. Kudos are charged every `settle_every` seconds; 0: at once. A worker's pop is
    saved if its last one is `check_in_seconds` ago, or its offer has changed.
    """

    new_id: Callable[[], str]
    sizes: ModelSizes
    job_ttl: float
    expiry: float
    offline_after: float
    max_faults: int
    check_in_seconds: float
    anonymous: bool
    settle_every: float = 0.0


@dataclass(frozen=True)
class Operation:
    """One route's work: its transaction and its time (Unix s)."""

    tx: Tx
    now: float
    rules: Rulebook
    view: QueueView

"""What the rules work with: one transaction, its time, and what holds for the whole horde."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from horde_proxy.aihorde.limits import ANONYMOUS_CONCURRENCY
from horde_proxy.private_horde.growing_texts import GrowingTexts
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.picture_links import SignedLinks
from horde_proxy.private_horde.store.base import Tx
from horde_proxy.private_horde.view import QueueView


@dataclass(frozen=True)
class AccessRules:
    """Who may make an account, and what may be done without one.

    `registration` is "open", "invitation" or "closed". With `anonymous`, the anonymous key works:
    for requests of `anonymous_max_length` tokens at most (None: as many as others), of which
    `anonymous_concurrency` results for one model may wait.
    """

    registration: str = "closed"
    anonymous: bool = True
    anonymous_concurrency: int = ANONYMOUS_CONCURRENCY
    anonymous_max_length: int | None = None


@dataclass
class Rulebook:
    """What holds for the whole horde.

    `job_ttl`, `expiry` and `offline_after` are seconds. A request is faulted after `max_faults`
    failed jobs. Kudos are charged every `settle_every` seconds; 0: at once. A worker's pop is
    saved if its last one is `check_in_seconds` ago, or its offer has changed. Without `kudos`,
    nothing is paid or earned, and requests are in order of `fair_share`. With `plain_webhooks`,
    webhooks may have http URLs. No webhook is called while `webhooks_are_full`. Movements of kudos
    older than `ledger_days` are folded into sums; 0: all are kept. Of all pictures, at most
    `most_picture_bytes` are kept; `links` lead to them.
    """

    new_id: Callable[[], str]
    sizes: ModelSizes
    job_ttl: float
    expiry: float
    offline_after: float
    max_faults: int
    check_in_seconds: float
    access: AccessRules
    settle_every: float = 0.0
    kudos: bool = True
    plain_webhooks: bool = False
    ledger_days: float = 0.0
    most_picture_bytes: int = 1_000_000_000
    links: SignedLinks = field(default_factory=SignedLinks)
    webhooks_are_full: Callable[[Operation], bool] = lambda op: True


@dataclass(frozen=True)
class Operation:
    """One route's work: its transaction and its time (Unix s)."""

    tx: Tx
    now: float
    rules: Rulebook
    view: QueueView
    texts: GrowingTexts


Begin = Callable[[], AbstractContextManager[Operation]]
"""Begins a transaction: one that may change records, or one that only reads."""

"""Records of kudos: what was earned and paid, and for how much work. See `records`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class LedgerEntry:
    """A movement of kudos. Positive amounts are earned, negative ones are paid.

    It never changes, until it is old: then it becomes a part of a sum (see `ledger_folding`).

    `reason` is one of those in `balances`; `request_id` and `job_id` name its cause, `partner_id`
    the other account of a transfer.
    """

    id: int
    account_id: int
    at: float
    amount: float
    reason: str
    request_id: str | None = None
    job_id: str | None = None
    partner_id: int | None = None


@dataclass(eq=False)
class Charge:
    """Kudos of a request that its account will pay at `due`, and its shared key if it has one."""

    id: int
    due: float
    account_id: int
    request_id: str
    amount: float
    reason: str
    job_id: str | None = None
    shared_key: str | None = field(default=None, repr=False)


@dataclass(eq=False)
class UseCount:
    """Delivered jobs in a span of `width` seconds from `start`, by account and model.

    `tokens` are the requested ones; `kudos` is what the account paid for the jobs.
    """

    width: int
    start: int
    account_id: int
    model: str
    jobs: int
    tokens: int
    kudos: float

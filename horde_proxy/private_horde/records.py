"""The records of a horde: accounts and their keys, workers, requests, jobs, generations, kudos.

A record is also a row: it refers to others by id, and holds plain values only. The rules that
change records are in queue, balances, workers and delivery; how records are kept is in `store`.
All times are Unix seconds. No repr shows a prompt, a generation or a key. eq=False for all of them:
two jobs with equal fields are still two jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from horde_proxy.private_horde.account_records import (
    NEW,
    AccountKey,
    HordeAccount,
    HordeSharedKey,
    Invitation,
    KudosTransfer,
)
from horde_proxy.private_horde.ledger_records import Charge, LedgerEntry, UseCount
from horde_proxy.private_horde.request_records import (
    ALCHEMY,
    IMAGE,
    TEXT,
    GrowingText,
    HordeRequest,
    Job,
    Payload,
    StoredGeneration,
    WebhookCall,
)
from horde_proxy.private_horde.worker_records import (
    Worker,
    WorkerMessage,
    WorkerOffer,
    WorkerTeam,
)


@dataclass(eq=False)
class PromptFilter:
    """A regular expression that prompts must not match, or whose matches are replaced."""

    id: int
    regex: str
    filter_type: int
    description: str
    replacement: str
    account_id: int


@dataclass(eq=False)
class HordeSetting:
    """Something that the whole horde must remember, as JSON, by its name."""

    name: str
    value: str


@dataclass(eq=False)
class NewsItem:
    """An element of GET status/news."""

    id: int
    published: float
    title: str
    newspiece: str
    importance: str = "Information"
    tags: tuple[str, ...] = ()
    more_info_urls: tuple[str, ...] = ()


__all__ = [
    "ALCHEMY",
    "IMAGE",
    "NEW",
    "TEXT",
    "AccountKey",
    "Charge",
    "GrowingText",
    "HordeAccount",
    "HordeRequest",
    "HordeSetting",
    "HordeSharedKey",
    "Invitation",
    "Job",
    "KudosTransfer",
    "LedgerEntry",
    "NewsItem",
    "Payload",
    "PromptFilter",
    "StoredGeneration",
    "UseCount",
    "WebhookCall",
    "Worker",
    "WorkerMessage",
    "WorkerOffer",
    "WorkerTeam",
]

"""The kinds of records that a store keeps, each with its key, indexes and counters.

A new kind is a dataclass in `records` (or in a module of its own), a line here, and a migration and
a line in `tables`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from horde_proxy.private_horde import records
from horde_proxy.private_horde.address_timeouts import AddressTimeout
from horde_proxy.private_horde.alchemy_requests import AlchemyRequest
from horde_proxy.private_horde.stored_pictures import PictureBytes, StoredPicture


@dataclass(frozen=True)
class Kind:
    """One kind of records.

    `key` are the fields that identify a record; `numbered` keys are chosen by the store. With
    `appended`, a record may be numbered as late as the commit, which is cheaper. `unique` are
    fields that callers choose, so that another record may have the same already. `indexes` are the
    fields that `Tx.find` may be asked for. `due` is the field with the time when something has to
    happen to the record; None in that field means never. `counters` are numbers that transactions
    change at the same time: what is stored is the difference, not the new value. `parent` is the
    kind and the field with the key of a record that callers of `Tx.get` need next; a store may
    read both at once.
    """

    record: type[Any]
    key: tuple[str, ...] = ("id",)
    numbered: bool = False
    appended: bool = False
    unique: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    due: str | None = None
    counters: tuple[str, ...] = ()
    parent: tuple[type[Any], str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all fields."""
        return tuple(field.name for field in fields(self.record))

    def key_of(self, record: Any) -> Any:
        """The key of a record: a value, or a tuple where it has several fields."""
        if len(self.key) == 1:
            return getattr(record, self.key[0])
        return tuple(getattr(record, name) for name in self.key)


_ACCOUNT_COUNTERS = (
    "kudos",
    "accumulated",
    "held",
    "requests_sent",
    "tokens_requested",
    "jobs_done",
    "tokens_made",
    "gifted",
    "received",
    "granted",
    "recurring",
    "awarded",
    "escrow",
    "images_requested",
    "pixelsteps_requested",
    "images_made",
    "pixelsteps_made",
    "forms_requested",
    "forms_made",
)
_WORKER_COUNTERS = ("uptime", "fulfilled", "uncompleted", "kudos", "uptime_kudos", "work_done")

# In the order in which a commit writes them: accounts and workers, which many transactions change,
# come late, so that they are locked for a short time only.
_ALL = (
    Kind(records.HordeRequest, indexes=("account_id",), due="expires", counters=("kudos",)),
    Kind(records.Payload, ("request_id",)),
    Kind(records.Job, indexes=("request_id",), due="deadline"),
    Kind(records.GrowingText, ("request_id", "slot"), indexes=("request_id",)),
    Kind(records.StoredGeneration, ("job_id",), indexes=("request_id",)),
    Kind(AlchemyRequest, due="expires"),
    Kind(StoredPicture, indexes=("request_id",)),
    Kind(PictureBytes),
    Kind(
        records.AccountKey,
        ("digest",),
        unique=("digest",),
        indexes=("account_id",),
        parent=(records.HordeAccount, "account_id"),
    ),
    Kind(records.Invitation, numbered=True, unique=("digest",), indexes=("digest",)),
    Kind(records.KudosTransfer, numbered=True, indexes=("sender_id",)),
    Kind(
        records.HordeSharedKey,
        indexes=("account_id",),
        counters=("utilized", "held", "requests"),
    ),
    Kind(records.WorkerMessage, indexes=("worker_id",)),
    Kind(records.WorkerTeam, unique=("name",), indexes=("name",)),
    Kind(records.PromptFilter, numbered=True),
    Kind(records.NewsItem, numbered=True),
    Kind(records.HordeSetting, ("name",)),
    Kind(AddressTimeout, due="expires"),
    Kind(records.LedgerEntry, numbered=True, appended=True, indexes=("account_id", "request_id")),
    Kind(records.Charge, numbered=True, appended=True, indexes=("request_id",), due="due"),
    Kind(records.WebhookCall, numbered=True, appended=True, due="due"),
    Kind(records.HordeAccount, numbered=True, due="monthly_due", counters=_ACCOUNT_COUNTERS),
    Kind(
        records.Worker,
        unique=("name",),
        indexes=("name", "owner_id", "team_id"),
        counters=_WORKER_COUNTERS,
    ),
    Kind(
        records.UseCount,
        ("width", "start", "account_id", "model"),
        counters=("jobs", "tokens", "kudos"),
    ),
)

KINDS: Mapping[type[Any], Kind] = {kind.record: kind for kind in _ALL}
"""All kinds, by the class of their records."""

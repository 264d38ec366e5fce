"""The kinds of records that a store keeps, each with its key, indexes and counters.

A new kind is a dataclass in `records` (or in a module of its own), a line here, and a table in
`tables`, if it is to be kept in a database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from horde_proxy.private_horde.records import (
    AccountKey,
    Charge,
    HordeAccount,
    Job,
    LedgerEntry,
    Payload,
    StoredGeneration,
    TextRequest,
    UseCount,
    Worker,
)


@dataclass(frozen=True)
class Kind:
    """One kind of records.

    `key` are the fields that identify a record; `numbered` keys are chosen by the store. `indexes`
    are the fields that `Tx.find` may be asked for. `due` is the field with the time when something
    has to happen to the record; None in that field means never. `counters` are numbers that
    transactions change at the same time: what is stored is the difference, not the new value.
    """

    record: type[Any]
    key: tuple[str, ...]
    numbered: bool = False
    indexes: tuple[str, ...] = ()
    due: str | None = None
    counters: frozenset[str] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all fields."""
        return tuple(field.name for field in fields(self.record))

    def key_of(self, record: Any) -> Any:
        """The key of a record: a value, or a tuple where it has several fields."""
        if len(self.key) == 1:
            return getattr(record, self.key[0])
        return tuple(getattr(record, name) for name in self.key)


_ALL = (
    Kind(
        HordeAccount,
        ("id",),
        numbered=True,
        counters=frozenset(
            (
                "kudos",
                "accumulated",
                "held",
                "requests_sent",
                "tokens_requested",
                "jobs_done",
                "tokens_made",
            )
        ),
    ),
    Kind(AccountKey, ("digest",), indexes=("account_id",)),
    Kind(
        Worker,
        ("id",),
        indexes=("name", "owner_id"),
        counters=frozenset(("uptime", "fulfilled", "uncompleted", "kudos")),
    ),
    Kind(
        TextRequest,
        ("id",),
        indexes=("account_id",),
        due="expires",
        counters=frozenset(("kudos",)),
    ),
    Kind(Payload, ("request_id",)),
    Kind(Job, ("id",), indexes=("request_id",), due="deadline"),
    Kind(StoredGeneration, ("job_id",), indexes=("request_id",)),
    Kind(LedgerEntry, ("id",), numbered=True, indexes=("account_id", "request_id")),
    Kind(Charge, ("id",), numbered=True, indexes=("request_id",), due="due"),
    Kind(
        UseCount,
        ("width", "start", "account_id", "model"),
        counters=frozenset(("jobs", "tokens", "kudos")),
    ),
)

KINDS: Mapping[type[Any], Kind] = {kind.record: kind for kind in _ALL}
"""All kinds, by the class of their records."""

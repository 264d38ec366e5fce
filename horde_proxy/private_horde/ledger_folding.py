"""Folds old movements of kudos: one entry for each account and reason keeps their sum.

    id  1 ....... through | through + 1 ..........................
        sums              | entries as they were written
                          | '--a batch--' of old ones, which is added to the sums next

So the entries of an account still sum up to its balance, and the ledger does not grow for ever.
The number `through` is in the store. Who folds has its row locked, so that of several processes one
at a time does it; each batch is one transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import takewhile
from math import fsum

from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import HordeAccount, HordeSetting, LedgerEntry

_SETTING = "ledger_through"
_BATCH = 200
"""Entries of one transaction, which takes some milliseconds: a call of a client waits for it."""
_SUMS_READ = 1000
"""Sums that are read at a time."""
_DAY = 86_400.0
_PAUSE = 1.0
"""Seconds to the next batch, while there are more old entries."""


class LedgerFolding:
    """Knows the sums, and when to look for old entries again. One thread at a time may use it.

    An entry whose time is wrong, because the clock was, may keep those after it for longer. No
    wrong clock folds an entry early: one that was put back makes all entries young.
    """

    def __init__(self) -> None:
        # The ids of the sums; they are right if the store's `through` is this one.
        self._sums: dict[tuple[int, str], int] = {}
        self._through: int | None = None
        self.due = 0.0

    def fold(self, op: Operation) -> None:
        """Add the oldest batch of old entries to the sums, and say when to look again (`due`)."""
        kept = op.rules.ledger_days * _DAY
        self.due = op.now + min(kept, _DAY)
        if not kept:
            self.due = float("inf")
            return
        setting = _locked(op)
        if int(setting.value) != self._through:
            self._read_sums(op, int(setting.value))
        batch = self._old_entries(op, kept)
        if not batch:
            return
        self._add_up(op, batch)
        self._through = batch[-1].id
        setting.value = str(self._through)
        op.tx.save(setting)
        if len(batch) == _BATCH:
            self.due = op.now + _PAUSE

    def _read_sums(self, op: Operation, through: int) -> None:
        """Read which entries are sums: those up to `through`."""
        self._through = through
        sums = takewhile(lambda entry: entry.id <= through, _by_id(op))
        self._sums = {(entry.account_id, entry.reason): entry.id for entry in sums}

    def _old_entries(self, op: Operation, kept: float) -> list[LedgerEntry]:
        """The entries after the sums, up to the first that is still to be kept."""
        page = op.tx.page(LedgerEntry, "id", descending=False, offset=len(self._sums), limit=_BATCH)
        return list(takewhile(lambda entry: entry.at <= op.now - kept, page))

    def _add_up(self, op: Operation, batch: list[LedgerEntry]) -> None:
        groups: dict[tuple[int, str], list[LedgerEntry]] = defaultdict(list)
        for entry in batch:
            groups[entry.account_id, entry.reason].append(entry)
        for group, entries in groups.items():
            known = self._sums.get(group)
            found = None if known is None else op.tx.lock(LedgerEntry, known)
            total = entries.pop(0) if found is None else found
            total.amount = fsum([total.amount, *(entry.amount for entry in entries)])
            # It is of many requests, and perhaps of many partners.
            total.request_id = total.job_id = total.partner_id = None
            total.at = max(entry.at for entry in (total, *entries))
            op.tx.save(total)
            self._sums[group] = total.id
            for entry in entries:
                op.tx.delete(entry)


def _by_id(op: Operation) -> Iterator[LedgerEntry]:
    offset = 0
    while page := op.tx.page(LedgerEntry, "id", descending=False, offset=offset, limit=_SUMS_READ):
        yield from page
        offset += len(page)


def _locked(op: Operation) -> HordeSetting:
    """The setting with the id of the last folded entry, locked; 0 at first."""
    setting = op.tx.lock(HordeSetting, _SETTING)
    if setting is None:
        # Two processes must not add it at once: the anonymous account is there in any horde.
        op.tx.lock(HordeAccount, 0)
        setting = op.tx.lock(HordeSetting, _SETTING)
    if setting is None:
        setting = HordeSetting(_SETTING, "0")
        op.tx.add(setting)
    return setting

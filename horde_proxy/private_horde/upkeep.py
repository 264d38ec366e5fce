"""Deals with everything overdue: late jobs, expired requests, charges, the kudos of each month.

It also folds what is old: counts of jobs, and movements of kudos.

It is looked for before each call, so no background thread is needed. A process knows when the next
thing of its own is due; what other processes began is looked for once in a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from horde_proxy.private_horde import alchemy_requests, balances, counters, membership, queue
from horde_proxy.private_horde.address_timeouts import MOST_HOURS, AddressTimeout
from horde_proxy.private_horde.alchemy_requests import AlchemyRequest
from horde_proxy.private_horde.ledger_folding import LedgerFolding
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import Charge, HordeAccount, HordeRequest, Job
from horde_proxy.private_horde.store.base import Store

_LOOK_SECONDS = 1.0
_BATCH = 100
"""Records that are read at a time. Each is handled in a transaction of its own: one that locked
several requests and accounts would lock them in another order than deliveries do."""
_TOLERATED = 60.0
"""Seconds by which the clocks of several hosts may differ."""
_KINDS: tuple[tuple[type[Any], str], ...] = (
    (Job, "deadline"),
    (HordeRequest, "expires"),
    (Charge, "due"),
    (HordeAccount, "monthly_due"),
    (AddressTimeout, "expires"),
    (AlchemyRequest, "expires"),
)
_MONTH = 31 * 86_400.0

Begin = Callable[[float], AbstractContextManager[Operation]]
Handle = Callable[[Operation, Any], None]
"""Deals with a record that was due when another transaction read it, if it still is."""


class Upkeep:
    """Knows when something is due. Thread-safe."""

    def __init__(self, store: Store, begin: Begin) -> None:
        self._store, self._begin = store, begin
        # Used by the thread that holds `_working`.
        self._ledger = LedgerFolding()
        # Held by the thread that does the work; others go on without it.
        self._working = threading.Lock()
        # Guards the two times. No I/O happens under it.
        self._lock = threading.Lock()
        self._next = 0.0
        self._last: float | None = None
        store.observe(self._note)

    def _note(self, records: Sequence[Any]) -> None:
        times = (getattr(record, name) for record, name in _dues(records))
        first = min((time for time in times if time is not None), default=None)
        if first is not None:
            with self._lock:
                self._next = min(self._next, first)

    def run(self, now: float) -> None:
        """Do what is due. What another thread is doing already is not waited for."""
        last = self._last
        went_back = last is None or now < last - 1.0
        if not went_back and now < self._next:
            self._last = now
            return
        if not self._working.acquire(blocking=False):
            return
        try:
            self._last = now
            if went_back:
                self._ledger.due = now
                self._shorten(now)
            with self._lock:
                self._next = now + _LOOK_SECONDS if self._store.is_shared else float("inf")
            self._work(now)
        except Exception:
            # What was not done is still due; in a store of one process, nothing else would say so.
            with self._lock:
                self._next = now + _LOOK_SECONDS
            raise
        finally:
            self._working.release()

    def _work(self, now: float) -> None:
        for kind, handle in (
            (Job, _abort),
            (HordeRequest, _expire),
            (Charge, balances.settle),
            (HordeAccount, membership.pay_due),
            (AddressTimeout, _end),
            (AlchemyRequest, alchemy_requests.expire),
        ):
            self._handle_all(kind, handle, now)
        with self._begin(now) as op:
            counters.fold(op)
            times = [op.tx.next_due(kind) for kind, _ in _KINDS]
        if now >= self._ledger.due:
            with self._begin(now) as op:
                self._ledger.fold(op)
        times += [self._ledger.due, now + 60]
        with self._lock:
            self._next = min(self._next, *(time for time in times if time is not None))

    def _handle_all(self, kind: type[Any], handle: Handle, now: float) -> None:
        """Handle what is due of a kind. What another process holds stays due."""
        handled: set[Any] = set()
        while True:
            with self._begin(now) as op:
                records = op.tx.due(kind, now, _BATCH)
            for record in records:
                with self._begin(now) as op:
                    handle(op, record)
            ids = {record.id for record in records}
            if len(records) < _BATCH or ids == handled:
                return
            handled = ids

    def _shorten(self, now: float) -> None:
        """Bring times near that are too far away, because the clock has been put back."""
        for kind, name in _KINDS:
            with self._begin(now) as op:
                longest = {
                    Job: op.rules.job_ttl,
                    HordeRequest: op.rules.expiry,
                    AlchemyRequest: op.rules.expiry,
                    HordeAccount: _MONTH,
                    AddressTimeout: MOST_HOURS * 3600.0,
                }.get(kind, 60.0)
                records = op.tx.due_after(kind, now + longest + _TOLERATED)
            for record in records:
                with self._begin(now) as op:
                    _bring_near(op, kind, record.id, name, longest)


def _bring_near(op: Operation, kind: type[Any], record_id: Any, name: str, longest: float) -> None:
    locked = op.tx.lock(kind, record_id)
    when = None if locked is None else getattr(locked, name)
    # It may have changed since it was read.
    if when is not None and when > op.now + longest + _TOLERATED:
        setattr(locked, name, op.now + longest)
        op.tx.save(locked)


def _dues(records: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    names = dict(_KINDS)
    for record in records:
        if (name := names.get(type(record))) is not None:
            yield record, name


def _abort(op: Operation, job: Job) -> None:
    request = op.tx.try_lock(HordeRequest, job.request_id)
    newest = op.tx.lock(Job, job.id)
    # It may have been delivered meanwhile, or got more time.
    is_late = newest is not None and newest.deadline is not None and newest.deadline <= op.now
    if request is not None and newest is not None and newest.state == "processing" and is_late:
        queue.fail(op, request, newest, "aborted")


def _expire(op: Operation, request: HordeRequest) -> None:
    newest = op.tx.try_lock(HordeRequest, request.id)
    if newest is not None and newest.expires is not None and newest.expires <= op.now:
        queue.forget(op, newest)


def _end(op: Operation, timeout: AddressTimeout) -> None:
    newest = op.tx.lock(AddressTimeout, timeout.id)
    # A moderator may have made it longer meanwhile.
    if newest is not None and newest.expires <= op.now:
        op.tx.delete(newest)

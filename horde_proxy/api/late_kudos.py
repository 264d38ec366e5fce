"""Corrects what was counted for a request when its kudos come to be known, after its end.

    request thread   counts the kudos it was told --> follow --> a first correction
    another thread   LateKudos changes ------------------------> one correction more

The ledger with its limits, the metrics and the page count by one number, RequestLog.kudos. No I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from horde_proxy.api.access_log import RequestLog
from horde_proxy.ledger import UsageRecorder

KudosCounter = Callable[[float], None]
"""Counts so many kudos more."""


class KudosCorrections:
    """What has counted the kudos of one request, and what they came to be."""

    def __init__(self, record: RequestLog) -> None:
        self._record = record
        # Guards the record's kudos from `follow` on. Counters are called without it.
        self._lock = threading.Lock()
        self._counters: list[KudosCounter] = []

    def add_counter(self, counter: KudosCounter) -> None:
        """Correct this as well. To be called before `follow`."""
        self._counters.append(counter)

    def follow(self) -> None:
        """Count what comes to be known from now on, for a request that pays for its answer."""
        late = self._record.late_kudos
        if late is not None and self._record.kudos is not None:
            late.on_change(self._correct)
            # It may have changed between the end of the answer and now.
            self._correct()

    def _correct(self) -> None:
        record = self._record
        if record.late_kudos is None:
            return
        with self._lock:
            counted = record.kudos or 0.0
            # The `horde` object of an answer has two decimal places.
            missing = round(record.late_kudos.kudos - counted, 2)
            if missing <= 0:
                return
            record.kudos = round(counted + missing, 2)
        for counter in self._counters:
            counter(missing)


def count_usage(usage: UsageRecorder, record: RequestLog) -> KudosCounter:
    """Count a request that has ended. What counts its late kudos."""
    key = usage.add(
        record.account or "",
        record.model or "",
        record.upstream or "",
        prompt_tokens=record.prompt_tokens or 0,
        completion_tokens=record.completion_tokens or 0,
        kudos=record.kudos or 0.0,
        images=record.images or 0,
        failed=record.error is not None,
    )
    return partial(usage.add_kudos, key)

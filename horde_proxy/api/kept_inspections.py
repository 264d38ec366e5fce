"""The last requests of each owner, for GET /inspections. In memory only; no route is known here."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from itertools import chain
from sys import getsizeof
from typing import Any

_MOST_OWNERS = 100
"""Owners whose requests are kept; the one that has been silent for longest is dropped."""
MOST_BYTES = 128 * 1024 * 1024
"""Bytes of all documents together: 500 requests with a prompt of 50,000 tokens, in two forms."""

_Documents = deque[tuple[int, dict[str, Any]]]
"""The documents of an owner, each with its size in bytes."""


class Inspections:
    """The last requests of each owner, as documents. `count` is how many of them; 0 keeps none."""

    def __init__(self, count: int = 0) -> None:
        # Guards all documents. No I/O happens under it.
        self._lock = threading.Lock()
        self._by_owner: OrderedDict[str, _Documents] = OrderedDict()
        self._count = count
        self._bytes = 0

    @property
    def count(self) -> int:
        """How many requests of each owner are kept."""
        return self._count

    def configure(self, count: int) -> None:
        """Keep so many of each owner from now on; the oldest of those that are too many go."""
        with self._lock:
            self._count = count
            for documents in self._by_owner.values():
                self._shorten(documents, count)
            if not count:
                self._by_owner.clear()

    def add(self, owner: str, document: dict[str, Any]) -> None:
        """Keep a document, the newest of its owner.

        Above MOST_BYTES, the oldest of the owner that has been silent for longest go.
        """
        size = _size_of(document)
        with self._lock:
            if not self._count:
                return
            documents = self._by_owner.setdefault(owner, deque())
            documents.append((size, document))
            self._bytes += size
            self._shorten(documents, self._count)
            self._by_owner.move_to_end(owner)
            while len(self._by_owner) > _MOST_OWNERS:
                self._drop_oldest_owner()
            while self._bytes > MOST_BYTES:
                self._shorten_oldest()

    def of(self, owner: str) -> list[dict[str, Any]]:
        """The documents of an owner, the newest first."""
        with self._lock:
            return [document for _, document in reversed(self._by_owner.get(owner, ()))]

    def forget(self, owner: str) -> int:
        """Delete the documents of an owner; how many there were."""
        with self._lock:
            documents = self._by_owner.pop(owner, deque())
            count = len(documents)
            self._shorten(documents, 0)
            return count

    def _shorten(self, documents: _Documents, count: int) -> None:
        """Drop the oldest documents of an owner that are too many."""
        while len(documents) > count:
            size, _ = documents.popleft()
            self._bytes -= size

    def _drop_oldest_owner(self) -> None:
        _, documents = self._by_owner.popitem(last=False)
        self._shorten(documents, 0)

    def _shorten_oldest(self) -> None:
        documents = next(iter(self._by_owner.values()))
        self._shorten(documents, len(documents) - 1)
        if not documents:
            self._by_owner.popitem(last=False)


def _size_of(document: Any) -> int:
    """About how many bytes a document takes in memory."""
    size = 0
    pending = [document]
    while pending:
        value = pending.pop()
        size += getsizeof(value)
        if isinstance(value, dict):
            pending += chain(value, value.values())
        elif isinstance(value, list):
            pending += value
    return size

"""Which bad notices were sent and not yet taken back, so that each is sent once.

Processes and hosts that share a database share this (sent_in_database.py), and a restart repeats
nothing. In memory, it is forgotten with the process.
"""

from __future__ import annotations

from typing import Protocol


class SentNotices(Protocol):
    """What was sent. Methods raise DatabaseError where there is a database that fails."""

    def add(self, key: str) -> bool:
        """Note a notice. False where it was noted before, by whatever process."""

    def remove(self, key: str) -> bool:
        """Forget a notice. False where it was not noted, or another process has forgotten it."""

    def keys(self) -> set[str]:
        """All that are noted."""


class SentInMemory:
    """Of one process. One thread uses it."""

    def __init__(self) -> None:
        self._keys: set[str] = set()

    def add(self, key: str) -> bool:
        is_new = key not in self._keys
        self._keys.add(key)
        return is_new

    def remove(self, key: str) -> bool:
        is_known = key in self._keys
        self._keys.discard(key)
        return is_known

    def keys(self) -> set[str]:
        return set(self._keys)

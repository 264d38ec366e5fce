"""Small facts that hold until a moment, and that a restart does not forget.

They are files in a folder, or, where several hosts share one, keys of a Redis. This module does not
read what they say. A store that fails loses nothing in this process: callers keep their notes, too.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from horde_proxy.caching.redis import RedisCalls
from horde_proxy.json_reading import parse_json

if TYPE_CHECKING:
    from redis import Redis

REREAD_SECONDS = 2.0
"""Seconds for which notes of a Redis are used: another host's are seen so much later."""
Note = Mapping[str, Any]
log = logging.getLogger(__name__)


class Notes(Protocol):
    """Notes by name. `until` is in Unix seconds."""

    def put(self, name: str, note: Note, until: float) -> None:
        """Keep a note until then, in place of an older one of this name."""

    def all(self) -> dict[str, Note]:
        """The notes that are kept, by name."""


class FolderNotes:
    """Notes in a folder, which the processes of one host share."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self._folder, self._now = folder, now

    def put(self, name: str, note: Note, until: float) -> None:
        path = self._folder / f"{sha256(name.encode()).hexdigest()[:16]}.json"
        # Several processes may write at the same time; a reader never sees half a note.
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            text = json.dumps({"name": name, "until": until, "note": note})
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        except OSError as exc:
            log.warning("a note cannot be kept for after a restart: %s", exc)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def all(self) -> dict[str, Note]:
        return dict(filter(None, map(self._note, sorted(self._folder.glob("*.json")))))

    def _note(self, path: Path) -> tuple[str, Note] | None:
        """The name and the note in a file; None for a damaged one. An old one is removed."""
        try:
            stored = parse_json(path.read_bytes())
            name, until, note = stored["name"], float(stored["until"]), stored["note"]
            if until <= self._now():
                path.unlink(missing_ok=True)
            elif isinstance(note, dict):
                return str(name), note
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            log.warning("the file %s cannot be read, and is ignored", path)
        return None


class RedisNotes:
    """Notes in a Redis. `connect` is called at the first use, after a fork."""

    def __init__(
        self,
        connect: Callable[[], Redis],
        prefix: str,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix, self._now, self._clock = prefix, now, clock
        self._call = RedisCalls(connect, "penalties are kept", clock=clock)
        self._read: tuple[float, dict[str, Note]] | None = None

    def put(self, name: str, note: Note, until: float) -> None:
        seconds = max(int(until - self._now()) + 1, 1)
        key = f"{self._prefix}:{sha256(name.encode()).hexdigest()[:16]}"
        text = json.dumps({"name": name, "note": note})
        self._call(lambda redis: bool(redis.set(key, text, ex=seconds)), False)
        self._read = None

    def all(self) -> dict[str, Note]:
        read = self._read
        if read is None or self._clock() >= read[0] + REREAD_SECONDS:
            last = read[1] if read else {}
            notes = self._call(self._fetch, None)
            read = self._read = self._clock(), last if notes is None else notes
        return read[1]

    def _fetch(self, redis: Redis) -> dict[str, Note]:
        notes = dict[str, Note]()
        for key in redis.scan_iter(f"{self._prefix}:*"):
            text = redis.get(key)
            with suppress(ValueError, KeyError, TypeError):
                stored = parse_json(text if isinstance(text, bytes) else b"")
                notes[str(stored["name"])] = dict(stored["note"])
        return notes


class NoNotes:
    """Notes that are kept nowhere."""

    def put(self, name: str, note: Note, until: float) -> None:
        """Nothing is kept."""

    def all(self) -> dict[str, Note]:
        return {}

"""Pictures behind links: files with names that nobody can guess, kept for some hours.

All processes of a proxy use one folder. A file appears complete, by a rename. Nothing is indexed:
a name tells the type, the file's time its age. Whoever adds a picture removes those that have
expired, and the oldest beyond the bound.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from horde_proxy.pictures import PictureType

# "2Jx0...vQ.png": 32 characters of 192 random bits, and the type.
_NAME = re.compile(r"[\w-]{32}\.(png|jpeg|webp|gif)", re.ASCII)
_RANDOM_BYTES = 24
_PRUNE_SECONDS = 60.0
"""The least time between two looks through the folder."""


class PictureStore:
    """Pictures in a folder, which is made when the first one comes. Thread-safe.

    A picture is kept for `seconds`, and all of them have `most_bytes` together.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seconds: float = 4 * 3600.0,
        most_bytes: int = 1_000_000_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._seconds, self._most_bytes = folder, seconds, most_bytes
        self._now = now
        # Guards the time of the last look. The look itself happens without it.
        self._lock = threading.Lock()
        self._pruned = float("-inf")

    def add(self, data: bytes, kind: PictureType) -> str:
        """The name of a new picture. Raises OSError where the folder cannot be written to."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{secrets.token_urlsafe(_RANDOM_BYTES)}.{kind}"
        part = self._folder / f"{name}.part"
        try:
            part.write_bytes(data)
            part.rename(self._folder / name)
        except OSError:
            # A full disk leaves the beginning of the file.
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
        finally:
            # Also where there is no room: it may make some.
            self._prune()
        return name

    def get(self, name: str) -> tuple[bytes, str] | None:
        """(the bytes, the type) of a picture; None for one that has expired or never was."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        file = self._folder / name
        try:
            if self._now() - file.stat().st_mtime > self._seconds:
                return None
            return file.read_bytes(), match[1]
        except OSError:
            return None

    def _prune(self) -> None:
        with self._lock:
            # A clock that was set back must not stop it.
            if 0 <= self._now() - self._pruned < _PRUNE_SECONDS:
                return
            self._pruned = self._now()
        size = 0
        for modified, length, file in sorted(self._files(), reverse=True):
            size += length
            if self._now() - modified > self._seconds or size > self._most_bytes:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(time, bytes, path) of each file. Other processes may remove them meanwhile."""
        with contextlib.suppress(OSError):
            for file in self._folder.iterdir():
                with contextlib.suppress(OSError):
                    status = file.stat()
                    yield status.st_mtime, status.st_size, file

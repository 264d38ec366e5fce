"""A large JSON document that hardly changes: fetched with its ETag, with a copy on disk."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import requests

from horde_proxy.errors import UpstreamFailed

log = logging.getLogger(__name__)


class StoredCopy(NamedTuple):
    """A document, and how old it is (s)."""

    value: Any
    age: float = 0.0


class CachedDocument:
    """The document at a URL or a path. The first `load` gives the copy on disk, if there is one.

    What is not `good` never takes a copy's place.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        session: requests.Session,
        *,
        timeout: tuple[float, float],
        good: Callable[[Any], object] = bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._session = source, session
        self._timeout, self._good, self._now = timeout, good, now
        self._copy = folder / f"{sha256(source.encode()).hexdigest()[:16]}.json"
        self._etag: str | None = None
        self._value: Any = None

    def load(self) -> StoredCopy:
        """The document. Raises UpstreamFailed when it cannot be read."""
        if not self._source.startswith(("http://", "https://")):
            return StoredCopy(self._from_file())
        if self._value is None and (copy := self._from_copy()):
            return copy
        return StoredCopy(self._fetched())

    def _from_file(self) -> Any:
        try:
            return json.loads(Path(self._source).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as exc:
            raise UpstreamFailed(f"The model reference {self._source} is not readable.") from exc

    def _from_copy(self) -> StoredCopy | None:
        try:
            found = json.loads(self._copy.read_text(encoding="utf-8"))
            self._etag, self._value = found["etag"], found["value"]
            return StoredCopy(self._value, max(self._now() - self._copy.stat().st_mtime, 0.0))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _fetched(self) -> Any:
        headers = {"If-None-Match": self._etag} if self._etag and self._value else {}
        try:
            response = self._session.get(self._source, headers=headers, timeout=self._timeout)
            if response.status_code == 304 and headers:
                self._keep()
                return self._value
            response.raise_for_status()
            found = response.json()
        except (requests.RequestException, ValueError, RecursionError) as exc:
            raise UpstreamFailed("The model reference cannot be fetched.") from exc
        if not self._good(found):
            raise UpstreamFailed("What was fetched is no model reference.")
        self._value, self._etag = found, response.headers.get("ETag")
        self._keep()
        return self._value

    def _keep(self) -> None:
        """Write the copy; that it cannot be written only costs a fetch at the next start."""
        unfinished = self._copy.with_suffix(f".{os.getpid()}")
        try:
            self._copy.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"etag": self._etag, "value": self._value})
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(self._copy)
        except OSError as exc:
            log.warning("the model reference is not kept on disk: %s", exc)

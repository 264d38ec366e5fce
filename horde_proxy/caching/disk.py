"""JSON on disk: copies that a restart finds again, and documents that are fetched with an ETag.

A CachedDocument is loaded in the calling thread, at every call: put a BackgroundValue around it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import requests

from horde_proxy.errors import UpstreamFailed
from horde_proxy.json_reading import parse_json
from horde_proxy.response_body import with_body

log = logging.getLogger(__name__)


def write_copy(path: Path, value: Any) -> None:
    """Replace the file of a JSON value. A failure is logged: a copy can be made again.

    Several processes may write at the same time. Each writes its own file, and the rename is
    atomic, so a reader never sees half a document.
    """
    unfinished = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(value), encoding="utf-8")
        unfinished.replace(path)
    except OSError as exc:
        log.warning("a fetched document cannot be copied to disk: %s", exc)
        # On a full disk, half a document for each start of the proxy would add up.
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


class StoredCopy(NamedTuple):
    """A document and its age (s)."""

    value: Any
    age: float = 0.0


class CachedDocument:
    """The document at a URL or a path. The first `load` returns the copy on disk, if there is one.

    A fetched document replaces the copy only if `is_valid` accepts it.
    """

    def __init__(
        self,
        source: str,
        folder: Path,
        session: requests.Session,
        *,
        timeout: tuple[float, float],
        is_valid: Callable[[Any], object] = bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._session = source, session
        self._timeout, self._is_valid, self._now = timeout, is_valid, now
        # 16 hexadecimal digits are enough to tell the few URLs of an installation apart.
        self._copy = folder / f"{sha256(source.encode()).hexdigest()[:16]}.json"
        self._etag: str | None = None
        self._value: Any = None

    def load(self) -> StoredCopy:
        """The document. Raises UpstreamFailed if it cannot be read."""
        if not self._source.startswith(("http://", "https://")):
            return StoredCopy(self._read_file())
        if self._value is None and (copy := self._read_copy()):
            return copy
        return StoredCopy(self._fetch())

    def _read_file(self) -> Any:
        try:
            return json.loads(Path(self._source).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as exc:
            raise UpstreamFailed(f"{self._source} is not a readable JSON file.") from exc

    def _read_copy(self) -> StoredCopy | None:
        """The copy on disk; None if it is missing or damaged."""
        try:
            stored = json.loads(self._copy.read_text(encoding="utf-8"))
            self._etag, self._value = stored["etag"], stored["value"]
            return StoredCopy(self._value, max(self._now() - self._copy.stat().st_mtime, 0.0))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _fetch(self) -> Any:
        # A conditional request (RFC 9110, 13.1.2): 304 means that the copy is still current.
        headers = {"If-None-Match": self._etag} if self._etag and self._value else {}
        try:
            response = self._session.get(
                self._source, headers=headers, timeout=self._timeout, stream=True
            )
            with_body(response)
            if response.status_code == 304 and headers:
                self._write_copy()  # the file's time of change tells the document's age
                return self._value
            response.raise_for_status()
            document = parse_json(response.content)
        except (requests.RequestException, ValueError, RecursionError) as exc:
            raise UpstreamFailed("The document cannot be fetched.") from exc
        if not self._is_valid(document):
            raise UpstreamFailed("The fetched document does not have the expected content.")
        self._value, self._etag = document, response.headers.get("ETag")
        self._write_copy()
        return self._value

    def _write_copy(self) -> None:
        """Replace the copy on disk. After a failure, the next start must fetch the document."""
        write_copy(self._copy, {"etag": self._etag, "value": self._value})

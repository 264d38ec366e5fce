"""The parts of a page that changed since an open tab last asked, so that it is not sent again.

A part is an element with "data-live", or one row of a table whose body has it. Each answer names
its version; the next question of the tab names that version, and gets the parts that differ. Only
digests of the last versions are kept, and those in memory: a tab whose version another process
made, or that slept for long, gets all parts once.

It cuts up markup that our own templates made, in which foreign texts are escaped. It reads no
other markup.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from html import unescape
from typing import Any

from cachetools import LRUCache

MOST_VERSIONS = 64
"""Versions that are remembered: of about 60 kB each with 300 models, and one for each open tab."""

# <tbody id="rows-models" data-live>...</tbody>: a live element holds none of its own name.
_ELEMENT = re.compile(
    r'<(?P<name>\w+) [^>]*?id="(?P<id>[^"]+)"[^>]* data-live\b[^>]*>(?P<inner>.*?)</(?P=name)>',
    re.DOTALL,
)
# <tr data-name="koboldcpp/Nova-8B">: where a row of a table begins.
_ROW = re.compile(r'<tr data-name="([^"]*)".*?</tr>', re.DOTALL)
# <span data-elapsed="65">1 min 5 s</span>: the page's script counts on by itself.
_ELAPSED = re.compile(r'<span data-elapsed="[^"]*">[^<]*</span>')


@dataclass(frozen=True)
class Rows:
    """The rows of one table, as markup by key, in order."""

    by_key: Mapping[str, str]

    def changes(self, known: Mapping[str, bytes] | None) -> dict[str, Any]:
        """`changed`: the new markup of rows; `keys`: all keys in order. Empty without a change.

        `known` are earlier digests; None: the table was not there, and is sent even if it is empty.
        """
        before = known or {}
        changed = [row for key, row in self.by_key.items() if before.get(key) != _digest(row)]
        if known is not None and not changed and list(before) == list(self.by_key):
            return {}
        return {"keys": list(self.by_key), "changed": changed}

    def digests(self) -> dict[str, bytes]:
        """What `changes` compares with."""
        return {key: _digest(row) for key, row in self.by_key.items()}


@dataclass(frozen=True)
class LiveParts:
    """The parts of one drawn page: elements as markup, and tables, both by their ids."""

    elements: Mapping[str, str]
    tables: Mapping[str, Rows]

    @classmethod
    def of(cls, html: str) -> LiveParts:
        """The parts in the markup of a page."""
        elements, tables = {}, {}
        for match in _ELEMENT.finditer(html):
            rows = _ROW.findall(match["inner"]) if match["name"] == "tbody" else []
            # Two rows of one key could not be told apart: such a table goes as a whole.
            if match["name"] == "tbody" and len(set(rows)) == len(rows):
                tables[match["id"]] = rows_of(match["inner"])
            else:
                elements[match["id"]] = match[0]
        return cls(elements, tables)

    def digests(self) -> _Digests:
        """What `changes` compares with."""
        return _Digests(
            {name: _digest(element) for name, element in self.elements.items()},
            {name: rows.digests() for name, rows in self.tables.items()},
        )

    def changes(self, known: _Digests) -> dict[str, Any]:
        """`elements`: markup of whole elements; `rows`: see Rows.changes, by the table's id."""
        elements = [
            element
            for name, element in self.elements.items()
            if known.elements.get(name) != _digest(element)
        ]
        rows = {
            name: changes
            for name, table in self.tables.items()
            if (changes := table.changes(known.tables.get(name)))
        }
        return {"elements": elements, "rows": rows}


@dataclass(frozen=True)
class _Digests:
    elements: Mapping[str, bytes]
    tables: Mapping[str, Mapping[str, bytes]]

    def version(self) -> str:
        """A name of what the page shows: the same for the same parts."""
        whole = blake2b(digest_size=12)
        for name, digest in self.elements.items():
            whole.update(name.encode() + digest)
        for name, rows in self.tables.items():
            whole.update(name.encode())
            for key, digest in rows.items():
                whole.update(key.encode("utf-8", "replace") + digest)
        return whole.hexdigest()


class Versions:
    """The digests of the last versions that tabs were sent. Thread-safe."""

    def __init__(self, most: int = MOST_VERSIONS) -> None:
        # Guards the digests by version. No I/O happens under it.
        self._lock = threading.Lock()
        self._known: LRUCache[str, _Digests] = LRUCache(most)
        # The versions that were drawn from the last states, by the digests of these states.
        self._drawn: LRUCache[bytes, str] = LRUCache(most)

    def remember(self, parts: LiveParts) -> str:
        """The version of these parts, with which a tab asks for changes."""
        digests = parts.digests()
        version = digests.version()
        with self._lock:
            self._known[version] = digests
        return version

    def note_state(self, state: bytes, version: str) -> None:
        """Remember that a version was drawn from the state of a digest."""
        with self._lock:
            self._drawn[state] = version

    def shows(self, state: bytes, version: str) -> bool:
        """Whether a version was drawn from the state of a digest; then nothing has changed."""
        with self._lock:
            return version in self._known and self._drawn.get(state) == version

    def changes(self, parts: LiveParts, since: str) -> dict[str, Any]:
        """What differs from a version, and the new `version`; all parts for an unknown version."""
        with self._lock:
            known = self._known.get(since)
        version = self.remember(parts)
        if known is None:
            known = _Digests({}, {})
        return {"version": version, **parts.changes(known)}


def rows_of(markup: str) -> Rows:
    """The rows in the markup of a table."""
    return Rows({unescape(match[1]): match[0] for match in _ROW.finditer(markup)})


def _digest(markup: str) -> bytes:
    still = _ELAPSED.sub("", markup)
    # A model's name may hold half a surrogate pair, which UTF-8 cannot encode.
    return blake2b(still.encode("utf-8", "replace"), digest_size=8).digest()

"""What a reader does with parts of a request that it cannot use: warn, or refuse. Pure.

A chat carries its whole history, so that one part that nobody can use would end it for good. A
reader therefore leaves such a part out and tells the client in X-Horde-Warnings. In strict mode
the same part is a 400.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from horde_proxy.errors import InvalidRequest

_LONGEST_HEADER = 1000
"""Characters. nginx reads all headers of an answer into 4 kB by default."""
_ROOM_FOR_COUNT = 30
"""Characters of "; and 1000 more" at the end of a header that is too long, and some to spare."""
# A name that may be shown in a header: web_search, tool-call, text_editor_20250728.
_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}", re.ASCII)


class Leniency:
    """The warnings of one request. With `strict`, each of them is an error instead."""

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._counts: Counter[str] = Counter()

    def tolerate(self, error: InvalidRequest, outcome: str) -> None:
        """Keep a warning about the error's `param`. Raises the error in strict mode.

        `outcome` says what becomes of the part, e.g. "image left out". It must contain no text of
        the client.
        """
        if self._strict:
            raise error
        field = (error.param or "request").partition(".")[0]
        self._counts[f"{field}: {outcome}"] += 1

    def warnings(self) -> tuple[str, ...]:
        """The warnings so far, each one once: "messages: image left out (3 times)"."""
        return tuple(
            warning if count == 1 else f"{warning} ({count} times)"
            for warning, count in self._counts.items()
        )


def plain_name(value: object) -> str:
    """A name that the client chose, as a warning may show it; "unknown" for what is no name."""
    return value if isinstance(value, str) and _PLAIN_NAME.fullmatch(value) else "unknown"


def warnings_header(warnings: Sequence[str]) -> str:
    """X-Horde-Warnings, of at most 1000 characters; "" without warnings."""
    return "; ".join(_within(_LONGEST_HEADER, warnings))


def _within(longest: int, warnings: Sequence[str]) -> Iterator[str]:
    length = 0
    for index, warning in enumerate(warnings):
        length += len(warning) + 2
        if length > longest - _ROOM_FOR_COUNT:
            yield f"and {len(warnings) - index} more"
            return
        yield warning

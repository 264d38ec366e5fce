"""JSON from others, parsed within bounds: few megabytes of brackets would become a gigabyte. Pure.

Bytes are bounded where they are read. Here is the bound of what becomes of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

MOST_VALUES = 250_000
"""Values in one document: about 0.3 s of one core, and 40 MB. A chat of a million tokens of source
code has 120,000 signs that count; the horde's list of workers has 30,000 values."""
_SIGNS = (b",", b"[", b"{")
"""Each value of a document but the first follows one of these. They also stand in texts, which
therefore count for more than one value."""


class TooManyValues(ValueError):
    """A document may have more values than are allowed."""


def parse_json(
    content: bytes,
    most_values: int = MOST_VALUES,
    parse_constant: Callable[[str], Any] | None = None,
    parse_float: Callable[[str], Any] | None = None,
) -> Any:
    """The value of a JSON document; see json.loads for the other parameters.

    Raises TooManyValues, and ValueError or RecursionError for what is no JSON, or nested too deep.
    """
    if len(content) > most_values and sum(map(content.count, _SIGNS)) > most_values:
        raise TooManyValues(f"it has more than {most_values:,} values")
    return json.loads(content, parse_constant=parse_constant, parse_float=parse_float)


def members(content: bytes) -> list[tuple[str, Any]]:
    """The members of a JSON object as they were sent, those of one name as well.

    `content` is a document that `parse_json` has read.
    """
    pairs: list[tuple[str, Any]] = []

    def note(of_object: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal pairs
        pairs = of_object  # the outermost object ends last
        return dict(of_object)

    json.loads(content, object_pairs_hook=note)
    return pairs

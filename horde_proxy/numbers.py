"""One check for numbers that other servers send. Pure."""

from __future__ import annotations

MOST = 1e15
"""No true count of tokens, kudos, seconds or parameters gets there, and sums stay exact."""


def finite(value: object, most: float = MOST) -> float | None:
    """The number if it can be added up: from 0 to `most`, not NaN, no boolean; None otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= most else None

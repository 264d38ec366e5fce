"""The one check for numbers that other servers send. Pure."""

from __future__ import annotations

MOST = 1e15
"""More than any real count of tokens, kudos, seconds or parameters, and small enough that floats
still add whole numbers exactly."""


def finite(value: object, most: float = MOST) -> float | None:
    """The value if it is a number from 0 to `most`; None for all else, also NaN and booleans."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value <= most else None

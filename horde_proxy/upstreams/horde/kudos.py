"""What a text request costs, and how long an answer may be without owning that. Pure numbers.

The formulas are those of the horde (its rewards and its upfront check); a model's size is read
from its name, because the horde tells nobody what it takes it for.
"""

from __future__ import annotations

import math

from horde_proxy.naming import size_of

LEAST_FREE = 256
MOST_FREE = 512
"""The bounds of what the horde lets anybody ask for."""
FLOOR = 25.0
"""Kudos that an account keeps, whatever it asks for."""
_UNKNOWN_SIZE = 13.0


def size(model: str) -> float:
    """Billions of parameters, as the name tells; 13 where it does not, as the horde counts."""
    return size_of(model) or _UNKNOWN_SIZE


def free_length(threads: int, queued: int) -> int:
    """The tokens that one job may have without kudos; fewer while the queue is long.

    `threads` of all text workers, `queued` text requests: GET status/performance.
    """
    return min(max(512 + 5 * threads - round(0.9 * queued), LEAST_FREE), MOST_FREE)


def affordable_length(kudos: float, size: float, n: int = 1) -> int:
    """The tokens of one job for which these kudos suffice upfront."""
    return max(int((kudos - FLOOR) * 21 / (size * n)), 0)


def upfront(max_length: int, size: float, n: int = 1) -> float:
    """The kudos that must be there for a job beyond the free length."""
    return round(max_length * size / 21, 2) * n


def price(max_length: int, max_context_length: int, size: float, n: int = 1) -> float:
    """About what a request will have cost when it ran to its full length, the tax included."""
    context = 1.2 + math.pow(2.2, math.log2(max_context_length / 1024))
    each = max_length * math.pow(max(size, 13.0) / 13.0, 0.2) * size * context / 100
    return round((each + 1) * n + 1, 2)

"""What text requests cost and earn, in kudos. Pure: numbers in, numbers out; no balances here.

`size` is a model's size in billions of parameters; lengths are in tokens.
"""

from __future__ import annotations

import math

from horde_proxy.aihorde.names import size_of

TAX = 1.0
"""The requester pays it once at the submit, and again with each delivered job."""

CENSORED_COST = 1.0
"""The whole cost of a job that the worker censored."""

REGISTERED_FLOOR = 25.0
ANONYMOUS_FLOOR = -50.0
"""A balance never falls below its floor (contract: user.py:522-528)."""

LEAST_FREE = 256
MOST_FREE = 512
"""Bounds of the length that anybody may request without owning kudos."""

UPFRONT_WITHOUT_MODEL = 20.0
"""Needed for each result of a long request that names no model (capture err_403_KudosUpfront)."""

UPTIME_SECONDS = 600.0
"""A worker is paid each time it has been online for so long without a break."""

_TYPICAL_SIZE = 13.0


def assumed_size(model: str) -> float:
    """Billions of parameters by a model's name; 13 if it shows no size.

    13 is what the horde assumes of a request without models. It reads the sizes of known models
    from its model reference, and does not publish them.
    """
    return size_of(model) or _TYPICAL_SIZE


def free_length(threads: int, queued: int) -> int:
    """The length of a job that anybody may request; it shrinks while the queue is long.

    `threads` and `queued` are `text_thread_count` and `queued_text_requests` of GET
    status/performance (contract: kobold/waiting_prompt.py:97-117).
    """
    return min(max(512 + 5 * threads - round(0.9 * queued), LEAST_FREE), MOST_FREE)


def upfront(max_length: int, size: float, n: int = 1) -> float:
    """The kudos that an account must own before a request beyond the free length is accepted.

    Contract: kobold.py:115-127.
    """
    return round(max_length * size / 21, 2) * n


def affordable_length(kudos: float, size: float, n: int = 1) -> int:
    """The length of a job that a registered account with these kudos can afford upfront."""
    return max(int((kudos - REGISTERED_FLOOR) * 21 / (size * n)), 0)


def price(max_length: int, max_context_length: int, size: float, n: int = 1) -> float:
    """The cost of a request that runs to its full length, tax included: the result of a dry run."""
    job = max_length * _size_factor(size) * size * _context_factor(max_context_length) / 100
    return (job + TAX) * n + TAX


def counted_tokens(characters: int, max_length: int) -> int:
    """The tokens that a text is billed as: one for four characters, from 20 to `max_length`."""
    return min(max_length, max(20, math.ceil(characters / 4)))


def reward(
    *,
    prompt: int,
    text: int,
    max_length: int,
    size: float | None,
    trusted: bool,
    validated: bool,
) -> float:
    """What a delivered job earns its worker (contract: kobold/processing_generation.py:53-131).

    `prompt` and `text` are lengths in characters. `size` is None for a model that the horde does
    not know; such a model earns next to nothing unless the worker's owner is `trusted`.
    `validated`: the horde trusts the worker's software.
    """
    tokens = counted_tokens(text, max_length)
    context = min(30.0, max(0.1, _context_factor(counted_tokens(prompt, max_length))))
    if size is None:
        return round(tokens * context * 0.027 if trusted else context, 2)
    earned = tokens * _size_factor(size) * size / 125 * context
    return round(earned if validated else earned * 0.3, 2)


def uptime_reward(max_context_length: int, *, size: float | None, validated: bool) -> float:
    """What a text worker earns for `UPTIME_SECONDS` online (horde-api.md, section 4.5).

    `size` is None for a model that the horde does not know; such a worker earns half of the base.
    """
    base = 25 + 15 * min(max_context_length, 262_144) / 1024
    if size is None:
        return round(base * 0.5, 2)
    earned = base * max(0.25, size / 7)
    return round(earned if validated else earned * 0.3, 2)


def _size_factor(size: float) -> float:
    return math.pow(max(size, _TYPICAL_SIZE) / _TYPICAL_SIZE, 0.2)


def _context_factor(length: int) -> float:
    return 1.2 + math.pow(2.2, math.log2(length / 1024))

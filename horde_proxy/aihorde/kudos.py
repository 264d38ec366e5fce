"""What text requests cost and earn, in kudos. Pure numbers in, numbers out; no balances here.

`size` is a model's in billions of parameters, lengths are in tokens.
"""

from __future__ import annotations

import math

from horde_proxy.aihorde.names import size_of

TAX = 1.0
"""A requester pays it once at the submit, and again with each delivered job."""

CENSORED_COST = 1.0
"""A job that the worker censored costs no more than that."""

REGISTERED_FLOOR = 25.0
ANONYMOUS_FLOOR = -50.0
"""A balance never falls below its floor (contract: user.py:522-528)."""

LEAST_FREE = 256
MOST_FREE = 512
"""Bounds of the length that anybody may ask for without owning kudos."""

UPFRONT_WITHOUT_MODEL = 20.0
"""Needed for each result of a long request that names no model (capture err_403_KudosUpfront)."""

_TYPICAL_SIZE = 13.0


def assumed_size(model: str) -> float:
    """Billions of parameters in a model's name, or 13, as the horde assumes without a model.

    The horde itself reads sizes from its model reference and does not publish them.
    """
    return size_of(model) or _TYPICAL_SIZE


def free_length(threads: int, queued: int) -> int:
    """The length of a job that anybody may ask for; it shrinks while the queue is long.

    `threads` and `queued` are `text_thread_count` and `queued_text_requests` of GET
    status/performance (contract: kobold/waiting_prompt.py:97-117).
    """
    return min(max(512 + 5 * threads - round(0.9 * queued), LEAST_FREE), MOST_FREE)


def upfront(max_length: int, size: float, n: int = 1) -> float:
    """The kudos that an account must own before a request beyond the free length is accepted."""
    return round(max_length * size / 21, 2) * n


def affordable_length(kudos: float, size: float, n: int = 1) -> int:
    """The length of a job for which a registered account's kudos suffice upfront."""
    return max(int((kudos - REGISTERED_FLOOR) * 21 / (size * n)), 0)


def price(max_length: int, max_context_length: int, size: float, n: int = 1) -> float:
    """The kudos of a request that runs to its full length, tax included; those of a dry run."""
    job = max_length * _size_factor(size) * size * _context_factor(max_context_length) / 100
    return (job + TAX) * n + TAX


def counted_tokens(characters: int, max_length: int) -> int:
    """The tokens that a text counts for: four characters each, 20 at least."""
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
    not know: it earns next to nothing unless the worker's owner is `trusted`. `validated` is the
    worker's software.
    """
    tokens = counted_tokens(text, max_length)
    context = min(30.0, max(0.1, _context_factor(counted_tokens(prompt, max_length))))
    if size is None:
        return round(tokens * context * 0.027 if trusted else context, 2)
    earned = tokens * _size_factor(size) * size / 125 * context
    return round(earned if validated else earned * 0.3, 2)


def _size_factor(size: float) -> float:
    return math.pow(max(size, _TYPICAL_SIZE) / _TYPICAL_SIZE, 0.2)


def _context_factor(length: int) -> float:
    return 1.2 + math.pow(2.2, math.log2(length / 1024))

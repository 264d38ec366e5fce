"""What things cost and earn, in kudos. Pure numbers in, numbers out; no balances here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log2

TAX = 1.0
CENSORED_COST = 1.0
_UNKNOWN_SIZE = 13.0
_UPFRONT_WITHOUT_MODEL = 20.0


def size_of(model: str, sizes: Mapping[str, float]) -> float | None:
    """Return a model's size in billions of parameters, or None when it is not in `sizes`."""
    return sizes.get(model, sizes.get(model.partition("::")[0]))


def largest(models: Iterable[str], sizes: Mapping[str, float]) -> float | None:
    """Return the size of the biggest of the models that are known, in billions, or None."""
    known = (size_of(model, sizes) for model in models)
    return max((size for size in known if size is not None), default=None)


def tokens(characters: int, max_length: int) -> int:
    """Return the tokens that a text of that many characters counts for."""
    return min(max_length, max(20, ceil(characters / 4)))


def reward(
    *,
    prompt: int,
    text: int,
    max_length: int,
    size: float | None,
    trusted: bool,
    validated: bool,
) -> float:
    """Return what a delivered job earns its worker; `prompt` and `text` are characters.

    `size` is the model's in billions, None when unknown; `trusted` is the worker's owner.
    """
    made = tokens(text, max_length)
    context = min(30.0, max(0.1, _context(tokens(prompt, max_length))))
    if size is None:
        return round(made * context * 0.027 if trusted else context, 2)
    earned = made * _bonus(size) * size / 125 * context
    return round(earned if validated else earned * 0.3, 2)


def dry_run(*, max_length: int, max_context_length: int, n: int, size: float | None) -> float:
    """Return what a request would cost, a whole number; an unknown model counts as 13 billion."""
    size = _UNKNOWN_SIZE if size is None else size
    each = max_length * _bonus(size) * size * _context(max_context_length) / 100
    return float(round((each + 1) * n + TAX))


def upfront(*, max_length: int, n: int, models: Iterable[str], sizes: Mapping[str, float]) -> float:
    """Return the kudos that a client must own before a request over the free limit is taken."""
    names = list(models)
    if not names:
        return _UPFRONT_WITHOUT_MODEL * n
    return round(max_length * (largest(names, sizes) or 1.0) / 21, 2) * n


def free_limit(threads: int, queued: int) -> int:
    """Return the tokens that anybody may ask for; fewer when the queue is long (256 to 512)."""
    return min(512, max(256, 512 + 5 * threads - round(0.9 * queued)))


def _bonus(size: float) -> float:
    return float((max(size, 13.0) / 13.0) ** 0.2)


def _context(length: int) -> float:
    return float(1.2 + 2.2 ** log2(length / 1024))

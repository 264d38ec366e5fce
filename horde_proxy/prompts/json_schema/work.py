"""The budget of work for one schema: clients choose schemas, and small ones may cost minutes.

    with limited_work():        the outermost one makes the budget; those within share it
        spend(UNITS)            before each step whose number the schema or the value decides

Steps are counted, not timed, so that the same schema has the same result on every machine. No other
thread sees a budget: it is in a context variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_MOST_UNITS = 20_000
"""Units of about 15 us, so 0.3 s. With two references in each definition, the steps double with
each level. A thousand objects of five properties need 8,000 to be validated."""
_MOST_KEPT = 4_000
"""Errors of about 2 kB that are kept, so 8 MB: `anyOf` keeps those of all its branches."""
_MESSAGE_UNIT = 200
"""Characters of an error's message that count as one more error."""
_MOST_ACTIVE = 80
"""Keywords applied within each other. They must not reach Python's own recursion limit: there the
Rust library with the data of `referencing` would panic, and not raise."""


class TooMuchWork(Exception):
    """The budget is used up. What was asked about the schema stays unknown."""


class _Budget:
    """What is left, and the number of keywords that are being applied within each other."""

    def __init__(self) -> None:
        self.units, self.kept, self.active = _MOST_UNITS, _MOST_KEPT, 0


_budget: ContextVar[_Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited_work() -> Iterator[None]:
    """Within it, everything that is done shares one budget; within another one, that one's."""
    if _budget.get() is not None:
        yield
        return
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def spend(units: int = 1) -> None:
    """Take units from the budget, if there is one. Raises TooMuchWork beyond it."""
    budget = _budget.get()
    if budget is not None:
        budget.units -= units
        if budget.units < 0:
            raise TooMuchWork


def keep(message: str) -> None:
    """Take a kept error with its message from the budget. Raises TooMuchWork beyond it."""
    budget = _budget.get()
    if budget is not None:
        budget.kept -= 1 + len(message) // _MESSAGE_UNIT
        if budget.kept < 0:
            raise TooMuchWork


@contextmanager
def one_level_deeper() -> Iterator[None]:
    """The time in which a keyword is applied. Raises TooMuchWork where too many are."""
    budget = _budget.get()
    if budget is None:
        yield
        return
    if budget.active > _MOST_ACTIVE:
        raise TooMuchWork
    budget.active += 1
    try:
        yield
    finally:
        budget.active -= 1

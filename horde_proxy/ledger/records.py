"""What the ledger's modules hand each other: usage, sums of it, and the store's error. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

Ticket = tuple[str, str, str, str]
"""Day, name of the key, model and endpoint: what usage is counted by."""


class StoreError(Exception):
    """The store cannot do what was asked; the message says why, without its password."""


class DayUsage(NamedTuple):
    """What a key used on a day: tokens of prompts and completions, and kudos."""

    tokens: int = 0
    kudos: float = 0.0

    def plus(self, other: DayUsage) -> DayUsage:
        """Both together."""
        return DayUsage(self.tokens + other.tokens, self.kudos + other.kudos)


@dataclass(frozen=True)
class Usage:
    """What a key used of a model through an endpoint on a day (ISO, UTC).

    `requests` are all, `errors` those of them that failed.
    """

    day: str
    name: str
    model: str
    endpoint: str
    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    kudos: float = 0.0

    @property
    def place(self) -> Ticket:
        """What it is counted by."""
        return self.day, self.name, self.model, self.endpoint

    def plus(self, other: Usage) -> Usage:
        """Both together, at this one's place."""
        return replace(
            self,
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            kudos=self.kudos + other.kudos,
        )


def merged(rows: Iterable[Usage]) -> list[Usage]:
    """One row for each place, in the order of places."""
    found: dict[Ticket, Usage] = {}
    for row in rows:
        before = found.get(row.place)
        found[row.place] = before.plus(row) if before else row
    return [found[place] for place in sorted(found)]


def day_of(now: float) -> str:
    """The UTC day of a time (unix s), e.g. "2026-01-31"."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()

"""Usage records, and sums of them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple


class UsageKey(NamedTuple):
    """What usage is summed by. `day` is a UTC day such as "2026-01-31", `name` the client key's."""

    day: str
    name: str
    model: str
    endpoint: str


class DayUsage(NamedTuple):
    """What a key used on a day: kudos, images, and tokens of prompts and completions together."""

    tokens: int = 0
    kudos: float = 0.0
    images: int = 0

    def plus(self, other: DayUsage) -> DayUsage:
        """The sum of both."""
        return DayUsage(
            self.tokens + other.tokens, self.kudos + other.kudos, self.images + other.images
        )


@dataclass(frozen=True)
class Usage:
    """What a key used of a model through an endpoint on a day (ISO, UTC).

    `requests` counts all, `errors` those of them that failed, `images` the pictures made.
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
    images: int = 0

    @property
    def key(self) -> UsageKey:
        """What these counts are summed by."""
        return UsageKey(self.day, self.name, self.model, self.endpoint)

    def plus(self, other: Usage) -> Usage:
        """The sum of both, under this one's key."""
        return replace(
            self,
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            kudos=self.kudos + other.kudos,
            images=self.images + other.images,
        )


def summed(rows: Iterable[Usage]) -> list[Usage]:
    """One row for each usage key, in the order of the keys."""
    sums: dict[UsageKey, Usage] = {}
    for row in rows:
        before = sums.get(row.key)
        sums[row.key] = before.plus(row) if before else row
    return [sums[key] for key in sorted(sums)]


def day_of(now: float) -> str:
    """The UTC day of a time (unix s), e.g. "2026-01-31"."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()

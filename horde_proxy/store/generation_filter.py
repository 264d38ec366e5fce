"""Which records of answers are wanted, and whether one is. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from horde_proxy.store.generation_record import GenerationRecord

ANSWERED, FAILED = "answered", "failed"
"""Instead of a status: records without, and with an error. A stream that breaks off has status 200.
"""


@dataclass(frozen=True)
class GenerationFilter:
    """What records must have; None: anything.

    `model` is a part of a model's name, in upper or lower case alike. `status` is that of HTTP,
    `outcome` ANSWERED or FAILED. `first` and `last` are Unix times (s) of the requests, both
    included.
    """

    owner: str | None = None
    model: str | None = None
    endpoint: str | None = None
    status: int | None = None
    outcome: str | None = None
    first: float | None = None
    last: float | None = None

    def matches(self, owner: str, record: GenerationRecord) -> bool:
        """Whether a record of this owner is wanted."""
        created = int(record.created)
        model = (self.model or "").casefold()
        return (
            self.owner in (None, owner)
            and model in (record.model or "").casefold()
            and self.endpoint in (None, record.endpoint)
            and self.status in (None, record.status)
            and (self.outcome is None or (record.error is not None) == (self.outcome == FAILED))
            and (self.first is None or created >= self.first)
            and (self.last is None or created <= self.last)
        )

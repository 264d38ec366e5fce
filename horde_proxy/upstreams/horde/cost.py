"""What one answer took on the horde, summed up over all of its requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class AnswerCost:
    """Request ids, workers (name by id), kudos, tokens generated and seconds of one answer.

    `price`: the estimate in kudos at each submit. `guided`: requests for single values of a
    structure.
    """

    request_ids: list[str] = field(default_factory=list)
    workers: dict[str, str] = field(default_factory=dict)
    kudos: float = 0.0
    tokens: int = 0
    price: float = 0.0
    retries: int = 0
    guided: int = 0
    queue_seconds: float = 0.0
    generation_seconds: float = 0.0

    def summary(self, model: str) -> dict[str, Any]:
        """The `horde` object of a completion."""
        return {
            "request_ids": self.request_ids,
            "model": model,
            "workers": [{"id": worker, "name": name} for worker, name in self.workers.items()],
            "kudos": round(self.kudos, 2),
            "price": round(self.price, 2),
            "retries": self.retries,
            **({"guided_requests": self.guided} if self.guided else {}),
            "queue_seconds": round(self.queue_seconds, 3),
            "generation_seconds": round(self.generation_seconds, 3),
        }

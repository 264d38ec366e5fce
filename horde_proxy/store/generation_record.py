"""What is known of an answer afterwards: who gave it, how long it took, what it cost. Pure.

The shape is that of OpenRouter's GET /generation, so that its clients can read it. `horde` has what
only a horde knows. There is no prompt and no text in a record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

_LONGEST_HORDE = 8192
"""Bytes of a `horde` object: that of twenty requests with their workers. Others are foreign."""
_API_TYPES = {"embeddings": "embeddings", "images": "image"}
"""OpenRouter's names of APIs by the first part of a path; all others are "completions"."""


@dataclass(frozen=True)
class GenerationRecord:
    """One answer. Times are in seconds, `created` is Unix time.

    `id` is the answer's own, or the request's where it has none. `endpoint` is the name of the one
    that answered. `first_text` is the time until the first text. `horde` is the `horde` object of
    the answer, None where no horde gave it. `cost` is what the server said in its usage (USD).
    `failed_at` has the endpoint and the model of each attempt that failed before.
    """

    id: str
    request_id: str
    created: float
    path: str
    status: int = 200
    model: str | None = None
    endpoint: str | None = None
    streamed: bool = False
    error: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    images: int | None = None
    seconds: float = 0.0
    first_text: float | None = None
    waited: float | None = None
    generated: float | None = None
    kudos: float | None = None
    cost: float | None = None
    cached_tokens: int | None = None
    failed_at: Sequence[Sequence[str]] = ()
    horde: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as a client gets it."""
        return {
            "id": self.id,
            "upstream_id": None,
            "request_id": self.request_id,
            "created_at": datetime.fromtimestamp(self.created, UTC).isoformat(),
            "model": self.model,
            "provider_name": self.endpoint,
            "api_type": self._api_type(),
            "total_cost": self._total_cost(),
            "usage": self._total_cost(),
            "upstream_inference_cost": None,
            "cache_discount": None,
            "is_byok": False,
            "app_id": None,
            "origin": "",
            "streamed": self.streamed,
            "cancelled": self.error == "client_closed_request",
            "finish_reason": self.finish_reason,
            "native_finish_reason": self.finish_reason,
            "latency": _milliseconds(self.first_text),
            "moderation_latency": None,
            "generation_time": _milliseconds(self.generated or self.seconds),
            "tokens_prompt": self.prompt_tokens,
            "tokens_completion": self.completion_tokens,
            "native_tokens_prompt": self.prompt_tokens,
            "native_tokens_completion": self.completion_tokens,
            "native_tokens_reasoning": None,
            "native_tokens_cached": self.cached_tokens,
            "num_media_prompt": None,
            "num_media_completion": self.images,
            "num_search_results": None,
            "provider_responses": [
                {"provider_name": endpoint, "model": model, "status": None}
                for endpoint, model in self.failed_at
            ],
            "status": self.status,
            "error": self.error,
            "horde": self._horde(),
        }

    def to_text(self) -> str:
        """The record as it is stored."""
        # Not `asdict`, which copies each value: it takes four times as long as all of the writing.
        known = {name: value for name, value in vars(self).items() if value is not None}
        return json.dumps(known, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> GenerationRecord:
        """The record that was stored; what a later version has added is left out."""
        names = {field.name for field in fields(cls)}
        known = {name: value for name, value in json.loads(text).items() if name in names}
        failed_at = tuple(map(tuple, known.pop("failed_at", ())))
        return cls(**known, failed_at=failed_at)

    def _total_cost(self) -> float | None:
        """US dollars; 0 for a horde, which is paid in kudos; None where nothing is known."""
        return 0.0 if self.horde is not None else self.cost

    def _api_type(self) -> str:
        first = self.path.removeprefix("/v1").strip("/").partition("/")[0]
        return _API_TYPES.get(first, "completions")

    def _horde(self) -> dict[str, Any] | None:
        """The `horde` object; its kudos are the last that are known."""
        if self.horde is None:
            return None
        known = {} if self.kudos is None else {"kudos": self.kudos}
        return {"workers": [], "retries": 0, **self.horde, "queue_seconds": self.waited, **known}


def kept_horde(horde: object) -> Mapping[str, Any] | None:
    """A `horde` object of an answer that may be kept; None for another server's, or a huge one."""
    if not isinstance(horde, Mapping):
        return None
    try:
        text = json.dumps(horde)
    except (TypeError, ValueError):
        return None
    return dict(horde) if len(text) <= _LONGEST_HORDE else {}


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(1000 * seconds)

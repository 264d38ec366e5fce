"""What the store of batches gives: batches and lines that have not ended. Imports no SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.protocol.batches import BatchUsage, compact_json, unanswered_line

MOST_RESULT_BYTES = 2_000_000_000
"""Bytes of the results of a batch; its other lines fail then."""


@dataclass(frozen=True)
class StoredBatch:
    """A batch that has not ended.

    `endpoint` is the path that its lines call, such as "/v1/chat/completions". `expires` is Unix
    time (s). Its result files are kept for `result_seconds`; None: as long as any file.
    `result_bytes` is how much the lines that have ended hold. `identity` has the fields of
    api.internal_call.JobIdentity that say for whom the lines are run.
    """

    id: str
    owner: str
    endpoint: str
    input_file_id: str
    status: str
    expires: float
    result_seconds: int | None
    result_bytes: int
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class StoredLine:
    """A line that has not ended. `body` is the JSON of its request."""

    number: int
    custom_id: str
    body: bytes


@dataclass(frozen=True)
class LineResult:
    """How a line ended: a line of a result file, in JSON, and what it used."""

    content: bytes
    has_succeeded: bool
    usage: BatchUsage


def line_id(batch_id: str, number: int) -> str:
    """The id of a line, which is the same after a restart."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{number}"


def unanswered_result(batch_id: str, line: StoredLine, code: str, reason: str) -> LineResult:
    """How a line ends that was not answered, for this reason."""
    content = unanswered_line(line_id(batch_id, line.number), line.custom_id, code, reason)
    return LineResult(compact_json(content), False, BatchUsage())

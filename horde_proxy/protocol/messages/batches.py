"""Anthropic's message batches, translated to and from OpenAI's, which are stored and run. Pure.

    requests -> lines of an input file     facts of a batch -> message_batch
                                           lines of its result files -> results

Source: "Message Batches" in Anthropic's API reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.batches import MOST_LINES, BatchFacts, compact_json
from horde_proxy.protocol.messages.models import Date

ENDPOINT = "/v1/messages"
"""What the lines of a message batch call."""
COUNT = "message_batch_requests"
"""The metadata key of the number of requests, which clients see before the lines are checked."""
_LONGEST_ID = 64
"""Characters of a custom_id, Anthropic's own bound."""
# Why a line was never called, by the code in its line of the error file.
_NEVER_CALLED = {"batch_cancelled": "canceled", "batch_expired": "expired"}


def read_requests(document: Any) -> tuple[bytes, int]:
    """(the lines of an input file, their number) of a body. Raises InvalidRequest."""
    requests = document.get("requests") if isinstance(document, dict) else None
    if not isinstance(requests, list) or not requests:
        raise _wrong("requests", "it must be a list of objects with `custom_id` and `params`")
    if len(requests) > MOST_LINES:
        raise _wrong("requests", f"a batch may have {MOST_LINES:,} requests")
    ids: set[str] = set()
    lines = [_line(request, index, ids) for index, request in enumerate(requests)]
    return b"\n".join(lines), len(lines)


def _line(request: Any, index: int, ids: set[str]) -> bytes:
    place = f"requests.[{index}]"
    request = request if isinstance(request, dict) else {}
    custom_id, params = request.get("custom_id"), request.get("params")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_ID:
        raise _wrong(f"{place}.custom_id", f"it must be a text of 1 to {_LONGEST_ID} characters")
    if custom_id in ids:
        raise _wrong(f"{place}.custom_id", "it is that of an earlier request")
    if not isinstance(params, dict) or not params:
        raise _wrong(f"{place}.params", "it must be the body of a message")
    if params.get("stream"):
        raise _wrong(f"{place}.params.stream", "a batch cannot stream")
    ids.add(custom_id)
    line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": params}
    return compact_json(line)


def message_batch_id(batch_id: str) -> str:
    """Anthropic's id of a batch: "msgbatch_1" for "batch_1"."""
    return f"msg{batch_id}"


def stored_id(message_batch_id: str) -> str:
    """The id under which a batch is stored: "batch_1" for "msgbatch_1"."""
    return message_batch_id.removeprefix("msg")


def message_batch(
    facts: BatchFacts, never_called: Mapping[str, int], date: Date, results: Callable[[str], str]
) -> dict[str, Any]:
    """Anthropic's batch object.

    `never_called` counts the lines that were "canceled" or "expired"; `results` gives the link to
    the results for an id.
    """
    name, has_ended = message_batch_id(facts.id), facts.has_ended
    times = facts.times
    ended = times.completed or times.failed or times.expired or times.cancelled
    cancelled = times.cancelling or times.cancelled
    return {
        "id": name,
        "type": "message_batch",
        "processing_status": _status(facts),
        "request_counts": _counts(facts, never_called),
        "created_at": date(facts.created),
        "expires_at": date(facts.expires),
        "ended_at": date(ended) if has_ended and ended else None,
        "cancel_initiated_at": date(cancelled) if cancelled else None,
        "archived_at": None,
        "results_url": results(name) if has_ended else None,
    }


def _status(facts: BatchFacts) -> str:
    if facts.has_ended:
        return "ended"
    return "canceling" if facts.status == "cancelling" else "in_progress"


def _counts(facts: BatchFacts, never_called: Mapping[str, int]) -> dict[str, int]:
    announced = (facts.metadata or {}).get(COUNT, "")
    total = max(facts.total, int(announced) if announced.isdecimal() else 0)
    canceled, expired = never_called.get("canceled", 0), never_called.get("expired", 0)
    has_ended = facts.has_ended
    # Whose lines were refused as a whole, none of them was called.
    left = max(total - facts.succeeded - facts.failed, 0)
    return {
        "processing": 0 if has_ended else left,
        "succeeded": facts.succeeded,
        "errored": max(facts.failed - canceled - expired, 0) + (left if has_ended else 0),
        "canceled": canceled,
        "expired": expired,
    }


def result_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the results, made from one of a result file."""
    return {"custom_id": line["custom_id"], "result": _result(line)}


def _result(line: Mapping[str, Any]) -> dict[str, Any]:
    error, response = line.get("error"), line.get("response")
    if isinstance(error, Mapping) and error.get("code") in _NEVER_CALLED:
        return {"type": _NEVER_CALLED[error["code"]]}
    body = response.get("body") if isinstance(response, Mapping) else None
    if isinstance(response, Mapping) and response.get("status_code") == 200:
        return {"type": "succeeded", "message": body}
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        return {"type": "errored", "error": {"type": "error", "error": body["error"]}}
    message = error.get("message") if isinstance(error, Mapping) else body
    inner = {"type": "api_error", "message": str(message)}
    return {"type": "errored", "error": {"type": "error", "error": inner}}


def counts_never_called(lines: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many lines of an error file were "canceled" or "expired"."""
    kinds: Iterator[str] = (_result(line)["type"] for line in lines)
    return Counter(kind for kind in kinds if kind != "errored")


def deleted_batch(message_batch_id: str) -> dict[str, Any]:
    """The answer to a deletion."""
    return {"id": message_batch_id, "type": "message_batch_deleted"}


def _wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"`{param}` is not usable: {why}.", param=param[:100], code="invalid_value"
    )

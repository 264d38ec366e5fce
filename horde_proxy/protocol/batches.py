"""OpenAI's batches: input files are checked, results and batch objects are written. Pure.

An input file has one request a line (JSONL). All of it is checked before anything runs, without
holding more of it than one line:

    pieces of bytes -> lines -> InputReader -> BatchLine ...    and `faults`, if there are any

Results are lines as well: those of status 200 go to the output file, all others to the error file.
Clients match them by `custom_id`, for their order is free. tests/test_protocol_batches.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from horde_proxy.errors import InvalidRequest, ProxyError
from horde_proxy.json_reading import TooManyValues, parse_json
from horde_proxy.protocol.files import read_expires_after

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/messages",
    "/v1/responses",
)
"""What the lines of a batch may call."""
MOST_LINES = 50_000
"""Requests of a batch, as OpenAI allows."""
MOST_INPUT_BYTES = 200_000_000
"""Bytes of an input file, as OpenAI allows."""
_LONGEST_CUSTOM_ID = 512
"""Characters, so that an index of 50,000 of them stays small."""
_MOST_FAULTS = 100
"""Faults of an input file that its batch lists: there may be 50,000, one in each line."""
_MOST_METADATA = 16
_LONGEST_METADATA_KEY, _LONGEST_METADATA_VALUE = 64, 512
"""The bounds of metadata in OpenAI's API reference: pairs, and characters of each part."""
_WINDOW = "24h"
WINDOW_SECONDS = 86_400
"""The only completion window that OpenAI has: a batch that has not ended by then expires."""
STEP_JOB, LINE_JOB = "batch", "batch line"
"""The kinds of jobs: a step of a batch as a whole, and one of its lines."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
"""Editors on Windows put it before the first line."""


class UnknownBatch(ProxyError):
    """The client has no batch of this id, whether or not anybody else has."""

    status = 404
    type = "invalid_request_error"

    def __init__(self, batch_id: str) -> None:
        # OpenAI's own words.
        super().__init__(f"No batch found with id '{batch_id[:100]}'.", param="batch_id")


class BatchFault(NamedTuple):
    """What is wrong with an input file, at a line (from 1) or as a whole."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchLine(NamedTuple):
    """One request of a batch. `number` is its line in the input file, `body` is JSON."""

    number: int
    custom_id: str
    body: bytes


@dataclass(frozen=True)
class BatchUsage:
    """Tokens of the lines that have ended; those cached and for reasoning are parts of the sums."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True)
class BatchTimes:
    """When a batch came to its states (Unix seconds); None for those that it did not come to."""

    in_progress: int | None = None
    finalizing: int | None = None
    completed: int | None = None
    failed: int | None = None
    expired: int | None = None
    cancelling: int | None = None
    cancelled: int | None = None


@dataclass(frozen=True)
class BatchFacts:
    """What is known of a batch. Times are Unix seconds.

    `status`: validating, failed, in_progress, finalizing, completed, expired, cancelling or
    cancelled. `result_seconds`: how long its result files are kept, where the client says so.
    """

    id: str
    endpoint: str
    input_file_id: str
    status: str
    created: int
    expires: int
    metadata: Mapping[str, str] | None = None
    result_seconds: int | None = None
    model: str | None = None
    faults: tuple[BatchFault, ...] = ()
    times: BatchTimes = field(default_factory=BatchTimes)
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    usage: BatchUsage = field(default_factory=BatchUsage)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ENDED


ENDED = ("failed", "completed", "expired", "cancelled")
"""The statuses in which nothing more happens."""


@dataclass(frozen=True)
class BatchRequest:
    """What a client wants to have run."""

    input_file_id: str
    endpoint: str
    metadata: Mapping[str, str] | None
    result_seconds: int | None


def read_batch(document: Any) -> BatchRequest:
    """The body of POST /batches. Raises InvalidRequest."""
    if not isinstance(document, Mapping):
        raise InvalidRequest("The request body must be a JSON object.")
    input_file_id = document.get("input_file_id")
    if not isinstance(input_file_id, str) or not input_file_id:
        raise _wrong("input_file_id", "name a file that was uploaded with the purpose `batch`")
    endpoint = document.get("endpoint")
    if endpoint not in ENDPOINTS:
        raise _wrong("endpoint", f"it must be one of {', '.join(ENDPOINTS)}")
    if document.get("completion_window", _WINDOW) != _WINDOW:
        raise _wrong("completion_window", f"it must be `{_WINDOW}`")
    return BatchRequest(
        input_file_id,
        str(endpoint),
        read_metadata(document.get("metadata")),
        read_expires_after(document.get("output_expires_after"), "output_expires_after"),
    )


def read_metadata(value: Any) -> Mapping[str, str] | None:
    """The client's own notes on an object: texts by name. Raises InvalidRequest."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or len(value) > _MOST_METADATA:
        raise _wrong("metadata", f"it must be an object with at most {_MOST_METADATA} texts")
    for name, text in value.items():
        if not isinstance(text, str) or len(text) > _LONGEST_METADATA_VALUE:
            raise _wrong(
                "metadata",
                f"its values must be texts of at most {_LONGEST_METADATA_VALUE} characters",
            )
        if len(name) > _LONGEST_METADATA_KEY:
            raise _wrong(
                "metadata", f"its names must have at most {_LONGEST_METADATA_KEY} characters"
            )
    return dict(value)


def _wrong(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"`{param}` is not usable: {why}.", param=param, code="invalid_value")


class InputReader:
    """Checks the lines of one input file. Read `faults`, `total` and `model` after `lines`.

    `model` is the one that all lines name, otherwise None. `longest` bounds a line (bytes).
    """

    def __init__(self, endpoint: str, longest: int) -> None:
        self.faults: list[BatchFault] = []
        self.total = 0
        self._endpoint, self._longest = endpoint, longest
        # Digests, since 50,000 ids of 512 characters would take 25 MB.
        self._ids: set[bytes] = set()
        self._models: set[str | None] = set()

    @property
    def model(self) -> str | None:
        """The model that all lines name, otherwise None."""
        return next(iter(self._models)) if len(self._models) == 1 else None

    def lines(self, pieces: Iterable[bytes]) -> Iterator[BatchLine]:
        """The lines that are right. A file with any fault is not to be run."""
        for number, content in split_lines(pieces, self._longest):
            self.total += 1
            if self.total > MOST_LINES:
                self._add(BatchFault("too_many_lines", f"It has more than {MOST_LINES:,} lines."))
                return
            line = self._read(number, content)
            if isinstance(line, BatchLine):
                yield line
                continue
            self._add(line)
            if len(self.faults) >= _MOST_FAULTS:
                return
        if not self.total:
            self._add(BatchFault("empty_file", "It has no lines: write one request in each line."))

    def _add(self, fault: BatchFault) -> None:
        self.faults.append(fault)

    def _read(self, number: int, content: bytes | None) -> BatchLine | BatchFault:
        if content is None:
            return BatchFault(
                "line_too_long", f"It has more than {self._longest:,} bytes.", line=number
            )
        try:
            document = parse_json(content)
        except TooManyValues as exc:
            return BatchFault("line_too_long", f"Its JSON is too large: {exc}.", line=number)
        except (ValueError, RecursionError):
            return BatchFault(
                "invalid_json_line", "This line is not parseable as valid JSON.", line=number
            )
        if not isinstance(document, dict):
            return BatchFault("invalid_json_line", "This line is no JSON object.", line=number)
        fault = self._fault_of(document, number)
        if fault is not None:
            return fault
        body = document["body"]
        model = body.get("model")
        self._models.add(model if isinstance(model, str) else None)
        return BatchLine(number, document["custom_id"], compact_json(body))

    def _fault_of(self, document: Mapping[str, Any], line: int) -> BatchFault | None:
        for name in ("custom_id", "method", "url", "body"):
            if document.get(name) in (None, ""):
                code = "missing_required_parameter"
                return BatchFault(code, f"Missing required parameter: '{name}'.", line, name)
        if document["method"] != "POST":
            return BatchFault("invalid_method", "`method` must be POST.", line, "method")
        url = document["url"]
        if not isinstance(url, str) or url.rstrip("/") not in _ways_to_write(self._endpoint):
            text = f"`url` must be the endpoint of the batch, {self._endpoint}."
            return BatchFault("mismatched_url", text, line, "url")
        return self._fault_of_body(document["body"], line) or self._fault_of_id(
            document["custom_id"], line
        )

    def _fault_of_body(self, body: Any, line: int) -> BatchFault | None:
        if not isinstance(body, dict):
            return BatchFault("invalid_type", "`body` must be an object.", line, "body")
        for name, why in (
            ("stream", "a batch cannot stream"),
            ("background", "each line of a batch waits for its answer"),
        ):
            if body.get(name):
                text = f"`{name}` must not be set: {why}."
                return BatchFault("invalid_value", text, line, f"body.{name}")
        return None

    def _fault_of_id(self, custom_id: Any, line: int) -> BatchFault | None:
        if not isinstance(custom_id, str) or len(custom_id) > _LONGEST_CUSTOM_ID:
            text = f"`custom_id` must be a text of at most {_LONGEST_CUSTOM_ID} characters."
            return BatchFault("invalid_value", text, line, "custom_id")
        digest = hashlib.sha256(custom_id.encode("utf-8", "replace")).digest()[:16]
        if digest in self._ids:
            text = "This `custom_id` is that of an earlier line. Give each line one of its own."
            return BatchFault("duplicate_custom_id", text, line, "custom_id")
        self._ids.add(digest)
        return None


def _ways_to_write(endpoint: str) -> tuple[str, str]:
    """The endpoint with and without /v1, as all routes of this proxy have two addresses."""
    return endpoint, endpoint.removeprefix("/v1")


def split_lines(pieces: Iterable[bytes], longest: int) -> Iterator[tuple[int, bytes | None]]:
    """(number from 1, line) of each line that is not blank; None for one that is too long.

    At most `longest` bytes and one piece are held.
    """
    number, rest, is_too_long = 0, b"", False
    for piece in pieces:
        *ended, last = piece.split(b"\n")
        for end in ended:
            number += 1
            line, rest = rest + end, b""
            if is_too_long or len(line) > longest:
                yield number, None
            elif content := _content(line, number):
                yield number, content
            is_too_long = False
        rest += last
        if len(rest) > longest:
            rest, is_too_long = b"", True
    if is_too_long:
        yield number + 1, None
    elif content := _content(rest, number + 1):
        yield number + 1, content


def _content(line: bytes, number: int) -> bytes:
    return (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).strip()


def compact_json(value: Any) -> bytes:
    """A value as JSON in one line."""
    return json.dumps(value, separators=(",", ":")).encode()


def result_line(
    line_id: str, custom_id: str, status: int, request_id: str, body: Any
) -> dict[str, Any]:
    """A line of a result file: the answer to one request, with the answer's status and body."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return {"id": line_id, "custom_id": custom_id, "response": response, "error": None}


def unanswered_line(line_id: str, custom_id: str, code: str, message: str) -> dict[str, Any]:
    """A line of the error file, for a request that was never answered."""
    error = {"code": code, "message": message}
    return {"id": line_id, "custom_id": custom_id, "response": None, "error": error}


def usage_of(body: Any) -> BatchUsage:
    """The tokens that an answer says it used, in the words of chats or of responses."""
    usage = body.get("usage") if isinstance(body, Mapping) else None
    if not isinstance(usage, Mapping):
        return BatchUsage()
    return BatchUsage(
        _count(usage, "input_tokens", "prompt_tokens"),
        _detail(usage, "cached_tokens", "input_tokens_details", "prompt_tokens_details"),
        _count(usage, "output_tokens", "completion_tokens"),
        _detail(usage, "reasoning_tokens", "output_tokens_details", "completion_tokens_details"),
    )


def _detail(usage: Mapping[str, Any], name: str, *places: str) -> int:
    details = [usage[place] for place in places if isinstance(usage.get(place), Mapping)]
    return _count(details[0], name) if details else 0


def _count(values: Mapping[str, Any], *names: str) -> int:
    """The first of the values that is a count. Other servers' usage may hold anything."""
    for name in names:
        value = values.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40:
            return value
    return 0


def batch_object(facts: BatchFacts) -> dict[str, Any]:
    """OpenAI's batch object."""
    times = facts.times
    faults = [fault._asdict() for fault in facts.faults]
    return {
        "id": facts.id,
        "object": "batch",
        "endpoint": facts.endpoint,
        "model": facts.model,
        "errors": {"object": "list", "data": faults} if faults else None,
        "input_file_id": facts.input_file_id,
        "completion_window": _WINDOW,
        "status": facts.status,
        "output_file_id": facts.output_file_id,
        "error_file_id": facts.error_file_id,
        "created_at": facts.created,
        "in_progress_at": times.in_progress,
        "expires_at": facts.expires,
        "finalizing_at": times.finalizing,
        "completed_at": times.completed,
        "failed_at": times.failed,
        "expired_at": times.expired,
        "cancelling_at": times.cancelling,
        "cancelled_at": times.cancelled,
        "request_counts": {
            "total": facts.total,
            "completed": facts.succeeded,
            "failed": facts.failed,
        },
        "usage": _usage_object(facts.usage),
        "metadata": facts.metadata,
    }


def _usage_object(usage: BatchUsage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }

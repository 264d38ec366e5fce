"""OpenAI's batches and files: input files are checked as a whole, and objects have their shapes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol import files
from horde_proxy.protocol.batches import (
    BatchFacts,
    BatchFault,
    BatchLine,
    BatchTimes,
    BatchUsage,
    InputReader,
    batch_object,
    read_batch,
    result_line,
    split_lines,
    unanswered_line,
    usage_of,
)

CHATS = "/v1/chat/completions"


def line(custom_id: str = "a", **changes: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": []}
    return {"custom_id": custom_id, "method": "POST", "url": CHATS, "body": body, **changes}


def read(*lines: Any) -> tuple[list[BatchLine], list[BatchFault], InputReader]:
    """What a file of these lines has; texts are lines as they are."""
    texts = [text if isinstance(text, str) else json.dumps(text) for text in lines]
    reader = InputReader(CHATS, longest=500)
    return list(reader.lines(["\n".join(texts).encode()])), reader.faults, reader


def test_the_lines_of_a_file_are_its_requests() -> None:
    lines, faults, reader = read(line("a"), line("b", body={"model": "m", "n": 1}))
    assert lines == [
        BatchLine(1, "a", b'{"model":"m","messages":[]}'),
        BatchLine(2, "b", b'{"model":"m","n":1}'),
    ]
    assert (faults, reader.total, reader.model) == ([], 2, "m")


def test_a_file_with_two_models_has_no_model() -> None:
    assert read(line("a"), line("b", body={"model": "other"}))[2].model is None


def test_blank_lines_windows_line_ends_and_a_byte_order_mark_are_tolerated() -> None:
    text = f"\ufeff{json.dumps(line('a'))}\r\n\r\n  \n{json.dumps(line('b'))}\r\n"
    lines, faults, _ = read(text)
    assert [(line.number, line.custom_id) for line in lines] == [(1, "a"), (4, "b")]
    assert faults == []


@pytest.mark.parametrize("url", [CHATS, "/chat/completions", "/v1/chat/completions/"])
def test_the_url_may_be_written_as_routes_may_be_called(url: str) -> None:
    assert read(line(url=url))[1] == []


FAULTS: list[tuple[Any, BatchFault]] = [
    (
        "{",
        BatchFault("invalid_json_line", "This line is not parseable as valid JSON.", 1),
    ),
    ("[]", BatchFault("invalid_json_line", "This line is no JSON object.", 1)),
    (
        {"method": "POST", "url": CHATS, "body": {}},
        BatchFault(
            "missing_required_parameter",
            "Missing required parameter: 'custom_id'.",
            1,
            "custom_id",
        ),
    ),
    (
        {"custom_id": "a", "method": "POST", "url": CHATS},
        BatchFault("missing_required_parameter", "Missing required parameter: 'body'.", 1, "body"),
    ),
    (line(method="GET"), BatchFault("invalid_method", "`method` must be POST.", 1, "method")),
    (
        line(url="/v1/responses"),
        BatchFault(
            "mismatched_url",
            "`url` must be the endpoint of the batch, /v1/chat/completions.",
            1,
            "url",
        ),
    ),
    (line(body=[1]), BatchFault("invalid_type", "`body` must be an object.", 1, "body")),
    (
        line(body={"stream": True}),
        BatchFault(
            "invalid_value", "`stream` must not be set: a batch cannot stream.", 1, "body.stream"
        ),
    ),
    (
        line(body={"background": True}),
        BatchFault(
            "invalid_value",
            "`background` must not be set: each line of a batch waits for its answer.",
            1,
            "body.background",
        ),
    ),
    (
        {**line(), "custom_id": 7},
        BatchFault(
            "invalid_value",
            "`custom_id` must be a text of at most 512 characters.",
            1,
            "custom_id",
        ),
    ),
    ("x" * 501, BatchFault("line_too_long", "It has more than 500 bytes.", 1)),
    ("", BatchFault("empty_file", "It has no lines: write one request in each line.")),
]


@pytest.mark.parametrize(("text", "fault"), FAULTS, ids=[fault.code for _, fault in FAULTS])
def test_a_wrong_line_is_told_with_its_number(text: Any, fault: BatchFault) -> None:
    assert read(text)[1] == [fault]


def test_a_repeated_custom_id_is_refused() -> None:
    _, faults, _ = read(line("a"), line("b"), line("a"))
    assert faults == [
        BatchFault(
            "duplicate_custom_id",
            "This `custom_id` is that of an earlier line. Give each line one of its own.",
            3,
            "custom_id",
        )
    ]


def test_a_hundred_faults_are_told() -> None:
    assert len(read(*["{"] * 300)[1]) == 100


def test_the_bound_of_lines_is_that_of_openai() -> None:
    reader = InputReader(CHATS, longest=500)
    pieces = (json.dumps(line(str(number))).encode() + b"\n" for number in range(50_001))
    assert sum(1 for _ in reader.lines(pieces)) == 50_000
    assert reader.faults == [BatchFault("too_many_lines", "It has more than 50,000 lines.")]


@given(st.lists(st.binary(max_size=30)), st.integers(1, 20))
def test_pieces_may_end_anywhere(lines: list[bytes], size: int) -> None:
    content = b"\n".join(lines)
    pieces = [content[begin : begin + size] for begin in range(0, len(content), size)]
    assert list(split_lines(pieces, 25)) == list(split_lines([content], 25))


@given(st.binary(max_size=200))
def test_any_bytes_are_lines_or_faults(content: bytes) -> None:
    reader = InputReader(CHATS, longest=100)
    assert list(reader.lines([content])) == []
    assert reader.faults


def test_a_batch_is_read() -> None:
    wanted = read_batch(
        {
            "input_file_id": "file-1",
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
            "metadata": {"a": "b"},
            "output_expires_after": {"anchor": "created_at", "seconds": 3600},
        }
    )
    assert (wanted.input_file_id, wanted.endpoint) == ("file-1", "/v1/embeddings")
    assert (wanted.metadata, wanted.result_seconds) == ({"a": "b"}, 3600)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"endpoint": "/v1/videos"}, "endpoint"),
        ({"endpoint": ["x"]}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"output_expires_after": 7}, "output_expires_after"),
    ],
)
def test_a_wrong_batch_names_its_parameter(change: dict[str, Any], param: str) -> None:
    body = {"input_file_id": "file-1", "endpoint": CHATS, "completion_window": "24h", **change}
    with pytest.raises(InvalidRequest) as refused:
        read_batch(body)
    assert refused.value.param == param


def test_lines_of_results_have_openais_shapes() -> None:
    assert result_line("batch_req_1", "a", 200, "r", {"x": 1}) == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "r", "body": {"x": 1}},
        "error": None,
    }
    assert unanswered_line("batch_req_1", "a", "batch_expired", "Too late.") == {
        "id": "batch_req_1",
        "custom_id": "a",
        "response": None,
        "error": {"code": "batch_expired", "message": "Too late."},
    }


_FIELDS = ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after")
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([CHATS, "24h", "created_at"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["anchor", "seconds", "a"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(_VALUES | st.dictionaries(st.sampled_from(_FIELDS), _VALUES))
def test_any_body_is_a_batch_or_a_refusal(body: Any) -> None:
    try:
        wanted = read_batch(body)
    except InvalidRequest as exc:
        assert exc.status == 400
    else:
        assert wanted.endpoint == body["endpoint"]


@given(st.binary(max_size=300))
def test_any_answer_has_a_usage(content: bytes) -> None:
    try:
        body = json.loads(content)
    except ValueError:
        body = {"usage": content.decode("latin-1")}
    assert usage_of(body).input_tokens >= 0


def test_usage_is_read_from_chats_and_responses() -> None:
    chat = {
        "prompt_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens": 5,
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    response = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
    }
    assert usage_of({"usage": chat}) == usage_of({"usage": response}) == BatchUsage(7, 2, 5, 3)
    assert usage_of({"usage": {"prompt_tokens": -1, "output_tokens": "x"}}) == BatchUsage()
    assert usage_of([]) == usage_of({"usage": 7}) == BatchUsage()


def test_a_batch_object_has_all_fields_of_openai() -> None:
    facts = BatchFacts(
        "batch_1",
        CHATS,
        "file-1",
        "completed",
        100,
        86_500,
        model="m",
        times=BatchTimes(in_progress=101, finalizing=102, completed=103),
        error_file_id="file-2",
        total=3,
        failed=3,
        usage=BatchUsage(7, 2, 5, 3),
    )
    assert batch_object(facts) == {
        "id": "batch_1",
        "object": "batch",
        "endpoint": CHATS,
        "model": "m",
        "errors": None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": "completed",
        "output_file_id": None,
        "error_file_id": "file-2",
        "created_at": 100,
        "in_progress_at": 101,
        "expires_at": 86_500,
        "finalizing_at": 102,
        "completed_at": 103,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 3, "completed": 0, "failed": 3},
        "usage": {
            "input_tokens": 7,
            "input_tokens_details": {"cached_tokens": 2},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 12,
        },
        "metadata": None,
    }


def test_the_faults_of_a_file_are_a_list_in_the_batch() -> None:
    facts = BatchFacts("batch_1", CHATS, "f", "failed", 1, 2, faults=(BatchFault("c", "m", 3),))
    assert batch_object(facts)["errors"] == {
        "object": "list",
        "data": [{"code": "c", "message": "m", "line": 3, "param": None}],
    }


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a.jsonl", "a.jsonl"),
        ("C:\\Users\\a.jsonl", "a.jsonl"),
        ("../../a\0b\n", "ab"),
        ("", "file"),
        (None, "file"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_files_name_has_no_folders(sent: str | None, kept: str) -> None:
    assert files.read_filename(sent) == kept


def test_an_unknown_purpose_is_refused() -> None:
    assert files.read_purpose("vision") == "vision"
    for value in (None, "", "batch_output", ["batch"]):
        with pytest.raises(InvalidRequest):
            files.read_purpose(value)

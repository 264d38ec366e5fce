"""`horde-proxy batch`: upload, progress, results in files, and what is said about failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import responses
from click.testing import CliRunner, Result
from requests import ConnectionError

from horde_proxy.commands import batch
from horde_proxy.commands.cli import main

BASE = "http://proxy.test/v1"
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(batch, "_LOOK_SECONDS", 0)
    Path("in.jsonl").write_text(f"\n{json.dumps(LINE)}\n")


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["batch", *arguments, "--url", BASE], env=environment)


def state(status: str, completed: int = 0, failed: int = 0, **files: str) -> dict[str, Any]:
    return {
        "id": "batch_1",
        "created_at": 1_700_000_000,
        "status": status,
        "request_counts": {"total": 3, "completed": completed, "failed": failed},
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
        **files,
    }


def serve(*states: Any) -> tuple[responses.BaseResponse, responses.BaseResponse]:
    """A proxy with a batch that goes through these states. The calls that begin it."""
    uploaded = responses.post(f"{BASE}/files", json={"id": "file-1"})
    begun = responses.post(f"{BASE}/batches", json=state("validating"))
    for answer in states:
        content = {"body": answer} if isinstance(answer, Exception) else {"json": answer}
        responses.get(f"{BASE}/batches/batch_1", **content)
    responses.get(f"{BASE}/files/file-out/content", body=b'{"n":1}\n')
    responses.get(f"{BASE}/files/file-err/content", body=b'{"n":2}\n')
    return uploaded, begun


@responses.activate(assert_all_requests_are_fired=False)
def test_a_file_is_run_and_its_answers_are_written() -> None:
    uploaded, begun = serve(
        state("validating"),
        state("in_progress", 1),
        ConnectionError("restarting"),
        state("in_progress", 1),
        state("completed", 3, output_file_id="file-out"),
    )
    result = run("run", "in.jsonl", "--key-env", "MY_KEY", MY_KEY="secret")
    assert result.exit_code == 0, result.output
    assert result.stdout == "in.output.jsonl\n"
    assert result.stderr.splitlines() == [
        "batch_1 goes on when this command ends: horde-proxy batch wait batch_1",
        "validating: 0 of 3 answered",
        "in_progress: 1 of 3 answered",
        "completed: 3 of 3 answered",
    ]
    assert Path("in.output.jsonl").read_bytes() == b'{"n":1}\n'
    form = uploaded.calls[0].request
    assert form.headers["Authorization"] == "Bearer secret"
    assert b'name="purpose"\r\n\r\nbatch' in (form.body or b"")
    assert json.loads(begun.calls[0].request.body or "") == {
        "input_file_id": "file-1",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }


@responses.activate(assert_all_requests_are_fired=False)
def test_what_failed_is_beside_it_and_the_command_fails() -> None:
    serve(state("completed", 2, 1, output_file_id="file-out", error_file_id="file-err"))
    result = run("run", "in.jsonl", "-o", "out.jsonl")
    assert result.exit_code == 1
    assert result.stdout == "out.jsonl\nout.jsonl.errors.jsonl\n"
    assert "batch_1 is completed: 2 of 3 requests were answered, 1 failed" in result.stderr
    assert Path("out.jsonl.errors.jsonl").read_bytes() == b'{"n":2}\n'


@responses.activate(assert_all_requests_are_fired=False)
def test_a_wrong_input_is_told_by_its_lines() -> None:
    faults = [
        {"line": 2, "message": "This line is no JSON object."},
        {"line": None, "message": "x"},
    ]
    serve({**state("failed"), "errors": {"data": faults}})
    result = run("run", "in.jsonl")
    assert result.exit_code == 1
    assert "nothing ran:\nline 2: This line is no JSON object.\nx" in result.stderr


@responses.activate(assert_all_requests_are_fired=False)
def test_a_batch_is_waited_for_again_by_its_id() -> None:
    serve(state("completed", 3, output_file_id="file-out"))
    assert run("wait", "batch_1").stdout == "batch_1.output.jsonl\n"
    result = run("wait", "batch_1")
    assert result.exit_code == 1
    assert "batch_1.output.jsonl exists: name another file, or use --force" in result.stderr
    assert run("wait", "batch_1", "--force").exit_code == 0


@responses.activate
def test_nothing_is_begun_where_the_answers_would_overwrite_a_file() -> None:
    Path("in.output.jsonl").touch()
    assert run("run", "in.jsonl").exit_code == 1


@responses.activate
def test_a_file_without_requests_is_told() -> None:
    Path("in.jsonl").write_text("x\n")
    result = run("run", "in.jsonl")
    assert "the first line of in.jsonl has no `url`" in result.stderr


@responses.activate
def test_batches_are_listed() -> None:
    responses.get(f"{BASE}/batches", json={"data": [state("in_progress", 1, 1)]})
    heading, row = run("list").stdout.splitlines()
    assert heading.split() == ["BATCH", "BEGUN", "STATUS", "ANSWERED", "FAILED", "OF"]
    assert [row.split()[0], *row.split()[3:]] == ["batch_1", "in_progress", "1", "1", "3"]


@responses.activate
def test_a_batch_is_cancelled() -> None:
    responses.post(f"{BASE}/batches/batch_1/cancel", json=state("cancelling"))
    assert run("cancel", "batch_1").stdout == "batch_1 is cancelling\n"


@responses.activate
def test_a_refusal_is_told_with_the_variable_of_the_key() -> None:
    responses.get(f"{BASE}/batches", status=401, json={"error": {"message": "Wrong key."}})
    result = run("list", "--key-env", "MY_KEY")
    assert result.stderr == "Error: Wrong key. This command sends the key that MY_KEY holds.\n"

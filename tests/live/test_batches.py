"""Batches over real processes: a proxy that is killed, the openai package, the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.postgresql import Postgresql, needs_postgresql
from tests.live.processes import KEY, Processes, until

CHATS = "/v1/chat/completions"
LINES = 500


def input_file(folder: Path, count: int) -> Path:
    """A file of so many chats, each with another message."""
    lines = [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": CHATS,
            "body": {
                "model": "echo",
                "messages": [{"role": "user", "content": f"I am {number}."}],
                "max_tokens": 40,
            },
        }
        for number in range(count)
    ]
    file = folder / "in.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def serve(processes: Processes, horde: str, database: str) -> tuple[str, subprocess.Popen[bytes]]:
    """A proxy in front of a horde, once it knows the horde's model."""
    proxy, process = processes.serve(
        horde__url=horde, horde__validated_backends="false", store__database=database
    )
    until(lambda: "echo" in requests.get(f"{proxy}/v1/models", timeout=60).text)
    return proxy, process


def begun(url: str, file: Path) -> str:
    """The id of a new batch."""
    with file.open("rb") as content:
        uploaded = requests.post(
            f"{url}/v1/files", data={"purpose": "batch"}, files={"file": content}, timeout=60
        ).json()
    body = {"input_file_id": uploaded["id"], "endpoint": CHATS, "completion_window": "24h"}
    batch_id: str = requests.post(f"{url}/v1/batches", json=body, timeout=60).json()["id"]
    return batch_id


def state(url: str, batch_id: str) -> Any:
    return requests.get(f"{url}/v1/batches/{batch_id}", timeout=60).json()


def until_answered(url: str, batch_id: str, count: int) -> None:
    until(lambda: state(url, batch_id)["request_counts"]["completed"] >= count, 240)


def results(url: str, file_id: str) -> list[Any]:
    content = requests.get(f"{url}/v1/files/{file_id}/content", timeout=60).content
    return [json.loads(line) for line in content.splitlines()]


def submitted(horde: str) -> int:
    """The requests for texts that the horde has taken from the proxy."""
    user = requests.get(f"{horde}/api/v2/find_user", headers={"apikey": KEY}, timeout=60).json()
    count: int = user["records"]["request"]["text"]
    return count


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a server with all of its processes, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_through_kills(processes: Processes, database: str, file: Path) -> None:
    """A batch whose proxy is killed twice has each answer once, asked of the horde once."""
    horde = processes.serve_horde()
    # Ten answers a second: most lines that run wait for a worker when the proxy is killed.
    processes.work(horde, "--delay", "0.1")
    proxy, process = serve(processes, horde, database)
    batch_id = begun(proxy, file)
    for done in (LINES // 5, LINES // 2):
        until_answered(proxy, batch_id, done)
        kill(process)
        proxy, process = serve(processes, horde, database)
    until(lambda: state(proxy, batch_id)["status"] == "completed", 240)
    ended = state(proxy, batch_id)
    assert ended["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert ended["error_file_id"] is None
    answers = results(proxy, ended["output_file_id"])
    assert Counter(answer["custom_id"] for answer in answers) == {
        f"line-{number}": 1 for number in range(LINES)
    }
    # A kill may come between a horde's answer to a submit and the id's way into the database.
    assert LINES <= submitted(horde) <= LINES + 4


def test_a_batch_survives_kills_of_its_proxy(processes: Processes, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/store.db"
    run_through_kills(processes, database, input_file(tmp_path, LINES))


@needs_postgresql
def test_a_batch_in_postgresql_survives_them_as_well(
    processes: Processes, postgresql: Postgresql, tmp_path: Path
) -> None:
    run_through_kills(processes, postgresql.new_database(), input_file(tmp_path, LINES))


def test_people_pass_a_batch(processes: Processes, tmp_path: Path) -> None:
    horde = processes.serve_horde()
    processes.work(horde)
    database = f"sqlite:///{tmp_path}/store.db"
    proxy, _ = serve(processes, horde, database)
    batch_id = begun(proxy, input_file(tmp_path, LINES))
    until_answered(proxy, batch_id, 5)
    chat = {"model": "echo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16}
    assert requests.post(f"{proxy}{CHATS}", json=chat, timeout=120).ok
    assert state(proxy, batch_id)["request_counts"]["completed"] < LINES
    cancelled = requests.post(f"{proxy}/v1/batches/{batch_id}/cancel", timeout=60)
    assert cancelled.json()["status"] == "cancelling"
    until(lambda: state(proxy, batch_id)["status"] == "cancelled")


def test_the_openai_package_and_the_command_run_batches(
    processes: Processes, tmp_path: Path
) -> None:
    openai = pytest.importorskip("openai")
    horde = processes.serve_horde(store__database=f"sqlite:///{tmp_path}/store.db")
    processes.work(horde)
    client = openai.OpenAI(base_url=f"{horde}/v1", api_key="any")
    file = input_file(tmp_path, 3)
    with file.open("rb") as content:
        uploaded = client.files.create(
            file=content,
            purpose="batch",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    assert uploaded.expires_at == uploaded.created_at + 3600
    batch = client.batches.create(
        input_file_id=uploaded.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"run": "1"},
    )
    batch = until(lambda: _ended(client.batches.retrieve(batch.id)))
    assert (batch.status, batch.request_counts.completed) == ("completed", 3)
    assert batch.usage is not None
    lines = client.files.content(batch.output_file_id).text.splitlines()
    assert {json.loads(line)["custom_id"] for line in lines} == {"line-0", "line-1", "line-2"}
    assert batch.output_file_id in [listed.id for listed in client.files.list()]
    assert [listed.id for listed in client.batches.list(limit=1)] == [batch.id]
    assert client.files.delete(uploaded.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(uploaded.id)

    command = [sys.executable, "-m", "horde_proxy", "batch", "run", str(file)]
    ended = subprocess.run(
        [*command, "--url", f"{horde}/v1"], capture_output=True, text=True, check=False, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    assert len((tmp_path / "in.output.jsonl").read_text().splitlines()) == 3


def _ended(batch: Any) -> Any:
    return batch if batch.status in ("completed", "failed") else None


def test_the_anthropic_package_runs_message_batches(processes: Processes, tmp_path: Path) -> None:
    anthropic = pytest.importorskip("anthropic")
    horde = processes.serve_horde(store__database=f"sqlite:///{tmp_path}/store.db")
    processes.work(horde)
    client = anthropic.Anthropic(base_url=horde, api_key="any")
    messages = [{"role": "user", "content": "Hi"}]
    params = {"model": "echo", "max_tokens": 16, "messages": messages}
    batches = client.messages.batches
    batch = batches.create(requests=[{"custom_id": "a", "params": params}])
    until(lambda: batches.retrieve(batch.id).processing_status == "ended")
    [answer] = list(batches.results(batch.id))
    assert (answer.custom_id, answer.result.type) == ("a", "succeeded")
    assert answer.result.message.content[0].text == "Hi"
    assert [listed.id for listed in batches.list()] == [batch.id]
    assert batches.delete(batch.id).type == "message_batch_deleted"

"""Stored answers of a proxy that is killed: found again by their owner, byte for byte."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.live.processes import KEY, Processes, until

MODEL = "horde-proxy/echo"


@pytest.mark.timeout(300)
def test_answers_are_found_after_a_kill_and_gone_on_with(
    processes: Processes, tmp_path: Path
) -> None:
    horde = processes.serve_horde(access__mode="open")
    processes.work(horde, "--name", "one", "--max-length", "512")

    def serve() -> tuple[str, Any]:
        return processes.serve(
            horde__url=horde,
            horde__api_key=KEY,
            horde__validated_backends="false",
            store__database=f"sqlite:///{tmp_path}/store.db",
        )

    url, process = serve()
    until(lambda: MODEL in requests.get(f"{url}/v1/models", timeout=60).text)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    conversation = client.conversations.create().id
    client.responses.create(model=MODEL, input="First.", conversation=conversation)
    body = {"model": MODEL, "input": "Say roses.", "stream": True}
    stream = requests.post(f"{url}/v1/responses", json=body, timeout=60).content
    events = [block for block in stream.split(b"\n\n") if block and not block.startswith(b":")]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)

    url, _ = serve()
    until(lambda: MODEL in requests.get(f"{url}/v1/models", timeout=60).text)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)
    response_id = stream.partition(b'"id":"resp_')[2].partition(b'"')[0].decode()
    path = f"{url}/v1/responses/resp_{response_id}?stream=true"
    replay = requests.get(path, timeout=60).content
    assert replay == b"".join(event + b"\n\n" for event in events)
    fetched = client.responses.retrieve(f"resp_{response_id}")
    assert fetched.status == "completed"
    second = client.responses.create(model=MODEL, input="Go on.", previous_response_id=fetched.id)
    assert second.status == "completed"
    client.responses.create(model=MODEL, input="Second.", conversation=conversation)
    assert len(list(client.conversations.items.list(conversation))) == 4

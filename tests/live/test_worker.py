"""A worker of a settings file as a process: its page, its drain, and how it gives way."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.processes import KEY, Processes, free_port, until

MODEL = "some-8b"


class FakeLlama(ThreadingHTTPServer):
    """llama.cpp with two slots. `seconds` is what a completion takes, `others` run besides ours."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _LlamaHandler)
        self.seconds, self.others = 0.0, 0
        self.running, self.hung_up = 0, list[float]()
        self.bodies: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _LlamaHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeLlama

    def do_GET(self) -> None:
        busy = self.server.running + self.server.others
        answers: dict[str, Any] = {
            "/v1/models": {"data": [{"id": MODEL, "owned_by": "llamacpp"}]},
            "/props": {"total_slots": 2, "default_generation_settings": {"n_ctx": 8192}},
            "/slots": [{"id": 0, "is_processing": busy > 0}, {"id": 1, "is_processing": busy > 1}],
            "/health": {"status": "ok"},
        }
        self.answer(answers.get(self.path))

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.bodies.append(json.loads(self.rfile.read(length)))
        self.server.running += 1
        try:
            deadline = time.monotonic() + self.server.seconds
            while (left := deadline - time.monotonic()) > 0:
                # A client that sends nothing more is readable only once it has gone.
                if select.select([self.connection], [], [], left)[0]:
                    self.server.hung_up.append(time.monotonic())
                    self.close_connection = True
                    return
        finally:
            self.server.running -= 1
        self.answer({"choices": [{"text": "Hello."}]})

    def answer(self, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(200 if document is not None else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def llama() -> Iterator[FakeLlama]:
    server = FakeLlama()
    yield server
    server.shutdown()
    server.server_close()


def employ(
    processes: Processes, tmp_path: Path, llama: FakeLlama, horde: str
) -> tuple[str, subprocess.Popen[bytes]]:
    """A worker for a horde that is down and for ours: (the URL of its page, its process)."""
    page = f"127.0.0.1:{free_port()}"
    path = tmp_path / "worker.toml"
    path.write_text(
        f"""
[[hordes]]
url = "http://127.0.0.1:{free_port()}"
api_key = "another-key"
[[hordes]]
url = "{horde}"
name = "attic"
idle = 0.05
[[backends]]
url = "{llama.url}"
[idle]
others = true
abort = true
resume_after = 0.5
[worker]
drain = 600
status = "{page}"
"""
    )
    worker = processes.start("worker", "--config", str(path))
    until(lambda: MODEL in requests.get(f"{horde}/v1/models", timeout=60).text)
    return f"http://{page}", worker


def submit(horde: str) -> str:
    body = {"prompt": "Once", "params": {"max_length": 80, "rep_pen": 1.1}, "models": [MODEL]}
    answer = requests.post(
        f"{horde}/api/v2/generate/text/async", json=body, headers={"apikey": KEY}, timeout=60
    )
    return str(answer.json()["id"])


def status(horde: str, request_id: str) -> dict[str, Any]:
    answer = requests.get(f"{horde}/api/v2/generate/text/status/{request_id}", timeout=60)
    document: dict[str, Any] = answer.json()
    return document


def test_a_worker_of_a_file_does_jobs_and_shows_them_on_its_page(
    processes: Processes, tmp_path: Path, llama: FakeLlama
) -> None:
    horde = processes.serve_horde()
    page, _ = employ(processes, tmp_path, llama, horde)
    request_id = submit(horde)
    until(lambda: status(horde, request_id)["done"])
    generations = status(horde, request_id)["generations"]
    assert [(one["text"], one["worker_name"]) for one in generations] == [("Hello.", "attic")]
    assert llama.bodies[0]["repeat_penalty"] == 1.1
    [worker] = requests.get(f"{horde}/api/v2/workers?type=text", timeout=60).json()
    assert (worker["threads"], worker["max_context_length"]) == (2, 8192)
    document = until(lambda: _with_jobs(page))
    assert [(one["jobs"], one["failing"]) for one in document["hordes"]] in (
        [({"ok": 1}, False), ({}, True)],
        [({}, True), ({"ok": 1}, False)],
    )
    metrics = requests.get(f"{page}/metrics", timeout=60).text
    assert f'horde_worker_jobs_total{{horde="{horde}",state="ok"}} 1.0' in metrics


def _with_jobs(page: str) -> Any:
    document = requests.get(f"{page}/status", timeout=60).json()
    return document if any(horde["jobs"] for horde in document["hordes"]) else None


def test_a_signal_lets_a_job_end(processes: Processes, tmp_path: Path, llama: FakeLlama) -> None:
    horde = processes.serve_horde()
    _, worker = employ(processes, tmp_path, llama, horde)
    llama.seconds = 2.0
    first = submit(horde)
    until(lambda: llama.running)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert status(horde, first)["generations"][0]["text"] == "Hello."
    assert not llama.hung_up


def test_a_second_signal_gives_a_job_back_at_once(
    processes: Processes, tmp_path: Path, llama: FakeLlama
) -> None:
    horde = processes.serve_horde()
    _, worker = employ(processes, tmp_path, llama, horde)
    llama.seconds = 300.0
    request_id = submit(horde)
    until(lambda: llama.running)
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)
    # Two signals at the same moment may be one.
    time.sleep(0.5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    until(lambda: llama.hung_up)
    assert status(horde, request_id)["waiting"] == 1


def test_a_job_is_given_back_when_others_need_the_backend_and_done_later(
    processes: Processes, tmp_path: Path, llama: FakeLlama
) -> None:
    horde = processes.serve_horde()
    page, _ = employ(processes, tmp_path, llama, horde)
    llama.seconds = 300.0
    request_id = submit(horde)
    until(lambda: llama.running)
    llama.others = 1
    until(lambda: llama.hung_up)
    until(lambda: status(horde, request_id)["waiting"] == 1)
    # The thread that pops writes this down, some time after the job was given back.
    held = until(lambda: requests.get(f"{page}/status", timeout=60).json()["held"])
    assert held == {MODEL: "others use the backend"}
    llama.seconds, llama.others = 0.0, 0
    until(lambda: status(horde, request_id)["done"])
    assert status(horde, request_id)["generations"][0]["text"] == "Hello."

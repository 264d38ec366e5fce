"""Background responses of a proxy that is ended: all end, each once, and none is paid for twice."""

from __future__ import annotations

import base64
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import openai
import pytest
import requests

from horde_proxy.database.engine import Database
from horde_proxy.store.jobs import JobStore
from horde_proxy.store.pruning import Pruner
from horde_proxy.store.responses import ResponseStore
from tests.live.processes import KEY, Processes, until

MODEL = "horde-proxy/echo"
COUNT = 20


class Kept:
    """What the proxies of one test have in common: a horde and a database."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.processes = processes
        self.horde = processes.serve_horde(access__mode="open")
        self.database = f"sqlite:///{folder}/store.db"
        database = Database(self.database, setting="store.database")
        self.responses = ResponseStore(database, Pruner(database, 30))
        self.jobs = JobStore(database)

    def proxy(self) -> tuple[str, Any]:
        return self.processes.serve(
            horde__url=self.horde,
            horde__api_key=KEY,
            horde__validated_backends="false",
            store__database=self.database,
            store__jobs=str(COUNT),
        )

    def submits(self) -> int:
        """Requests that the horde has taken, as it counts them."""
        metrics = requests.get(f"{self.horde}/metrics", timeout=60).text
        counts = re.findall(
            r"^\S+requests_total\{(.*generate/text/async.*)\} (\S+)$", metrics, re.M
        )
        return int(sum(float(count) for labels, count in counts if '"202"' in labels))

    def response(self, response_id: str) -> dict[str, Any]:
        stored = self.responses.get("anybody", response_id)
        assert stored is not None
        return stored.response


def text_of(number: int) -> str:
    return " ".join(f"{number}-{word}" for word in range(20)) + "."


def begin(url: str, number: int, **fields: Any) -> str:
    body = {"model": MODEL, "input": text_of(number), "background": True, "max_output_tokens": 200}
    response = requests.post(f"{url}/v1/responses", json={**body, **fields}, timeout=60)
    assert response.status_code == 200, response.text
    assert response.json()["status"] == "queued"
    return str(response.json()["id"])


def written(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_all_end_once_after_the_proxy_was_ended(
    processes: Processes, tmp_path: Path, sent: signal.Signals
) -> None:
    kept = Kept(processes, tmp_path)
    for name in ("one", "two"):
        processes.work(kept.horde, "--speed", "60", "--max-length", "512", "--name", name)
    url, process = kept.proxy()
    with ThreadPoolExecutor(COUNT) as pool:
        ids = list(pool.map(lambda number: begin(url, number), range(COUNT)))
    until(lambda: kept.submits() == COUNT)
    until(lambda: any(kept.response(name)["status"] == "completed" for name in ids))
    assert any(kept.response(name)["status"] != "completed" for name in ids)
    # The worker process that serves, and its parent.
    os.killpg(process.pid, sent)
    process.wait(60)
    kept.proxy()
    until(lambda: all(kept.response(name)["status"] == "completed" for name in ids), 120)
    assert [written(kept.response(name)) for name in ids] == [text_of(n) for n in range(COUNT)]
    assert kept.submits() == COUNT
    until(lambda: kept.jobs.count("") == 0)


@pytest.mark.timeout(300)
def test_a_second_proxy_goes_on_with_what_the_first_has_begun(
    processes: Processes, tmp_path: Path
) -> None:
    kept = Kept(processes, tmp_path)
    url, first = kept.proxy()
    other, _ = kept.proxy()
    processes.work(kept.horde, "--speed", "30", "--max-length", "512", "--name", "one")
    until(lambda: MODEL in requests.get(f"{url}/v1/models", timeout=60).text)
    ids = [begin(url, number, stream=False) for number in range(4)]
    until(lambda: kept.submits() == len(ids))
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(60)

    def ended() -> bool:
        answers = [requests.get(f"{other}/v1/responses/{name}", timeout=60).json() for name in ids]
        return all(answer["status"] == "completed" for answer in answers)

    until(ended, 120)
    assert [written(kept.response(name)) for name in ids] == [text_of(n) for n in range(4)]
    assert kept.submits() == len(ids)


class Hook(BaseHTTPRequestHandler):
    """Notes what it is sent."""

    received: ClassVar[list[tuple[bytes, dict[str, str]]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((body, dict(self.headers)))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_openais_client_waits_streams_and_checks_webhooks(
    processes: Processes, tmp_path: Path
) -> None:
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    server = HTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = processes.serve_horde(
        store__database=f"sqlite:///{tmp_path}/store.db",
        webhooks__url=f"http://127.0.0.1:{server.server_port}/hook",
        webhooks__secret=secret,
        webhooks__private="true",
    )
    processes.work(url, "--speed", "40")
    client: Any = openai.OpenAI(base_url=f"{url}/v1", api_key="any", webhook_secret=secret)
    events = client.responses.create(model=MODEL, input=text_of(1), background=True, stream=True)
    first = [next(events) for _ in range(2)]
    assert [event.type for event in first] == ["response.created", "response.queued"]
    events.close()
    response_id = first[0].response.id
    until(lambda: client.responses.retrieve(response_id).status == "completed")
    again = client.responses.retrieve(response_id, stream=True, starting_after=1)
    rest = list(again)
    assert rest[0].sequence_number == 2
    assert rest[-1].type == "response.completed"
    assert rest[-1].response.output_text == text_of(1)
    running = client.responses.create(model=MODEL, input=text_of(2), background=True)
    assert client.responses.cancel(running.id).status == "cancelled"
    until(lambda: len(Hook.received) == 2)
    server.shutdown()
    server.server_close()
    posted = [client.webhooks.unwrap(body, headers) for body, headers in Hook.received]
    assert [(event.type, event.data.id) for event in posted] == [
        ("response.completed", response_id),
        ("response.cancelled", running.id),
    ]

"""Several servers with one private horde, in a file or in PostgreSQL, and what kills them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from tests.live.postgresql import Postgresql, needs_postgresql
from tests.live.processes import KEY, Processes, until

HEADERS = {"apikey": KEY}
MODEL = "tests/model"


def call(url: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """(status, JSON) of a call; (0, None) while nothing answers."""
    try:
        answer = requests.request(
            method, f"{url}/api/v2/{path}", json=body, headers=HEADERS, timeout=60
        )
        return answer.status_code, answer.json()
    except (requests.RequestException, ValueError):
        return 0, None


class Servers:
    """Servers on one database; each can be killed and started again."""

    def __init__(self, processes: Processes, database: str) -> None:
        self._processes, self._database = processes, database
        started = [self._start() for _ in range(2)]
        self.urls = [url for url, _ in started]
        self._running = [process for _, process in started]

    def _start(self) -> tuple[str, subprocess.Popen[bytes]]:
        return self._processes.serve(
            private_horde__enabled="true",
            private_horde__api_key=KEY,
            private_horde__database=self._database,
        )

    def kill(self, number: int) -> None:
        """Kill the server with all of its processes, as a power cut would."""
        process = self._running[number]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def start(self, number: int) -> None:
        self.urls[number], self._running[number] = self._start()


class Crowd:
    """Clients and workers of all servers. A worker's text is the id of its job."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._turns = itertools.count()
        self.accepted: list[str] = []
        self.popped: list[str] = []
        self.delivered: list[str] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(f"worker-{number}",)) for number in range(6)
        ]
        for thread in self._threads:
            thread.start()

    def any_url(self) -> str:
        return self._servers.urls[next(self._turns) % len(self._servers.urls)]

    def submit(self, count: int) -> None:
        """Submit so many requests, which are accepted."""
        body = {"prompt": "x", "models": [MODEL], "params": {"max_length": 16}}
        while count:
            status, answer = call(self.any_url(), "POST", "generate/text/async", body)
            if status == 202:
                self.accepted.append(answer["id"])
                count -= 1
            else:
                assert status in (0, 503)

    def _work(self, name: str) -> None:
        while not self._is_over.is_set():
            offer = {"name": name, "models": [MODEL]}
            status, answer = call(self.any_url(), "POST", "generate/text/pop", offer)
            assert status in (0, 200, 503)
            if status != 200 or answer["id"] is None:
                time.sleep(0.05)
                continue
            self.popped.append(answer["id"])
            self._deliver(answer["id"])

    def _deliver(self, job_id: str) -> None:
        result = {"id": job_id, "generation": job_id}
        while not self._is_over.is_set():
            status, answer = call(self.any_url(), "POST", "generate/text/submit", result)
            # A server that is killed may have taken the result without an answer.
            if status == 200 or (status == 400 and answer["rc"] == "DuplicateGen"):
                self.delivered.append(job_id)
                return
            assert status in (0, 503), answer
            time.sleep(0.05)

    def results(self) -> list[str] | None:
        """The text of each request, once all are done."""
        texts = []
        for request_id in self.accepted:
            status, answer = call(self.any_url(), "GET", f"generate/text/status/{request_id}")
            if status != 200 or not answer["done"]:
                return None
            [generation] = answer["generations"]
            texts.append(generation["text"])
        return texts

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def run_crowd(servers: Servers, interrupt: Callable[[], None]) -> None:
    """Every request that was accepted is done once, whatever `interrupt` does meanwhile."""
    crowd = Crowd(servers)
    try:
        crowd.submit(20)
        interrupt()
        crowd.submit(20)
        # A job whose pop was not answered any more is popped again after its 150 s.
        texts = until(crowd.results, 240)
    finally:
        crowd.end()
    assert sorted(texts) == sorted(set(crowd.delivered))
    assert len(texts) == len(set(texts)) == 40
    assert len(crowd.popped) == len(set(crowd.popped))
    status, user = call(servers.urls[0], "GET", "find_user")
    assert status == 200
    assert user["records"]["fulfillment"]["text"] == 40
    assert user["records"]["request"]["text"] >= 40
    assert user["active_generations"] == {"text": []}


def killing(servers: Servers) -> Callable[[], None]:
    def interrupt() -> None:
        servers.kill(0)
        servers.start(0)

    return interrupt


def test_two_servers_with_one_file_lose_nothing_when_one_is_killed(
    processes: Processes, tmp_path: Path
) -> None:
    servers = Servers(processes, f"sqlite:///{tmp_path}/horde.db")
    run_crowd(servers, killing(servers))


@needs_postgresql
def test_two_servers_with_one_postgresql_lose_nothing_when_one_is_killed(
    processes: Processes, postgresql: Postgresql
) -> None:
    servers = Servers(processes, postgresql.new_database())
    run_crowd(servers, killing(servers))


@needs_postgresql
def test_two_servers_go_on_when_postgresql_is_restarted(
    processes: Processes, postgresql: Postgresql
) -> None:
    servers = Servers(processes, postgresql.new_database())

    def interrupt() -> None:
        postgresql.stop()
        status, answer = call(servers.urls[0], "GET", "find_user")
        assert (status, "does not answer" in answer["message"]) == (503, True)
        postgresql.start()

    run_crowd(servers, interrupt)


def test_a_chat_that_waits_is_answered_after_the_server_was_killed(
    processes: Processes, tmp_path: Path
) -> None:
    servers = Servers(processes, f"sqlite:///{tmp_path}/horde.db")
    body = {"prompt": "x", "models": [MODEL], "params": {"n": 2}}
    status, answer = call(servers.urls[0], "POST", "generate/text/async", body)
    assert status == 202
    call(servers.urls[1], "POST", "generate/text/pop", {"name": "w", "models": [MODEL]})
    for number in (0, 1):
        servers.kill(number)
    servers.start(0)
    url, path = servers.urls[0], f"generate/text/status/{answer['id']}"
    _, before = call(url, "GET", path)
    assert (before["waiting"], before["processing"], before["is_possible"]) == (1, 1, True)
    _, popped = call(url, "POST", "generate/text/pop", {"name": "w", "models": [MODEL]})
    call(url, "POST", "generate/text/submit", {"id": popped["id"], "generation": "hi"})
    _, after = call(url, "GET", path)
    assert [found["text"] for found in after["generations"]] == ["hi"]
    _, workers = call(url, "GET", "workers")
    assert [(found["name"], found["requests_fulfilled"]) for found in workers] == [("w", 1)]


@needs_postgresql
def test_a_text_reaches_a_reader_at_the_other_server_before_it_is_saved(
    processes: Processes, postgresql: Postgresql
) -> None:
    servers = Servers(processes, postgresql.new_database())
    worker, reader = servers.urls
    body = {"prompt": "x", "models": [MODEL]}
    request_id = call(worker, "POST", "generate/text/async", body)[1]["id"]
    job_id = call(worker, "POST", "generate/text/pop", {"name": "w", "models": [MODEL]})[1]["id"]
    url = f"{reader}/api/v2/generate/text/stream/{request_id}"
    pieces = ["The", " capital", " of France"]
    with requests.get(url, headers=HEADERS, stream=True, timeout=60) as answer:
        lines = answer.iter_lines(decode_unicode=True)
        assert next(lines) == "event: status"
        for number, piece in enumerate(pieces):
            offset = len("".join(pieces[:number]))
            progress = {"id": job_id, "offset": offset, "text": piece}
            assert call(worker, "POST", "generate/text/progress", progress)[0] == 200
            text = {"index": 0, "offset": offset, "text": piece}
            assert next(line for line in lines if '"text"' in line) == f"data: {json.dumps(text)}"
        call(worker, "POST", "generate/text/submit", {"id": job_id, "generation": "".join(pieces)})
        assert "event: done" in lines

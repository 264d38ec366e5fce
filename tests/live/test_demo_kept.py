"""A demo that keeps its horde in a folder, as a family uses it: people, a kill, a new start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.processes import free_port, until
from tests.live.test_demo import children, is_running

pytestmark = [
    pytest.mark.skipif(not shutil.which("ps"), reason="needs ps"),
    pytest.mark.timeout(600),
]
ECHO = "horde-proxy/echo"
HER_MODEL = "tests/ann"


class KeptDemo:
    """A demo in a folder, which can be killed with all of its processes and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bind = folder, f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.bind}"
        self._demo: subprocess.Popen[bytes] | None = None
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.output = self.folder.parent / "output"
        command = [sys.executable, "-m", "horde_proxy", "demo", "--bind", self.bind]
        with self.output.open("w") as file:
            self._demo = subprocess.Popen(
                [*command, "--model", "ngram", "--keep", str(self.folder)],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(lambda: "Ctrl-C" in self.output.read_text())

    def kill(self) -> None:
        """Kill -9 of all processes, the workers too, as a power cut would."""
        assert self._demo is not None
        pids = {self._demo.pid, *children(self._demo.pid)}
        assert len(pids) >= 3
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self._demo.wait()
        until(lambda: not any(map(is_running, pids)))

    def start_printed_worker(self) -> None:
        """Start the worker whose command the demo printed."""
        lines = self.output.read_text().splitlines()
        [command] = [line for line in lines if line.endswith("--backend echo")]
        self._worker = subprocess.Popen([*command.split(), "--drain", "0", "--idle", "0.05"])

    def end(self) -> None:
        if self._worker is not None:
            self._worker.terminate()
            self._worker.wait(60)
        if self._demo is not None and self._demo.poll() is None:
            self._demo.send_signal(signal.SIGTERM)
            self._demo.wait(60)

    def users(self, *arguments: str) -> Any:
        """The JSON of `horde-proxy users` beside the running demo."""
        database = f"sqlite:///{self.folder}/horde.db"
        done = subprocess.run(
            [sys.executable, "-m", "horde_proxy", "users", *arguments, "--json"],
            env={**os.environ, "HORDE_PROXY_PRIVATE_HORDE__DATABASE": database},
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        return json.loads(done.stdout)

    def call(self, key: str, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a call of the horde, which succeeds."""
        answer = requests.request(
            method, f"{self.url}/api/v2/{path}", json=body, headers={"apikey": key}, timeout=60
        )
        assert answer.ok, answer.text
        return answer.json()

    def submit(self, key: str, model: str) -> str:
        body = {"prompt": "Is it kept?", "models": [model], "params": {"max_length": 16}}
        request_id: str = self.call(key, "POST", "generate/text/async", body)["id"]
        return request_id

    def work(self, key: str) -> None:
        """Pop one job as Ann's worker, and deliver it."""
        offer = {"name": "anns-worker", "models": [HER_MODEL], "bridge_agent": "tests:1:local"}
        job = self.call(key, "POST", "generate/text/pop", offer)
        result = {"id": job["id"], "generation": "It is."}
        self.call(key, "POST", "generate/text/submit", result)

    def texts(self, request_id: str) -> list[str]:
        """What a request brought, once it is done."""
        status = until(lambda: self._done(request_id))
        return [generation["text"] for generation in status["generations"]]

    def _done(self, request_id: str) -> Any:
        status = self.call("0000000000", "GET", f"generate/text/status/{request_id}")
        return status if status["done"] else None


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[KeptDemo]:
    demo = KeptDemo(tmp_path / "kept")
    yield demo
    demo.end()


def records(demo: KeptDemo, key: str) -> dict[str, Any]:
    """What a killed horde must know again: accounts, workers, statistics and kudos."""
    me = demo.call(key, "GET", "find_user")
    workers = demo.call(key, "GET", "workers?name=anns-worker")
    return {
        "users": [(user["username"], user["roles"]) for user in demo.users("list")],
        "me": {field: me[field] for field in ("username", "kudos", "kudos_details", "records")},
        "worker_ids": me["worker_ids"],
        "workers": [(one["id"], one["requests_fulfilled"]) for one in workers],
        "total": demo.call(key, "GET", "stats/text/totals")["total"],
    }


def test_a_killed_demo_answers_the_chat_that_waited_and_knows_its_people(demo: KeptDemo) -> None:
    demo.start()
    owner_key = (demo.folder / "owner.key").read_text()
    assert oct((demo.folder / "owner.key").stat().st_mode)[-3:] == "600"
    invitation = demo.users("invite", "--uses", "1", "--kudos", "100")["invitation"]
    body = {"username": "ann", "invitation": invitation}
    ann = demo.call("0000000000", "POST", "register", body)["api_key"]
    bob = demo.users("add", "bob", "--role", "trusted")["api_key"]
    first = demo.submit(bob, HER_MODEL)
    demo.work(ann)
    assert demo.texts(first) == ["It is."]
    # Nobody serves the model of the first yet; nobody popped the second, either.
    chat, hers = demo.submit(ann, ECHO), demo.submit(bob, HER_MODEL)
    before = records(demo, ann)

    demo.kill()
    demo.start()

    assert records(demo, ann) == before
    assert before["workers"] == [(before["worker_ids"][0], 1)]
    assert {"ann", "bob"} <= {name.partition("#")[0] for name, _ in before["users"]}
    assert (demo.folder / "owner.key").read_text() == owner_key
    demo.call(owner_key, "GET", "find_user")
    # The command that the new demo prints starts a worker for the chat of the old one.
    demo.start_printed_worker()
    assert demo.texts(chat) == ["Is it kept?"]
    demo.work(ann)
    assert demo.texts(hers) == ["It is."]
    assert demo.texts(first) == ["It is."]
    after = records(demo, ann)
    assert after["workers"] == [(before["worker_ids"][0], 2)]
    # An invitation for one was used by Ann, before the kill.
    eve = {**body, "username": "eve"}
    again = requests.post(f"{demo.url}/api/v2/register", json=eve, timeout=60)
    assert (again.status_code, again.json()["rc"]) == (403, "InvalidInvitation")

"""Clients and workers that were made for AI-Horde, on one private horde with workers of our own.

horde-sdk is the real one. The other programs need a browser or a graphics card, so that their
calls are replayed: SillyTavern's are those of its 1.19 (src/endpoints/horde.js and
public/scripts/horde.js), the scribe's have the fields of the captures in tests/data, and those of
KoboldAI Lite and of KoboldCpp's own worker are written from what is known of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.live.client_programs import SCRIPTS, python_packages
from tests.live.processes import Processes, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
OWNER = "live-tests-owner-key22"
ECHO = "horde-proxy/echo"
SCRIBE = "tests/Scribe-8B"
KOBOLD = "koboldcpp/Kobold-1B"
ANONYMOUS = "0000000000"
SAMPLER_ORDER = [6, 0, 1, 3, 4, 2, 5]


class ForeignWorker:
    """A worker of AI-Horde, as its program pops and submits: nothing of ours is in its calls."""

    def __init__(self, url: str, key: str, offer: dict[str, Any], agent: str) -> None:
        self._url, self._offer = f"{url}/api/v2/generate/text", {**offer, "bridge_agent": agent}
        self._headers = {"apikey": key, "Client-Agent": agent}
        self._is_over, self.may_pop = threading.Event(), threading.Event()
        self.may_pop.set()
        self.jobs: list[dict[str, Any]] = []
        self.rewards: list[float] = []
        self.faults: list[str] = []
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._is_over.wait(0.2):
            if not self.may_pop.is_set():
                continue
            job = self._post("pop", self._offer)
            if job and job["id"] is not None:
                self.jobs.append(job)
                text = f"{job['model']} got {job['payload']['prompt']}"
                result = {"id": job["id"], "generation": text, "seed": 0, "state": "ok"}
                self.rewards.append(self._post("submit", result)["reward"])

    def _post(self, path: str, body: Any) -> Any:
        url = f"{self._url}/{path}"
        answer = requests.post(url, json=body, headers=self._headers, timeout=60)
        if answer.status_code != 200:
            self.faults.append(answer.text)
            return None
        return answer.json()

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()


class Village:
    """A private horde with people, a worker of ours, a scribe and KoboldCpp's embedded worker."""

    def __init__(self, processes: Processes, database: Path) -> None:
        self.url = processes.serve(
            private_horde__enabled="true",
            private_horde__api_key=OWNER,
            private_horde__registration="open",
            private_horde__database=f"sqlite:///{database}",
        )[0]
        self.keys = {name: self._register(name) for name in ("ann", "bob", "sam", "kim")}
        processes.work(self.url, "--api-key", self.keys["ann"])
        offer = {"max_length": 512, "max_context_length": 4096, "softprompts": []}
        self.scribe = ForeignWorker(
            self.url,
            self.keys["sam"],
            {
                **offer,
                "name": "sams-scribe",
                "models": [SCRIBE],
                "threads": 1,
                "nsfw": True,
                "priority_usernames": [],
                "amount": 1,
                "require_upfront_kudos": False,
            },
            "AI Horde Worker~aphrodite~kai:27:https://github.com/Haidra-Org/AI-Horde-Worker",
        )
        self.kobold = ForeignWorker(
            self.url,
            self.keys["kim"],
            {**offer, "name": "kims-kobold", "models": [KOBOLD], "priority_usernames": []},
            "KoboldCppEmbedWorker:2:https://github.com/LostRuins/koboldcpp",
        )
        until(lambda: {SCRIBE, KOBOLD, ECHO} == set(self.models()))

    def _register(self, name: str) -> str:
        key: str = self.call("POST", "register", {"username": name}, apikey=ANONYMOUS)["api_key"]
        return key

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The JSON of a call that succeeds."""
        url = f"{self.url}/api/v2/{path}"
        answer = requests.request(method, url, json=body, headers=headers, timeout=60)
        assert answer.ok, answer.text
        return answer.json()

    def models(self) -> list[str]:
        return [model["name"] for model in self.call("GET", "status/models?type=text")]

    def kudos(self, name: str) -> float:
        kudos: float = self.call("GET", "find_user", apikey=self.keys[name])["kudos"]
        return kudos

    def end(self) -> None:
        self.scribe.end()
        self.kobold.end()


@pytest.fixture(scope="module")
def village(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Village]:
    processes = Processes()
    try:
        village = Village(processes, tmp_path_factory.mktemp("village") / "horde.db")
        yield village
        village.end()
        assert village.scribe.faults == village.kobold.faults == []
    finally:
        processes.end()


@pytest.fixture(scope="module")
def horde_sdk() -> Path:
    """A Python of its own with horde-sdk."""
    return python_packages("horde-sdk", ["horde-sdk==0.18.*"]) / "python"


def test_horde_sdk_reads_every_answer_of_the_text_half(village: Village, horde_sdk: Path) -> None:
    done = subprocess.run(
        [str(horde_sdk), str(SCRIPTS / "horde_sdk_client.py"), village.keys["bob"], ECHO],
        env={**os.environ, "AI_HORDE_URL": f"{village.url}/api/"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["text"] == "Hello from the SDK"
    assert found["popped"] == "For the worker of the SDK"
    assert (found["own text"], found["reward"] > 0) == ("by the SDK", True)
    assert (found["before cancel"], found["popped after cancel"]) == (1, None)
    assert {"sdk-worker", "sams-scribe", "kims-kobold"} < set(found["workers"])
    assert found["models"] == sorted([ECHO, KOBOLD, SCRIBE, "sdk/model"])
    assert (found["threads"], found["worker name"]) == (4, "sdk-worker")
    assert found["total"] >= 2
    assert {ECHO, "sdk/model"} <= set(found["by model"])
    assert found["user"] == found["same user"] == "bob#3"
    assert found["maintenance"] is True


class SillyTavern:
    """SillyTavern with AI Horde as its source: its settings page, a chat, Stop."""

    def __init__(self, village: Village, key: str) -> None:
        self._village, self._key = village, key
        self._agent = {"Client-Agent": "SillyTavern:1.19.0:Cohee#1207"}

    def connect_without_account(self) -> None:
        """The heartbeat, the models and the workers, as with the anonymous key."""
        self._village.call("GET", "status/heartbeat", **self._agent)
        self.models = self._village.call("GET", "status/models?type=text", **self._agent)
        self.workers = self._village.call("GET", "workers?type=text", **self._agent)

    def connect(self) -> dict[str, Any]:
        """The same, and the key's account, which comes back."""
        self.connect_without_account()
        # It looks whether its key is a shared one, and goes on after any refusal.
        url = f"{self._village.url}/api/v2/sharedkeys/{self._key}"
        assert requests.get(url, headers=self._agent, timeout=60).status_code == 401
        user: dict[str, Any] = self._village.call(
            "GET", "find_user", apikey=self._key, **self._agent
        )
        return user

    def submit(self, prompt: str, model: str) -> str:
        servers = [worker for worker in self.workers if model in worker["models"]]
        params = {
            "gui_settings": False,
            "sampler_order": SAMPLER_ORDER,
            "max_context_length": min(worker["max_context_length"] for worker in servers),
            "max_length": min(120, *(worker["max_length"] for worker in servers)),
            "rep_pen": 1.1,
            "rep_pen_range": 600,
            "rep_pen_slope": 0,
            "temperature": 0.8,
            "tfs": 1,
            "top_a": 0,
            "top_k": 0,
            "top_p": 0.95,
            "min_p": 0,
            "typical": 1,
            "use_world_info": False,
            "singleline": False,
            "stop_sequence": ["\nYou:"],
            "streaming": False,
            "can_abort": False,
            "mirostat": 0,
            "mirostat_tau": 5,
            "mirostat_eta": 0.1,
            "use_default_badwordsids": False,
            "grammar": "",
            "api_server": "",
            "n": 1,
            "frmtadsnsp": False,
            "frmtrmblln": False,
            "frmtrmspch": False,
            "frmttriminc": False,
        }
        body = {"prompt": prompt, "params": params, "trusted_workers": False, "models": [model]}
        headers = {**self._agent, "apikey": self._key}
        answer = self._village.call("POST", "generate/text/async", body, **headers)
        # It takes a key "error" for a failure.
        assert "error" not in answer
        request_id: str = answer["id"]
        return request_id

    def wait(self, request_id: str) -> dict[str, Any]:
        """Its loop over the status; the first result."""
        while True:
            path = f"generate/text/status/{request_id}"
            status = self._village.call("GET", path, **self._agent)
            assert status["faulted"] is False
            # It gives up at once when this is false.
            assert status["is_possible"] is True
            if status["done"] and status["generations"]:
                result: dict[str, Any] = status["generations"][0]
                return result
            assert status["queue_position"] >= 0
            time.sleep(0.2)

    def stop(self, request_id: str) -> dict[str, Any]:
        path = f"generate/text/status/{request_id}"
        status: dict[str, Any] = self._village.call("DELETE", path, **self._agent)
        return status


@pytest.mark.parametrize(
    ("model", "worker", "text"),
    [
        (SCRIBE, "sams-scribe", "tests/Scribe-8B got You: Hi\nBot:"),
        (KOBOLD, "kims-kobold", "koboldcpp/Kobold-1B got You: Hi\nBot:"),
        (ECHO, None, "You: Hi\nBot:"),
    ],
)
def test_sillytavern_chats_with_each_kind_of_worker(
    village: Village, model: str, worker: str | None, text: str
) -> None:
    tavern = SillyTavern(village, village.keys["bob"])
    assert tavern.connect()["username"] == "bob#3"
    result = tavern.wait(tavern.submit("You: Hi\nBot:", model))
    assert (result["text"], result["model"]) == (text, model)
    assert worker in (None, result["worker_name"])


def test_sillytavern_stops_a_chat_that_waits(village: Village) -> None:
    tavern = SillyTavern(village, ANONYMOUS)
    tavern.connect_without_account()
    village.scribe.may_pop.clear()
    request_id = tavern.submit("Never", SCRIBE)
    assert tavern.stop(request_id)["waiting"] == 1
    village.scribe.may_pop.set()
    tavern.wait(tavern.submit("Now", SCRIBE))
    prompts = [job["payload"]["prompt"] for job in village.scribe.jobs]
    assert ("Never" in prompts, "Now" in prompts) == (False, True)


class KoboldLite:
    """KoboldAI Lite in a browser: each call asks first whether its origin may make it."""

    def __init__(self, village: Village, key: str) -> None:
        self._village, self._key = village, key
        self._headers = {"Client-Agent": "KoboldAiLite:17", "Origin": "https://lite.koboldai.net"}

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        url = f"{self._village.url}/api/v2/{path}"
        preflight = {
            "Origin": self._headers["Origin"],
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": "apikey,client-agent,content-type",
        }
        allowed = requests.options(url, headers=preflight, timeout=60).headers
        assert allowed["Access-Control-Allow-Origin"] in ("*", self._headers["Origin"])
        assert method in allowed["Access-Control-Allow-Methods"]
        assert "client-agent" in allowed["Access-Control-Allow-Headers"].lower()
        answer = requests.request(
            method, url, json=body, headers={**self._headers, **headers}, timeout=60
        )
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", self._headers["Origin"])
        assert answer.ok, answer.text
        return answer.json()

    def write(self, prompt: str, models: list[str]) -> dict[str, Any]:
        body = {
            "prompt": prompt,
            "params": {
                "n": 1,
                "max_context_length": 2048,
                "max_length": 120,
                "rep_pen": 1.07,
                "temperature": 0.75,
                "top_p": 0.92,
                "top_k": 100,
                "top_a": 0,
                "typical": 1,
                "tfs": 1,
                "rep_pen_range": 360,
                "rep_pen_slope": 0.7,
                "sampler_order": SAMPLER_ORDER,
                "min_p": 0,
                "dynatemp_range": 0,
                "dynatemp_exponent": 1,
                "smoothing_factor": 0,
                "stop_sequence": ["{{[INPUT]}}", "{{[OUTPUT]}}"],
                "use_default_badwordsids": False,
            },
            "models": models,
            "workers": [],
            "worker_blacklist": False,
            "slow_workers": True,
            "trusted_workers": False,
        }
        request_id = self.call("POST", "generate/text/async", body, apikey=self._key)["id"]
        result: dict[str, Any] = until(lambda: self._done(request_id))
        return result

    def _done(self, request_id: str) -> Any:
        status = self.call("GET", f"generate/text/status/{request_id}")
        return status["generations"] and status["done"] and status["generations"][0]


def test_koboldai_lite_writes_from_a_browser(village: Village) -> None:
    lite = KoboldLite(village, village.keys["bob"])
    names = {model["name"] for model in lite.call("GET", "status/models?type=text")}
    assert {ECHO, KOBOLD, SCRIBE} <= names
    workers = {worker["name"]: worker for worker in lite.call("GET", "workers?type=text")}
    assert workers["kims-kobold"]["max_context_length"] == 4096
    assert lite.call("GET", "status/performance")["text_worker_count"] >= 3
    assert lite.call("GET", "find_user", apikey=village.keys["bob"])["username"] == "bob#3"
    result = lite.write("Once upon", [KOBOLD, SCRIBE])
    assert result["text"] == f"{result['model']} got Once upon"
    assert lite.write("a time", [ECHO])["text"] == "a time"


def test_all_kinds_beside_each_other_leave_each_other_unharmed(village: Village) -> None:
    """Chats through the proxy, streamed ones, and horde clients, at once, on all workers."""
    before = {name: village.kudos(name) for name in village.keys}
    counts = (len(village.scribe.rewards), len(village.kobold.rewards))
    answers: dict[str, str] = {}

    def chat(number: int) -> None:
        body = {
            "model": ECHO,
            "messages": [{"role": "user", "content": f"chat {number}"}],
            "stream": True,
        }
        url = f"{village.url}/v1/chat/completions"
        with requests.post(url, json=body, stream=True, timeout=120) as answer:
            lines = [line[6:] for line in answer.iter_lines() if line.startswith(b"data: {")]
        deltas = [json.loads(line)["choices"][0]["delta"] for line in lines if b"delta" in line]
        answers[f"chat {number}"] = "".join(delta.get("content") or "" for delta in deltas)

    def write(number: int) -> None:
        tavern = SillyTavern(village, village.keys["bob"])
        tavern.connect_without_account()
        model = (SCRIBE, KOBOLD)[number % 2]
        result = tavern.wait(tavern.submit(f"text {number}", model))
        answers[f"text {number}"] = result["text"]

    threads = [threading.Thread(target=chat, args=(number,)) for number in range(5)]
    threads += [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(5):
        assert answers[f"chat {number}"] == f"chat {number}"
    for number in range(6):
        assert answers[f"text {number}"].endswith(f" got text {number}")
    rewards = village.scribe.rewards[counts[0] :], village.kobold.rewards[counts[1] :]
    assert [len(each_worker) for each_worker in rewards] == [3, 3]
    # An untrusted owner has half of it at once, and pays nothing; Bob pays rewards and taxes.
    after = {name: village.kudos(name) for name in village.keys}
    assert after["sam"] > before["sam"]
    assert after["kim"] > before["kim"]
    assert after["ann"] > before["ann"]
    assert after["bob"] <= before["bob"]

"""What measurements share: processes on free loopback ports, a client, and the table of results.

Nothing here says what is measured, and what is good.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests

HOST = "127.0.0.1"
OWNER_KEY, CLIENT_KEY = "bench-owner-key", "bench-client-key"
"""The key that owns all workers, and one that owns none."""
MODEL = "bench/crowd"
_ROOT = Path(__file__).resolve().parent.parent
_HORDE = "-m gunicorn --threads 64 --worker-connections 4000 --keep-alive 60 bench.horde:app"
_BARE = "-m gunicorn --threads 1100 --worker-connections 2000 bench.bare_wait:app"
_SETTINGS = {
    "AI_HORDE_API_KEY": OWNER_KEY,
    "HORDE_PROXY_HORDE__VALIDATED_BACKENDS": "false",
    "HORDE_PROXY_SERVER__PLACES": "1100",
    "HORDE_PROXY_HORDE__ADDRESS_LIMITS": "[]",
    "HORDE_PROXY_HORDE__KEY_LIMITS": "[]",
    "HORDE_PROXY_HORDE__CACHE_TTL": "2",
    "HORDE_PROXY_SERVER__LOOP_LIMIT": "0",
}


class Served(NamedTuple):
    """A server that answers, and the process id of its one gunicorn worker."""

    url: str
    pid: int


class Lab(NamedTuple):
    """What runs during all measurements: a private horde, and the proxy before it."""

    horde: str
    proxy: Served


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process, which is ended after use."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environ},
        cwd=_ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def private_horde() -> Iterator[str]:
    """The URL of a horde that counts its calls: see horde.py."""
    bind = f"{HOST}:{free_port()}"
    with running(*_HORDE.split(), "--bind", bind):
        until_answering(f"http://{bind}/api/v2/status/heartbeat")
        yield f"http://{bind}"


@contextmanager
def crowd(horde: str, name: str, *models: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that stands for many: see crowd.py."""
    with running("-m", "bench.crowd", horde, name, *models) as process:
        until(lambda: is_online(horde, name))
        yield process


@contextmanager
def proxy(horde: str, **environ: str) -> Iterator[Served]:
    bind = f"{HOST}:{free_port()}"
    # Answers of measurements are not stored among those of the one who measures.
    with tempfile.TemporaryDirectory() as state:
        names = {"HORDE_PROXY_HORDE__URL": horde, "XDG_STATE_HOME": state, **_SETTINGS, **environ}
        with running("-m", "horde_proxy", "serve", "--bind", bind, **names) as master:
            until_answering(f"http://{bind}/health/ready")
            yield Served(f"http://{bind}", _worker_of(master))


@contextmanager
def bare_app(horde: str) -> Iterator[Served]:
    """The yardstick of waiting: see bare_wait.py."""
    bind = f"{HOST}:{free_port()}"
    with running(*_BARE.split(), "--bind", bind, HORDE=horde, KEY=OWNER_KEY) as master:
        until_answering(f"http://{bind}/health/live")
        yield Served(f"http://{bind}", _worker_of(master))


def _worker_of(master: subprocess.Popen[bytes]) -> int:
    """The process id of gunicorn's one worker."""
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text()
    return int(children.split()[0])


def until(is_so: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited for {seconds} s in vain")
        time.sleep(0.01)


def until_answering(url: str) -> None:
    def is_answering() -> bool:
        try:
            return requests.get(url, timeout=2).ok
        except requests.RequestException:
            return False

    until(is_answering)


def get(url: str) -> Any:
    """The JSON at a URL."""
    return session().get(url, timeout=30).json()


def is_online(horde: str, worker: str) -> bool:
    workers = get(f"{horde}/api/v2/workers?type=text")
    return any(entry["name"] == worker for entry in workers)


def until_offered(url: str, *models: str) -> None:
    """Wait until the proxy knows all of the models."""

    def is_offered() -> bool:
        entries = get(f"{url}/v1/models").get("data", [])
        return set(models) <= {entry["id"] for entry in entries}

    until(is_offered)


def cpu_and_peak(pid: int) -> tuple[float, float]:
    """(CPU seconds, peak memory in MB) of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return ticks / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


# The client.

_LOCAL = threading.local()


def session() -> requests.Session:
    """This thread's own."""
    if not hasattr(_LOCAL, "session"):
        _LOCAL.session = requests.Session()
        _LOCAL.session.trust_env = False
    own: requests.Session = _LOCAL.session
    return own


class Answer(NamedTuple):
    """Seconds to the first byte, of the whole, without a byte, and from the worker's submit on."""

    first: float
    total: float
    silence: float
    late: float
    request_id: str


def body(seconds: float, stream: bool, model: str = MODEL) -> dict[str, Any]:
    """A chat that the crowd answers after so many seconds; no two share an answer."""
    return {
        "model": model,
        "stream": stream,
        "messages": [{"role": "user", "content": f"wait {seconds}"}],
        "user": uuid.uuid4().hex,
    }


def whole(url: str, seconds: float = 0, model: str = MODEL) -> Answer:
    """A chat in one piece."""
    begin = time.perf_counter()
    chat = body(seconds, False, model)
    answer = session().post(f"{url}/v1/chat/completions", json=chat, timeout=400)
    total = time.perf_counter() - begin
    assert answer.ok, answer.text
    late = time.time() - float(answer.json()["choices"][0]["message"]["content"])
    return Answer(total, total, total, late, answer.headers.get("X-Horde-Request-Id", ""))


def streamed(url: str, seconds: float, model: str = MODEL) -> Answer:
    """A streamed chat."""
    begin, text, line = time.perf_counter(), "", b""
    times = []
    with session().post(
        f"{url}/v1/chat/completions", json=body(seconds, True, model), stream=True, timeout=400
    ) as answer:
        assert answer.ok, answer.text
        for line in answer.iter_lines(chunk_size=1):
            times.append(time.perf_counter() - begin)
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                text += "".join(c["delta"].get("content") or "" for c in event["choices"])
    ended = time.time()
    assert line in (b"", b"data: [DONE]") and text, (line, text)
    silence = max(after - before for before, after in zip([0.0, *times], times, strict=False))
    request_id = answer.headers.get("X-Horde-Request-Id", "")
    return Answer(times[0], times[-1], silence, ended - float(text), request_id)


# The table.

_ROWS: list[tuple[str, str, str]] = []
_MISSED: list[str] = []


def at(values: Sequence[float], share: float) -> float:
    """A quantile: p95 for a share of 0.95."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def row(what: str, measured: str, goal: str = "", *, is_met: bool = True) -> None:
    """A row of the table. A goal that is not met fails the run."""
    if not is_met:
        _MISSED.append(what)
        goal += ", missed"
    _ROWS.append((what, measured, goal))
    print(f"{what}: {measured}", file=sys.stderr)


def print_table() -> int:
    """The exit code of the run: 1 when a goal was missed."""
    print("| measured | result | goal |\n|---|---|---|")
    print("\n".join(f"| {what} | {result} | {goal} |" for what, result, goal in _ROWS))
    return 1 if _MISSED else 0

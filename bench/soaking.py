"""A soak: many mixed requests, and what they leave behind in the process that serves them.

It is measured at rest only: what runs holds memory and descriptors, and must. See soak_requests.py
for the requests, and the script `soak` for how to run it.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import requests

from bench.lab import OWNER_KEY, Served, proxy, running, until
from bench.soak_requests import ADMIN, CLIENT, COOLING_DOWN, Request, requests_with, soak_server

_REST = 4.0
"""Seconds without a request, after which connections that lingered are closed and rows written."""
_SETTLED = 90.0
"""The longest rest: until no chat runs and no job waits."""
_WORKERS = (("--backend", "echo", "--threads", "8"), ("--backend", "painter", "--threads", "2"))
_SEED = 21
_WELL = ("as expected", COOLING_DOWN)


class Level(NamedTuple):
    """What the serving process has at rest, after so many requests. Memory and database in MB."""

    requests: int
    memory: float
    threads: int
    descriptors: int
    database: float


class Soak(NamedTuple):
    """What came of a soak: its levels, the outcomes of each kind of request, and its seconds."""

    levels: Sequence[Level]
    outcomes: Counter[tuple[str, str]]
    seconds: float

    @property
    def unexpected(self) -> dict[tuple[str, str], int]:
        """How often which kind of request ended as it must not."""
        return {key: count for key, count in self.outcomes.items() if key[1] not in _WELL}

    @property
    def middle(self) -> Level:
        """The level after half of the requests: caches are full by then."""
        half = self.levels[-1].requests / 2
        return min(self.levels, key=lambda level: abs(level.requests - half))


@contextmanager
def soaked_proxy() -> Iterator[tuple[Served, Path]]:
    """A proxy with a private horde, workers and a server, and the folder of its databases."""
    with tempfile.TemporaryDirectory() as folder, soak_server() as server:
        settings = {
            "XDG_STATE_HOME": folder,
            "XDG_CACHE_HOME": folder,
            "HORDE_PROXY_ENDPOINTS": json.dumps([{"name": "soak", "url": server}]),
            "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true",
            "HORDE_PROXY_PRIVATE_HORDE__API_KEY": OWNER_KEY,
            "HORDE_PROXY_ACCESS__MODE": "keys",
            "HORDE_PROXY_ACCESS__KEYS": json.dumps({"client": CLIENT, "admin": ADMIN}),
            "HORDE_PROXY_ACCESS__ADMINS": '["admin"]',
        }
        with proxy("http://127.0.0.1:9", **settings) as served:
            yield served, Path(folder)


@contextmanager
def workers(url: str) -> Iterator[None]:
    """The workers of the proxy's horde, once the proxy offers their models."""
    echo, painter = (
        ("-m", "horde_proxy", "worker", "--horde", url, "--idle", "0.05", "--drain", "0", *backend)
        for backend in _WORKERS
    )
    key = {"AI_HORDE_API_KEY": OWNER_KEY}
    with running(*echo, **key), running(*painter, **key):
        until(lambda: {"horde-proxy/echo", "horde-proxy/painter"} <= _models(url))
        yield


def _models(url: str) -> set[str]:
    answer = requests.get(
        f"{url}/v1/models", headers={"Authorization": f"Bearer {CLIENT}"}, timeout=30
    )
    return {entry["id"] for entry in answer.json().get("data", [])}


def soak(count: int, clients: int, seconds: float, steps: int = 10) -> Soak:
    """So many requests of so many clients, or as many as end within so many seconds."""
    with soaked_proxy() as (served, folder), workers(served.url):
        kinds = requests_with("horde-proxy/echo", "horde-proxy/painter")
        # Each kind once, so that what is loaded with the first use counts for the beginning.
        began, outcomes = time.monotonic(), Counter[tuple[str, str]]()
        _send_all(served.url, list(kinds), kinds, outcomes, clients, -1)
        levels = [level(served, folder, 0)]
        drawn = random.Random(_SEED).choices(
            list(kinds), [share for share, _ in kinds.values()], k=count
        )
        for step in range(steps):
            part = drawn[count * step // steps : count * (step + 1) // steps]
            _send_all(served.url, part, kinds, outcomes, clients, step)
            levels.append(level(served, folder, levels[-1].requests + len(part)))
            if time.monotonic() - began > seconds:
                break
        return Soak(levels, outcomes, time.monotonic() - began)


def _send_all(
    url: str,
    names: Sequence[str],
    kinds: dict[str, tuple[int, Request]],
    outcomes: Counter[tuple[str, str]],
    clients: int,
    step: int,
) -> None:
    # Guards the counter only.
    lock = threading.Lock()

    def send(numbered: tuple[int, str]) -> None:
        number, name = numbered
        try:
            outcome = kinds[name][1](url, f"Question {step}-{number}: what does a day do?")
        except (requests.RequestException, OSError, ValueError) as exc:
            outcome = type(exc).__name__
        with lock:
            outcomes[name, outcome] += 1

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send, enumerate(names)))


def level(served: Served, folder: Path, count: int) -> Level:
    """What the process has once nothing runs any more."""
    deadline = time.monotonic() + _SETTLED
    time.sleep(_REST)
    while _is_busy(served.url) and time.monotonic() < deadline:
        time.sleep(0.5)
    status = Path(f"/proc/{served.pid}/status").read_text().splitlines()
    numbers = {name: rest.split()[0] for name, _, rest in _parts(status) if rest.strip()}
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Level(
        count,
        int(numbers["VmRSS"]) / 1024,
        int(numbers["Threads"]),
        len(os.listdir(f"/proc/{served.pid}/fd")),
        size / 1024 / 1024,
    )


def _parts(lines: Sequence[str]) -> list[tuple[str, str, str]]:
    """ "Threads:\t34" in its parts."""
    return [line.partition(":") for line in lines]


def _is_busy(url: str) -> bool:
    answer = requests.get(
        f"{url}/v1/horde/requests", headers={"Authorization": f"Bearer {ADMIN}"}, timeout=30
    )
    return bool(answer.json().get("data"))


def growth(first: float, last: float) -> float:
    """How many times as much there is at the end."""
    return last / first if first else 1.0

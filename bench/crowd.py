"""One worker that stands for many: each job takes the seconds that its prompt asks for.

"wait 3" is answered 3 s after the pop, with the time of the submit as text. It goes on after an
outage of the horde. Usage: crowd.py URL NAME MODEL...
"""

from __future__ import annotations

import heapq
import re
import sys
import threading
import time
from typing import Any

import requests

from bench.lab import OWNER_KEY

WAIT = re.compile(r"wait ([\d.]+)")
"""The last one in a prompt, such as "wait 3.25"."""
AFTER_FAILURE = 0.5
"""Seconds until the next call of a horde that cannot be reached."""


def pop_body(name: str, models: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "models": models,
        "bridge_agent": "bench:1:http://bench.invalid",
        "threads": 50,
        "nsfw": True,
        "max_length": 1024,
        "max_context_length": 8192,
    }


def post(session: requests.Session, url: str, path: str, body: object) -> dict[str, Any]:
    headers = {"apikey": OWNER_KEY, "Client-Agent": "bench:1:http://bench.invalid"}
    url = f"{url}/api/v2/generate/text/{path}"
    answer: dict[str, Any] = session.post(url, json=body, headers=headers, timeout=30).json()
    return answer


class Crowd:
    """Poppers put jobs on a heap, submitters take them off when they are due."""

    def __init__(self, url: str, name: str, models: list[str]) -> None:
        self.url, self.body = url, pop_body(name, models)
        self.due: list[tuple[float, str]] = []
        self.changed = threading.Condition()

    def call(self, session: requests.Session, path: str, body: object) -> dict[str, Any]:
        """Repeated until the horde answers."""
        while True:
            try:
                return post(session, self.url, path, body)
            except requests.RequestException:
                time.sleep(AFTER_FAILURE)

    def pop(self) -> None:
        session = requests.Session()
        while True:
            job = self.call(session, "pop", self.body)
            if not job.get("id"):
                time.sleep(0.01)
                continue
            wait = WAIT.findall(str(job["payload"]["prompt"]))
            with self.changed:
                heapq.heappush(self.due, (time.time() + float(wait[-1]), str(job["id"])))
                self.changed.notify()

    def submit(self) -> None:
        session = requests.Session()
        while True:
            with self.changed:
                while not self.due or self.due[0][0] > time.time():
                    left = self.due[0][0] - time.time() if self.due else None
                    self.changed.wait(left)
                _, job = heapq.heappop(self.due)
            self.call(session, "submit", {"id": job, "generation": f"{time.time():.6f}"})


if __name__ == "__main__":
    crowd = Crowd(sys.argv[1], sys.argv[2], sys.argv[3:])
    for work in (crowd.pop, crowd.pop, crowd.submit, crowd.submit):
        threading.Thread(target=work).start()

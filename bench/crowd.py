"""One worker that stands for many: each job takes the seconds that its prompt asks for.

"wait 3" is answered 3 s after the pop, with the time of the submit as text. Usage: crowd.py URL
"""

from __future__ import annotations

import heapq
import re
import sys
import threading
import time

import requests

KEY = "bench-owner-key"
MODEL = "bench/crowd"
WAIT = re.compile(r"wait ([\d.]+)")
POP = {
    "name": "crowd",
    "models": [MODEL],
    "bridge_agent": "bench:1:http://bench.invalid",
    "threads": 50,
    "nsfw": True,
    "max_length": 1024,
    "max_context_length": 8192,
}


class Crowd:
    """Poppers put jobs on a heap, submitters take them off when they are due."""

    def __init__(self, url: str) -> None:
        self.base = f"{url}/api/v2/generate/text"
        self.due: list[tuple[float, str]] = []
        self.changed = threading.Condition()

    def post(self, session: requests.Session, path: str, body: object) -> dict[str, object]:
        headers = {"apikey": KEY, "Client-Agent": "bench:1:http://bench.invalid"}
        answer = session.post(f"{self.base}/{path}", json=body, headers=headers, timeout=30)
        found: dict[str, object] = answer.json()
        return found

    def pop(self) -> None:
        session = requests.Session()
        while True:
            job = self.post(session, "pop", POP)
            if not job.get("id"):
                time.sleep(0.01)
                continue
            wait = WAIT.findall(str(job["payload"]["prompt"]))  # type: ignore[index]
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
            self.post(session, "submit", {"id": job, "generation": f"{time.time():.6f}"})


if __name__ == "__main__":
    crowd = Crowd(sys.argv[1])
    for work in (crowd.pop, crowd.pop, crowd.submit, crowd.submit):
        threading.Thread(target=work).start()

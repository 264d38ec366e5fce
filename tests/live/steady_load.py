"""Chats at a steady rate through nginx, each sent again where its host was lost, and their counts.

    every 1 / rate s: a thread of the client's machine -> POST, half of them streamed
        answered                      counts as answered, after so many tries
        no answer, 5xx, a cut stream  counts by how it ended; the same chat again 0.5 s later
        not answered after TRIES      counts as lost

A client reads to the end, and takes for an answer only what has a text, a finish_reason, and for a
stream its last line.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import requests

from bench.lab import MODEL

TRIES = 8
"""Of one chat. A client of OpenAI's makes three of them, with longer pauses."""
_PAUSE = 0.5
"""Seconds before the next try."""
_TIMEOUT = 90
"""Seconds without a byte. The proxy sends keep-alives every few seconds."""


@dataclass
class Counts:
    """What became of the chats. `ends` says how each try that failed has ended, by a few words."""

    sent: int = 0
    answered: int = 0
    retried: int = 0
    lost: int = 0
    tries: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


class SteadyLoad:
    """Chats of `seconds` each at `rate` a second, while it is `run`."""

    def __init__(self, url: str, key: str, *, rate: float, seconds: float = 1.0) -> None:
        self._url, self._key = f"{url}/v1/chat/completions", key
        self._rate, self._seconds = rate, seconds
        self.counts = Counts()
        # Guards the counts. No I/O happens under it.
        self._lock = threading.Lock()
        self._local = threading.local()

    def run(self, pool: Executor, length: float, script: Callable[[], None]) -> None:
        """Send chats for `length` seconds while `script` runs beside them, and until it has ended.

        Raises what the script raises. It may take three times as long, and no longer.
        """
        began, chats = time.monotonic(), []
        with ThreadPoolExecutor(1) as beside:
            doing = beside.submit(script)
            for number in range(round(3 * length * self._rate)):
                time.sleep(max(0.0, began + number / self._rate - time.monotonic()))
                if time.monotonic() - began > length and doing.done():
                    break
                with self._lock:
                    self.counts.sent += 1
                chats.append(pool.submit(self._chat, number))
            doing.result()
        for chat in chats:
            chat.result()

    def _chat(self, number: int) -> None:
        body = {
            "model": MODEL,
            "stream": number % 2 == 0,
            "messages": [{"role": "user", "content": f"wait {self._seconds}"}],
            "user": uuid.uuid4().hex,
        }
        began = time.monotonic()
        for attempt in range(1, TRIES + 1):
            end = self._end_of_try(body)
            with self._lock:
                self.counts.tries += 1
                if end == "answered":
                    self.counts.answered += 1
                    self.counts.retried += attempt > 1
                    self.counts.slowest = max(self.counts.slowest, time.monotonic() - began)
                    return
                self.counts.ends[end] += 1
            time.sleep(_PAUSE)
        with self._lock:
            self.counts.lost += 1

    def _end_of_try(self, body: dict[str, Any]) -> str:
        """ "answered", or in a few words how the try has ended."""
        headers = {"Authorization": f"Bearer {self._key}"}
        try:
            with self._session().post(
                self._url, json=body, headers=headers, stream=True, timeout=_TIMEOUT
            ) as answer:
                if not answer.ok:
                    code = answer.json()["error"]["code"]
                    return f"status {answer.status_code} {code}"
                return _end_of_stream(answer) if body["stream"] else _end_of_whole(answer)
        except requests.exceptions.ChunkedEncodingError:
            return "stream cut" if body["stream"] else "answer cut"
        except ValueError:
            return "an error that is no JSON"
        except requests.RequestException as exc:
            return type(exc).__name__

    def _session(self) -> requests.Session:
        """This thread's own."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        own: requests.Session = self._local.session
        return own


def _end_of_whole(answer: requests.Response) -> str:
    choice = answer.json()["choices"][0]
    is_whole = choice["finish_reason"] == "stop" and float(choice["message"]["content"]) > 0
    return "answered" if is_whole else "an answer that is not whole"


def _end_of_stream(answer: requests.Response) -> str:
    text, finish, last = "", None, b""
    for line in answer.iter_lines():
        if line:
            last = line
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if "error" in event:
                return f"stream ended by an error: {event['error']['code']}"
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
                finish = choice["finish_reason"] or finish
    if last != b"data: [DONE]":
        return "stream without its last line"
    return "answered" if finish == "stop" and float(text) > 0 else "a stream that is not whole"

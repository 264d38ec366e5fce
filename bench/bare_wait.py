"""The yardstick of waiting: submits, polls and answers a stream, and checks nothing.

gunicorn bench.bare_wait:app. Environment: HORDE, the horde's URL without /api; KEY, its key.
Flask under gunicorn's threads and urllib3 alone, at the proxy's own schedule of polls: a proxy
that is built of these can hardly do with less.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import urllib3
from flask import Flask, Response, jsonify, request

from horde_proxy.upstreams.horde.polling import PollSchedule

BASE = f"{os.environ['HORDE']}/api/v2/generate/text"
HEADERS = {"apikey": os.environ["KEY"], "Client-Agent": "bench:1:http://bench.invalid"}
KEEP_ALIVE_SECONDS = 10.0
pool = urllib3.PoolManager(maxsize=128)
app = Flask("bench_bare_wait")
running: set[str] = set()
lock = threading.Lock()


def call(method: str, path: str, **options: Any) -> dict[str, Any]:
    answer = pool.request(method, f"{BASE}{path}", headers=HEADERS, **options)
    found: dict[str, Any] = answer.json()
    return found


def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    chunk = {"id": "chatcmpl-bare", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def answer_of(job: str) -> Iterator[bytes]:
    yield event({"role": "assistant", "content": ""})
    schedule = PollSchedule(time.monotonic, load=lambda: len(running))
    delay, last_sent = schedule.delay(), time.monotonic()
    while True:
        time.sleep(delay)
        schedule.polled()
        status = call("GET", f"/status/{job}")
        if status["done"]:
            break
        delay = schedule.delay(processing=bool(status["processing"]))
        if time.monotonic() - last_sent > KEEP_ALIVE_SECONDS:
            last_sent = time.monotonic()
            yield event({})
    with lock:
        running.discard(job)
    yield event({"content": status["generations"][0]["text"]})
    yield event({}, "stop") + b"data: [DONE]\n\n"


@app.post("/v1/chat/completions")
def chat_completions() -> Response:
    """A stream; only the last message is sent on."""
    body = request.get_json()
    payload = {
        "prompt": body["messages"][-1]["content"],
        "models": [body["model"]],
        "params": {"max_length": 512},
    }
    job = call("POST", "/async", json=payload)["id"]
    with lock:
        running.add(job)
    return Response(answer_of(job), content_type="text/event-stream")


@app.get("/health/live")
def live() -> Response:
    return jsonify({"status": "ok"})


@app.get("/v1/models")
def models() -> Response:
    return jsonify({"object": "list", "data": []})

"""The yardstick: a relay of Flask and requests that checks nothing: gunicorn bench.bare_relay:app.

Environment: TARGET, the server's URL without /v1.
"""

from __future__ import annotations

import os

import requests
from flask import Flask, Response, request
from requests.adapters import HTTPAdapter

TARGET = os.environ["TARGET"]
KEPT = ("Content-Type", "Content-Length")
session = requests.Session()
session.trust_env = False
session.mount("http://", HTTPAdapter(pool_maxsize=48))
app = Flask("bench_bare_relay")


@app.get("/v1/models")
def models() -> Response:
    return Response(session.get(f"{TARGET}/v1/models", timeout=30).content)


@app.post("/v1/<path:path>")
def relay(path: str) -> Response:
    answer = session.post(
        f"{TARGET}/v1/{path}",
        data=request.get_data(),
        stream=True,
        timeout=60,
        headers={"Content-Type": "application/json"},
    )
    headers = {name: answer.headers[name] for name in KEPT if name in answer.headers}
    return Response(answer.raw.stream(65536), answer.status_code, headers)

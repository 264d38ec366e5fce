"""A private horde that counts its calls and settles kudos late: gunicorn bench.horde:app."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import Flask, Response, jsonify, request

from bench.lab import CLIENT_KEY, OWNER_KEY
from horde_proxy.private_horde import PrivateHorde, blueprint

SETTLE_EVERY = 3.0
"""Seconds, as at the real horde (horde-api-2.md, section 4)."""
calls: Counter[str] = Counter()
polls: Counter[str] = Counter()
horde = PrivateHorde(rate_limits=False)
horde.settle_every = SETTLE_EVERY
horde.add_account(OWNER_KEY, "owner", trusted=True, kudos=1e9, concurrency=100_000)
# It owns no workers: what it loses is what its requests were charged.
horde.add_account(CLIENT_KEY, "client", kudos=1e6, concurrency=100_000)
app = Flask("bench_horde")
app.register_blueprint(blueprint(horde))


@app.before_request
def count() -> None:
    if "/generate/text/" in request.path and not request.path.endswith(("/pop", "/submit")):
        calls[request.method] += 1
        if request.method == "GET":
            polls[request.path.rpartition("/")[2]] += 1


@app.get("/calls")
def counted() -> Response:
    """POSTs are submits, GETs are polls, DELETEs are cancels."""
    return jsonify(calls)


@app.get("/calls/<request_id>")
def polled(request_id: str) -> Response:
    """How often a request was polled."""
    return jsonify(polls[request_id])


@app.delete("/calls")
def forget() -> Any:
    calls.clear()
    polls.clear()
    return "", 204

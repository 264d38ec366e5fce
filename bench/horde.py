"""A private horde that counts its calls: gunicorn bench.horde:app."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import Flask, Response, jsonify, request

from horde_proxy.private_horde import PrivateHorde, blueprint

KEY = "bench-owner-key"
calls: Counter[str] = Counter()
horde = PrivateHorde(rate_limits=False)
horde.add_account(KEY, "owner", trusted=True, kudos=1e9, concurrency=100_000)
app = Flask("bench_horde")
app.register_blueprint(blueprint(horde))


@app.before_request
def count() -> None:
    if "/generate/text/" in request.path and not request.path.endswith(("/pop", "/submit")):
        calls[request.method] += 1


@app.get("/calls")
def counted() -> Response:
    """POSTs are submits, GETs are polls, DELETEs are cancels."""
    return jsonify(calls)


@app.delete("/calls")
def forget() -> Any:
    calls.clear()
    return "", 204

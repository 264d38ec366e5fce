"""What each front costs: the same answer through each API, from a horde and from a server.

All fronts take turns, so that whatever else the machine does meets them alike. The server is
openai_server.py, which has chats only: they are proxied as they are, and every other API is
translated to them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.lab import (
    MODEL,
    Lab,
    at,
    free_port,
    proxy,
    row,
    running,
    session,
    until_answering,
    until_offered,
)
from bench.openai_server import MODEL as SERVED

ROUNDS = 40
_SERVER = Path(__file__).parent / "openai_server.py"
Body = Callable[[str, str], dict[str, Any]]
"""Makes a body of a model and a text."""


def _chat(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def _response(model: str, text: str, **extra: Any) -> dict[str, Any]:
    return {"model": model, "input": text, **extra}


FRONTS: dict[str, tuple[str, Body]] = {
    "chat completions": ("/v1/chat/completions", _chat),
    "responses, not stored": ("/v1/responses", lambda *of: _response(*of, store=False)),
    "responses, stored": ("/v1/responses", _response),
    "messages": ("/v1/messages", _chat),
    "Ollama's chat": ("/api/chat", lambda *of: {**_chat(*of), "stream": False}),
}
"""The path and the body of each."""


def measure(lab: Lab) -> None:
    """A job of no length, and a server that answers at once."""
    _compare("zero-length job", lab.proxy.url, MODEL, "wait 0")
    with _relay(lab.horde) as url:
        until_offered(url, SERVED)
        _compare("server", url, SERVED, "Hello.")


def _compare(what: str, url: str, model: str, text: str) -> None:
    """A row for each front, beside the first one."""
    times: dict[str, list[float]] = {name: [] for name in FRONTS}
    for number in range(ROUNDS + 2):
        for name, (path, body) in FRONTS.items():
            seconds = _call(url + path, body(model, text))
            # The first ones open connections and files.
            if number >= 2:
                times[name].append(seconds * 1000)
    first = statistics.median(times["chat completions"])
    for name, measured in times.items():
        median, slow = statistics.median(measured), at(measured, 0.95)
        row(
            f"{what}, {name}: p50, p95, more than a chat completion's p50",
            f"{median:.1f} ms, {slow:.1f} ms, {median - first:.1f} ms",
        )


def _call(url: str, body: dict[str, Any]) -> float:
    """Seconds of one call. No two share an answer."""
    body = {**body, "user": uuid.uuid4().hex}
    begin = time.perf_counter()
    answer = session().post(url, json=body, timeout=60)
    seconds = time.perf_counter() - begin
    assert answer.ok, answer.text
    return seconds


@contextmanager
def _relay(horde: str) -> Iterator[str]:
    """The proxy in front of the server alone."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder, running(str(_SERVER), str(port)):
        until_answering(f"http://127.0.0.1:{port}/v1/models")
        settings = Path(folder) / "horde-proxy.toml"
        settings.write_text(
            f'[[endpoints]]\nname = "server"\ntype = "openai"\nurl = "http://127.0.0.1:{port}/v1"\n'
        )
        with proxy(horde, HORDE_PROXY_CONFIG=str(settings)) as served:
            yield served.url


if __name__ == "__main__":
    sys.exit("Run bench/run --only fronts.")

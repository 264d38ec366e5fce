"""The worker's own small page: metrics, and its status as JSON and HTML. It changes nothing.

It listens on loopback only, and answers only requests that name a loopback host: a web page that
somebody here looks at could otherwise read it under a name that leads here (DNS rebinding). Prompts
and texts are never shown.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from html import escape
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from horde_proxy import printable
from horde_proxy.metrics import CONTENT_TYPE
from horde_proxy.worker.metrics import metrics_text
from horde_proxy.worker.status import StatusSnapshot, WorkerStatus

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
_HTML, _JSON, _TEXT = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"


class StatusPage:
    """A WSGI application: `/`, `/status` and `/metrics`."""

    def __init__(self, status: WorkerStatus) -> None:
        self._status = status

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        code, kind, body = self._answer(environ)
        headers = [
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"),
        ]
        start_response(code, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: dict[str, Any]) -> tuple[str, str, bytes]:
        """(status line, media type, body)."""
        if not _is_loopback(environ.get("HTTP_HOST", "")):
            return "403 Forbidden", _TEXT, b"Use a loopback address, such as http://127.0.0.1.\n"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return "405 Method Not Allowed", _TEXT, b"Only GET.\n"
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            return "200 OK", CONTENT_TYPE, metrics_text(self._status.snapshot())
        if path == "/status":
            document = status_document(self._status.snapshot())
            return "200 OK", _JSON, json.dumps(document).encode()
        if path == "/":
            document = status_document(self._status.snapshot())
            return "200 OK", _HTML, _page(document).encode()
        return "404 Not Found", _TEXT, b"There are /, /status and /metrics.\n"


def status_document(snapshot: StatusSnapshot) -> dict[str, Any]:
    """The JSON of a snapshot; times in seconds."""
    return {
        "uptime": round(snapshot.uptime),
        "hordes": [
            {
                "url": horde,
                "jobs": {
                    state: count for (url, state), count in snapshot.jobs.items() if url == horde
                },
                "kudos": round(snapshot.kudos.get(horde, 0.0), 2),
                "failing": horde in snapshot.failing,
            }
            for horde in sorted({url for url, _ in snapshot.jobs} | set(snapshot.failing))
        ],
        "chats": snapshot.done.get("chat", 0),
        "images": snapshot.done.get("image", 0),
        "forms": snapshot.forms,
        "tokens": snapshot.tokens,
        "tokens_per_second": round(snapshot.speed, 1),
        "running": [
            {
                "id": job.id,
                "horde": job.horde,
                "model": job.summary.model,
                "max_length": job.summary.max_length,
                "chat": job.summary.kind == "chat",
                "kind": job.summary.kind,
                "seconds": round(seconds, 1),
            }
            for job, seconds in sorted(snapshot.running, key=lambda pair: -pair[1])
        ],
        "held": dict(snapshot.holds),
    }


def status_line(snapshot: StatusSnapshot) -> str:
    """A snapshot in one line, as in "12 jobs, 3.5 kudos, 41.0 tokens/s, 1 running: llama (3 s)"."""
    jobs: Counter[str] = Counter()
    for (_, state), count in snapshot.jobs.items():
        jobs[state] += count
    parts = [f"{jobs['ok']} jobs"]
    for state, words in (("faulted", "given back"), ("lost", "not taken")):
        if jobs[state]:
            parts.append(f"{jobs[state]} {words}")
    parts.append(f"{sum(snapshot.kudos.values()):.1f} kudos")
    # A worker that only makes pictures writes no tokens.
    if snapshot.tokens or not (snapshot.done.get("image") or snapshot.forms):
        parts.append(f"{snapshot.speed:.1f} tokens/s")
    running = sorted(snapshot.running, key=lambda pair: -pair[1])
    if running:
        job, seconds = running[0]
        parts.append(f"{len(running)} running: {job.summary.model} ({seconds:.0f} s)")
    parts += [f"{name}: {reason}" for name, reason in sorted(snapshot.holds.items())]
    parts += [f"{horde} fails" for horde in snapshot.failing]
    return printable.one_line(", ".join(parts))


def serve_status(host: str, port: int, status: WorkerStatus) -> WSGIServer:
    """Serve the page in a thread of its own. Raises OSError where it cannot listen."""
    # "::1" of the setting "[::1]:9180".
    server_class = _StatusServerIPv6 if ":" in host else _StatusServer
    server = make_server(host, port, StatusPage(status), server_class, _QuietHandler)
    threading.Thread(target=server.serve_forever, name="status-page", daemon=True).start()
    return server


class _StatusServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _StatusServerIPv6(_StatusServer):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    # Seconds without a byte, after which a connection is closed.
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: Prometheus asks several times a minute."""


def _is_loopback(host: str) -> bool:
    """Whether a Host header is localhost or a loopback address: "127.0.0.1:9180", "[::1]"."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ip_address(name).is_loopback
    except ValueError:
        return False


def _page(document: dict[str, Any]) -> str:
    states = ("ok", "faulted", "lost")
    hordes = [
        (horde["url"], *(horde["jobs"].get(state, 0) for state in states), horde["kudos"])
        for horde in document["hordes"]
    ]
    running = [
        (job["model"], job["kind"], job["horde"], f"{job['seconds']:.0f} s")
        for job in document["running"]
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Worker</title>"
        "<style>body{font:1rem sans-serif;margin:2rem}td,th{padding:.2rem 1rem;text-align:left}"
        "</style><h1>Worker</h1>"
        f"<p>{document['tokens_per_second']} tokens/s in the last minute, "
        f"{document['tokens']} tokens, {document['chats']} chats, {document['images']} images and "
        f"{document['forms']} forms of alchemy since the start.</p>"
        + "".join(
            f"<p><b>{escape(name)}</b>: {escape(reason)}</p>"
            for name, reason in document["held"].items()
        )
        + _table(("Horde", "Done", "Given back", "Not taken", "Kudos"), hordes)
        + _table(("Running model", "Kind", "Horde", "Running for"), running)
        + "<p><a href=/status>JSON</a> <a href=/metrics>Metrics</a></p></html>"
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = ["".join(f"<th>{escape(head)}" for head in heads)]
    lines += ["".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}" for line in lines) + "</table>"

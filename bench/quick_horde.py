"""A fake horde that costs next to nothing: no queue, no worker; a request ends when it says so.

    POST async: "wait 1.5" in the prompt -> an id    GET status: done 1.5 s later    DELETE: gone

Its lists of models and workers are those of a private horde with one worker. It counts its calls as
horde.py does, at /calls. Usage: python -m bench.quick_horde ADDRESS PORT MODEL
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import uuid
from collections import Counter
from typing import Any

from flask import Flask

from bench.crowd import WAIT, pop_body
from bench.lab import CLIENT_KEY, OWNER_KEY
from horde_proxy.private_horde import PrivateHorde, blueprint

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_REQUEST = "/api/v2/generate/text/"
_UNKNOWN: dict[str, Any] = {"message": "Request with such ID not found.", "rc": "RequestNotFound"}


class QuickHorde:
    """Requests by id, each with the time at which it is done (Unix s)."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._done_at: dict[str, float] = {}
        self._calls: Counter[str] = Counter()
        horde = PrivateHorde(rate_limits=False)
        horde.add_account(OWNER_KEY, "owner", trusted=True, kudos=1e9, concurrency=100_000)
        horde.add_account(CLIENT_KEY, "client", kudos=1e6, concurrency=100_000)
        app = Flask("quick_horde")
        app.register_blueprint(blueprint(horde))
        self._http = app.test_client()
        self._documents: dict[str, tuple[float, int, bytes]] = {}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """(status, JSON) of a call."""
        if path == "/calls":
            return 200, json.dumps(self._calls).encode()
        if not path.startswith(_REQUEST):
            return self._document(path)
        self._calls[method] += 1
        if method == "POST":
            return self._submitted(json.loads(body))
        name = path.rpartition("/")[2]
        done_at = self._done_at.get(name)
        if done_at is None:
            return 404, json.dumps(_UNKNOWN).encode()
        if method == "DELETE":
            del self._done_at[name]
        return 200, json.dumps(self._status(done_at)).encode()

    def _submitted(self, body: dict[str, Any]) -> tuple[int, bytes]:
        name = str(uuid.uuid4())
        self._done_at[name] = time.time() + float(WAIT.findall(str(body["prompt"]))[-1])
        return 202, json.dumps({"id": name, "kudos": 1.0}).encode()

    def _status(self, done_at: float) -> dict[str, Any]:
        is_done = time.time() >= done_at
        generation = {
            "worker_id": "00000000-0000-0000-0000-000000000001",
            "worker_name": "quick",
            "model": self._model,
            "state": "ok",
            "text": f"{done_at:.6f}",
            "seed": 0,
            "gen_metadata": [],
        }
        return {
            "finished": int(is_done),
            "processing": int(not is_done),
            "restarted": 0,
            "waiting": 0,
            "done": is_done,
            "faulted": False,
            "wait_time": 0 if is_done else 1,
            "queue_position": 0,
            "kudos": 1.0,
            "is_possible": True,
            "generations": [generation] if is_done else [],
        }

    def _document(self, path: str) -> tuple[int, bytes]:
        """A list of the private horde, a minute old at most; its worker pops before each."""
        made, status, text = self._documents.get(path, (0.0, 0, b""))
        if time.time() - made > 60:
            headers = {"apikey": OWNER_KEY, "Client-Agent": "bench:1:http://bench.invalid"}
            pop = pop_body("quick", [self._model])
            self._http.post(f"{_REQUEST}pop", json=pop, headers=headers)
            answer = self._http.get(path, headers={**headers, "apikey": CLIENT_KEY})
            status, text = answer.status_code, answer.get_data()
            self._documents[path] = time.time(), status, text
        return status, text

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the calls of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                status, text = self.answer(method, path, body)
                start = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\n"
                writer.write(f"{start}Content-Length: {len(text)}\r\n\r\n".encode() + text)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            writer.close()


async def main() -> None:
    address, port, model = sys.argv[1:]
    horde = QuickHorde(model)
    server = await asyncio.start_server(horde.serve, address, int(port), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

"""A proxy before a server at home, a provider and a horde, each of which records what it is sent.

All three would answer anything, so that whatever may leave the house does leave it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import requests
from flask import Flask, Response, jsonify, request
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.support import HORDE_URL, Scripted, World

BOX, PROVIDER = "http://box.invalid", "http://provider.invalid"
MODELS = ("test/model", "embedder", "painter")
FAILURE = Mapping[str, Any]
"""What the box answers: status, json or body, content_type, headers; or an exception as body."""

TEXT = "Hello from there."
CHUNKS = (
    {"role": "assistant", "content": ""},
    {"content": TEXT},
)


class Sent(NamedTuple):
    """A call that carried something, or that changed something: all but GETs."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Recording(BaseAdapter):
    """Passes calls on, and records them in `sent`; with `failure`, that is the answer to them."""

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self._adapter = adapter
        self.sent: list[Sent] = []
        self.failure: FAILURE | None = None

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        body: Any = request.body or b""
        # An upload is a file, which is read again for the server.
        if hasattr(body, "read"):
            content = body.read()
            request.body = io.BytesIO(content)  # type: ignore[assignment]
        else:
            content = body.encode() if isinstance(body, str) else body
        if request.method == "GET":
            return self._adapter.send(request, *args, **options)
        self.sent.append(Sent(str(request.method), request.path_url, {**request.headers}, content))
        if self.failure is not None:
            return _failed(request, self.failure)
        return self._adapter.send(request, *args, **options)

    def close(self) -> None:
        self._adapter.close()

    @property
    def bodies(self) -> bytes:
        """All that it was sent in one."""
        return b"\n".join(call.body for call in self.sent)


def _failed(sent: requests.PreparedRequest, failure: FAILURE) -> requests.Response:
    body = failure.get("body", b"")
    if isinstance(body, Exception):
        raise body
    if "json" in failure:
        body = json.dumps(failure["json"]).encode()
    response = requests.Response()
    response.status_code, response.url = failure.get("status", 200), str(sent.url)
    response.request = sent
    headers = {"Content-Type": failure.get("content_type", "application/json")}
    headers |= failure.get("headers", {})
    response.headers.update(headers)
    stream = failure.get("stream", io.BytesIO)(body)
    response.raw = HTTPResponse(stream, headers=headers, status=200, preload_content=False)
    return response


class BreaksOff(io.BytesIO):
    """A body whose connection breaks after its bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size) or self._broken()

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(size) or self._broken()

    def _broken(self) -> bytes:
        raise ConnectionResetError("the server has crashed")


def server(models: tuple[str, ...] = MODELS) -> Flask:
    """A server that has every route that clients are proxied to."""
    app = Flask("server")
    app.get("/v1/models", endpoint="models")(
        lambda: {"data": [{"id": model, "object": "model"} for model in models]}
    )

    @app.route("/v1/<path:path>", methods=["GET", "POST", "DELETE"])
    def anything(path: str) -> Response:
        body = request.get_json(silent=True) or {}
        if path == "embeddings":
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            return jsonify({"object": "list", "model": "embedder", "data": data})
        if path == "images/generations":
            return jsonify({"created": 1, "data": [{"b64_json": "aGk="}]})
        # As Ollama's older releases: chats go there as chats, whatever the front.
        if path in ("responses", "messages", "messages/count_tokens", "responses/compact"):
            return Response("no such route", status=404)
        if body.get("stream"):
            return Response("".join(map(_event, _chunks(body))) + "data: [DONE]\n\n",
                            content_type="text/event-stream")  # fmt: skip
        return jsonify(_whole(body) if "completions" in path else {"id": "x-1", "path": path})

    return app


def _chunks(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
    if "prompt" in body:
        choices: list[Any] = [{"index": 0, "text": TEXT, "finish_reason": "stop"}]
        return [{**head, "object": "text_completion", "choices": choices}]
    deltas = [{"index": 0, "delta": delta, "finish_reason": None} for delta in CHUNKS]
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    return [{**head, "choices": [choice]} for choice in (*deltas, end)]


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def _whole(body: Mapping[str, Any]) -> dict[str, Any]:
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": body.get("model")}
    usage = {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    if "prompt" in body:
        choice: dict[str, Any] = {"index": 0, "text": TEXT, "finish_reason": "stop"}
        return {**head, "object": "text_completion", "choices": [choice], "usage": usage}
    message = {"role": "assistant", "content": TEXT}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {**head, "choices": [choice], "usage": usage}


class PlacesWorld(World):
    """`box` is at home, `provider` is paid, and `horde` a crowd whose worker waits for jobs.

    The provider and the horde come first, so that only a binding keeps requests at home.
    """

    def __init__(self, *, employs: bool = True, **sections: Any) -> None:
        super().__init__(
            endpoints=[
                {"url": PROVIDER, "name": "provider", "priority": 0},
                {"type": "horde", "name": "horde", "priority": 1},
                {"url": BOX, "name": "box", "place": "home", "priority": 2},
            ],
            **sections,
        )
        self.box = self._recording(BOX, server((*MODELS, "home-only")))
        self.provider = self._recording(PROVIDER, server((*MODELS, "provider-only")))
        if employs:
            self.employ(Scripted(TEXT))
        worker = self.session.get_adapter(HORDE_URL)
        self.crowd = Recording(worker)
        # The worker itself goes on with its own adapter: its pops are no calls of the proxy.
        self.session.mount(HORDE_URL, _ProxysCalls(self.crowd, worker))

    def _recording(self, url: str, app: Flask) -> Recording:
        adapter = Recording(WSGIAdapter(app))
        self.session.mount(url, adapter)
        return adapter

    @property
    def outside(self) -> list[Sent]:
        """All that left the house."""
        return [*self.provider.sent, *self.crowd.sent]


class _ProxysCalls(BaseAdapter):
    """Tells the worker's calls of the horde from the proxy's, which are recorded."""

    def __init__(self, proxys: BaseAdapter, workers: BaseAdapter) -> None:
        super().__init__()
        self._proxys, self._workers = proxys, workers

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> Any:
        is_workers = str(request.path_url).endswith(("/pop", "/submit", "/progress"))
        adapter = self._workers if is_workers else self._proxys
        return adapter.send(request, *args, **options)

    def close(self) -> None:
        self._proxys.close()


Post = Callable[..., Any]

"""A model server that answers calls with literal bodies, one after another, without a network."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import requests
from requests.adapters import BaseAdapter
from urllib3 import HTTPResponse

from horde_proxy.protocol.models import ModelFacts
from horde_proxy.upstreams.disconnects import current_guard
from horde_proxy.worker.backends import BackendOptions
from horde_proxy.worker.backends.kobold import KoboldServer
from horde_proxy.worker.backends.offered_model import ServerModel
from horde_proxy.worker.backends.ollama import OllamaServer
from horde_proxy.worker.backends.openai import OpenAIServer
from horde_proxy.worker.backends.server import ModelServer

URL = "http://backend.invalid:5001"

_Server = TypeVar("_Server", bound=ModelServer)


class ScriptedServer(BaseAdapter):
    """Answers each POST with the next body; the last one is repeated. `calls`: (path, JSON body).

    `end` is called where a body ends: it may raise what a connection raises there.
    """

    def __init__(self, body: str, status: int = 200, end: Exception | None = None) -> None:
        super().__init__()
        self.calls: list[tuple[str, Any]] = []
        self._answers = [(body, status)]
        self.end: Callable[[], None] = lambda: _raise(end)

    def then(self, body: str, status: int = 200) -> ScriptedServer:
        """One more answer."""
        self._answers.append((body, status))
        return self

    def from_now_on(self, body: str) -> None:
        """The only answer."""
        self._answers = [(body, 200)]

    def wait_for_hang_up(self) -> None:
        """As a server that writes nothing more: the read fails once the call is ended."""
        guard = current_guard()
        # A call that is answered at once, such as the abort, has no guard.
        if guard is None:
            return
        for _ in range(6000):
            if guard.error:
                raise ConnectionResetError("shut down")
            time.sleep(0.01)
        raise AssertionError("nobody ended the call")

    def send(
        self, request: requests.PreparedRequest, *args: Any, **options: Any
    ) -> requests.Response:
        if request.method == "GET":
            # It is up, as far as it is asked.
            return self._response(request, "{}", 200)
        self.calls.append((request.path_url, json.loads(request.body or "null")))
        body, status = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return self._response(request, body, status)

    def _response(
        self, request: requests.PreparedRequest, body: str, status: int
    ) -> requests.Response:
        response = requests.Response()
        response.status_code, response.url, response.request = status, str(request.url), request
        response.raw = HTTPResponse(_Body(body, lambda: self.end()), preload_content=False)
        return response

    def close(self) -> None:
        """Nothing is open."""


class _Body(io.BytesIO):
    def __init__(self, text: str, end: Callable[[], None]) -> None:
        super().__init__(text.encode())
        self._end = end

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(size) or self._at_end()

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size) or self._at_end()

    def _at_end(self) -> bytes:
        self._end()
        return b""


def _raise(error: Exception | None) -> None:
    if error:
        raise error


def koboldcpp(server: ScriptedServer, **options: Any) -> KoboldServer:
    """The backend of a KoboldCpp. `tools` is what the server says of its model's."""
    return _backend(KoboldServer, server, "koboldcpp/Some-8B", "", options)


def ollama(server: ScriptedServer, **options: Any) -> OllamaServer:
    """The backend of an Ollama."""
    return _backend(OllamaServer, server, "llama3.2:1b", "", options)


def openai(server: ScriptedServer, kind: str = "", **options: Any) -> OpenAIServer:
    """The backend of a server with OpenAI's API; `kind` as in `native_apis`, as in "vLLM"."""
    return _backend(OpenAIServer, server, "some-8b", kind, options)


def _backend(
    kind: type[_Server], server: ScriptedServer, model: str, name: str, options: Mapping[str, Any]
) -> _Server:
    session = requests.Session()
    session.mount("http://", server)
    facts = ModelFacts(tools=options.get("tools"))
    others = {key: value for key, value in options.items() if key != "tools"}
    return kind(URL, session, ServerModel(model, facts, name), BackendOptions(**others))

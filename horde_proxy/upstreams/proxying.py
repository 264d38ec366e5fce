"""What is passed on as it is: a client's call and its body, an upstream's answer, headers."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import IO, Any, Protocol

from requests.structures import CaseInsensitiveDict

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OF_THE_CLIENT = _HOP_BY_HOP | {
    "host",
    "content-length",
    "accept-encoding",
    "expect",
    "authorization",
    "api-key",
    "x-api-key",
    "apikey",
    "cookie",
    "origin",
    "referer",
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-real-ip",
    "x-client-ip",
    "cf-connecting-ip",
    "true-client-ip",
    "x-endpoint",
    "x-goog-api-key",
    "openai-organization",
    "openai-project",
}
_OF_THE_SERVER = _HOP_BY_HOP | {
    "server",
    "date",
    "set-cookie",
    "x-request-id",
    "x-endpoint",
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-expose-headers",
    "alt-svc",
    "strict-transport-security",
}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FOLDED = re.compile(r"\r?\n[ \t]+")
Headers = list[tuple[str, str]]


class Body(Protocol):
    """What a client sent, which may be sent on more than once."""

    def naming(self, model: str | None) -> tuple[bytes | IO[bytes] | None, int]:
        """The body for a server that has the model under that name, and its length in bytes."""


@dataclass(frozen=True)
class JsonBody:
    """A JSON document; `document` is None where it is none."""

    content: bytes
    document: Any = None

    def naming(self, model: str | None) -> tuple[bytes | None, int]:
        """The very bytes, unless the model has another name there."""
        document = self.document
        if model and isinstance(document, dict) and document.get("model") not in (None, model):
            content = json.dumps({**document, "model": model}).encode()
            return content, len(content)
        return self.content or None, len(self.content)


@dataclass(frozen=True)
class ProxyRequest:
    """A client's request. `path` is what follows /v1/, with its query.

    `model` is what it asks for, None where it names none; `client` is its connection.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body
    model: str | None = None
    client: socket.socket | None = None

    def passed_on(self, own: Mapping[str, str]) -> CaseInsensitiveDict[str]:
        """The headers for an upstream, with its own put over them. No key of the client's."""
        listed = self.headers.get("Connection", "")
        dropped = {name.strip().lower() for name in listed.split(",")} if listed else ()
        found = CaseInsensitiveDict(
            {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _OF_THE_CLIENT and name.lower() not in dropped
            }
        )
        found["Accept-Encoding"] = "identity"
        found.update(own)
        return found


class ProxyResponse:
    """An upstream's answer: status, headers, and its bytes as they come.

    `model` is the one that answers, by the name that clients see. `close` ends it, and the call at
    the upstream with it, wherever it is.
    """

    model: str | None = None

    def __init__(
        self,
        status: int,
        headers: Headers,
        chunks: Iterator[bytes],
        on_close: Iterable[Callable[[], object]] = (),
    ) -> None:
        self.status, self.headers = status, headers
        self.on_close = list(on_close)
        self._chunks = chunks
        self._head: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        """The body from the start; only once."""
        return chain(self._head, self._chunks)

    def close(self) -> None:
        """May be called again."""
        closing, self.on_close = self.on_close, []
        for call in closing:
            call()

    def head(self, most: int) -> bytes:
        """The first bytes of the body, which stays whole; waits for them."""
        while sum(map(len, self._head)) < most:
            chunk = next(self._chunks, b"")
            if not chunk:
                break
            self._head.append(chunk)
        return b"".join(self._head)[:most]

    def header(self, name: str) -> str:
        """A header's value, "" where it is not there; the name in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), "")


def kept(headers: Iterable[tuple[str, str]]) -> Headers:
    """Those of a server's headers that its client is told; of broken ones, none."""
    found = [(name, _FOLDED.sub(" ", value)) for name, value in headers]
    listed = ",".join(value for name, value in found if name.lower() == "connection")
    dropped = _OF_THE_SERVER | {name.strip().lower() for name in listed.split(",")}
    return [
        (name, value)
        for name, value in found
        if name.lower() not in dropped and _NAME.fullmatch(name) and _VALUE.fullmatch(value)
    ]


NO_BODY = JsonBody(b"")
__all__ = ["NO_BODY", "Body", "JsonBody", "ProxyRequest", "ProxyResponse", "kept"]

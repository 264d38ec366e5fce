"""What is proxied: a client's call and its body, an upstream's response, and which headers pass.

Bodies pass byte by byte. Nothing is sent here: an upstream sends, a view answers.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import IO, TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote

from requests.structures import CaseInsensitiveDict

from horde_proxy.protocol.openai_body import OURS

if TYPE_CHECKING:
    from horde_proxy.upstreams.beside import Beside
    from horde_proxy.upstreams.inspection import Inspection

UNREAD: Final = object()
"""No error, and not none either: nobody has looked for one yet."""
# Headers of one connection, which the next one has its own of (RFC 9110, 7.6.1; Keep-Alive,
# Proxy-Connection and the two of proxies' logins are older, and still sent).
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
_CLIENT_ONLY = _HOP_BY_HOP | {
    # Ours to set: host and length may differ, and errors and usage are read in a body that is not
    # compressed.
    "host",
    "content-length",
    "accept-encoding",
    # The body was decoded, so that a key cannot reach another model than the one that was checked.
    "content-encoding",
    # Answered by our own server: an upstream's 100 would come when the body is already here.
    "expect",
    # The client's key for us, in all the ways that clients send one. An upstream could use it.
    "authorization",
    "api-key",
    "x-api-key",
    "apikey",
    "x-goog-api-key",
    # The client's session with our page.
    "cookie",
    # Where the client is and which page it shows: none of the upstream's business. Ollama refuses
    # calls from an Origin that it does not know.
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
    # Chooses one of our endpoints.
    "x-endpoint",
    # Says where the call may go, which is decided here.
    "x-places",
    # Belong to the client's own account at OpenAI, while the call is paid with the upstream's key.
    "openai-organization",
    "openai-project",
}
_SERVER_ONLY = _HOP_BY_HOP | {
    # Our own server adds these, once.
    "server",
    "date",
    # A cookie would be stored for us, and sent back to other upstreams.
    "set-cookie",
    # Ours: the id in our log, and the endpoint that answered.
    "x-request-id",
    "x-endpoint",
    # Which pages may read the response is our setting, not the upstream's.
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-expose-headers",
    # Would send browsers to another port of ours, or make them refuse us without TLS.
    "alt-svc",
    "strict-transport-security",
}
# A token of RFC 9110, 5.6.2: "X-Ratelimit", not "X(b)". WSGI servers raise for others.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Printable Latin-1 and tabs; a control character would raise in the WSGI server.
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
# A value that goes on in the next line, "a\r\n b", which was allowed until RFC 7230 of 2014.
_FOLD = re.compile(r"\r?\n[ \t]+")
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
"""Printable ASCII, which every server and client takes in a header."""
Headers = list[tuple[str, str]]


class Body(Protocol):
    """What a client sent, which may be sent on more than once."""

    @property
    def is_stream(self) -> bool:
        """Whether the client asked for the answer as a stream."""

    def with_model(self, model: str | None) -> tuple[bytes | IO[bytes] | None, int]:
        """The body, with another name for the model if one is given, and its length in bytes."""


@dataclass(frozen=True)
class JsonBody:
    """A JSON document and the bytes that it came in. `document` is None when it is not JSON."""

    content: bytes
    document: Any = None

    @property
    def is_stream(self) -> bool:
        """See Body."""
        return isinstance(self.document, dict) and self.document.get("stream") is True

    def with_model(self, model: str | None) -> tuple[bytes | None, int]:
        """The bytes as they came, unless they name the model otherwise, or hold our own object."""
        document = self.document
        if not isinstance(document, dict):
            return self.content or None, len(self.content)
        changed = {name: value for name, value in document.items() if name != OURS}
        if model and document.get("model") not in (None, model):
            changed["model"] = model
        if changed == document:
            return self.content or None, len(self.content)
        content = json.dumps(changed).encode()
        return content, len(content)


@dataclass(frozen=True)
class ProxyRequest:
    """A client's call. `path` is what follows /v1/, with its query.

    `model` is the one that it names, if any. `client` is its connection, to notice that it closed.
    `is_optional`: a server that does not know the path can answer in another way. `helper` makes
    the call beside the request's thread, which keeps the client's stream alive, or looks for
    another endpoint when it is late; None: it blocks. `inspection` keeps what is sent and received.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: Body
    model: str | None = None
    client: socket.socket | None = None
    is_optional: bool = False
    helper: Beside | None = None
    inspection: Inspection | None = None

    def upstream_headers(self, own: Mapping[str, str]) -> CaseInsensitiveDict[str]:
        """The headers for an upstream. `own` are the upstream's own, and replace the client's."""
        listed = self.headers.get("Connection", "")
        dropped = _listed(listed) if listed else ()
        headers = CaseInsensitiveDict(
            {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in _CLIENT_ONLY and name.lower() not in dropped
            }
        )
        headers["Accept-Encoding"] = "identity"
        headers.update(own)
        return headers


class ProxyResponse:
    """An upstream's response: status, headers, and its bytes as they come.

    `model` is the one that answers, by the name that clients see. `secrets` are the upstream's
    keys, which no error may show. `error_at_start` is what answer_start.error_at_start found. Close
    it in any case: that ends the call at the upstream, wherever it is.
    """

    model: str | None = None
    secrets: tuple[str, ...] = ()
    error_at_start: Any = UNREAD

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
        """The body from its start; only once."""
        return chain(self._head, self._chunks)

    def close(self) -> None:
        """End the call. May be called again. All callbacks run, also after one that raises."""
        callbacks, self.on_close = self.on_close, []
        _call_all(iter(callbacks))

    def head(self, most: int) -> bytes:
        """The first bytes of the body, at most so many. Waits for them, and takes none away."""
        while sum(map(len, self._head)) < most and self.read_on():
            pass
        return b"".join(self._head)[:most]

    def arrived(self) -> bytes:
        """All bytes that were read so far. They are still to be passed on."""
        arrived = b"".join(self._head)
        # An empty piece would end the client's response in some WSGI servers.
        self._head = [arrived] if arrived else []
        return arrived

    def read_on(self) -> bool:
        """Wait for the next piece of the body. False at its end."""
        chunk = next(self._chunks, b"")
        if chunk:
            self._head.append(chunk)
        return bool(chunk)

    def wrap_rest(self, wrap: Callable[[Iterator[bytes]], Iterator[bytes]]) -> None:
        """Put an iterator around the pieces that are still to come."""
        self._chunks = wrap(self._chunks)

    def replace_arrived(self, body: bytes) -> None:
        """Pass on other bytes, as many, instead of those that were read so far."""
        self._head = [body]

    def header(self, name: str) -> str:
        """The value of a header, "" when it is missing. `name` is in lower case."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return ""


def _call_all(callbacks: Iterator[Callable[[], object]]) -> None:
    """Call each of them in turn, and raise what one of them raised after the last one."""
    for callback in callbacks:
        try:
            callback()
        except BaseException:
            _call_all(callbacks)
            raise


def response_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """Those of an upstream's headers that its client gets. Malformed ones are left out."""
    unfolded = [(name, _FOLD.sub(" ", value)) for name, value in headers]
    listed = ",".join(value for name, value in unfolded if name.lower() == "connection")
    dropped = _SERVER_ONLY | _listed(listed)
    # RFC 9112, 6.3: a proxy removes the length beside a transfer coding, which overrides it.
    if any(name.lower() == "transfer-encoding" for name, _ in unfolded):
        dropped |= {"content-length"}
    return [
        (name, value)
        for name, value in unfolded
        if name.lower() not in dropped and _NAME.fullmatch(name) and _VALUE.fullmatch(value)
    ]


def header_text(text: str) -> str:
    """A text as the value of a header of ours, e.g. "Llama-%F0%9F%A6%99" for "Llama-🦙".

    A WSGI server raises for a newline and for what Latin-1 does not have, and clients disagree on
    the rest beyond ASCII. Percent-encoding keeps such a name readable for programs (RFC 3986, 2.1).
    """
    return quote(text, safe=_PRINTABLE, errors="backslashreplace")


def _listed(connection: str) -> set[str]:
    """The headers that a Connection header names as its own: "close, X-Hop"."""
    return {name.strip().lower() for name in connection.split(",")}


NO_BODY = JsonBody(b"")
__all__ = [
    "NO_BODY",
    "Body",
    "JsonBody",
    "ProxyRequest",
    "ProxyResponse",
    "header_text",
    "response_headers",
]

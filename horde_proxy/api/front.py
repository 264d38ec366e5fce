"""What a front is: one API's way to read a request and to write an answer. It adds no stage.

CONTRIBUTING.md has the steps for adding one.

Everything between the body and the chunks (keys, limits, candidates, retries, clients that leave,
loops, slots, logs) is done by api/generation.py, alike for all fronts. Errors before the first
byte have OpenAI's envelope; an API with another one registers an error handler for ProxyError on
its blueprint. tests/test_api_front.py has a whole front, with named events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from horde_proxy.api.context import AppContext, ServingOptions
from horde_proxy.errors import ProxyError
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.router import Candidates


class Question(Protocol):
    """What a front read: one request, or several whose answers become one."""

    @property
    def requests(self) -> Sequence[Any]:
        """At least one. All have the same n and model; the first says how to answer.

        They are GenerationRequests, or ImageRequests of a front that makes pictures.
        """


class EventWriter(Protocol):
    """Writes the server-sent events of one streamed answer, in the shapes of one front.

    `is_open`: something was written, and some of the answer is still to come. `is_complete`: the
    answer has ended as it should. `shows_progress`: the client wants to read how its wait goes.
    """

    shows_progress: bool

    @property
    def is_open(self) -> bool: ...

    @property
    def is_complete(self) -> bool: ...

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The events of one chat chunk."""

    def keep_alive(self) -> bytes:
        """An event without news, for clients that give up on a silent stream; b"" for none."""

    def progress(self, text: str) -> bytes:
        """An event that shows a line about the wait to whoever reads the answer."""

    def error(self, error: ProxyError) -> bytes:
        """The event of an error that ends the stream."""

    def end(self) -> bytes:
        """What follows the last event, also after an error; b"" for nothing."""


Q = TypeVar("Q", bound=Question)


@dataclass(frozen=True)
class Front(Generic[Q]):
    """One API. `read` takes the decoded JSON body; `fold` all chunks of a complete answer.

    `proxied_to` is the path after /v1/ at which OpenAI-compatible servers take the same bodies,
    e.g. "chat/completions"; bodies are proxied there unchanged. None: no such server takes them,
    so every endpoint answers what `read` made of them. `is_optional`: many servers do not have
    that path, e.g. "responses"; one that does not answers what `read` made of the body.
    `takes_forms`: a body may be a multipart form, which `read` gets as an uploads.Form.
    `candidates` finds who may answer a request where that is not who writes texts; `may_proxy` then
    tells by the model's name, or None, whether a body is proxied.
    """

    read: Callable[[Any, ServingOptions], Q]
    fold: Callable[[Q, Sequence[Chunk]], dict[str, Any]]
    stream: Callable[[Q], EventWriter]
    proxied_to: str | None = None
    is_optional: bool = False
    takes_forms: bool = False
    candidates: Callable[[AppContext, Any], Candidates] | None = None
    may_proxy: Callable[[AppContext, str | None], bool] | None = None

    @property
    def makes_images(self) -> bool:
        """Whether its answers are pictures, which are counted and limited apart."""
        return self.proxied_to is not None and self.proxied_to.startswith("images/")

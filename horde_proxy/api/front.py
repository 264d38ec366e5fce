"""What a front is: one API's way to read a request and to write an answer. It adds no stage.

CONTRIBUTING.md has the steps for adding one.

Everything between the body and the chunks (keys, limits, candidates, retries, clients that leave,
loops, slots, logs) is done by api/generation.py, alike for all fronts. Errors before the first
byte have the shape that api/unserved.py has for the path. tests/test_api_front.py has a whole
front, with named events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from flask import Response

from horde_proxy.api.context import AppContext, ServingOptions
from horde_proxy.errors import ProxyError
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.router import Candidates
from horde_proxy.upstreams.base import StreamItem


class Question(Protocol):
    """What a front read: one request, or several whose answers become one."""

    @property
    def requests(self) -> Sequence[Any]:
        """At least one. All have the same n and model; the first says how to answer.

        They are GenerationRequests, or ImageRequests of a front that makes pictures.
        """


EVENT_STREAM = "text/event-stream; charset=utf-8"


class Recorder(Protocol):
    """Keeps an answer, so that its client can fetch it later.

    A retry that joins the answer uses the recorder of the request that it repeats.
    """

    @property
    def outlives_client(self) -> bool:
        """Whether the answer is made to its end also when its client leaves."""

    @property
    def is_lost(self) -> bool:
        """Whether the answer has ended and could not be stored."""

    def watch(self, source: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """The items of the source. The answer is stored before the last of them is passed on.

        Whoever drives the answer drives this, also after its client has left. Closing it closes
        the source.
        """

    def writer(self, after: int = -1, *, numbers: bool = False) -> EventWriter | None:
        """What writes the events of a stream that follow the one of this number.

        `numbers`: each event tells its number as its `id`. None: the front's own writer.
        """

    def document(self) -> dict[str, Any] | None:
        """The whole of a complete answer. None: what the front folds."""


class EventWriter(Protocol):
    """Writes the events of one streamed answer, in the shapes of one front.

    `is_open`: something was written, and some of the answer is still to come. `is_complete`: the
    answer has ended as it should. `shows_progress`: the client wants to read how its wait goes.
    """

    shows_progress: bool

    @property
    def is_open(self) -> bool: ...

    @property
    def is_complete(self) -> bool: ...

    def begin(self) -> Iterator[bytes]:
        """The events that say that an upstream has accepted the request, before any chunk."""

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The events of one chat chunk."""

    def comment(self, text: str) -> bytes:
        """A line about the wait that clients skip; b"" where the format has no comments."""

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
    """One API: three functions, and what is particular to it. What is None does not apply."""

    read: Callable[[Any, ServingOptions], Q]
    """Reads the decoded JSON body. Raises InvalidRequest."""
    fold: Callable[[Q, Sequence[Chunk]], dict[str, Any]]
    """The whole answer, of all chunks of a complete one."""
    stream: Callable[[Q], EventWriter]
    """What writes the events of a streamed answer."""
    proxied_to: str | None = None
    """The path after /v1/ at which OpenAI-compatible servers take the same bodies, which are then
    proxied unchanged, e.g. "chat/completions". None: every endpoint answers what `read` returned.
    """
    is_optional: bool = False
    """Whether many servers lack that path, e.g. "responses". These answer what `read` returned."""
    takes_forms: bool = False
    """Whether a body may be a multipart form, which `read` gets as an uploads.Form."""
    candidates: Callable[[AppContext, Any], Candidates] | None = None
    """Finds who may answer a request; None: those that write texts."""
    proxy_candidates: Callable[[AppContext, str | None], Candidates | None] | None = None
    """Finds them by the model's name, or None, before the body is read. It returns None for a body
    that must be read first."""
    record: Callable[[AppContext, Q], Recorder | None] | None = None
    """What keeps the answer to a question, if anything does."""
    defer: Callable[[AppContext, Q, bytes], Response | None] | None = None
    """The response to a question whose client does not wait for the answer; None where it waits.
    The bytes are the body as it came."""
    content_type: str = EVENT_STREAM
    """The Content-Type of a streamed answer."""
    is_ours: Callable[[AppContext, Any], bool] | None = None
    """Whether a body refers to something that only this proxy has, so that it is not proxied."""
    kept_at: Callable[[AppContext, Any], str | None] | None = None
    """The name of the endpoint that has what a body refers to, or None."""
    ready: Callable[[Q], Sequence[Chunk] | None] | None = None
    """The chunks of an answer that needs no model, or None."""

    @property
    def makes_images(self) -> bool:
        """Whether its answers are pictures, which are counted and limited apart."""
        return self.proxied_to is not None and self.proxied_to.startswith("images/")

"""A response as server-sent events, and as one object. Pure.

Both are made by the same code from the same chunks, so that ids and texts are the same in a stream,
in its last event and in what is stored. tests/legal_responses.py says what a legal stream is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.protocol import sse
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.responses.failures import failure
from horde_proxy.protocol.responses.object import Status, response_object
from horde_proxy.protocol.responses.open_items import Event
from horde_proxy.protocol.responses.output import Output
from horde_proxy.protocol.responses.question import ResponseQuestion

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""The reasons why a response is incomplete, by the finish_reason of a chat."""


def fold_response(question: ResponseQuestion, chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The response object that all chunks of an answer add up to."""
    answer = _Answer(question)
    for chunk in chunks:
        deque(answer.chunk(chunk), maxlen=0)
    deque(answer.end(), maxlen=0)
    return answer.response


class ResponseEvents:
    """Writes a response as OpenAI's server-sent events; see api.front.EventWriter."""

    def __init__(self, question: ResponseQuestion) -> None:
        [request] = question.requests
        self.shows_progress = request.horde.get("progress") == "reasoning"
        self._answer = _Answer(question)
        self._next = 0

    @property
    def response(self) -> dict[str, Any]:
        """The response object as it stands."""
        return self._answer.response

    def go_on_from(self, number: int) -> None:
        """Give the next event this number: others have those before it."""
        self._next = number

    @property
    def is_open(self) -> bool:
        return self._answer.has_begun and not self._answer.is_finished

    @property
    def is_complete(self) -> bool:
        return self._answer.is_finished and self._answer.status != "failed"

    def begin(self) -> Iterator[bytes]:
        """response.created and response.in_progress; the AI SDK waits for the second one."""
        return map(self._event, self._answer.begin())

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The events of one chunk; with the usage, the last one comes."""
        return map(self._event, self._answer.chunk(chunk))

    def comment(self, text: str) -> bytes:
        """A comment of server-sent events."""
        return sse.comment(text)

    def keep_alive(self) -> bytes:
        """response.in_progress again: comments do not reset the time-outs of Codex.

        It leaves out what is long: Codex' tools have 40 kB, and a stored stream keeps each event.
        """
        event = self._answer.in_progress()
        event["response"] |= {"tools": [], "instructions": None}
        return self._event(event)

    def progress(self, text: str) -> bytes:
        """The text as reasoning, which many clients show beside the answer."""
        return b"".join(map(self._event, self._answer.output.reasoning(text)))

    def error(self, error: ProxyError) -> bytes:
        """response.failed: Codex does not see OpenAI's event `error`.

        b"" after the last event, which nothing may follow.
        """
        return b"".join(map(self._event, self._answer.fail(error)))

    def end(self) -> bytes:
        """The last event, where no usage came. OpenAI's responses have no [DONE]."""
        return b"".join(map(self._event, self._answer.end()))

    def _event(self, event: Event) -> bytes:
        numbered = {"type": event["type"], "sequence_number": self._next, **event}
        self._next += 1
        return sse.event(numbered, event["type"])


class _Answer:
    """One response while it is written. `status` is the object's; it ends with one last event."""

    def __init__(self, question: ResponseQuestion) -> None:
        self.question = question
        self.output = Output(question)
        self.status: Status = "in_progress"
        self.has_begun = self.is_finished = self._has_ended = False
        self._facts: dict[str, Any] = {}
        self._horde: Any = None

    @property
    def response(self) -> dict[str, Any]:
        """The response object as it stands."""
        output = self.output.items("in_progress" if self.status == "in_progress" else "incomplete")
        written = response_object(self.question, status=self.status, output=output, **self._facts)
        return written if self._horde is None else {**written, "horde": self._horde}

    def begin(self) -> Iterator[Event]:
        """The first events; nothing if they were written."""
        if self.has_begun:
            return
        self.has_begun = True
        yield self._lifecycle("created", response_object(self.question, status="in_progress"))
        yield self.in_progress()

    def in_progress(self) -> Event:
        """The event that says that the answer is being made."""
        return self._lifecycle("in_progress", response_object(self.question, status="in_progress"))

    def chunk(self, chunk: Chunk) -> Iterator[Event]:
        """The events of a chunk."""
        yield from self.begin()
        self._facts["model"] = chunk["model"]
        yield from self.output.chunk(chunk)
        for choice in chunk["choices"]:
            if choice["index"] == 0 and choice["finish_reason"] and not self.is_finished:
                yield from self._finish(choice["finish_reason"])
        if chunk.get("usage"):
            self._facts["usage"], self._horde = chunk["usage"], chunk.get("horde")
            yield from self.end()

    def end(self) -> Iterator[Event]:
        """The last event of a finished answer; nothing if it was written."""
        if self.is_finished and not self._has_ended:
            self._has_ended = True
            yield self._lifecycle(self.status, self.response)

    def fail(self, error: ProxyError) -> Iterator[Event]:
        """The last event of an answer that failed; what came of it stays in the object."""
        if self._has_ended:
            return
        yield from self.begin()
        yield from self.output.release()
        self.status, self.is_finished, self._has_ended = "failed", True, True
        self._facts["error"] = failure(error, is_background=self.question.background)
        yield self._lifecycle("failed", self.response)

    def _finish(self, finish_reason: str) -> Iterator[Event]:
        if self.output.lacks_summary:
            yield from self.fail(UpstreamFailed("The model wrote no summary."))
            return
        reason = _INCOMPLETE.get(finish_reason)
        yield from self.output.end("incomplete" if reason else "completed")
        self.is_finished = True
        self.status = "incomplete" if reason else "completed"
        if reason:
            self._facts["incomplete_reason"] = reason
        else:
            self._facts["completed_at"] = int(self.question.now())

    def _lifecycle(self, name: str, response: dict[str, Any]) -> Event:
        return {"type": f"response.{name}", "response": response}

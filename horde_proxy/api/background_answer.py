"""The answer of one background response, kept while it is made.

    upstreams --items--> watch --> the response object and its events --each second--> the store
                                                                      --at the end---> final, once

After a restart the answer is generated again from its beginning, out of the journal, and what was
stored before is skipped. Where that is not possible, a streamed response is continued by a model
that reads what there is of it; one that nobody has read begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from horde_proxy.api.recording import RENEWAL, conversation_writer
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ClientGone, ProxyError, UpstreamFailed
from horde_proxy.protocol import sse
from horde_proxy.protocol.chunks import Chunk, Head, chunk
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.protocol.responses.events import ResponseEvents
from horde_proxy.protocol.responses.question import ResponseQuestion
from horde_proxy.store.records import ConversationInUse, NotStored
from horde_proxy.store.taken_job import TakenJob
from horde_proxy.upstreams.base import Accepted, StreamItem, Waiting
from horde_proxy.upstreams.request_journal import RequestJournal

if TYPE_CHECKING:
    from horde_proxy.store.conversations import ConversationStore
    from horde_proxy.store.responses import ResponseStore

_SAVE_SECONDS = 1.0
"""Seconds between two writes of a growing answer: so much text is generated again after a crash."""
ENDED = ("completed", "incomplete", "failed", "cancelled")
"""The statuses that a response keeps."""

log = logging.getLogger(__name__)


class CutOffByRestart(UpstreamFailed):
    """The answer cannot be continued from what was streamed of it."""

    code = "cut_off"

    def __init__(self) -> None:
        super().__init__(
            "The proxy was restarted in the middle of a function call, which cannot be continued. "
            "Send the request again."
        )


class SeenOutput:
    """What a client may have read of an answer, by the fields of a delta."""

    def __init__(self, output: Sequence[Mapping[str, Any]]) -> None:
        self.texts = {"reasoning_content": "", "content": ""}
        self.has_calls = False
        for item in output:
            if item["type"] == "message":
                parts = item["content"]
                self.texts["content"] += "".join(part.get("text", "") for part in parts)
            elif item["type"] == "reasoning":
                parts = item["summary"]
                self.texts["reasoning_content"] += "".join(part["text"] for part in parts)
            else:
                self.has_calls = True
        self._left = {name: len(text) for name, text in self.texts.items()}

    def __bool__(self) -> bool:
        return self.has_calls or any(self.texts.values())

    def chunks(self, model: str) -> Iterator[Chunk]:
        """Chunks with all that was seen: they bring a new writer to the same state."""
        head = Head("", 0, model)
        for name, text in self.texts.items():
            if text:
                yield chunk(head, {name: text})

    def without(self, generated: Chunk) -> Chunk:
        """The chunk of an answer that is generated again, without what was seen already."""
        if not any(self._left.values()):
            return generated
        choices = [
            {**choice, "delta": self._rest(choice["delta"])} for choice in generated["choices"]
        ]
        return {**generated, "choices": choices}

    def _rest(self, delta: Mapping[str, Any]) -> dict[str, Any]:
        rest = dict(delta)
        for name, left in self._left.items():
            text = delta.get(name)
            if text and left:
                self._left[name] = max(left - len(text), 0)
                rest[name] = text[left:]
                if not rest[name]:
                    del rest[name]
        return rest


class BackgroundAnswer:
    """See internal_call.JobAnswer. Only the thread of the job uses it.

    `is_over`: the response has its last status in the store. `has_failed_to_save`: it could not be
    stored, and is to be made again.
    """

    outlives_client = is_lost = False

    def __init__(
        self,
        job: TakenJob,
        store: ResponseStore,
        conversations: ConversationStore | None,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self.id, self.created = job.details["response"], job.details["created"]
        self.is_over = self.has_failed_to_save = False
        self.status = "queued"
        self._is_streamed: bool = job.details["is_streamed"]
        self._job, self._store, self._clock, self._now = job, store, clock, now
        stored = store.get(job.owner, self.id)
        self._stored: dict[str, Any] = stored.response if stored else {"status": "cancelled"}
        self.status = self._stored["status"]
        self.is_over = self.status in ENDED
        self._seen = SeenOutput(self._stored.get("output", ()) if self._is_streamed else ())
        self._next = len(store.events(job.owner, self.id)) if self._is_streamed else 0
        self._unsaved: list[bytes] = []
        self._writer: ResponseEvents | None = None
        self._saved_at, self._has_news = float("-inf"), False
        self._has_accepted = False
        self._progress: dict[str, Any] = {}
        # The claim on its conversation ends unless it is renewed.
        self._conversations, self._claim = conversations, ("", "")
        self._claimed_at = float("-inf")
        # Whether the last request is missing in the stored journal: nobody would go on with it.
        self._is_orphaned = False
        self.journal = RequestJournal(
            on_submit=self._keep_submit,
            is_left_running=lambda: job.is_handed_over and not self._is_orphaned,
        )
        if job.journal is not None:
            self.journal.read(job.journal["requests"])

    def resumed(self, question: ResponseQuestion) -> ResponseQuestion:
        """See internal_call.JobAnswer. The question is answered as a stream."""
        [request] = question.requests
        begun = self._seen if self.journal.is_empty else None
        if begun:
            if begun.has_calls:
                raise CutOffByRestart()
            request = _continued(request, begun.texts)
        # As a stream, so that the text so far can be seen; but nobody waits for its first words,
        # for which a horde would be sent a request more.
        horde = {"first_segment": 0, **request.horde}
        request = replace(request, stream=True, include_usage=True, horde=horde)
        question = replace(question, requests=(request,), created=self.created)
        self._claim = question.conversation or "", conversation_writer()
        self._claimed_at = self._clock()
        self._writer = writer = ResponseEvents(question)
        _drop(writer.begin())
        for seen in self._seen.chunks(request.model):
            _drop(writer.chunk(seen))
        # The events that were stored before a restart have the numbers below this one.
        writer.go_on_from(self._next)
        if begun:
            self._seen = SeenOutput(())
        return question

    def watch(self, source: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """See front.Recorder."""
        assert self._writer is not None
        try:
            for item in source:
                self._take(item)
                yield item
            self._add([self._writer.end()])
            if not self._writer.is_complete:
                raise UpstreamFailed("The answer broke off.")
            self._finish()
        except ProxyError as exc:
            # Before an upstream has taken the request, it may be tried again.
            if self._has_accepted and not self._is_ended_by_us() and not self.is_over:
                self._add([self._writer.error(exc)])
                self._finish()
            raise
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def writer(self, after: int = -1, *, numbers: bool = False) -> None:
        """None: nobody reads what the internal call writes."""

    def document(self) -> None:
        """None, as `writer`."""

    def forget(self) -> None:
        """Nothing: a response that was deleted is noticed at the next write."""

    def forget_requests(self) -> None:
        """Keep that nothing runs at a horde any more."""
        self.journal.forget()
        self._save_journal()

    def fail(self, error: Mapping[str, str]) -> None:
        """Keep that the response failed: an object with `code` and `message`."""
        response = {**self._stored, "status": "failed", "error": dict(error)}
        if self._writer is not None:
            response["output"] = self._writer.response["output"]
        number = self._next + len(self._unsaved)
        self._unsaved.append(lifecycle_event("failed", response, number))
        self._keep(response)

    def _take(self, item: StreamItem) -> None:
        """Note what an item brings, and save it when it is time."""
        assert self._writer is not None
        if isinstance(item, Accepted):
            if not self._has_accepted and self._stored["status"] == "queued":
                self._add([self._writer.keep_alive()])
            # One that stands in line is not taken yet, though its keep-alives have begun.
            self._has_accepted = self._has_accepted or not item.is_early
            self._has_news = True
        elif isinstance(item, Waiting):
            progress = {
                "state": item.state,
                "position": item.queue_position,
                "seconds": item.seconds,
            }
            if progress != self._progress:
                self._progress = progress
                self._has_news = True
        else:
            self._add(self._writer.chunk(self._seen.without(item)))
        if self._has_news and self._clock() - self._saved_at >= _SAVE_SECONDS:
            self._save()
        self._renew_claim()

    def _renew_claim(self) -> None:
        conversation, writer = self._claim
        is_due = self._clock() - self._claimed_at >= RENEWAL
        if conversation and self._conversations is not None and is_due:
            self._claimed_at = self._clock()
            # Where it was deleted, the answer is complete all the same.
            with suppress(DatabaseError, NotStored, ConversationInUse):
                self._conversations.claim(self._job.owner, conversation, writer)

    def _add(self, events: Iterator[bytes] | Sequence[bytes]) -> None:
        for written in events:
            self._unsaved += [event + b"\n\n" for event in written.split(b"\n\n") if event]
        self._has_news = True

    def _save(self) -> None:
        """Save what there is. What fails now is saved the next time."""
        assert self._writer is not None
        self._saved_at, self._has_news = self._clock(), False
        try:
            self._save_journal()
            if self._has_accepted and not self._writer.is_complete:
                self._keep(self._writer.response)
        except DatabaseError as exc:
            log.warning("the response %s cannot be saved now: %s", self.id, exc)

    def _finish(self) -> None:
        assert self._writer is not None
        try:
            self._keep(self._writer.response)
        except DatabaseError:
            self.has_failed_to_save = True
            raise ClientGone() from None

    def _keep(self, response: Mapping[str, Any]) -> None:
        """Store the response with its new events. Raises ClientGone where it has ended already."""
        events = self._unsaved if self._is_streamed else ()
        if not self._store.update(self._job.owner, response, events, self._next):
            # Cancelled or deleted, by whichever process was asked for that.
            self.is_over, self.status = True, "cancelled"
            raise ClientGone()
        self._next += len(events)
        self._unsaved = []
        self.status = response["status"]
        self.is_over = self.status in ENDED

    def _keep_submit(self) -> None:
        """Keep what was submitted, at once. Without it, a crash would cost a second request."""
        self._is_orphaned = True
        try:
            self._save_journal()
        except DatabaseError as exc:
            log.warning("a request of response %s cannot be noted now: %s", self.id, exc)
        self._is_orphaned = False

    def _save_journal(self) -> None:
        requests = self.journal.as_json()
        saved = {"requests": requests, "progress": {**self._progress, "at": self._now()}}
        if not self._job.save_journal(saved):
            # The lease has ended, and another process goes on with it.
            self._job.is_handed_over = True
            raise ClientGone()

    def _is_ended_by_us(self) -> bool:
        return self._job.is_handed_over or self._job.is_cancelled or self.has_failed_to_save


def lifecycle_event(name: str, response: Mapping[str, Any], number: int) -> bytes:
    """An event of a number that has the whole response, e.g. "failed"."""
    kind = f"response.{name}"
    return sse.event({"type": kind, "sequence_number": number, "response": dict(response)}, kind)


def _continued(request: GenerationRequest, texts: Mapping[str, str]) -> GenerationRequest:
    """The request with the beginning of its answer, which a model goes on with."""
    begun = Message("assistant", texts["content"], reasoning=texts["reasoning_content"])
    return replace(request, messages=(*request.messages, begun), source={})


def _drop(events: Iterator[bytes]) -> None:
    for _ in events:
        pass

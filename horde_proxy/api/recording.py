"""Keeps answers while they are made, so that clients can fetch them later.

A recorder sits between the upstreams and all readers of an answer. It holds the last chunks back
until the answer is stored: a client asks the next turn as soon as it has seen the end of this one.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import g

from horde_proxy.api.auth import account_name
from horde_proxy.api.context import AppContext
from horde_proxy.api.event_log import EventLog, LogReader
from horde_proxy.api.front import EventWriter
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ClientGone, InvalidRequest, ProxyError, UpstreamFailed
from horde_proxy.protocol.chunks import Chunk, fold, is_complete
from horde_proxy.protocol.responses.events import ResponseEvents
from horde_proxy.protocol.responses.question import ResponseQuestion
from horde_proxy.store import AnswerStore
from horde_proxy.store.records import ConversationInUse, NotStored, StoredChat, TooLong
from horde_proxy.store.stored_text import json_text
from horde_proxy.upstreams.base import StreamItem

RENEWAL = 20.0
"""Seconds after which a response renews the claim on its conversation, which ends after
conversations.LEASE."""

if TYPE_CHECKING:
    from horde_proxy.store.chats import ChatStore

log = logging.getLogger(__name__)


class Endings:
    """Tells when each of the choices of an answer has its finish_reason."""

    def __init__(self, choices: int) -> None:
        self._open = set(range(choices))

    def take(self, chunk: Chunk) -> bool:
        """Whether all choices have ended with this chunk or before it."""
        for choice in chunk["choices"]:
            if choice["finish_reason"]:
                self._open.discard(choice["index"])
        return not self._open


class ResponseRecorder:
    """Keeps one response, with the events of its stream. `keeps`: it goes to the store.

    The events are kept in memory for all, so that a retry gets the same ones.
    """

    def __init__(
        self,
        question: ResponseQuestion,
        owner: str,
        store: AnswerStore,
        clock: Callable[[], float],
        conversation_writer: str = "",
    ) -> None:
        self.id, self.owner = question.id, owner
        self._question, self._store, self._clock = question, store, clock
        self._events = ResponseEvents(question)
        self.is_streamed = question.requests[0].stream
        self.log = EventLog(self._events, keeps=self.is_streamed)
        self.keeps = question.store and store.responses is not None
        self.is_lost = False
        self._conversation_writer, self._renewed = conversation_writer, clock()

    @property
    def outlives_client(self) -> bool:
        """Whether the answer is made to its end also when its client leaves."""
        return self.keeps and self._question.asked_to_store

    @property
    def input_items(self) -> Sequence[dict[str, Any]]:
        """The items of the request's own input."""
        return self._question.input_items

    @property
    def response(self) -> dict[str, Any]:
        """The response object as it stands."""
        with self.log.unchanged():
            return self._events.response

    def watch(self, source: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """See front.Recorder."""
        endings = Endings(1)
        held: list[Chunk] = []
        try:
            for item in source:
                self._renew()
                if not isinstance(item, dict):
                    yield item
                    continue
                is_last = endings.take(item)
                self.log.take(item, holds=is_last)
                if is_last:
                    held.append(item)
                else:
                    yield item
            self._end()
        except ProxyError as exc:
            self._fail(exc)
            raise
        finally:
            # It was cancelled where it is not over by now.
            self.log.fail(ClientGone())
            self.log.publish()
            self._release()
            _close(source)
        yield from held

    def writer(self, after: int = -1, *, numbers: bool = False) -> EventWriter:
        """See front.Recorder."""
        return LogReader(self.log, after + 1, numbers=numbers)

    def document(self) -> dict[str, Any]:
        """The response object of a complete answer."""
        return self.response

    def forget(self) -> None:
        """Do not store the answer: its client has deleted it."""
        self.keeps = False

    def _end(self) -> None:
        self.log.end()
        if not self.log.is_complete:
            raise UpstreamFailed("The answer broke off.")
        self._save()

    def _fail(self, error: ProxyError) -> None:
        """Keep what there is of an answer that failed, if its client knows its id."""
        if self.is_streamed and self.log.has_events:
            self.log.fail(error)
            self._save()

    def _save(self) -> None:
        if not self.keeps or self._store.responses is None:
            return
        events = self.log.all_events() if self.is_streamed else None
        self.is_lost = True
        with _logged("response", self.id):
            self._store.responses.save(self.owner, self.response, self.input_items, events=events)
            self.is_lost = False

    def _renew(self) -> None:
        conversation, store = self._question.conversation, self._store.conversations
        if conversation is None or store is None or self._clock() - self._renewed < RENEWAL:
            return
        self._renewed = self._clock()
        with _logged("conversation", conversation):
            store.claim(self.owner, conversation, self._conversation_writer)

    def _release(self) -> None:
        """Let the next turn into the conversation: it may come before this request is closed."""
        conversation, store = self._question.conversation, self._store.conversations
        if conversation is not None and store is not None:
            with _logged("conversation", conversation):
                store.release(self.owner, conversation, self._conversation_writer)


@dataclass(frozen=True)
class ChatFacts:
    """What is stored with a chat completion, of the request that it answers."""

    choices: int
    messages: Sequence[dict[str, Any]]
    metadata: Mapping[str, str]


class ChatRecorder:
    """Stores one chat completion whose client asked for that."""

    outlives_client = True

    def __init__(self, facts: ChatFacts, owner: str, store: ChatStore) -> None:
        self.owner, self._facts, self._store = owner, facts, store
        self.is_lost = False

    def watch(self, source: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """See front.Recorder."""
        endings = Endings(self._facts.choices)
        chunks: list[Chunk] = []
        held: list[Chunk] = []
        try:
            for item in source:
                if isinstance(item, dict):
                    chunks.append(item)
                    if endings.take(item):
                        held.append(item)
                        continue
                yield item
        finally:
            _close(source)
        if is_complete(chunks):
            self._save(fold(chunks))
        yield from held

    def writer(self, after: int = -1, *, numbers: bool = False) -> EventWriter | None:
        """None: the front's own."""
        return None

    def document(self) -> dict[str, Any] | None:
        """None: the front's own."""
        return None

    def _save(self, completion: dict[str, Any]) -> None:
        chat = StoredChat(completion, dict(self._facts.metadata), list(self._facts.messages))
        self.is_lost = True
        with _logged("chat completion", completion["id"]):
            self._store.save(self.owner, chat)
            self.is_lost = False


def record_response(ctx: AppContext, question: ResponseQuestion) -> ResponseRecorder:
    """The recorder of a response. Raises InvalidRequest for an input that is too large to store."""
    store = ctx.store.responses
    if store is not None and question.store:
        size = len(json_text(question.input_items))
        if size > store.most_bytes:
            raise InvalidRequest(
                "The input is too large to be stored. Send `store: false`, and with each turn "
                "the whole conversation.",
                param="input",
                code="too_large_to_store",
            )
    return ResponseRecorder(
        question, account_name(ctx), ctx.store, ctx.clock, conversation_writer()
    )


def running_response(ctx: AppContext, response_id: str) -> ResponseRecorder | None:
    """The recorder of a response of this owner that this process is making, or made just now."""
    owner = account_name(ctx)
    answer = ctx.live.in_flight.find(
        lambda answer: (
            isinstance(answer.recorder, ResponseRecorder)
            and answer.recorder.id == response_id
            and answer.recorder.owner == owner
            and answer.recorder.keeps
        )
    )
    return answer.recorder if answer and isinstance(answer.recorder, ResponseRecorder) else None


def conversation_writer() -> str:
    """The name by which the current request claims a conversation: the digest of its body.

    A retry may join the answer that it repeats, so that it counts as the same.
    """
    return hashlib.sha256(g.get("content", b"")).hexdigest()


@contextmanager
def _logged(kind: str, identity: str) -> Iterator[None]:
    """Log a failure to store, instead of failing an answer that was paid for."""
    try:
        yield
    except (DatabaseError, NotStored, ConversationInUse, TooLong) as exc:
        log.error("the %s %s could not be stored: %s", kind, identity, exc)


def _close(source: Iterator[StreamItem]) -> None:
    close = getattr(source, "close", None)
    if close is not None:
        close()

"""What a request may refer to: the stored responses, items and conversations of its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from flask import g

from horde_proxy.api.auth import account_name
from horde_proxy.api.context import AppContext
from horde_proxy.api.internal_call import current_job
from horde_proxy.api.places import bind
from horde_proxy.api.recording import conversation_writer, running_response
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import InvalidRequest, ProxyError, Unavailable
from horde_proxy.places import Binding
from horde_proxy.protocol.responses.calls import Item
from horde_proxy.protocol.responses.question import (
    ConversationNotFound,
    NoRecall,
    PreviousResponseNotFound,
    Recall,
)
from horde_proxy.store.records import ConversationInUse, NotStored, StillRunning, TooLong

if TYPE_CHECKING:
    from horde_proxy.store.conversations import ConversationStore
    from horde_proxy.store.responses import ResponseStore

_LEASE = 60.0
"""Seconds of a request's claim on a conversation. While its answer is made, the recorder renews it
(recording.py)."""


class StoreFailed(Unavailable):
    """The database of stored answers fails."""

    code = "store_failed"

    def __init__(self) -> None:
        super().__init__("Stored answers cannot be read or written now.", retry_after=5)


class ConversationLocked(ProxyError):
    """Another response is being written into the conversation. SDKs try again after a 409."""

    status = 409
    type = "invalid_request_error"
    code = "conversation_locked"
    retry_after = 2

    def __init__(self) -> None:
        super().__init__(
            "Another response is being written into this conversation. Try again when it is "
            "complete.",
            param="conversation",
        )


@contextmanager
def reading_store() -> Iterator[None]:
    """Within it, what the store raises becomes an error that clients understand."""
    try:
        yield
    except DatabaseError as exc:
        raise StoreFailed() from exc
    except ConversationInUse as exc:
        raise ConversationLocked() from exc
    except TooLong as exc:
        raise InvalidRequest(
            "The conversation is too long to be continued here. Compact it, delete some of its "
            "items, or begin a new one.",
            code="context_length_exceeded",
        ) from exc


class StoredRecall:
    """The Recall of one owner. It has a conversation for itself until the request has ended.

    It serves one request, and reads each thing once: whether a body refers to something is found
    out before the body is read.
    """

    def __init__(
        self,
        responses: ResponseStore,
        conversations: ConversationStore,
        owner: str,
        writer: str,
        seconds: float,
        is_running: Callable[[str], bool],
    ) -> None:
        self._responses, self._conversations = responses, conversations
        self._owner, self._writer, self._seconds = owner, writer, seconds
        self._is_running = is_running
        self._chains: dict[str, Sequence[Item]] = {}
        self._items: dict[str, Item | None] = {}
        self._claimed: dict[str, Sequence[Item]] = {}

    def chain(self, response_id: str) -> Sequence[Item]:
        """See protocol.responses.question.Recall. Raises InvalidRequest for one that runs."""
        if response_id not in self._chains:
            self._chains[response_id] = self._chain(response_id)
        return self._chains[response_id]

    def _chain(self, response_id: str) -> Sequence[Item]:
        try:
            with reading_store():
                chain = self._responses.chain(self._owner, response_id)
            self._bind_as(response_id)
            return chain
        except NotStored as exc:
            if self._is_running(exc.id):
                raise _not_complete(exc.id) from exc
            raise PreviousResponseNotFound(exc.id) from exc
        except StillRunning as exc:
            raise _not_complete(response_id) from exc

    def item(self, item_id: str) -> Item | None:
        """See protocol.responses.question.Recall."""
        if item_id not in self._items:
            with reading_store():
                self._items[item_id] = self._responses.item(self._owner, item_id)
                holders = self._responses.holders(self._owner, item_id)
            self._bind_as(*holders)
        return self._items[item_id]

    def conversation(self, conversation_id: str) -> Sequence[Item]:
        """See protocol.responses.question.Recall. Raises ConversationLocked."""
        if conversation_id not in self._claimed:
            self._claimed[conversation_id] = self._claim(conversation_id)
        return self._claimed[conversation_id]

    def _bind_as(self, *ids: str) -> None:
        """Bind the request as what it takes up is: the texts of that are sent again.

        Raises PlacesExcluded.
        """
        bind_as_stored(self._responses, self._owner, *ids)

    def _claim(self, conversation_id: str) -> Sequence[Item]:
        try:
            with reading_store():
                self._conversations.claim(self._owner, conversation_id, self._writer, self._seconds)
                release = partial(
                    self._conversations.release, self._owner, conversation_id, self._writer
                )
                g.closing.append(partial(_released, release))
            self._bind_as(conversation_id)
            with reading_store():
                return self._conversations.items(self._owner, conversation_id)
        except NotStored as exc:
            raise ConversationNotFound(conversation_id) from exc


def bind_as_stored(store: ResponseStore, owner: str, *ids: str) -> None:
    """Bind the current request as these responses and conversations are. Raises PlacesExcluded."""
    with reading_store():
        found = store.places(owner, *ids)
    for places in found:
        bind(Binding("what this request continues", frozenset(places)))


def recall(ctx: AppContext) -> Recall:
    """What the current request may refer to."""
    store = ctx.store
    if store.responses is None or store.conversations is None:
        return NoRecall()
    if "recall" not in g:
        job = current_job()
        # A job that is begun again after a restart is the same writer.
        seconds = job.seconds if job and job.seconds else _LEASE
        g.recall = StoredRecall(
            store.responses,
            store.conversations,
            account_name(ctx),
            conversation_writer(),
            seconds,
            lambda response_id: running_response(ctx, response_id) is not None,
        )
    return cast(StoredRecall, g.recall)


def _not_complete(response_id: str) -> InvalidRequest:
    return InvalidRequest(
        f"The response '{response_id[:200]}' is not complete yet: continue it when it is.",
        param="previous_response_id",
        code="previous_response_not_complete",
    )


def _released(release: Callable[[], None]) -> None:
    with suppress(DatabaseError):
        release()

"""What was read of a request for a response, and what earlier turns are recalled from. Pure.

request.py makes a ResponseQuestion; events.py and object.py answer it. Who keeps responses, and
for whom, is not known here: see Recall.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from horde_proxy.errors import ProxyError
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.responses.calls import CallForm, Item

_ID_LENGTH = 48
"""Hexadecimal digits of an id, as OpenAI's have."""


class NotKept(ProxyError):
    """A request refers to something that is not, or no longer, stored for its client."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class PreviousResponseNotFound(NotKept):
    """The response that a request goes on from is unknown, or another client's.

    OpenAI's words and code. Never ignored: the model would answer without the conversation.
    """

    code = "previous_response_not_found"

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"Previous response with id '{response_id}' not found.", param="previous_response_id"
        )


class ConversationNotFound(NotKept):
    """The conversation is unknown, or another client's."""

    code = "conversation_not_found"

    def __init__(self, conversation_id: str) -> None:
        super().__init__(
            f"Conversation with id '{conversation_id}' not found.", param="conversation"
        )


class ItemNotFound(NotKept):
    """An item_reference leads to no stored item."""

    code = "item_not_found"

    def __init__(self, item_id: str) -> None:
        super().__init__(
            f"Item with id '{item_id}' not found: it is not stored here. Send the items themselves "
            "instead of references; the AI SDK does so with `store: false` in its options for "
            "OpenAI.",
            param="input",
        )


class Recall(Protocol):
    """The stored items of one owner."""

    def chain(self, response_id: str) -> Sequence[Item]:
        """Input and output items of a response and of all before it, the oldest first.

        Raises PreviousResponseNotFound.
        """

    def item(self, item_id: str) -> Item | None:
        """The item with this id; None where there is none."""

    def conversation(self, conversation_id: str) -> Sequence[Item]:
        """The items of a conversation, the oldest first. Raises ConversationNotFound."""


class NoRecall:
    """The Recall of a proxy that keeps nothing."""

    def chain(self, response_id: str) -> Sequence[Item]:
        """Raises PreviousResponseNotFound."""
        raise PreviousResponseNotFound(response_id)

    def item(self, item_id: str) -> Item | None:
        """None: no item is known."""
        return None

    def conversation(self, conversation_id: str) -> Sequence[Item]:
        """Raises ConversationNotFound."""
        raise ConversationNotFound(conversation_id)


@dataclass(frozen=True)
class ResponseQuestion:
    """What a client asks for. All that is written of an answer follows from this and its chunks.

    `id` begins with "resp_"; `created` is Unix time (s), which `now` gives as well. `echo` holds
    the fields of the response object that repeat the request. `input_items` are the items of this
    request alone, each with an id and a type; references are the items that they lead to.
    `asked_to_store`: `store` is true because the client said so, and not by default. `calls` are
    the forms in which calls are written, by the names that the model knows the tools by. With
    `compacts`, the answer is a summary, in a compaction item.
    """

    requests: tuple[GenerationRequest]
    id: str
    created: int
    now: Callable[[], float] = field(repr=False, compare=False)
    echo: Mapping[str, Any] = field(default_factory=dict, repr=False)
    input_items: tuple[Item, ...] = field(default=(), repr=False)
    store: bool = True
    asked_to_store: bool = False
    background: bool = False
    previous_response_id: str | None = None
    conversation: str | None = None
    calls: Mapping[str, CallForm] = field(default_factory=dict, repr=False)
    compacts: bool = False


def item_id(prefix: str, response_id: str, place: str) -> str:
    """The id of an item of a response, e.g. "msg_..." for the place "output 0".

    Always the same for the same place: whoever stores an answer and whoever streams it write one
    id each, without a word to each other.
    """
    digest = hashlib.sha256(f"{response_id} {place}".encode("utf-8", "backslashreplace"))
    return prefix + digest.hexdigest()[:_ID_LENGTH]

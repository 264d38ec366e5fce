"""Stored responses, conversations and chats: their errors, metadata and objects. Pure.

Source: OpenAI's OpenAPI description. An id of another owner is answered as an unknown one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.responses.calls import Item
from horde_proxy.protocol.responses.question import NotKept
from horde_proxy.protocol.validation import invalid_type, validated

_MOST_METADATA, _LONGEST_KEY, _LONGEST_VALUE = 16, 64, 512
"""OpenAI's limits of `metadata`."""
_MOST_ITEMS = 20
"""Items in one call for a conversation, as in OpenAI's API."""
_LONGEST_ID = 200
"""Characters of an id that an error repeats; it may be kilobytes long."""

NOTHING_IS_STORED = "store: nothing is stored here"
"""The warning for `store: true` where the proxy keeps no answers."""


class KeepsNothing(InvalidRequest):
    """The proxy keeps no answers, so that the call makes no sense here."""

    code = "nothing_is_stored"

    def __init__(self) -> None:
        super().__init__(
            "This proxy keeps no answers: its setting store.days is 0. Send `store: false`, and "
            "with each turn the whole conversation."
        )


class ResponseNotFound(NotKept):
    """The response is unknown, deleted, expired or another client's."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"Response with id '{response_id[:_LONGEST_ID]}' not found.")


class ChatNotFound(NotKept):
    """The chat completion is unknown, deleted, expired or another client's."""

    def __init__(self, chat_id: str) -> None:
        super().__init__(
            f"Chat completion with id '{chat_id[:_LONGEST_ID]}' not found. Those that were asked "
            "for with `store: true` can be fetched later."
        )


class ConversationItemNotFound(NotKept):
    """The conversation has no such item."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"Item with id '{item_id[:_LONGEST_ID]}' not found in the conversation.")


class StoredBody(BaseModel):
    model_config = ConfigDict(extra="ignore")

    metadata: dict[str, Any] | None = None
    items: Annotated[list[dict[str, Any]], Field(max_length=_MOST_ITEMS)] | None = None


def read_metadata(body: Any) -> dict[str, str]:
    """The `metadata` of a body, which may be null. Raises InvalidRequest."""
    metadata = validated(StoredBody, body).metadata or {}
    if len(metadata) > _MOST_METADATA:
        raise _invalid(f"it has more than {_MOST_METADATA} pairs")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise invalid_type(f"metadata.{key[:_LONGEST_KEY]}", "a string", value)
        if len(key) > _LONGEST_KEY or len(value) > _LONGEST_VALUE:
            raise _invalid(
                f"keys have at most {_LONGEST_KEY} characters, and values {_LONGEST_VALUE}"
            )
    return metadata


def read_items(body: Any) -> list[dict[str, Any]]:
    """The `items` of a body. Raises InvalidRequest."""
    return validated(StoredBody, body).items or []


def listed_item(item: Item) -> Item:
    """An item as lists show it: a message has a status."""
    if item.get("type") != "message" or "status" in item:
        return item
    return {**item, "status": "completed"}


def deleted(identity: str, kind: str) -> dict[str, Any]:
    """The answer to a client that has deleted something."""
    return {"id": identity, "object": kind, "deleted": True}


def stored_messages(chat_id: str, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a stored chat completion, each with an id of its own.

    OpenAI gives parts apart from a content that is a text.
    """
    listed = []
    for number, message in enumerate(messages):
        content = message.get("content")
        parts = content if isinstance(content, list) else None
        shown = {**message, "id": f"{chat_id}-{number}", "content_parts": parts}
        listed.append({**shown, "content": None if parts else content})
    return listed


def _invalid(why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'metadata': {why}.", param="metadata", code="invalid_value")

"""What the stores of answers give and raise. Imports no SQLAlchemy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Item = dict[str, Any]
RUNNING = ("queued", "in_progress")
"""The statuses of a response that is not complete yet."""


class NotStored(LookupError):
    """This owner has no such thing in the store. `id` is what was looked for."""

    def __init__(self, identity: str) -> None:
        super().__init__(identity)
        self.id = identity


class StillRunning(Exception):
    """The response cannot be continued yet: it is not complete."""


class ConversationInUse(Exception):
    """Another response is being written into the conversation."""


class TooLong(Exception):
    """The earlier turns of a response are larger than a request may be."""


@dataclass(frozen=True)
class StoredResponse:
    """A response object, with its output. `is_streamed`: it was asked for as a stream."""

    response: dict[str, Any]
    is_streamed: bool

    @property
    def is_running(self) -> bool:
        """Whether it is not complete yet."""
        return self.response["status"] in RUNNING


@dataclass(frozen=True)
class StoredChat:
    """A chat completion as it was answered, its metadata, and the messages of its request."""

    completion: dict[str, Any]
    metadata: dict[str, str]
    messages: list[dict[str, Any]]

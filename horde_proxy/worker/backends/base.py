"""The contract of a backend: it completes the payload of a popped job. It knows no horde.

Each backend has the members of `Backend`. One that is a server of its own may also have those of
`ReportsState`; all others count as up and free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Payload = Mapping[str, Any]
"""The `payload` of a job: `prompt` or `chat`, lengths in tokens, sampling (`aihorde.limits`)."""


class BackendError(Exception):
    """The backend cannot be used, or failed on a job. The message says why, for the log.

    `reason` is what the horde gets to see: it holds no address and nothing that a server wrote.
    """

    def __init__(self, message: str, reason: str = "the backend failed") -> None:
        super().__init__(message)
        self.reason = reason


class JobRefused(BackendError):
    """The backend cannot do this job, and goes on with others."""


class BackendDown(BackendError):
    """The backend does no jobs now: it cannot be reached, or refuses whatever comes."""

    def __init__(self, message: str, reason: str = "the backend is down") -> None:
        super().__init__(message, reason)


class ContextExceeded(JobRefused):
    """The chat is too long for the model."""


class ChatUnsupported(BackendError):
    """The backend does no chats, or no tools: it goes on with jobs that have a prompt."""


@dataclass(frozen=True)
class ServerState:
    """What a server says of itself: how many requests run or wait, of all its users.

    None where it does not say.
    """

    requests: int | None = None


def say_nothing(sentence: str) -> None:
    """The report where nobody listens."""


@dataclass(frozen=True)
class BackendOptions:
    """The user's options; each backend uses those that apply to it.

    `kind` is a word of `registry.server_kinds`; None finds it out. `api_key` is the server's.
    `model` is the model of a server, or another name to advertise its only one under. `models` are
    globs of several models of it, of which `denied_models` are never offered. Lengths are
    in tokens, `delay` is in seconds, `speed` in tokens a second (0 for no limit). `scenario` is a
    file of rules for the echo. `chat`: whether chats are offered; None finds it out. `report` is
    called with sentences for the user: what was taken from a server.
    """

    kind: str | None = None
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    models: Sequence[str] = ()
    denied_models: Sequence[str] = ()
    max_length: int | None = None
    max_context_length: int | None = None
    delay: float = 0.0
    speed: float = 0.0
    scenario: Path | None = None
    chat: bool | None = None
    report: Callable[[str], None] = say_nothing


class Backend(Protocol):
    """Completes prompts. `name` is advertised to the horde; lengths are in tokens.

    `tags` are the role tags with which the worker fills in placeholders (see `placeholders`); None
    if the prompt should keep its placeholders.
    """

    @property
    def name(self) -> str: ...

    @property
    def max_length(self) -> int: ...

    @property
    def max_context_length(self) -> int: ...

    @property
    def tags(self) -> Mapping[str, str] | None: ...

    def generate(self, payload: Payload, cancelled: Callable[[], bool]) -> str:
        """The new text. Raises BackendError.

        `cancelled` returns True once the text is not needed any more. A backend then ends within a
        second; what it returns or raises does not matter.
        """


@runtime_checkable
class ReportsState(Protocol):
    """A backend that can be down, and that others may use besides the worker."""

    def state(self) -> ServerState:
        """The state at this moment. Raises BackendDown."""

    def slots(self) -> int | None:
        """How many requests it runs at a time; None where it does not say."""


@runtime_checkable
class StreamsText(Protocol):
    """A backend that gives its text as it grows."""

    def stream(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        """The pieces of the text that `generate` returns. Raises BackendError."""


@runtime_checkable
class StreamsChat(Protocol):
    """A backend that may know its model's chat template: it writes the answers of chats."""

    @property
    def can_chat(self) -> bool:
        """Whether it does so, as far as is known."""

    def chat(self, payload: Payload, cancelled: Callable[[], bool]) -> Iterator[str]:
        """The lines of the transcript (`aihorde.transcript`) of a payload's `chat`.

        Each piece is one line or several. Raises BackendError.
        """


OpenBackend = Callable[[str, BackendOptions], Backend | None]
"""Opens the backend of a name, path or URL; returns None if it belongs to another kind."""

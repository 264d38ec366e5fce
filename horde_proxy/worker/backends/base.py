"""The contract of a backend: it completes the payload of a popped job. It knows no horde."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Payload = Mapping[str, Any]
"""The `payload` of a popped job: `prompt`, lengths in tokens, sampling (`aihorde.limits`)."""


class BackendError(Exception):
    """The backend cannot be used, or failed on a job. The message says why."""


def _say_nothing(sentence: str) -> None:
    """The report where nobody listens."""


@dataclass(frozen=True)
class BackendOptions:
    """The user's options; each backend uses those that apply to it.

    `model` is the model of a server, or another name to advertise its only one under. Lengths are
    in tokens, `delay` is in seconds, `speed` in tokens a second (0 for no limit). `scenario` is a
    file of rules for the echo. `report` is called with sentences for the user: what was taken from
    a server.
    """

    model: str | None = None
    max_length: int | None = None
    max_context_length: int | None = None
    delay: float = 0.0
    speed: float = 0.0
    scenario: Path | None = None
    report: Callable[[str], None] = _say_nothing


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
        """The new text. `cancelled` returns True once the worker is being stopped."""


OpenBackend = Callable[[str, BackendOptions], Backend | None]
"""Opens the backend of a name, path or URL; returns None if it belongs to another kind."""

"""The contract of a backend: it completes a popped job's payload. It knows no horde."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Payload = Mapping[str, Any]
"""The `payload` of a popped job: `prompt`, lengths in tokens, sampling (`aihorde.limits`)."""


class BackendError(Exception):
    """The backend cannot be used, or failed on a job. The message says what to do."""


@dataclass(frozen=True)
class BackendOptions:
    """The user's wishes; each backend follows those that concern it.

    `model` is the name to advertise; lengths are in tokens, `delay` is in seconds, `speed` in
    tokens a second (0 for no limit). `scenario` is a file of rules for the echo.
    """

    model: str | None = None
    max_length: int | None = None
    max_context_length: int | None = None
    delay: float = 0.0
    speed: float = 0.0
    scenario: Path | None = None


class Backend(Protocol):
    """`name` is advertised to the horde; lengths are in tokens.

    `tags` are the role tags of a model that runs in this process; None where the backend fills in
    placeholders itself or takes none (see `placeholders`).
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
        """The new text. `cancelled` turns true when the worker is being stopped."""


OpenBackend = Callable[[str, BackendOptions], Backend | None]
"""Opens the backend of a name, path or URL; None if that is not one of its kind."""

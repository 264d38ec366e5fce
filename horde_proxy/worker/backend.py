"""What a worker drives: something that completes a popped job's payload."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

Payload = Mapping[str, Any]


class BackendError(Exception):
    """The backend cannot be used, or failed on a job; the message says what to do."""


class Backend(Protocol):
    """`name` is advertised to the horde; lengths are tokens.

    `tags` are the role tags of a model that we run ourselves; None where the backend fills in
    placeholders itself or takes none.
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
        """The new text. `cancelled` turns true when nobody wants it any more."""

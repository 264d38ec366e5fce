"""The contract of a backend for alchemy: it does one form for a picture. It knows no horde."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from horde_proxy.pictures import Raster

FormResult = str | bool | Mapping[str, Any] | Raster
"""The value of a form as the horde has it; a picture for those that change one."""


class AlchemyBackend(Protocol):
    """Does forms (`aihorde.image_limits.ALCHEMY_FORMS`). `name` is shown in the status.

    `max_tiles` bounds the pictures: tiles of 512x512 pixels.
    """

    @property
    def name(self) -> str: ...

    @property
    def forms(self) -> frozenset[str]: ...

    @property
    def max_tiles(self) -> int: ...

    def transform(
        self, form: str, source: Raster, payload: Mapping[str, Any], cancelled: Callable[[], bool]
    ) -> FormResult:
        """The result of a form. Raises BackendError.

        `cancelled` returns True once it is not needed any more.
        """

"""How views change settings: what `app` offers them. Pages know no file and no source.

    edit() -> EditedSettings: set, unset, append, remove -> save(): checked, written, in use

Everything here raises SettingsRefused with a sentence that says why, and then nothing is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

SettingName = str | Sequence[str | int]
"""`"server.bind"`, or its parts: `("aliases", "gpt-4.1")`, `("endpoints", 0, "weight")`."""


class EditedSettings(Protocol):
    """The settings file with changes that are not saved. `digest` tells the version of the file.

    `clear` is `unset`, refused where another source gives the setting.
    """

    @property
    def path(self) -> Path: ...
    @property
    def digest(self) -> str: ...
    def set(self, name: SettingName, value: Any) -> None: ...
    def unset(self, name: SettingName) -> None: ...
    def clear(self, name: SettingName) -> None: ...
    def append(self, name: SettingName, value: Any) -> None: ...
    def remove(self, name: SettingName, field: str, value: Any) -> None: ...


class SettingOrigin(Protocol):
    """One setting with its value as JSON or "(hidden)", and its source; see config.origins."""

    @property
    def name(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def overridden(self) -> tuple[tuple[str, str], ...]: ...


@dataclass(frozen=True)
class TriedServer:
    """A server that has answered: its kind, as in the settings, and the names of its models.

    `offers_any`: it lists none, so that any name may be used.
    """

    kind: str
    models: tuple[str, ...]
    offers_any: bool = False


@dataclass(frozen=True)
class TriedHordeKey:
    """Whose key it is at the horde, and the kudos of that account."""

    username: str
    kudos: float


class SettingsAccess(Protocol):
    """The settings of the running proxy, for the pages of its operator."""

    def is_first_run(self) -> bool:
        """Whether nothing is configured yet, and the page is to lead through it."""

    def value(self, name: str) -> Any:
        """A setting as it is in use, by its name with a dot, as "server.bind"."""

    def origins(self) -> Sequence[SettingOrigin]:
        """All settings with their sources."""

    def edit(self) -> EditedSettings:
        """The file as it is now, to change it."""

    def save(self, edited: EditedSettings, expected: str | None = None) -> tuple[str, ...]:
        """Check, write and use the settings; the names of those that only a restart applies.

        `expected` is the digest of the version that the operator has seen.
        """

    def try_server(self, url: str, api_key: str | None, kind: str | None) -> TriedServer:
        """Ask a server for its models; without `kind`, find it out. Raises ProxyError."""

    def try_horde_key(self, api_key: str) -> TriedHordeKey:
        """Ask the horde of [horde] whose key it is. Raises ProxyError."""

"""What the application gives the admin's pages, beside `settings` and what all views have.

Exports only what AppContext holds: it must not import views, which import the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from horde_proxy.router.pauses import Pauses

if TYPE_CHECKING:
    from horde_proxy.ledger.database import LedgerDatabase


@dataclass(frozen=True)
class SettingForm:
    """What a form needs to know of a setting.

    `meaning` is what docs/settings.md says, `kind` its type in plain words. `choices` are all
    values, where there are few. Without `is_editable`, a page cannot change it. `needs_restart`: a
    change is applied by a restart only.
    """

    meaning: str = ""
    kind: str = ""
    choices: Sequence[str] = ()
    is_secret: bool = False
    is_list: bool = False
    is_editable: bool = False
    needs_restart: bool = False


class DescribesSettings(Protocol):
    """Knows what each setting is."""

    def form(self, name: str) -> SettingForm:
        """What a form needs to know of the setting of this name."""

    def parse(self, name: str, text: str) -> Any:
        """The value of a setting that a form sends as text. Raises ValueError with the reason."""


class NoDescriptions:
    """Where there are no settings, as in an app that was made of parts."""

    def form(self, name: str) -> SettingForm:
        """A form of nothing."""
        return SettingForm()

    def parse(self, name: str, text: str) -> Any:
        """Raises ValueError."""
        raise ValueError("there is no such setting")


@dataclass(frozen=True)
class AdminTools:
    """`keys` is the database of keys, None where there is none. `pauses` are those of endpoints."""

    keys: LedgerDatabase | None = None
    pauses: Pauses = field(default_factory=Pauses)
    descriptions: DescribesSettings = field(default_factory=NoDescriptions)

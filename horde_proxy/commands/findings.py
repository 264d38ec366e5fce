"""What a check finds. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. `fix` says what to do, and is empty where all is well."""

    what: str
    fix: str = ""

    @property
    def ok(self) -> bool:
        return not self.fix

"""Where settings are read from: the file that the operator names, and the one that pages write.

Two files, because the first may be one that the proxy cannot write: systemd hands a service a copy
of it (`LoadCredential=`), and `/etc` is read-only there.

    --config or HORDE_PROXY_CONFIG      the operator's file, if there is one
    settings.toml in the state folder   the page's file: read after it, so its values go before

The page's file is read where STATE_DIRECTORY is set (a service, a container), and where no other
file is named. HORDE_PROXY_PAGE_FILE names another path, or is "off". No setting is read here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from horde_proxy.folders import state_folder_of

FILE_VARIABLE = "HORDE_PROXY_CONFIG"
PAGE_FILE_VARIABLE = "HORDE_PROXY_PAGE_FILE"
_PAGE_FILE = "settings.toml"
PAGE_FILE_OFF = "off"


@dataclass(frozen=True)
class SettingsSources:
    """The path that was given, the environment, and flags and defaults nested like the file."""

    path: str | None = None
    # Settings that say the same are equal, wherever they come from.
    environ: Mapping[str, str] = field(
        default_factory=lambda: os.environ, repr=False, compare=False
    )
    flags: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    defaults: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def main_file(self) -> str | None:
        """The operator's file, if one is named."""
        return self.path or self.environ.get(FILE_VARIABLE) or None

    @property
    def page_file(self) -> str | None:
        """The page's file, which may not be there yet; None where none is read."""
        path = self._page_file()
        main = self.main_file
        is_main = path is not None and main is not None and _is_same(path, main)
        return None if is_main else path

    def _page_file(self) -> str | None:
        named = self.environ.get(PAGE_FILE_VARIABLE)
        if named:
            return None if named == PAGE_FILE_OFF else named
        if self.main_file is not None and not self.environ.get("STATE_DIRECTORY"):
            return None
        folder = state_folder_of(self.environ)
        return None if folder is None else str(folder / _PAGE_FILE)

    def files(self) -> tuple[str, ...]:
        """The paths of both files, in the order in which they are read."""
        return tuple(path for path in (self.main_file, self.page_file) if path is not None)

    def is_credential(self, path: str) -> bool:
        """Whether systemd made the file from the one that `LoadCredential=` names."""
        folder = self.environ.get("CREDENTIALS_DIRECTORY")
        return bool(folder) and Path(path).absolute().is_relative_to(Path(str(folder)).absolute())


def _is_same(path: str, other: str) -> bool:
    return Path(path).resolve() == Path(other).resolve()

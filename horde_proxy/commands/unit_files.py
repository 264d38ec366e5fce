"""The files of an installed service: which there are, where they belong, and what is in them.

It writes nothing and starts nothing: `units` does. Every path is below a root folder, which is "/"
but for tests and images of other machines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from platformdirs.unix import Unix

NAME = "horde-proxy"
UNIT = f"{NAME}.service"
_IN_TEMPLATES = "/usr/bin/env /opt/horde-proxy/.venv/bin/horde-proxy"
"""How the units of systemd/ call the program; an installed unit calls the one that wrote it."""
_DOCUMENTATION = re.compile(r"^Documentation=.*\n", re.M)
"""Documentation=file:///opt/horde-proxy/README.md, which is in a checkout only."""
_HIDDEN_FOLDERS = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108
"""What ProtectHome= and PrivateTmp= hide from the system's service."""
_SETTINGS = """\
# Settings of the horde-proxy service; docs/settings.md lists all.
# Keep this file private: chmod 600.

[server]
bind = "127.0.0.1:8080"

[access]
mode = "keys"

[access.keys]
# The first key, which was shown at the installation; `horde-proxy keys add` makes further ones.
first = {{key = "sha256:{digest}", admin = true}}

[horde]
# Your key at aihorde.net; 0000000000 is anonymous, and last in the queue.
api_key = "{horde_key}"
"""


@dataclass(frozen=True)
class ServiceFiles:
    """The places of a service of the system, or of one user (`is_system` is false)."""

    is_system: bool
    root: Path = Path("/")

    @property
    def unit(self) -> Path:
        """The unit of systemd."""
        return self.units_folder / UNIT

    @property
    def packaged_unit(self) -> Path:
        """The unit that the Debian package brings."""
        return self._below(Path("/usr/lib/systemd/system") / UNIT)

    @property
    def units_folder(self) -> Path:
        own = Path(Unix("systemd").user_config_path) / "user"
        return self._below(Path("/etc/systemd/system") if self.is_system else own)

    @property
    def settings(self) -> Path:
        """The settings file."""
        own = Path(Unix(NAME).user_config_path)
        folder = Path("/etc") / NAME if self.is_system else own
        return self._below(folder / "settings.toml")

    @property
    def data(self) -> list[Path]:
        """State and cache. systemd makes those of a DynamicUser= below private/, and links."""
        if self.is_system:
            parents = ("/var/lib", "/var/lib/private", "/var/cache", "/var/cache/private")
            return [self._below(Path(parent) / NAME) for parent in parents]
        own = Unix(NAME)
        return [self._below(Path(path)) for path in (own.user_state_path, own.user_cache_path)]

    @property
    def everything(self) -> list[Path]:
        """All files and folders that a service may have, data last."""
        environment = [self._below(Path(f"/etc/{NAME}.env"))] if self.is_system else []
        units = [self.unit, self.units_folder / f"{UNIT}.d", self.units_folder / f"{NAME}.socket"]
        return [*units, self.settings.parent, *environment, *self.data]

    def _below(self, path: Path) -> Path:
        return self.root / path.relative_to("/")


def unit_text(is_system: bool, program: str) -> str:
    """The unit that the package brings, calling this program: a path, or several words."""
    name = UNIT if is_system else f"{NAME}-user.service"
    text = (files("horde_proxy") / "systemd" / name).read_text(encoding="utf-8")
    # A percent sign begins a specifier of systemd (systemd.unit(5)).
    called = text.replace(_IN_TEMPLATES, program.replace("%", "%%"))
    return _DOCUMENTATION.sub("", called)


def settings_text(digest: str, horde_key: str) -> str:
    """The first settings, which let in one key and listen on this machine only."""
    return _SETTINGS.format(digest=digest, horde_key=horde_key)


def hidden_path(paths: list[Path]) -> Path | None:
    """The first path that the system's service could not see; None where it sees all."""
    hidden = (path for path in paths for top in _HIDDEN_FOLDERS if path.is_relative_to(top))
    return next(hidden, None)

"""What other users of this machine may do to the settings and the keys in files.

`check` shows it, and a start logs it. Nothing is refused here: see `permissions`.
"""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import urlsplit

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.config.file import SettingsFile
from horde_proxy.config.permissions import (
    others_may_read,
    others_may_write,
    status_of,
    user_name,
)
from horde_proxy.config.settings import Config

_KEY_NAMES = ("api_key", "key", "horde_key", "secret", "ntfy_token")
"""The settings that are keys, in whatever section."""
# The password of a URL such as redis://:PASSWORD@HOST or postgresql://USER:PASSWORD@HOST/NAME.
_PASSWORD = re.compile(r"[a-z0-9+.-]+://[^/@]*:[^/@]+@")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exposure:
    """A file that others may write or read. `fix` is the command that ends it."""

    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}"


def warn_of_exposures(settings: Config) -> None:
    """Log a line for each file that others may write, or whose keys they may read."""
    for exposure in exposures(settings):
        log.warning("%s", exposure)


def exposures(settings: Config) -> Iterator[Exposure]:
    """What others may write or read: the settings file, its folder, and the databases."""
    for file in settings.files:
        yield from _of_settings(file, settings)
    private = settings.private_horde
    databases = {
        "the database of keys": settings.access.database_url(),
        "the database of stored answers": settings.store.database_url(),
        "the database of the history": settings.stats.history_url(),
        "the private horde's database": private.database_url() if private.enabled else None,
    }
    for name, url in databases.items():
        if url is not None and url.startswith("sqlite:///"):
            yield from _of_private_file(name, url.removeprefix("sqlite:///").partition("?")[0])
    key_file = private.owner_key_file() if private.enabled else None
    if key_file is not None:
        yield from _of_private_file("the private horde's key", str(key_file))


def _of_settings(file: SettingsFile, settings: Config) -> Iterator[Exposure]:
    path = file.path
    status = status_of(path)
    if status is None:
        return
    is_readable = others_may_read(status) and _holds_keys(settings, file.text)
    if others_may_write(status):
        fix = _close(path, status) if is_readable else f"chmod go-w {quote(path)}"
        yield Exposure(f"others may write the configuration {path}", fix)
    elif is_readable:
        what = f"others may read the keys in the configuration {path}"
        yield Exposure(what, _close(path, status))
    yield from _of_folders(path)


def _of_private_file(name: str, path: str) -> Iterator[Exposure]:
    """A file with keys, or with their digests: whoever writes it may add a key."""
    status = status_of(path)
    if status is None:
        return
    if others_may_read(status) or others_may_write(status):
        what = f"others may read or write {name} {path}"
        yield Exposure(what, _close(path, status))
    yield from _of_folders(path)


def _of_folders(path: str) -> Iterator[Exposure]:
    """The folder of a file, and of what a symbolic link leads to: others may replace files there.

    With the sticky bit, as in /tmp, users may only rename and remove what is theirs.
    """
    for folder in dict.fromkeys([Path(path).absolute().parent, Path(path).resolve().parent]):
        status = status_of(str(folder))
        if status is None or status.st_mode & stat.S_ISVTX:
            continue
        if others_may_write(status):
            yield Exposure(
                f"others may replace {path}, because they may write its folder",
                f"chmod go-w {quote(str(folder))}",
            )


def _close(path: str, status: os.stat_result) -> str:
    """The command that leaves a file to this process's user alone."""
    user = os.geteuid()
    own = "" if status.st_uid == user else f"chown {user_name(user)} {quote(path)} && "
    return f"{own}chmod 600 {quote(path)}"


def _holds_keys(settings: Config, text: str) -> bool:
    """Whether a key or a password stands in the file itself: not a digest, nor `os.environ[...]`.

    Text in a file may be written otherwise than it reads, as in TOML's "\\u0041"; keys are not.
    """
    return any(key in text for key in _keys(settings.model_dump(exclude_unset=True)))


def _keys(value: Any, name: str = "") -> Iterator[str]:
    """The keys and passwords in a tree of settings."""
    if isinstance(value, dict):
        for field, child in value.items():
            # The names of headers that carry keys are each server's own.
            yield from _keys(child, "key" if name == "headers" else field)
    elif isinstance(value, list):
        for child in value:
            yield from _keys(child, name)
    elif isinstance(value, str) and value:
        if name in _KEY_NAMES and value != ANONYMOUS_KEY and not value.startswith("sha256:"):
            yield value
        elif _PASSWORD.match(value):
            yield urlsplit(value).password or value

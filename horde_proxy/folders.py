"""Where this user's files belong: the XDG folders, or those that systemd made for a service."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

# The XDG folders on every platform: on macOS platformdirs would choose others than before.
from platformdirs.unix import Unix

_APP = "horde-proxy"
_LOCK = "in-use"
"""An empty file in the state folder, which running proxies lock together, and a restore alone."""


class NoHomeFolder(RuntimeError):
    """There is no folder to keep data in; the message says what to set."""


class StateInUse(RuntimeError):
    """Somebody else works with the state folder; the message says who."""


def lock_state(*, alone: bool = False) -> int | None:
    """Lock the state folder until the process ends; the descriptor, which ends it when closed.

    Proxies share the lock, a restore has it `alone`. None where no folder can be made, so that
    there is nothing to protect. Raises StateInUse.
    """
    try:
        folder = state_folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except (OSError, NoHomeFolder):
        return None
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(descriptor)
        who = "a proxy runs with the data in" if alone else "a restore is under way in"
        raise StateInUse(f"{who} {folder}") from exc
    return descriptor


def state_folder() -> Path:
    """The folder for data to keep, such as the database: STATE_DIRECTORY or XDG_STATE_HOME.

    Raises NoHomeFolder for a user without a home directory, where neither is set.
    """
    folder = _of_service("STATE_DIRECTORY") or _of_user("user_state_path")
    if folder is None:
        raise NoHomeFolder(
            "this user has no home directory to keep data in: set STATE_DIRECTORY to a folder"
        )
    return folder


def state_folder_of(environ: Mapping[str, str]) -> Path | None:
    """The state folder by the variables of an environment; None where none of them says it."""
    if folder := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return Path(folder)
    if home := environ.get("XDG_STATE_HOME"):
        return Path(home) / _APP
    home = environ.get("HOME")
    return Path(home) / ".local" / "state" / _APP if home else None


def cache_folder() -> Path:
    """The folder for data to be fetched again: CACHE_DIRECTORY or XDG_CACHE_HOME.

    Users of services often have no home directory; then it is within the state folder. Raises
    NoHomeFolder as `state_folder`.
    """
    own = _of_service("CACHE_DIRECTORY") or _of_user("user_cache_path")
    return own or state_folder() / "cache"


def user_cache_folder() -> Path:
    """The cache folder outside of a service. Raises NoHomeFolder as `state_folder`."""
    return _of_user("user_cache_path") or state_folder() / "cache"


def _of_user(name: str) -> Path | None:
    """One of the XDG folders of this user; None without a home directory."""
    try:
        folder: Path = getattr(Unix(_APP), name)
    except RuntimeError:
        return None
    return folder


def _of_service(variable: str) -> Path | None:
    """The first folder that systemd lists, with colons between (systemd.exec(5))."""
    first = os.environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None

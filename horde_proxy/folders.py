"""Where this user's files belong: the XDG folders, or those that systemd made for a service."""

from __future__ import annotations

import os
from pathlib import Path

# The XDG folders on every platform: on macOS platformdirs would choose others than before.
from platformdirs.unix import Unix

_APP = "horde-proxy"


def state_folder() -> Path:
    """The folder for data to keep, such as the database: STATE_DIRECTORY or XDG_STATE_HOME."""
    return _of_service("STATE_DIRECTORY") or Unix(_APP).user_state_path


def cache_folder() -> Path:
    """The folder for data to be fetched again: CACHE_DIRECTORY or XDG_CACHE_HOME."""
    return _of_service("CACHE_DIRECTORY") or user_cache_folder()


def user_cache_folder() -> Path:
    """The cache folder outside of a service; relative if the user has no home."""
    return Unix(_APP).user_cache_path


def _of_service(variable: str) -> Path | None:
    """The first folder that systemd lists, with colons between (systemd.exec(5))."""
    first = os.environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None

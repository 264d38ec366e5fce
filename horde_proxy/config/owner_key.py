"""The file with the key of a private horde's owner, for a horde whose settings name no key.

The app lets the owner's account use what is in it, and the commands name it. Whoever may read it is
the owner; a key is made once and never shown here.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from horde_proxy.aihorde.rest import KEY_BYTES

_SHORTEST_KEY = 8
"""Characters, as of private_horde.api_key: less is what is left of a file that was spoilt."""


def keep_owner_key(path: Path) -> str:
    """The key in a file, which is made the first time for its user alone.

    Raises OSError, and ValueError for a file that holds no key.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(path)
    key = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(key) < _SHORTEST_KEY or not (key.isascii() and key.isprintable()):
        raise ValueError(f"{path} holds no key: delete it, and the next start makes a new one")
    return key


def _make(path: Path) -> None:
    # Another process may start at this moment: a link is there whole or not at all.
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        new.unlink()
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(KEY_BYTES))
    with suppress(FileExistsError):
        os.link(new, path)
    new.unlink()

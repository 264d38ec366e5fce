"""What a start says about a private horde: where it is, its key, and a worker to paste.

Keys are in no log, so a key in a file is named by its path.
"""

from __future__ import annotations

import sys
from shlex import quote

from horde_proxy.config import Config, ConfigError
from horde_proxy.config.owner_key import keep_owner_key
from horde_proxy.printable import without_login


def horde_lines(settings: Config, url: str | None) -> list[str]:
    """A line for each fact. `url` is where this machine reaches the server; None: not by HTTP.

    Makes the owner's key where it is to be in a file. Raises ConfigError.
    """
    private = settings.private_horde
    database, file = private.database_url(), private.database_file()
    place = str(file) if file else without_login(database or "memory, which ends with this process")
    lines = [f"Database:         {place}"]
    path = private.owner_key_file()
    key = "KEY"
    if path is not None:
        try:
            keep_owner_key(path)
        except (OSError, ValueError) as exc:
            raise ConfigError(f"the owner's key cannot be kept: {exc}") from exc
        lines.append(f"Owner's key:      in {path}")
        key = f'"$(cat {quote(str(path))})"'
    elif private.api_key is not None:
        lines.append("Owner's key:      private_horde.api_key")
    elif database is None:
        lines.append("Owner's key:      not known to anybody; set private_horde.api_key")
    else:
        lines.append(f"Owner's key:      {own_command()} users key owner (shows a new one)")
    if url is not None:
        lines.append("A worker (URL: your KoboldCpp, Ollama, llama.cpp ...; or echo, for a trial):")
        # A variable, for other users of the machine see the options of a command.
        command = f"{own_command()} worker --horde {url} --backend URL"
        lines.append(f"  AI_HORDE_API_KEY={key} {command}")
    return lines


def reachable_url(bind: str) -> str | None:
    """Where a client of this machine reaches a server; None for one without HOST:PORT."""
    host, _, port = bind.rpartition(":")
    if bind.startswith(("unix:", "fd://")):
        return None
    # Nothing is bound here: it replaces the address that means all.
    is_any = host in ("0.0.0.0", "::", "[::]")  # noqa: S104
    return f"http://127.0.0.1:{port}" if is_any else f"http://{bind}"


def own_command() -> str:
    """The command as the user typed it, so that a printed line can be pasted."""
    called = sys.argv[0]
    return called if called.endswith("horde-proxy") else f"{sys.executable} -m horde_proxy"

"""The private horde's database, as commands use it: beside a running horde, or without one.

A running horde sees each change with its next call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from horde_proxy.app.private import access_rules
from horde_proxy.commands.console import say
from horde_proxy.commands.options import load_settings
from horde_proxy.commands.running_service import use_service
from horde_proxy.config import Config
from horde_proxy.database.errors import DatabaseError
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.errors import HordeError

_IN_MEMORY = (
    'This horde is kept in memory (private_horde.database = "memory"), so there is nothing to '
    "change from outside. Use its API, or keep it in a database."
)
_OFF = (
    "The private horde is off: set private_horde.enabled = true to serve its members, or run "
    "`horde-proxy horde`."
)


@contextmanager
def stored_horde(path: str | None) -> Iterator[PrivateHorde]:
    """The horde of the settings in a file. Its errors end the command."""
    use_service(say, "horde.db")
    settings = load_settings(path)
    # `horde-proxy horde` needs no such setting: where it ran, there is a file.
    if not settings.private_horde.enabled and not has_file(settings):
        say(_OFF)
    elif settings.private_horde.database is None:
        say(f"The horde is in {settings.private_horde.database_file()}.")
    with open_horde(settings) as horde:
        yield horde


def has_file(settings: Config) -> bool:
    """Whether the horde is in a database server, or in a file that there is."""
    path = settings.private_horde.database_file()
    return path.exists() if path else settings.private_horde.database_url() is not None


@contextmanager
def open_horde(settings: Config) -> Iterator[PrivateHorde]:
    """The horde of the settings. Raises ClickException for its errors, and for one in memory."""
    url = settings.private_horde.database_url()
    if url is None:
        raise click.ClickException(_IN_MEMORY)
    from horde_proxy.private_horde.store.opening import open_store

    store = open_store(url)
    try:
        yield PrivateHorde(
            store=store,
            access=access_rules(settings),
            kudos=settings.private_horde.kudos == "on",
        )
    except HordeError as exc:
        fields = "".join(f"\n{name}: {reason}" for name, reason in (exc.errors or {}).items())
        raise click.ClickException(f"{exc}{fields}") from exc
    except DatabaseError as exc:
        raise click.ClickException(str(exc)) from exc
    finally:
        store.close()

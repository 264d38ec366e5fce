"""`horde-proxy keys`: the keys of clients that are kept in the database."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from horde_proxy.app.ledger import configured_key
from horde_proxy.commands.console import echo, say
from horde_proxy.commands.options import config_option, load_settings
from horde_proxy.commands.running_service import use_service
from horde_proxy.commands.table import aligned
from horde_proxy.config import Config
from horde_proxy.database.errors import DatabaseError
from horde_proxy.database.files import database_path
from horde_proxy.key_digest import key_digest
from horde_proxy.key_rules import LEAST_WEIGHT, MOST_WEIGHT, key_name
from horde_proxy.ledger import ClientKey, new_key
from horde_proxy.ledger.database import LedgerDatabase, open_ledger
from horde_proxy.ledger.keys import limits_in_words
from horde_proxy.places import PLACES, read_places


@click.group()
def keys() -> None:
    """The keys of clients: who may use the proxy, and how much."""


@keys.command("add")
@click.argument("name")
@click.option("--models", metavar="GLOB,...", default="", help="Only models like these [all].")
@click.option("--endpoints", metavar="NAME,...", default="", help="Only these endpoints [all].")
@click.option(
    "--places",
    metavar="PLACE,...",
    default="",
    help="Only endpoints at home, private, crowd or paid [all].",
)
@click.option("--requests-per-minute", type=click.IntRange(1), metavar="N")
@click.option("--concurrent", type=click.IntRange(1), metavar="N", help="Requests at a time.")
@click.option("--tokens-per-day", type=click.IntRange(1), metavar="N", help="Days are UTC's.")
@click.option("--kudos-per-day", type=click.FloatRange(0, min_open=True), metavar="N")
@click.option("--images-per-day", type=click.IntRange(1), metavar="N")
@click.option(
    "--weight",
    type=click.FloatRange(LEAST_WEIGHT, MOST_WEIGHT),
    default=1.0,
    metavar="N",
    help="Its turns in a line, beside a key with 1 [1].",
)
@click.option(
    "--horde-key",
    metavar="KEY",
    envvar="CLIENT_HORDE_KEY",
    help="The horde key that pays for it, instead of the proxy's [CLIENT_HORDE_KEY].",
)
@click.option("--admin", is_flag=True, help="May see everybody's requests and usage.")
@config_option
def add_key(
    name: str, models: str, endpoints: str, places: str, path: str | None, **limits: Any
) -> None:
    """Make a key, and show it this once; only its digest is kept."""
    plain = new_key()
    _check_new_key(_settings(path), name, limits)
    # Whole seconds, as all times in the database.
    limits |= {"places": _places(places), "created": int(time.time())}
    key = ClientKey(name, _split(models), _split(endpoints), **limits)
    with _ledger(path) as ledger:
        ledger.add_key(key_digest(plain), key)
    echo(plain)
    echo(f"This is the key of {name}. It cannot be shown again.", err=True)


def _check_new_key(settings: Config, name: str, limits: dict[str, Any]) -> None:
    """Raises ClickException for what the settings would refuse as well."""
    try:
        key_name(name)
    except ValueError as exc:
        raise click.ClickException(str(exc)) from exc
    if name in settings.access.keys:
        raise click.ClickException(f"[access.keys] has a key {name!r}: choose another name")
    kudos, horde_key = limits["kudos_per_day"], limits["horde_key"]
    # click's range lets a NaN through.
    if not math.isfinite(limits["weight"]):
        raise click.ClickException(f"--weight {limits['weight']} is not a number of turns")
    if kudos is not None and not math.isfinite(kudos):
        raise click.ClickException(f"--kudos-per-day {kudos} is not a number of kudos")
    if horde_key is not None and not (horde_key.isascii() and horde_key.isprintable()):
        raise click.ClickException(
            "--horde-key has characters not allowed in an HTTP header, such as a newline"
        )


@keys.command("list")
@config_option
def list_keys(path: str | None) -> None:
    """List the keys of the settings, and those that were made, with their limits.

    The keys themselves are not shown.
    """
    rows = [("NAME", "MADE", "STATE", "LIMITS")]
    for name, setting in _settings(path).access.keys.items():
        rows.append(_row(configured_key(name, setting), "in the settings"))
    with _ledger(path) as ledger:
        rows += [_row(key, _day(key.created), revoked) for _, key, revoked in ledger.all_keys()]
    echo("\n".join(aligned(rows)))


def _row(key: ClientKey, made: str, revoked: int | None = None) -> tuple[str, str, str, str]:
    state = f"revoked {_day(revoked)}" if revoked else "admin" if key.admin else "valid"
    return key.name, made, state, "; ".join(limits_in_words(key)) or "none"


@keys.command("revoke")
@click.argument("name")
@config_option
def revoke_key(name: str, path: str | None) -> None:
    """Revoke a key; running proxies refuse it within seconds. Its usage is kept."""
    with _ledger(path) as ledger:
        if not ledger.revoke_key(name):
            raise click.ClickException(f"there is no valid key {name!r}")
    echo(f"The key of {name} is revoked.")


def _settings(path: str | None) -> Config:
    """The settings, which are the service's where root calls."""
    use_service(say, "ledger.db")
    return load_settings(path)


@contextmanager
def _ledger(path: str | None) -> Iterator[LedgerDatabase]:
    """The ledger of the settings. Its errors end the command."""
    settings = _settings(path)
    url = settings.access.database_url()
    if url is None:
        raise click.ClickException("keys are used only with access.mode = 'keys'")
    # Whoever names no database may expect another: each user has a state folder of its own.
    if settings.access.database is None:
        say(f"The keys are in {database_path(url)}.")
    try:
        yield open_ledger(url)
    except DatabaseError as exc:
        raise click.ClickException(str(exc)) from exc


def _places(text: str) -> tuple[str, ...]:
    """Places in the usual order; empty for all. Raises ClickException for an unknown one."""
    if not text.strip():
        return ()
    try:
        places = read_places(text)
    except ValueError as exc:
        raise click.ClickException(f"--places: {exc}") from exc
    return tuple(place for place in PLACES if place in places)


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))

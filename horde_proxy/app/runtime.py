"""The outside world, as the app is given it: time, chance, threads and connections.

This is the only seam for tests. It must not hold settings, nor anything that one app changes.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from requests import Session
from requests.adapters import BaseAdapter

from horde_proxy.caching.background import in_background, later_in_background
from horde_proxy.folders import cache_folder, state_folder
from horde_proxy.upstreams.idle_hook import RunHook, run_hook
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.upstreams.wake_on_lan import CanConnect, SendDatagram, can_connect, send_datagram

if TYPE_CHECKING:
    from horde_proxy.database.engine import Database
    from horde_proxy.ledger.database import LedgerDatabase
    from horde_proxy.private_horde.store.base import Store
    from horde_proxy.stats.history.database import HistoryDatabase


def open_ledger(url: str) -> LedgerDatabase:
    """The database of keys and usage. Imported late: a proxy without one needs no SQLAlchemy."""
    from horde_proxy.ledger.database import open_ledger

    return open_ledger(url)


def open_horde_store(url: str) -> Store | None:
    """The database of the private horde. Imported late, as `open_ledger`."""
    from horde_proxy.private_horde.store import opening

    return opening.open_store(url)


def open_store(url: str) -> Database:
    """The database of what clients may fetch later. Imported late, as `open_ledger`."""
    from horde_proxy.database.engine import Database

    # A client waits for each answer that is stored.
    return Database(url, setting="store.database", waits_for_disk=False)


def open_history(url: str) -> HistoryDatabase | None:
    """The database of hourly facts. Imported late, as `open_ledger`."""
    from horde_proxy.stats.history import database

    return database.open_history(url)


def pictures_folder() -> Path:
    """The folder of the pictures that answers link to."""
    return cache_folder() / "pictures"


def penalties_folder() -> Path:
    """The folder of what hordes have forbidden this proxy for a time."""
    return state_folder() / "penalties"


def models_folder() -> Path:
    """The folder of the lists of models of servers that sleep."""
    return cache_folder() / "models"


@dataclass(frozen=True)
class Runtime:
    """`clock` counts seconds from any start, `now` is Unix time (s).

    `sleep` replaces the real sleep, which a shutdown ends early. `run` starts a call that nobody
    waits for; `run_later` does so after some seconds, `run_loop` where it never returns.
    `horde_sleep` replaces the private horde's waiting for texts and jobs. `open_ledger` and
    `open_horde_store` may return None, so that keys and usage, or the private horde, are kept in
    memory. `post_webhook` replaces the calls of webhooks. `open_store` opens the database of what
    clients may fetch later, `open_history` that of hourly facts, or none. `pictures_folder` is
    where the pictures that answers link to are kept, `penalties_folder` where hordes' penalties
    are, `models_folder` the lists of models of servers that sleep. `send_datagram` sends a packet
    that wakes one, `can_connect` looks whether it is awake, and `run_hook` runs what an endpoint
    has for idle times.
    """

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], object] | None = None
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    new_secret: Callable[[], str] = lambda: secrets.token_urlsafe(24)
    new_session: Callable[[BaseAdapter], Session] = new_session
    run: Callable[[Callable[[], None]], None] = in_background
    run_later: Callable[[float, Callable[[], None]], None] = later_in_background
    run_loop: Callable[[Callable[[], None]], None] = in_background
    horde_sleep: Callable[[float], object] | None = None
    open_ledger: Callable[[str], LedgerDatabase | None] = open_ledger
    open_horde_store: Callable[[str], Store | None] = open_horde_store
    open_store: Callable[[str], Database] = open_store
    open_history: Callable[[str], HistoryDatabase | None] = open_history
    post_webhook: Callable[[str, bytes, Mapping[str, str]], str | None] | None = None
    pictures_folder: Callable[[], Path] = pictures_folder
    penalties_folder: Callable[[], Path] = penalties_folder
    models_folder: Callable[[], Path] = models_folder
    send_datagram: SendDatagram = send_datagram
    can_connect: CanConnect = can_connect
    run_hook: RunHook = run_hook

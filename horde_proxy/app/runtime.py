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
from horde_proxy.folders import cache_folder
from horde_proxy.upstreams.sessions import new_session

if TYPE_CHECKING:
    from horde_proxy.ledger.database import LedgerDatabase
    from horde_proxy.private_horde.store.base import Store


def open_ledger(url: str) -> LedgerDatabase:
    """The database of keys and usage. Imported late: a proxy without one needs no SQLAlchemy."""
    from horde_proxy.ledger.database import open_ledger

    return open_ledger(url)


def open_horde_store(url: str) -> Store | None:
    """The database of the private horde. Imported late, as `open_ledger`."""
    from horde_proxy.private_horde.store import opening

    return opening.open_store(url)


def pictures_folder() -> Path:
    """The folder of the pictures that answers link to."""
    return cache_folder() / "pictures"


@dataclass(frozen=True)
class Runtime:
    """`clock` counts seconds from any start, `now` is Unix time (s).

    `sleep` replaces the real sleep, which a shutdown ends early. `run` starts a call that nobody
    waits for; `run_later` does so after some seconds. `horde_sleep` replaces the private horde's
    waiting for texts and jobs. `open_ledger` and `open_horde_store` may return None, so that keys
    and usage, or the private horde, are kept in memory. `post_webhook` replaces the calls of the
    private horde's webhooks. `pictures_folder` is where the pictures that answers link to are kept.
    """

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], object] | None = None
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    new_secret: Callable[[], str] = lambda: secrets.token_urlsafe(24)
    new_session: Callable[[BaseAdapter], Session] = new_session
    run: Callable[[Callable[[], None]], None] = in_background
    run_later: Callable[[float, Callable[[], None]], None] = later_in_background
    horde_sleep: Callable[[float], object] | None = None
    open_ledger: Callable[[str], LedgerDatabase | None] = open_ledger
    open_horde_store: Callable[[str], Store | None] = open_horde_store
    post_webhook: Callable[[str, bytes, Mapping[str, str]], str | None] | None = None
    pictures_folder: Callable[[], Path] = pictures_folder

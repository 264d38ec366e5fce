"""The outside world, as the app is given it: time, chance, threads and connections.

This is the only seam for tests. It must not hold settings, nor anything that one app changes.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from requests import Session
from requests.adapters import BaseAdapter

from horde_proxy.caching.background import in_background


def new_session(adapter: BaseAdapter) -> Session:
    """A session whose connections are those of an adapter."""
    session = Session()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


@dataclass(frozen=True)
class Runtime:
    """`clock` counts seconds from any start, `now` is Unix time (s).

    `sleep` is None for the sleep that a shutdown ends. `run` starts a call that nobody waits for.
    """

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] | None = None
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex
    new_session: Callable[[BaseAdapter], Session] = new_session
    run: Callable[[Callable[[], None]], None] = in_background

"""What the views share: the router and how long and how loudly to wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from flask import current_app

from horde_proxy.api.in_flight import InFlight
from horde_proxy.api.loop_guard import LoopGuard
from horde_proxy.api.slots import Slots
from horde_proxy.ledger import KeyLimits, KeyRing, UsageRecorder
from horde_proxy.metrics import Metrics
from horde_proxy.router.router import Router
from horde_proxy.shutdown import Shutdown
from horde_proxy.web.page_state import PageState

if TYPE_CHECKING:
    from horde_proxy.stats.service import StatsService
    from horde_proxy.upstreams.horde.upstream import HordeUpstream

KeepAlive = Literal["chunk", "comment", "off"]


@dataclass(frozen=True)
class AppContext:
    """Times are in seconds. `passthrough`: the client's key is the one the horde is given.

    `reattach`: the same request of the same client shares one answer. `admins` are names of keys.
    """

    router: Router
    halt: Shutdown
    timeout: float
    stream_timeout: float
    keepalive: KeepAlive
    keepalive_interval: float
    max_n: int
    strict: bool
    passthrough: bool
    wants_key: bool
    keys: KeyRing
    allowances: KeyLimits
    book: UsageRecorder
    places: Slots
    running: InFlight
    repetitions: LoopGuard
    completion_tokens: int = 256
    max_upload: int = 512 * 1024 * 1024
    horde: HordeUpstream | None = None
    statistics: StatsService | None = None
    reattach: bool = True
    admins: tuple[str, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    clock: Callable[[], float] = time.monotonic
    metrics: Metrics = field(default_factory=Metrics)
    page: PageState = field(default_factory=PageState)
    version: str = ""


def front() -> AppContext:
    """The Front of the app that serves this request."""
    return cast(AppContext, current_app.extensions["horde_proxy"])

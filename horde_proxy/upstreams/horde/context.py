"""One horde, and all that this proxy knows of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.horde.accounts import Accounts
from horde_proxy.upstreams.horde.catalog import Catalog
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.failures import Failures, RefusedChats
from horde_proxy.upstreams.horde.options import HordeOptions
from horde_proxy.upstreams.horde.penalties import Penalties
from horde_proxy.upstreams.horde.settlements import Settlements
from horde_proxy.upstreams.horde.submit_queue import SubmitQueue
from horde_proxy.upstreams.horde.throughput import HordeThroughput
from horde_proxy.upstreams.horde.webhook import Webhook


@dataclass(frozen=True)
class HordeContext:
    """What the requests of all chats share.

    `uncontinued`: models whose workers go on with no chat that has begun; names are only added.
    `running`: ids of the requests that run now. Threads add and remove their own id only, and read
    nothing but the size, so it needs no lock. `settlements`: None for a horde that charges at once.
    """

    client: HordeClient
    catalog: Catalog
    accounts: Accounts
    submit_queue: SubmitQueue
    failures: Failures
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    options: HordeOptions
    throughput: HordeThroughput = field(default_factory=HordeThroughput)
    running: set[str] = field(default_factory=set)
    uncontinued: set[str] = field(default_factory=set)
    penalties: Penalties = field(default_factory=Penalties)
    refused_chats: RefusedChats = field(default_factory=lambda: RefusedChats(time.monotonic))
    webhook: Webhook | None = None
    settlements: Settlements | None = None
    telemetry: Telemetry = NO_TELEMETRY

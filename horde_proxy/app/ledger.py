"""The keys of clients, their limits, their usage and the page's sessions, from the settings.

What was counted stays when the settings are read again, as long as the database is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from horde_proxy.app.runtime import Runtime
from horde_proxy.config import AccessSettings, KeySettings
from horde_proxy.key_digest import digest_of_setting
from horde_proxy.ledger import ClientKey, KeyLimits, KeyRing, UsageRecorder
from horde_proxy.web.sessions import Sessions

if TYPE_CHECKING:
    from horde_proxy.caching.shared_places import RedisPlaces
    from horde_proxy.caching.shared_windows import SharedWindows
    from horde_proxy.ledger.database import LedgerDatabase


@dataclass(frozen=True)
class SharedCounts:
    """Where requests of a minute and at once are counted for all processes; None: for this one."""

    windows: SharedWindows | None = None
    places: RedisPlaces | None = None


NOT_SHARED = SharedCounts()


@dataclass(frozen=True)
class Ledger:
    """`url` is the database's; without one, `database` is None and everything is in memory."""

    url: str | None
    database: LedgerDatabase | None
    keys: KeyRing
    limits: KeyLimits
    usage: UsageRecorder
    sessions: Sessions


def build_ledger(
    access: AccessSettings,
    runtime: Runtime,
    before: Ledger | None,
    shared: SharedCounts = NOT_SHARED,
) -> Ledger:
    """The ledger for these settings, which takes over the counts of the one before it."""
    url = access.database_url()
    keys = {
        digest_of_setting(key.key): configured_key(name, key) for name, key in access.keys.items()
    }
    ledger = before if before and before.url == url else _open(url, runtime, shared)
    load = ledger.database.valid_keys if ledger.database and access.mode == "keys" else None
    ledger.usage.keep_days(access.usage_days)
    # The ring is replaced, not changed: running requests keep the one that they began with.
    return replace(ledger, keys=ledger.keys.with_configured(keys, load))


def _open(url: str | None, runtime: Runtime, shared: SharedCounts) -> Ledger:
    database = runtime.open_ledger(url) if url else None
    usage = UsageRecorder(database, now=runtime.now)
    clock = runtime.now if shared.windows else runtime.clock
    limits = KeyLimits(
        usage, clock=clock, now=runtime.now, windows=shared.windows, places=shared.places
    )
    keys = KeyRing({}, clock=runtime.clock)
    return Ledger(url, database, keys, limits, usage, _sessions(database, runtime))


def _sessions(ledger: LedgerDatabase | None, runtime: Runtime) -> Sessions:
    """The page's sessions; in the ledger's database, where there is one."""
    if ledger is None:
        return Sessions(now=runtime.now)
    from horde_proxy.web.session_database import SessionDatabase

    return Sessions(SessionDatabase(ledger.database), now=runtime.now)


def configured_key(name: str, key: KeySettings) -> ClientKey:
    """A key of the settings, with its rights."""
    return ClientKey(
        name,
        models=tuple(key.models),
        endpoints=tuple(key.endpoints),
        requests_per_minute=key.requests_per_minute,
        concurrent=key.concurrent,
        tokens_per_day=key.tokens_per_day,
        kudos_per_day=key.kudos_per_day,
        images_per_day=key.images_per_day,
        weight=key.weight,
        horde_key=key.horde_key,
        admin=key.admin,
        places=tuple(key.places),
    )

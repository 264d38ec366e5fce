"""The hourly facts of an app, and where they are kept, from the settings.

The facts outlive a reload. The database is opened anew only where its URL has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from flask import Flask

from horde_proxy.api.context import AppContext
from horde_proxy.app.runtime import Runtime
from horde_proxy.config import StatsSettings
from horde_proxy.shutdown import Shutdown
from horde_proxy.stats.history.hourly_facts import HourlyFacts

if TYPE_CHECKING:
    from horde_proxy.stats.history.database import HistoryDatabase
    from horde_proxy.upstreams.horde.documents import HordeDocuments


def build_hourly_facts(
    app: Flask, settings: StatsSettings, runtime: Runtime, shutdown: Shutdown
) -> HourlyFacts:
    """The hourly facts of an app. Raises DatabaseError for a URL that cannot be used."""

    def hordes() -> Mapping[str, HordeDocuments]:
        context = cast(AppContext, app.extensions["horde_proxy"])
        return {name: horde.upstream.documents for name, horde in context.hordes.items()}

    facts = HourlyFacts(hordes, now=runtime.now, sleep=shutdown.sleep, run_loop=runtime.run_loop)
    facts.configure(_open(settings, runtime), settings.history_days)
    return facts


def new_database(
    facts: HourlyFacts, before: StatsSettings, after: StatsSettings, runtime: Runtime
) -> HistoryDatabase | None:
    """The database for new settings, which is the one in use where the URL is the same."""
    is_same = before.history_url() == after.history_url()
    return facts.database if is_same else _open(after, runtime)


def _open(settings: StatsSettings, runtime: Runtime) -> HistoryDatabase | None:
    url = settings.history_url()
    return runtime.open_history(url) if url else None

"""The endpoints that the settings name, each with its session, key and options.

Part of app.py: it makes objects, and calls nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask
from requests import Session

from horde_proxy.config import Config, EndpointSettings, StatsSettings
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.shutdown import Shutdown
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import Upstream
from horde_proxy.upstreams.disconnects import DisconnectMonitor, WatchedAdapter
from horde_proxy.upstreams.kinds import RELAYS

if TYPE_CHECKING:
    from horde_proxy.stats.service import StatsService
    from horde_proxy.upstreams.horde.upstream import HordeUpstream

CONNECTIONS = 128
PRIVATE = "private"


@dataclass(frozen=True)
class PrivateApp:
    """The private horde's own app, apart from ours so that its requests have their own context."""

    app: Flask
    key: str


class Assembly:
    """Makes endpoints; what the settings do not change is kept from one time to the next."""

    def __init__(
        self, halt: Shutdown, private: PrivateApp | None, observer: Telemetry = NO_TELEMETRY
    ) -> None:
        self._halt, self._private, self._observer = halt, private, observer
        self._made: dict[str, Endpoint] = {}
        self._statistics: tuple[HordeUpstream, StatsSettings, StatsService] | None = None
        self.hangups = DisconnectMonitor()

    def endpoints(self, settings: Config) -> list[Endpoint]:
        """The configured endpoints; the horde alone where none is."""
        wanted = list(settings.endpoints)
        if not wanted:
            wanted = [EndpointSettings(type="horde", name=PRIVATE if self._private else "horde")]
        elif self._private:
            wanted.append(EndpointSettings(type="horde", name=PRIVATE))
        common = repr((len(wanted) > 1, *_bearing(settings)))
        made = {}
        for each in wanted:
            key = each.model_dump_json() + common
            made[key] = self._made.get(key) or self._endpoint(each, settings, len(wanted) > 1)
        self._made = made
        return list(made.values())

    def statistics(
        self, horde: HordeUpstream | None, settings: StatsSettings
    ) -> StatsService | None:
        """The statistics of a horde; the same as before where nothing has changed."""
        before = self._statistics
        if before and before[0] is horde and before[1] == settings:
            return before[2]
        if before:
            before[2].hydrator.stop()
            self._statistics = None
        if horde is None:
            return None
        from horde_proxy.app.horde_assembly import horde_statistics

        found = horde_statistics(horde, settings, self._halt)
        self._statistics = horde, settings, found
        return found

    def _endpoint(self, each: EndpointSettings, settings: Config, has_others: bool) -> Endpoint:
        routing = settings.routing
        return Endpoint(
            self._upstream(each, settings),
            CircuitBreaker(routing.cooldown if has_others else 0, routing.longest_cooldown),
            each.priority,
            each.weight,
            tuple(each.models),
            each.prefix,
        )

    def _upstream(self, each: EndpointSettings, settings: Config) -> Upstream:
        if each.type == "horde":
            # What a proxy without a horde does not need takes a fifth of its memory.
            from horde_proxy.app.horde_assembly import horde_upstream

            private = self._private if each.name == PRIVATE else None
            return horde_upstream(each, settings, self._halt, private, self._observer)
        return RELAYS[each.type](
            each.label(),
            each.url or "",
            _session(),
            self.hangups,
            api_key=each.api_key,
            headers=each.headers,
            timeout=each.timeout,
            ttl=settings.routing.models_ttl,
            observer=self._observer,
        )


def _bearing(settings: Config) -> tuple[object, ...]:
    """The settings that an endpoint is made of, beside its own."""
    return (
        settings.horde.model_dump_json(),
        settings.private_horde.strict,
        settings.routing,
        settings.formats,
        settings.tool_styles,
        settings.cache.model_dump_json(),
        settings.stats.horde_api_cache_ttl,
        settings.stats.horde_api_timeout,
    )


def _session() -> Session:
    """One pool of connections. Where others can be asked instead, none is tried twice."""
    session = Session()
    adapter = WatchedAdapter(pool_maxsize=CONNECTIONS)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session

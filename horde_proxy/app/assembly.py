"""Builds the endpoints that the settings name, and keeps those that a reload does not change.

It makes objects and calls nothing. Kinds of upstreams are in horde_proxy.upstreams.kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from flask import Flask

from horde_proxy.app.runtime import Runtime
from horde_proxy.config import Config, EndpointSettings, StatsSettings
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.shutdown import Shutdown
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.kinds import Services, build_upstream

if TYPE_CHECKING:
    from horde_proxy.stats.service import StatsService
    from horde_proxy.upstreams.horde.upstream import HordeUpstream

PRIVATE = "private"
"""The name of the private horde's endpoint; the settings reserve it."""


@dataclass(frozen=True)
class PrivateApp:
    """The private horde's Flask app: not ours, so that its requests have their own context."""

    app: Flask
    key: str


@dataclass(frozen=True, kw_only=True)
class AppServices(Services):
    """What builders in the composition root are given besides: all settings and the runtime."""

    settings: Config
    runtime: Runtime
    sleep: Callable[[float], None]
    private: PrivateApp | None = None


class Assembly:
    """Builds endpoints. Those whose settings stay the same are the same objects after a reload."""

    def __init__(
        self,
        runtime: Runtime,
        shutdown: Shutdown,
        private: PrivateApp | None,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._runtime, self._shutdown = runtime, shutdown
        self._private, self._telemetry = private, telemetry
        self._endpoints: dict[str, Endpoint] = {}
        self._statistics: dict[str, tuple[HordeUpstream, StatsSettings, StatsService]] = {}
        self.disconnects = DisconnectMonitor()

    def endpoints(self, settings: Config) -> list[Endpoint]:
        """The endpoints of the settings and the private horde; without any, the public horde."""
        wanted = list(settings.endpoints)
        if self._private:
            wanted.append(EndpointSettings(type="horde", name=PRIVATE))
        if not wanted:
            wanted = [EndpointSettings(type="horde", name="horde")]
        services = self.services(settings)
        common = repr((len(wanted) > 1, *_shared_settings(settings)))
        endpoints = {}
        for endpoint in wanted:
            key = endpoint.model_dump_json() + common
            endpoints[key] = self._endpoints.get(key) or self._endpoint(
                endpoint, services, has_others=len(wanted) > 1
            )
        self._endpoints = endpoints
        return list(endpoints.values())

    def services(self, settings: Config) -> AppServices:
        """What the builders of upstreams are given."""
        return AppServices(
            new_session=self._runtime.new_session,
            disconnects=self.disconnects,
            run=self._runtime.run,
            clock=self._runtime.clock,
            models_ttl=settings.routing.models_ttl,
            telemetry=self._telemetry,
            settings=settings,
            runtime=self._runtime,
            sleep=self._runtime.sleep or self._shutdown.sleep,
            private=self._private,
        )

    def statistics(self, hordes: list[HordeUpstream], settings: Config) -> dict[str, StatsService]:
        """The statistics of each horde by its endpoint's name; kept where nothing has changed."""
        before, self._statistics = self._statistics, {}
        for horde in hordes:
            known = before.pop(horde.name, None)
            if known is None or known[0] is not horde or known[1] != settings.stats:
                _stop(known)
                known = horde, settings.stats, self._statistics_of(horde, settings)
            self._statistics[horde.name] = known
        for gone in before.values():
            _stop(gone)
        return {name: service for name, (_, _, service) in self._statistics.items()}

    def _statistics_of(self, horde: HordeUpstream, settings: Config) -> StatsService:
        from horde_proxy.app.horde import build_statistics

        return build_statistics(horde, self.services(settings))

    def _endpoint(
        self, endpoint: EndpointSettings, services: AppServices, *, has_others: bool
    ) -> Endpoint:
        routing = services.settings.routing
        # The only endpoint never cools down: there is nobody else to ask meanwhile.
        breaker = CircuitBreaker(routing.cooldown if has_others else 0, routing.longest_cooldown)
        return Endpoint(
            build_upstream(endpoint.type, endpoint, services),
            breaker,
            endpoint.priority,
            endpoint.weight,
            tuple(endpoint.models),
            endpoint.prefix,
        )


def hordes_among(endpoints: list[Endpoint]) -> list[HordeUpstream]:
    """The endpoints that are hordes, in the order of the settings."""
    upstreams = (endpoint.upstream for endpoint in endpoints)
    return [cast("HordeUpstream", upstream) for upstream in upstreams if upstream.kind == "horde"]


def _stop(known: tuple[HordeUpstream, StatsSettings, StatsService] | None) -> None:
    if known:
        known[2].hydrator.stop()


def _shared_settings(settings: Config) -> tuple[object, ...]:
    """The settings that endpoints are made of, besides their own."""
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

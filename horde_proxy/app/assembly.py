"""Builds the endpoints that the settings name, and keeps those that a reload does not change.

It makes objects and calls nothing. Kinds of upstreams are in horde_proxy.upstreams.kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from horde_proxy.api.context import HordeEndpoint
from horde_proxy.app.private import PrivateApp
from horde_proxy.app.runtime import Runtime
from horde_proxy.config import Config, ConfigError, EndpointSettings, StatsSettings
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.shutdown import Shutdown
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import MakesImages
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.kinds import KINDS, Services, WrongOption, build_upstream
from horde_proxy.upstreams.openai.described_models import is_at_home
from horde_proxy.upstreams.picture_upstream import PictureUpstream
from horde_proxy.upstreams.sessions import with_proxy

if TYPE_CHECKING:
    from requests import Session
    from requests.adapters import BaseAdapter

    from horde_proxy.stats.service import StatsService
    from horde_proxy.upstreams.base import Upstream
    from horde_proxy.upstreams.horde.upstream import HordeUpstream
    from horde_proxy.upstreams.horde.webhook import Webhook

PRIVATE = "private"
"""The name of the private horde's endpoint; the settings reserve it."""


@dataclass(frozen=True, kw_only=True)
class AppServices(Services):
    """What builders in the composition root are given besides: all settings, for example."""

    settings: Config
    sleep: Callable[[float], None]
    webhook: Callable[[str], Webhook]
    private: PrivateApp | None = None


class Assembly:
    """Builds endpoints. Those whose settings stay the same are the same objects after a reload."""

    def __init__(
        self,
        runtime: Runtime,
        shutdown: Shutdown,
        private: PrivateApp | None = None,
        disconnects: DisconnectMonitor | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._runtime, self._shutdown = runtime, shutdown
        self._private, self._telemetry = private, telemetry
        self._endpoints: dict[str, Endpoint] = {}
        self._image_endpoints: dict[Endpoint, Endpoint] = {}
        self._webhooks: dict[str, Webhook] = {}
        self._hordes: dict[str, HordeEndpoint] = {}
        self._stats_settings: StatsSettings | None = None
        self._disconnects = disconnects or DisconnectMonitor()

    def endpoints(self, settings: Config) -> list[Endpoint]:
        """The endpoints of the settings and the private horde; without any, the public horde.

        Raises ConfigError, and then keeps the endpoints that there were.
        """
        wanted = list(settings.endpoints)
        if self._private:
            wanted.append(EndpointSettings(type="horde", name=PRIVATE))
        if not wanted:
            wanted = [EndpointSettings(type="horde", name="horde")]
        services, has_others = self.services(settings), len(wanted) > 1
        common = repr((has_others, *_shared_settings(settings)))
        endpoints = {}
        for endpoint in wanted:
            # With other settings, an endpoint is another one: it begins without failures.
            key = endpoint.model_dump_json() + common
            endpoints[key] = self._endpoints.get(key) or self._endpoint(
                endpoint, services, has_others=has_others
            )
        self._endpoints = endpoints
        return list(endpoints.values())

    def image_endpoints(self, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
        """The same endpoints as makers of pictures, but for those that make none themselves."""
        before, self._image_endpoints = self._image_endpoints, {}
        for endpoint in endpoints:
            upstream = endpoint.upstream
            if isinstance(upstream, MakesImages):
                self._image_endpoints[endpoint] = before.get(endpoint) or Endpoint(
                    PictureUpstream(
                        upstream,
                        upstream.images,
                        now=self._runtime.now,
                        new_id=self._runtime.new_id,
                    ),
                    endpoint.breaker,
                    endpoint.priority,
                    endpoint.weight,
                    endpoint.globs,
                    endpoint.prefix,
                )
        return list(self._image_endpoints.values())

    def services(self, settings: Config) -> AppServices:
        """What the builders of upstreams are given."""
        return AppServices(
            new_session=self._runtime.new_session,
            disconnects=self._disconnects,
            run=self._runtime.run,
            now=self._runtime.now,
            new_id=self._runtime.new_id,
            clock=self._runtime.clock,
            run_later=self._runtime.run_later,
            models_ttl=settings.routing.models_ttl,
            telemetry=self._telemetry,
            settings=settings,
            sleep=self._shutdown.sleep,
            private=self._private,
            webhook=self._webhook,
        )

    def hordes(self, endpoints: list[Endpoint], settings: Config) -> dict[str, HordeEndpoint]:
        """The endpoints that are hordes by name, with their statistics.

        Statistics are kept where neither their horde nor their settings have changed.
        """
        before, self._hordes = self._hordes, {}
        is_stale, self._stats_settings = self._stats_settings != settings.stats, settings.stats
        for endpoint in endpoints:
            if KINDS[endpoint.upstream.kind].is_horde:
                upstream = cast("HordeUpstream", endpoint.upstream)
                horde = before.get(endpoint.name)
                if horde is None or horde.upstream is not upstream or is_stale:
                    horde = HordeEndpoint(upstream, self._statistics_of(upstream, settings))
                self._hordes[endpoint.name] = horde
        for name, horde in before.items():
            if self._hordes.get(name) is not horde:
                horde.statistics.hydrator.stop()
        return self._hordes

    def _webhook(self, url: str) -> Webhook:
        """The webhook at a URL. Chats that wait for a push find theirs again after a reload."""
        from horde_proxy.upstreams.horde.webhook import Webhook

        if url not in self._webhooks:
            self._webhooks[url] = Webhook(url, self._runtime.new_secret)
        return self._webhooks[url]

    def _statistics_of(self, horde: HordeUpstream, settings: Config) -> StatsService:
        from horde_proxy.app.horde import build_statistics

        return build_statistics(horde, self.services(settings))

    def _endpoint(
        self, endpoint: EndpointSettings, services: AppServices, *, has_others: bool
    ) -> Endpoint:
        routing = services.settings.routing
        # The only endpoint never cools down: there is nobody else to ask meanwhile.
        breaker = CircuitBreaker(
            routing.cooldown if has_others else 0, routing.longest_cooldown, services.clock
        )
        return Endpoint(
            build(endpoint, services),
            breaker,
            endpoint.priority,
            endpoint.weight,
            tuple(endpoint.models),
            endpoint.prefix,
        )


def build(endpoint: EndpointSettings, services: AppServices) -> Upstream:
    """The upstream for an endpoint. Raises ConfigError for an option that it does not take."""
    url = endpoint.url or services.settings.horde.url
    proxy_url = endpoint.proxy_url or proxy_for(url, services.settings)

    def new_session(adapter: BaseAdapter) -> Session:
        return with_proxy(services.new_session(adapter), proxy_url)

    try:
        its_services = replace(services, new_session=new_session)
        return build_upstream(endpoint.type, endpoint, its_services)
    except WrongOption as exc:
        setting = f"options.{exc.option}" if exc.option else "options"
        raise ConfigError(
            f"setting {setting} of the endpoint {endpoint.label()!r}: {exc}"
        ) from None


def proxy_for(url: str, settings: Config) -> str | None:
    """The HTTP proxy for calls of a URL: that of the settings, but not for servers at home."""
    return None if is_at_home(url) else settings.server.proxy_url


def _shared_settings(settings: Config) -> tuple[object, ...]:
    """The settings that endpoints are made of, besides their own."""
    return (
        settings.access.mode,
        settings.server.proxy_url,
        settings.horde.model_dump_json(),
        settings.routing,
        settings.formats,
        settings.tool_styles,
        settings.context_diet,
        settings.cache.model_dump_json(),
        settings.stats.horde_api_cache_ttl,
        settings.stats.horde_api_timeout,
    )

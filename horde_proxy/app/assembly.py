"""Builds the endpoints that the settings name, and keeps those that a reload does not change.

It makes objects and calls nothing. Kinds of upstreams are in horde_proxy.upstreams.kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, cast

from horde_proxy.api.context import HordeEndpoint
from horde_proxy.app.private import PrivateApp
from horde_proxy.app.runtime import Runtime
from horde_proxy.config import Config, ConfigError, EndpointSettings, StatsSettings
from horde_proxy.places import EndpointPlace
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.router.line import EndpointLine, LineLimits, unknown_slots
from horde_proxy.router.missing_paths import MissingPaths
from horde_proxy.router.pauses import Pauses
from horde_proxy.shutdown import Shutdown
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry
from horde_proxy.upstreams.base import MakesImages, TellsCapacity
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.upstreams.idle_hook import IdleHook, SharedUse
from horde_proxy.upstreams.kinds import KINDS, Services, WrongOption, build_upstream
from horde_proxy.upstreams.openai.described_models import is_at_home
from horde_proxy.upstreams.picture_upstream import PictureUpstream
from horde_proxy.upstreams.power import Power
from horde_proxy.upstreams.sessions import with_proxy
from horde_proxy.upstreams.wake_on_lan import (
    mac_address,
    magic_packets,
    server_address,
    wake_address,
)

if TYPE_CHECKING:
    from requests import Session
    from requests.adapters import BaseAdapter

    from horde_proxy.stats.service import StatsService
    from horde_proxy.upstreams.base import Upstream
    from horde_proxy.upstreams.horde.upstream import HordeUpstream
    from horde_proxy.upstreams.horde.webhook import Webhook

_LOOK_SECONDS = 1.0
"""How long a request waits for a machine that may sleep to take a connection. At home it takes a
millisecond."""
PRIVATE = "private"
"""The name of the private horde's endpoint; the settings reserve it."""
_LINE_SETTINGS = {"max_concurrent", "max_concurrent_models", "longest_line"}
"""The settings of an endpoint that its line alone is made of, which outlives a reload."""


@dataclass(frozen=True, kw_only=True)
class AppServices(Services):
    """What builders in the composition root are given besides: all settings, for example."""

    settings: Config
    sleep: Callable[[float], None]
    webhook: Callable[[str], Webhook]
    penalties_folder: Callable[[], Path]
    models_folder: Path
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
        pauses: Pauses | None = None,
        shared_use: SharedUse | None = None,
    ) -> None:
        self._runtime, self._shutdown, self._shared_use = runtime, shutdown, shared_use
        self.pauses = pauses or Pauses()
        self._private, self._telemetry = private, telemetry
        self._endpoints: dict[str, Endpoint] = {}
        self._idle_hooks: dict[Endpoint, IdleHook] = {}
        self._lines: dict[tuple[str, str | None], EndpointLine] = {}
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
            wanted.append(EndpointSettings(type="horde", name=PRIVATE, place="private"))
        if not wanted:
            wanted = [EndpointSettings(type="horde", name="horde")]
        services, has_others = self.services(settings), len(wanted) > 1
        common = repr((has_others, *_shared_settings(settings)))
        endpoints = {}
        for endpoint in wanted:
            # With other settings, an endpoint is another one: it begins without failures.
            key = endpoint.model_dump_json(exclude=_LINE_SETTINGS) + common
            endpoints[key] = self._endpoints.get(key) or self._endpoint(
                endpoint, services, has_others=has_others
            )
        self._endpoints = endpoints
        self._stop_idle_hooks()
        self._configure_lines(wanted, list(endpoints.values()))
        return list(endpoints.values())

    def _configure_lines(
        self, wanted: Sequence[EndpointSettings], endpoints: Sequence[Endpoint]
    ) -> None:
        """Give the lines the limits of the settings, and forget those of other servers."""
        self._lines = {}
        for setting, endpoint in zip(wanted, endpoints, strict=True):
            self._lines[setting.label(), setting.url] = endpoint.line
            endpoint.line.configure(_line_limits(setting, endpoint.upstream))

    def _line_of(self, endpoint: EndpointSettings, services: AppServices) -> EndpointLine:
        """The line before an endpoint's server, also where other settings of it have changed.

        Those who wait keep their places, and what runs at the server still counts.
        """
        name, url = endpoint.label(), endpoint.url
        return self._lines.get((name, url)) or EndpointLine(
            name, clock=services.clock, telemetry=services.telemetry
        )

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
                    place=endpoint.place,
                    power=endpoint.power,
                    line=endpoint.line,
                    pauses=self.pauses,
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
            models_folder=self._runtime.models_folder(),
            private=self._private,
            webhook=self._webhook,
            penalties_folder=self._runtime.penalties_folder,
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
        power = power_of(endpoint, self._runtime, self._telemetry)
        built = Endpoint(
            build(endpoint, replace(services, power=power)),
            breaker,
            endpoint.priority,
            endpoint.weight,
            tuple(endpoint.models),
            endpoint.prefix,
            MissingPaths(services.clock),
            place=place_of(endpoint, services.settings),
            power=power,
            line=self._line_of(endpoint, services),
            pauses=self.pauses,
        )
        self._add_idle_hook(built, endpoint)
        return built

    def _add_idle_hook(self, built: Endpoint, endpoint: EndpointSettings) -> None:
        """Have the endpoint's hook run when nobody uses it, if it has one."""
        if endpoint.idle_hook is None or endpoint.idle_after is None:
            return
        runtime = self._runtime
        hook = self._idle_hooks[built] = IdleHook(
            built.name,
            endpoint.idle_hook,
            endpoint.idle_after * 60,
            built.breaker,
            power=built.power,
            shared=self._shared_use,
            server=f"{endpoint.label()} {endpoint.url}",
            run_hook=runtime.run_hook,
            clock=runtime.clock,
            run_later=runtime.run_later,
            telemetry=self._telemetry,
        )
        hook.start()

    def _stop_idle_hooks(self) -> None:
        """Stop the hooks of endpoints that a reload has replaced or removed."""
        current = set(self._endpoints.values())
        for endpoint in set(self._idle_hooks) - current:
            self._idle_hooks.pop(endpoint).stop()


def power_of(
    endpoint: EndpointSettings, runtime: Runtime, telemetry: Telemetry = NO_TELEMETRY
) -> Power | None:
    """The machine of an endpoint whose settings say that it sleeps; None for any other."""
    if endpoint.wake is None or endpoint.url is None:
        return None
    address = wake_address(endpoint.wake_address) if endpoint.wake_address else None
    return Power(
        endpoint.label(),
        magic_packets(mac_address(endpoint.wake), address, endpoint.url),
        partial(runtime.can_connect, *server_address(endpoint.url), _LOOK_SECONDS),
        boot_seconds=endpoint.boot_seconds,
        send=runtime.send_datagram,
        clock=runtime.clock,
        run=runtime.run,
        run_later=runtime.run_later,
        telemetry=telemetry,
    )


def _line_limits(endpoint: EndpointSettings, upstream: Upstream) -> LineLimits:
    """How many requests an endpoint may have at a time, by its settings, else by its server."""
    most = endpoint.max_concurrent
    tells = most is None and isinstance(upstream, TellsCapacity)
    server_slots = cast(TellsCapacity, upstream).slots if tells else unknown_slots
    return LineLimits(
        most or None, endpoint.max_concurrent_models, endpoint.longest_line, server_slots
    )


def place_of(endpoint: EndpointSettings, settings: Config) -> EndpointPlace:
    """Where an endpoint is, by its settings, else by its kind and the address of its server."""
    if endpoint.place is not None:
        return endpoint.place
    kind = KINDS[endpoint.type]
    is_own = is_at_home(endpoint.url or settings.horde.url)
    if kind.is_horde:
        # Its server is at home, but its workers may be friends' machines.
        return "private" if is_own else "crowd"
    if kind.shares_calls:
        return "crowd"
    return "home" if is_own else "paid"


def build(endpoint: EndpointSettings, services: AppServices) -> Upstream:
    """The upstream for an endpoint. Raises ConfigError for an option that it does not take."""
    url = endpoint.url or services.settings.horde.url
    proxy_url = endpoint.proxy_url or proxy_for(url, services.settings)

    def new_session(adapter: BaseAdapter) -> Session:
        return with_proxy(services.new_session(adapter), proxy_url)

    # One file for each server: its name may change, and two may have the same one after another.
    models_file = services.models_folder / f"{sha256(url.encode()).hexdigest()[:16]}.json"
    try:
        its_services = replace(services, new_session=new_session, models_file=models_file)
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
        settings.stats.image_reference,
        settings.stats.reference_ttl,
        settings.stats.cache_directory,
    )

"""The kinds of upstreams: the registry, and what each builder is given.

A kind is one module, with a `build(endpoint, services)`, and one line in KINDS; settings of its
own are fields of EndpointOptions and of horde_proxy.config.endpoints, too. Builders are
named by their import path and imported when the first endpoint of their kind is built: the
horde's modules take a fifth of the memory of a proxy that has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Protocol, cast

from horde_proxy.telemetry import NO_TELEMETRY, Telemetry

if TYPE_CHECKING:
    from requests import Session
    from requests.adapters import BaseAdapter

    from horde_proxy.upstreams.base import Upstream
    from horde_proxy.upstreams.disconnects import DisconnectMonitor


@dataclass(frozen=True)
class UpstreamKind:
    """`builder` is "module:function". Without `needs_url`, the kind knows where its server is.

    `is_horde`: its upstreams are HordeUpstreams, with an account, statistics and pushed results.
    """

    builder: str
    needs_url: bool = True
    is_horde: bool = False


KINDS: Mapping[str, UpstreamKind] = {
    "openai": UpstreamKind("horde_proxy.upstreams.openai.upstream:OpenAIUpstream.build"),
    "ocf": UpstreamKind("horde_proxy.upstreams.openai.ocf:OCFUpstream.build"),
    # Built in the composition root, because it has sections of the settings of its own.
    "horde": UpstreamKind("horde_proxy.app.horde:build", needs_url=False, is_horde=True),
}
"""The kinds by the `type` that the settings name."""


class EndpointOptions(Protocol):
    """An entry of [[endpoints]] in the settings. `timeout` is in seconds between two bytes."""

    @property
    def url(self) -> str | None: ...
    @property
    def api_key(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def timeout(self) -> float: ...

    def label(self) -> str:
        """The endpoint's name."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What every upstream is given, whatever its kind. Times are in seconds.

    `models_ttl`: how long a list of models stays good.
    """

    new_session: Callable[[BaseAdapter], Session]
    disconnects: DisconnectMonitor
    run: Callable[[Callable[[], None]], None]
    clock: Callable[[], float] = time.monotonic
    models_ttl: float = 60.0
    telemetry: Telemetry = NO_TELEMETRY


def build_upstream(kind: str, endpoint: EndpointOptions, services: Services) -> Upstream:
    """The upstream for an endpoint of that kind. Connects to nothing yet."""
    build = resolve_name(KINDS[kind].builder)
    return cast("Upstream", build(endpoint, services))

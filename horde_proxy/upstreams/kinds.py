"""The kinds of upstreams: the registry, and what each builder is given.

A kind is one module, with a `build(endpoint, services)`, and one line in KINDS. Settings of its
own are in the endpoint's `options`, which `build` reads with read_options. Builders are named by
their import path and imported when the first endpoint of their kind is built: the horde's modules
take a fifth of the memory of a proxy that has none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from horde_proxy.caching.background import later_in_background
from horde_proxy.telemetry import NO_TELEMETRY, Telemetry

if TYPE_CHECKING:
    from requests import Session
    from requests.adapters import BaseAdapter

    from horde_proxy.upstreams.base import Upstream
    from horde_proxy.upstreams.disconnects import DisconnectMonitor
    from horde_proxy.upstreams.power import Power


_Options = TypeVar("_Options", bound="KindOptions")


@dataclass(frozen=True)
class UpstreamKind:
    """`summary` says which servers it is for. `builder` is "module:function".

    Without `needs_url`, the kind knows where its server is.
    `is_horde`: its upstreams are HordeUpstreams, with an account, statistics and pushed results;
    one without a url is that of [horde]. `shares_calls`: its server passes calls on to anybody's
    machines. `has_options`: its `build` reads the endpoint's `options`,
    which are refused otherwise.
    """

    summary: str
    builder: str
    needs_url: bool = True
    is_horde: bool = False
    shares_calls: bool = False
    has_options: bool = False


KINDS: Mapping[str, UpstreamKind] = {
    "openai": UpstreamKind(
        "any OpenAI-compatible server", "horde_proxy.upstreams.openai.upstream:OpenAIUpstream.build"
    ),
    "ocf": UpstreamKind(
        "a node of the Open Compute Framework",
        "horde_proxy.upstreams.openai.ocf:OCFUpstream.build",
        shares_calls=True,
    ),
    # Built in the composition root, because it has sections of the settings of its own.
    "horde": UpstreamKind(
        "an AI Horde", "horde_proxy.app.horde:build", needs_url=False, is_horde=True
    ),
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
    @property
    def options(self) -> Mapping[str, Any]: ...

    def label(self) -> str:
        """The endpoint's name."""


class WrongOption(ValueError):
    """An option that cannot be used. `option` is its name within `options`."""

    def __init__(self, option: str, reason: str) -> None:
        super().__init__(reason)
        self.option = option


class KindOptions(BaseModel):
    """The base of the options of one kind: a field for each, and no others."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def read_options(model: type[_Options], endpoint: EndpointOptions) -> _Options:
    """The endpoint's options. Raises WrongOption, whose reason holds no value: it may be a key."""
    try:
        return model.model_validate(endpoint.options)
    except ValidationError as exc:
        error = exc.errors()[0]
        option = ".".join(str(part) for part in error["loc"])
        reason = error["msg"].removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            reason = f"there is no such option; use one of: {', '.join(model.model_fields)}"
        raise WrongOption(option, reason) from None


@dataclass(frozen=True, kw_only=True)
class Services:
    """What every upstream is given, whatever its kind. Times are in seconds.

    `clock` counts from any start, `now` is Unix time. `new_id` returns hexadecimal digits.
    `run_later` runs a call after so many seconds. `models_ttl`: how long a list of models stays
    good. `power` is the machine of a server that sleeps, whose models are kept in `models_file`.
    """

    new_session: Callable[[BaseAdapter], Session]
    disconnects: DisconnectMonitor
    run: Callable[[Callable[[], None]], None]
    now: Callable[[], float]
    new_id: Callable[[], str]
    clock: Callable[[], float] = time.monotonic
    run_later: Callable[[float, Callable[[], None]], None] = later_in_background
    models_ttl: float = 60.0
    telemetry: Telemetry = NO_TELEMETRY
    power: Power | None = None
    models_file: Path = Path("models.json")


def build_upstream(kind: str, endpoint: EndpointOptions, services: Services) -> Upstream:
    """The upstream for an endpoint of that kind. Connects to nothing yet. Raises WrongOption."""
    build = resolve_name(KINDS[kind].builder)
    return cast("Upstream", build(endpoint, services))

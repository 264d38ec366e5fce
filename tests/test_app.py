"""How the parts are put together: endpoints from settings, kinds of upstreams, reloads."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, Self

import pytest

from horde_proxy import create_app
from horde_proxy.config import Config, load
from horde_proxy.errors import ProxyError
from horde_proxy.protocol.chat import GenerationRequest
from horde_proxy.upstreams import kinds
from horde_proxy.upstreams.base import Accepted, Route, StreamItem
from horde_proxy.upstreams.horde.upstream import HordeUpstream


def settings(**sections: Any) -> Config:
    return load(environ={}, flags={"stats": {"hydrate": False}, **sections})


class Parrot:
    """A kind of upstream in one class, as a newcomer would write it."""

    kind, url, offers_any, proxy = "parrot", "", False, None
    cooldown_errors: tuple[type[ProxyError], ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def build(cls, endpoint: kinds.EndpointOptions, services: kinds.Services) -> Self:
        return cls(endpoint.label())

    def models(self) -> Sequence[dict[str, Any]]:
        return [{"id": "polly", "object": "model"}]

    def refresh(self) -> None:
        pass

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        return tuple(models[:1])

    def stream(self, request: GenerationRequest, route: Route) -> Iterator[StreamItem]:
        yield Accepted({}, self.name)


def test_a_new_kind_is_one_module_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("parrot_kind")
    module.Parrot = Parrot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "parrot_kind", module)
    entry = kinds.UpstreamKind("parrot_kind:Parrot.build", needs_url=False)
    monkeypatch.setattr(kinds, "KINDS", {**kinds.KINDS, "parrot": entry})
    monkeypatch.setattr("horde_proxy.config.settings.KINDS", kinds.KINDS)
    http = create_app(settings(endpoints=[{"type": "parrot"}])).test_client()
    assert [model["id"] for model in http.get("/v1/models").get_json()["data"]] == ["polly"]
    assert http.get("/v1/endpoints").get_json()["data"][0]["type"] == "parrot"


PUBLIC = {
    "api_key": "key-of-the-public-horde",
    "webhook_url": "https://home.example",
    "allow_workers": ["a-worker-of-the-public-horde"],
    "deny_workers": ["another"],
    "least_speed": 9,
    "trusted_workers": True,
    "slow_workers": False,
    "max_kudos_per_request": 5,
    "retries": 7,
    "segments": False,
}


def horde_endpoints(**sections: Any) -> dict[str, HordeUpstream]:
    app = create_app(settings(horde=PUBLIC, **sections))
    router = app.extensions["horde_proxy"].router
    return {endpoint.name: endpoint.upstream for endpoint in router.endpoints}


def test_the_private_horde_takes_over_nothing_that_is_about_the_public_one() -> None:
    private = horde_endpoints(private_horde={"enabled": True})["private"]
    options = private._options
    assert private.webhook is None
    assert options.api_key != PUBLIC["api_key"]
    assert (list(options.filters.allow), list(options.filters.deny)) == ([], [])
    assert (options.filters.least_speed, options.filters.trusted) == (0, False)
    assert (options.filters.slow, options.max_kudos) == (True, None)
    assert (options.retries, options.segments) == (7, False)


def test_a_horde_at_another_address_gets_neither_key_nor_webhook() -> None:
    other = horde_endpoints(
        endpoints=[{"type": "horde", "name": "other", "url": "https://other.invalid/api"}]
    )["other"]
    assert other._options.api_key == "0000000000"
    assert other.webhook is None
    assert list(other._options.filters.allow) == PUBLIC["allow_workers"]


@pytest.mark.parametrize("address", [{}, {"url": "https://aihorde.net"}])
def test_an_endpoint_for_the_horde_itself_has_all_its_settings(address: dict[str, str]) -> None:
    endpoint = {"type": "horde", "name": "mine", **address}
    mine = horde_endpoints(endpoints=[endpoint])["mine"]
    assert mine._options.api_key == PUBLIC["api_key"]
    assert mine.webhook is not None
    assert mine.webhook.url == PUBLIC["webhook_url"]

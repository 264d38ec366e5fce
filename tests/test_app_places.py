"""Where endpoints are by their settings, and what a reload must not take from aliases and keys."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy import create_app
from horde_proxy.app.assembly import place_of
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import Config, load, reasons_to_restart

PUBLIC_HORDE: dict[str, Any] = {"horde": {"url": "https://aihorde.net"}}
HORDE_AT_HOME: dict[str, Any] = {"horde": {"url": "http://192.168.1.9:7001"}}


def settings(**sections: Any) -> Config:
    return load(environ={}, flags=sections)


@pytest.mark.parametrize(
    ("endpoint", "sections", "place"),
    [
        ({"url": "http://127.0.0.1:11434"}, {}, "home"),
        ({"url": "http://[::1]:8000"}, {}, "home"),
        ({"url": "http://192.168.1.9:1"}, {}, "home"),
        ({"url": "http://100.100.1.1:1"}, {}, "home"),
        ({"url": "http://ollama:11434"}, {}, "home"),
        ({"url": "http://box.local:1"}, {}, "home"),
        ({"url": "https://api.example.org/v1"}, {}, "paid"),
        ({"url": "http://8.8.8.8:11434"}, {}, "paid"),
        # A name of the settings says nothing: anybody may call a server "private".
        ({"url": "https://api.example.org/v1", "name": "private"}, {}, "paid"),
        ({"url": "https://localhost.example.org"}, {}, "paid"),
        ({"type": "horde"}, PUBLIC_HORDE, "crowd"),
        ({"type": "horde"}, HORDE_AT_HOME, "private"),
        ({"type": "horde", "url": "http://192.168.1.9:7001"}, PUBLIC_HORDE, "private"),
        ({"type": "horde", "url": "https://other.example.org"}, HORDE_AT_HOME, "crowd"),
        # The node is at home, and its peers are anybody's.
        ({"type": "ocf", "url": "http://127.0.0.1:8092"}, {}, "crowd"),
        ({"type": "ocf", "url": "http://10.1.1.1:8092", "place": "private"}, {}, "private"),
        ({"url": "https://api.example.org/v1", "place": "home"}, {}, "home"),
        ({"url": "http://127.0.0.1:4000", "place": "paid"}, {}, "paid"),
    ],
)
def test_an_endpoint_is_where_it_says_or_where_its_address_is(
    endpoint: dict[str, Any], sections: dict[str, Any], place: str
) -> None:
    config = settings(endpoints=[endpoint], **sections)
    assert place_of(config.endpoints[0], config) == place


@pytest.mark.parametrize(
    ("sections", "places"),
    [
        ({}, {"horde": "crowd"}),
        ({"private_horde": {"enabled": True}}, {"private": "private"}),
    ],
)
def test_hordes_that_no_endpoint_names_have_places_too(
    sections: dict[str, Any], places: dict[str, str]
) -> None:
    config = settings(stats={"hydrate": False}, **PUBLIC_HORDE, **sections)
    runtime = Runtime(run=inline, run_loop=lambda loop: None, open_horde_store=lambda url: None)
    app = create_app(config, runtime)
    router = app.extensions["horde_proxy"].router
    assert {endpoint.name: endpoint.place for endpoint in router.endpoints} == places


def test_an_alias_is_a_text_or_a_table() -> None:
    config = settings(
        aliases={"coder": "qwen3", "diary": {"model": "llama3.2", "places": ["home", "private"]}}
    )
    assert config.alias_targets() == {"coder": "qwen3", "diary": "llama3.2"}
    assert config.alias_places() == {"diary": ["home", "private"]}


@pytest.mark.parametrize(
    "alias",
    [{"model": "m", "places": []}, {"model": "m", "places": ["hoem"]}, {"places": ["home"]}, 5],
)
def test_a_wrong_alias_stops_the_start(alias: Any) -> None:
    with pytest.raises(Exception, match="aliases"):
        settings(aliases={"diary": alias})


KEY = "key-of-ann-0123456789"


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        (
            {"aliases": {"diary": {"model": "m", "places": ["home"]}}},
            {"aliases": {"diary": "m"}},
            "aliases.diary.places",
        ),
        (
            {"access": {"mode": "keys", "keys": {"ann": {"key": KEY, "places": ["home"]}}}},
            {"access": {"mode": "keys", "keys": {"ann": KEY}}},
            "access.keys.ann.places",
        ),
        (
            {"endpoints": [{"url": "http://127.0.0.1:1", "place": "paid"}]},
            {"endpoints": [{"url": "http://127.0.0.1:1"}]},
            "endpoints.127.0.0.1:1.place",
        ),
    ],
)
def test_a_reload_does_not_lose_a_place(
    before: dict[str, Any], after: dict[str, Any], lost: str
) -> None:
    running, new = settings(**before), settings(**after)
    assert reasons_to_restart(running, new, running) == [
        f"no longer set, so that defaults would apply: {lost}"
    ]
    assert reasons_to_restart(new, running, new) == []
    assert reasons_to_restart(running, running, running) == []

"""How the parts are put together: endpoints from settings, kinds of upstreams, reloads."""

from __future__ import annotations

import ast
import sys
from collections.abc import Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

import pytest
from pydantic import Field

from horde_proxy import create_app, reconfigure
from horde_proxy.app.runtime import Runtime
from horde_proxy.commands.check import check_endpoints
from horde_proxy.config import Config, ConfigError, load
from horde_proxy.errors import ProxyError
from horde_proxy.ledger import ClientKey
from horde_proxy.protocol.chunks import Head, chunk, role_chunk
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.upstreams import kinds
from horde_proxy.upstreams.base import Accepted, Caller, Route, StreamItem
from horde_proxy.upstreams.horde.upstream import HordeUpstream
from tests.support import OWNER_KEY, Scripted, World, known


def settings(**sections: Any) -> Config:
    return load(environ={}, flags={"stats": {"hydrate": False}, **sections})


class ParrotOptions(kinds.KindOptions):
    word: Annotated[str, Field(min_length=2)] | None = None


class Parrot:
    """A kind of upstream in one class, as a newcomer would write it."""

    kind, url, offers_any, proxy = "parrot", "", False, None
    cooldown_errors: tuple[type[ProxyError], ...] = ()

    def __init__(self, name: str, word: str | None, services: kinds.Services) -> None:
        self.name, self._word, self._services = name, word, services

    @classmethod
    def build(cls, endpoint: kinds.EndpointOptions, services: kinds.Services) -> Self:
        options = kinds.read_options(ParrotOptions, endpoint)
        return cls(endpoint.label(), options.word, services)

    def models(self) -> Sequence[dict[str, Any]]:
        return [{"id": "polly", "object": "model"}]

    def refresh(self) -> None:
        pass

    def error(self) -> ProxyError | None:
        return None

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        return tuple(models[:1])

    def stream(
        self, request: GenerationRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        id = f"chatcmpl-{self._services.new_id()}"
        head = Head(id, int(self._services.now()), route.model)
        yield Accepted({}, self.name)
        yield role_chunk(head)
        text = self._word or request.messages[-1].text
        yield chunk(head, {"content": text}, finish_reason="stop")


@pytest.fixture
def parrot(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind in the registry."""
    module = ModuleType("parrot_kind")
    module.Parrot = Parrot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "parrot_kind", module)
    entry = kinds.UpstreamKind(
        "no server", "parrot_kind:Parrot.build", needs_url=False, has_options=True
    )
    monkeypatch.setitem(kinds.KINDS, "parrot", entry)


@pytest.mark.usefixtures("parrot")
def test_a_new_kind_is_one_module_and_one_line() -> None:
    runtime = Runtime(now=lambda: 1_769_860_800.5, new_id=lambda: "abc")
    http = create_app(settings(endpoints=[{"type": "parrot"}]), runtime).test_client()
    assert [model["id"] for model in http.get("/v1/models").get_json()["data"]] == ["polly"]
    assert http.get("/v1/endpoints").get_json()["data"][0]["type"] == "parrot"
    body = {"model": "polly", "messages": [{"role": "user", "content": "Hello."}]}
    answer = http.post("/v1/chat/completions", json=body).get_json()
    assert answer["choices"][0]["message"]["content"] == "Hello."
    assert (answer["id"], answer["created"]) == ("chatcmpl-abc", 1_769_860_800)


@pytest.mark.usefixtures("parrot")
def test_a_kind_has_options_of_its_own() -> None:
    endpoints = [{"type": "parrot", "options": {"word": "Lora!"}}]
    app = create_app(settings(endpoints=endpoints))
    body = {"model": "polly", "messages": [{"role": "user", "content": "Hello."}]}
    answer = app.test_client().post("/v1/chat/completions", json=body).get_json()
    assert answer["choices"][0]["message"]["content"] == "Lora!"


@pytest.mark.usefixtures("parrot")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"word": "a"},
            "setting options.word of the endpoint 'polly': "
            "String should have at least 2 characters",
        ),
        (
            {"words": "a-secret"},
            "setting options.words of the endpoint 'polly': "
            "there is no such option; use one of: word",
        ),
    ],
)
def test_a_wrong_option_is_named_without_its_value(options: dict[str, str], message: str) -> None:
    wrong = settings(endpoints=[{"type": "parrot", "name": "polly", "options": options}])
    with pytest.raises(ConfigError) as raised:
        create_app(wrong)
    assert str(raised.value) == message
    app = create_app(settings())
    before = app.extensions["horde_proxy"]
    with pytest.raises(ConfigError):
        reconfigure(app, wrong)
    assert app.extensions["horde_proxy"] is before
    assert [(finding.what, finding.ok) for finding in check_endpoints(wrong)] == [
        (f"endpoint polly: {message}", False)
    ]


def test_a_kind_without_options_refuses_them() -> None:
    with pytest.raises(ConfigError, match="the type `ocf` has no options") as raised:
        settings(endpoints=[{"type": "ocf", "url": "http://x.invalid", "options": {"a": "secret"}}])
    assert "setting endpoints.0.options = (hidden) from the command line" in str(raised.value)


@pytest.mark.usefixtures("parrot")
def test_an_endpoint_without_a_server_is_checked_as_well() -> None:
    [finding] = check_endpoints(settings(endpoints=[{"type": "parrot"}, {"type": "horde"}]))
    assert (finding.what, finding.ok) == ("endpoint parrot (paid): 1 models", True)


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


def test_a_horde_at_another_address_may_have_a_webhook_of_its_own(world: World) -> None:
    own = {**HORDES[0], "webhook_url": "https://lan.example"}
    world.configure(endpoints=[HORDES[1], own], horde={"webhook_url": "https://home.example"})
    hordes = world.app().extensions["horde_proxy"].hordes
    assert {name: horde.upstream.webhook.url for name, horde in hordes.items()} == {
        "second": "https://home.example",
        "first": "https://lan.example",
    }


@pytest.mark.parametrize("address", [{}, {"url": "https://aihorde.net"}])
def test_an_endpoint_for_the_horde_itself_has_all_its_settings(address: dict[str, str]) -> None:
    endpoint = {"type": "horde", "name": "mine", **address}
    mine = horde_endpoints(endpoints=[endpoint])["mine"]
    assert mine._options.api_key == PUBLIC["api_key"]
    assert mine.webhook is not None
    assert mine.webhook.url == PUBLIC["webhook_url"]


# Several hordes.

HORDES = [
    {"type": "horde", "name": "first", "url": "http://first.invalid"},
    {"type": "horde", "name": "second"},
]


def test_account_and_statistics_are_of_the_horde_that_is_named(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    world.configure(endpoints=[{"type": "horde", "name": "home"}], private_horde={"enabled": True})
    http = world.http()

    def got(path: str) -> Any:
        return http.get(f"/v1/horde/{path}").json

    assert got("account")["name"] == got("account?endpoint=home")["name"] == "client#2"
    assert got("account?endpoint=private")["name"] == "owner#1"
    assert [model["name"] for model in got("models")["data"]] == ["model"]
    assert got("models?endpoint=private")["data"] == []
    assert got("statistics?endpoint=private")["total_models"] == 0


def test_a_horde_that_does_not_exist_is_a_404_with_those_that_do(world: World) -> None:
    response = world.configure(endpoints=HORDES).http().get("/v1/horde/account?endpoint=third")
    assert response.status_code == 404
    assert "Available: first, second." in response.text


def test_a_result_that_any_horde_pushes_is_delivered(world: World) -> None:
    world.configure(endpoints=HORDES, horde={"webhook_url": "https://home.example"})
    app = world.app()
    hordes = app.extensions["horde_proxy"].hordes
    woken: list[str] = []
    mailbox = hordes["second"].upstream.webhook.mailbox(lambda: woken.append("second"))
    mailbox.expect("request")
    path = urlsplit(mailbox.url).path
    reconfigure(app, world.configure(horde={"retries": 0}).config())
    response = app.test_client().post(path, json={"id": "job", "request": "request"})
    assert (response.status_code, woken) == (204, ["second"])


def test_the_horde_key_of_a_clients_key_is_for_the_main_horde_only(world: World) -> None:
    world.configure(**known(ann=ClientKey("ann", horde_key=OWNER_KEY)))
    world.configure(
        endpoints=[{"type": "horde", "name": "home"}, {**HORDES[0], "api_key": "its-own-key"}],
        private_horde={"enabled": True, "api_key": "private-key"},
    )
    hordes = world.app().extensions["horde_proxy"].hordes
    keys = {name: horde.upstream._options.key_for(OWNER_KEY) for name, horde in hordes.items()}
    assert keys == {"home": OWNER_KEY, "first": "its-own-key", "private": "private-key"}


# New settings.


def test_a_running_chat_outlives_new_settings_and_a_retry_shares_it(world: World) -> None:
    world.bridge(Scripted("x")).step(world.session)
    app = world.app()
    http: Any = app.test_client()
    chat = {"model": "test/model", "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    stream = http.post("/v1/chat/completions", json=chat)
    next(iter(stream.response))
    reconfigure(app, world.configure(server={"places": 50, "timeout": 99}).config())
    assert len(http.get("/v1/horde/requests").json["data"]) == 1
    live = app.extensions["horde_proxy"].live
    assert (live.slots.taken, live.slots.count) == (1, 50)
    retry = http.post("/v1/chat/completions", json=chat, headers={"X-Stainless-Retry-Count": "1"})
    next(iter(retry.response))
    assert len(world.horde.open_requests()) == 1
    stream.close()
    retry.close()
    assert live.slots.taken == 0


def test_new_settings_name_those_that_only_a_restart_applies() -> None:
    app = create_app(settings(private_horde={"enabled": True}))
    strict = {"enabled": True, "strict": True}
    server = {"bind": "127.0.0.1:9", "grace": 5, "places": 1, "timeout": 9}
    assert reconfigure(app, settings(private_horde=strict, server=server)) == [
        "server.bind",
        "server.grace",
        "private_horde.strict",
    ]
    # The pace that it allows is still that of the start.
    private = app.extensions["horde_proxy"].hordes["private"].upstream
    assert not private._horde.submit_queue._has_pace
    assert reconfigure(app, settings(private_horde={"enabled": True})) == []


def test_a_private_horde_that_began_open_says_that_it_stays_so() -> None:
    app = create_app(settings(private_horde={"enabled": True}))
    guarded = settings(private_horde={"enabled": True}, access={"mode": "passthrough"})
    assert reconfigure(app, guarded) == ["access.mode, for the private horde"]


def test_a_file_that_was_emptied_does_not_open_the_proxy() -> None:
    app = create_app(settings(access={"mode": "passthrough"}))
    before = app.extensions["horde_proxy"]
    with pytest.raises(ConfigError, match=r"have no access\.mode"):
        reconfigure(app, settings())
    assert app.extensions["horde_proxy"] is before


# What is imported.


def imported_by(name: str, seen: set[str]) -> set[str]:
    """The package's modules that importing one brings along, but for imports inside functions."""
    if name in seen or (spec := find_spec(name)) is None or spec.origin is None:
        return seen
    seen.add(name)
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("horde_proxy"):
            module = str(node.module)
            for target in (module, *(f"{module}.{alias.name}" for alias in node.names)):
                if target not in seen and find_module(target):
                    imported_by(target, seen)
    return seen


def find_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_a_proxy_without_a_horde_imports_none_of_its_modules() -> None:
    names = imported_by("horde_proxy.app.factory", set())
    names |= imported_by("horde_proxy.upstreams.openai.upstream", set())
    assert "horde_proxy.router.router" in names
    heavy = (
        "horde_proxy.upstreams.horde.",
        "horde_proxy.private_horde",
        "horde_proxy.ledger.database",
    )
    assert [name for name in names if name.startswith(heavy)] == []


def test_the_process_beside_the_server_does_not_import_the_app() -> None:
    names = imported_by("horde_proxy.commands.cli", set())
    names |= imported_by("horde_proxy.commands.serve", set())
    assert "horde_proxy.serving" in names
    assert [name for name in names if name.startswith(("horde_proxy.app", "horde_proxy.api"))] == []

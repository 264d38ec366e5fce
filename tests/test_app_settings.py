"""The settings of a running app, as its pages change them: in use at once, and never spoilt."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask

from horde_proxy import create_app
from horde_proxy.api.settings_access import SettingsAccess
from horde_proxy.app.factory import composition_of
from horde_proxy.app.reload import Reloader
from horde_proxy.config import ConfigError, load
from horde_proxy.errors import InvalidApiKey, SettingsRefused
from tests.support import CLIENT_KEY, HORDE_URL, World

FILE = f"""\
[horde]
url = "{HORDE_URL}"
[server]
places = 10  # for a home
"""


class Running:
    """An app whose settings come from a file."""

    def __init__(self, tmp_path: Path, text: str = FILE, **environ: str) -> None:
        self.file, self.environ = tmp_path / "a.toml", environ
        self.file.write_text(text)
        self.world = World()
        self.app: Flask = create_app(load(str(self.file), environ), self.world.runtime)

    @property
    def settings(self) -> SettingsAccess:
        access = self.app.extensions["horde_proxy"].settings
        assert access is not None
        return access  # type: ignore[no-any-return]


def test_a_change_is_written_and_in_use(tmp_path: Path) -> None:
    running = Running(tmp_path)
    edited = running.settings.edit()
    edited.set("server.places", 20)
    assert running.settings.save(edited) == ("server.places",)
    assert "places = 20  # for a home" in running.file.read_text()
    assert running.settings.value("server.places") == 20
    edited = running.settings.edit()
    edited.set("aliases.fast", "llama*")
    assert running.settings.save(edited) == ("server.places",)
    assert running.app.extensions["horde_proxy"].router is not None
    assert running.settings.value("aliases")["fast"].model == "llama*"


def test_where_a_reloader_watches_the_file_it_reloads_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    running, reads = Running(tmp_path), list[str]()

    def read() -> object:
        reads.append("read")
        return load(str(running.file), {})

    reloader = Reloader(running.app, read, lambda settings: None, [str(running.file)])  # type: ignore[arg-type]
    edited = running.settings.edit()
    edited.set("server.timeout", 20)
    running.settings.save(edited)
    assert running.settings.value("server.timeout") == 20
    reloader.look()
    reloader.look()
    assert reads == ["read"]


def test_what_a_start_or_a_reload_would_refuse_is_not_written(tmp_path: Path) -> None:
    text = FILE + '[[endpoints]]\nurl = "http://10.0.0.5:8000"\nname = "lan"\n'
    running = Running(tmp_path, text)
    edited = running.settings.edit()
    edited.set("server.places", 0)
    with pytest.raises(SettingsRefused, match="greater than or equal to 1"):
        running.settings.save(edited)
    edited = running.settings.edit()
    edited.remove("endpoints", "name", "lan")
    with pytest.raises(SettingsRefused, match="name no endpoint"):
        running.settings.save(edited)
    edited = running.settings.edit()
    edited.set("server.no_such", 1)
    with pytest.raises(SettingsRefused, match="there is no such setting"):
        running.settings.save(edited)
    assert running.file.read_text() == text
    assert running.settings.value("server.places") == 10


def test_what_the_sockets_do_not_permit_is_not_written(tmp_path: Path) -> None:
    running = Running(tmp_path)

    def refuse(settings: object) -> None:
        raise ConfigError("this address is reachable from other machines: set access.mode")

    Reloader(running.app, lambda: load(str(running.file), {}), refuse, [str(running.file)])
    edited = running.settings.edit()
    edited.set("server.timeout", 20)
    with pytest.raises(SettingsRefused) as raised:
        running.settings.save(edited)
    assert raised.value.message == (
        "This address is reachable from other machines: set access.mode."
    )
    assert running.file.read_text() == FILE


def test_refusals_are_errors_of_the_page(tmp_path: Path) -> None:
    running = Running(tmp_path, HORDE_PROXY_SERVER__PLACES="3")
    with pytest.raises(SettingsRefused, match="server.places comes from environment variable"):
        running.settings.edit().set("server.places", 4)
    app = World().app()
    with pytest.raises(SettingsRefused, match="There is no folder for a settings file"):
        app.extensions["horde_proxy"].settings.edit()


def test_it_is_a_first_run_until_something_is_set(tmp_path: Path) -> None:
    def first(**environ: str) -> bool:
        app = create_app(load(None, environ), World().runtime)
        return bool(app.extensions["horde_proxy"].settings.is_first_run())

    public = {"HORDE_PROXY_SERVER__BIND": "0.0.0.0:80", "HORDE_PROXY_ACCESS__MODE": "open"}
    assert first()
    assert first(AI_HORDE_API_KEY="0000000000", PORT="9000", **public)
    assert not first(HORDE_PROXY_SERVER__FIRST_RUN="false")
    assert not first(AI_HORDE_API_KEY="a-key-of-my-own")
    assert not first(TARGET_OPENAI_URL="http://10.0.0.5:11434")
    assert not first(HORDE_PROXY_PRIVATE_HORDE__ENABLED="true")
    assert not first(HORDE_PROXY_ACCESS__MODE="passthrough")
    assert not Running(tmp_path).settings.is_first_run()


def test_a_horde_key_is_tried_at_the_horde(tmp_path: Path) -> None:
    running = Running(tmp_path)
    account = running.settings.try_horde_key(CLIENT_KEY)
    assert (account.username, account.kudos) == ("client#2", 10_000)
    with pytest.raises(InvalidApiKey):
        running.settings.try_horde_key("a-key-that-nobody-has")


def test_a_server_is_tried_before_it_is_added(tmp_path: Path) -> None:
    running = Running(tmp_path)
    tried = running.settings.try_server(HORDE_URL, None, None)
    assert tried.kind == "horde"
    with pytest.raises(SettingsRefused, match=r"Write it with http:// or https:// and a host"):
        running.settings.try_server("10.0.0.5:11434", None, None)


def test_the_origins_are_those_of_all_sources(tmp_path: Path) -> None:
    running = Running(tmp_path, HORDE_PROXY_SERVER__TIMEOUT="5")
    found = {origin.name: origin.source for origin in running.settings.origins()}
    assert found["server.places"] == str(running.file)
    assert found["server.timeout"] == "environment variable HORDE_PROXY_SERVER__TIMEOUT"
    assert found["server.grace"] == "default"
    assert composition_of(running.app).settings.sources is not None


def test_what_would_lock_the_operator_out_is_not_written(tmp_path: Path) -> None:
    running = Running(tmp_path)
    edited = running.settings.edit()
    edited.set("access.mode", "keys")
    with pytest.raises(SettingsRefused) as raised:
        running.settings.save(edited)
    assert raised.value.message == (
        "Nobody could open these pages any more, because no key is an administrator's: make one "
        'first. With access.mode = "keys", the page /page/first-run does so.'
    )
    edited = running.settings.edit()
    edited.set("access.mode", "keys")
    edited.set(("access", "keys", "laptop"), "a-key-of-a-laptop")
    with pytest.raises(SettingsRefused, match="Nobody could open these pages"):
        running.settings.save(edited)
    assert running.file.read_text() == FILE
    edited.set("access.admins", ["laptop"])
    running.settings.save(edited)
    # The only administrator stays one.
    edited = running.settings.edit()
    edited.unset("access.admins")
    with pytest.raises(SettingsRefused, match="Nobody could open these pages"):
        running.settings.save(edited)
    edited = running.settings.edit()
    edited.set("server.places", 11)
    running.settings.save(edited)


@pytest.mark.parametrize("host", ["a" * 64, "a..b", "\u00fc" * 64])
def test_a_host_that_dns_cannot_have_is_refused_before_it_is_called(
    tmp_path: Path, host: str
) -> None:
    with pytest.raises(SettingsRefused) as raised:
        Running(tmp_path).settings.try_server(f"http://{host}:8080", None, None)
    assert raised.value.message == "The URL's host has a part that is empty or too long."

"""A reload of settings that have lost something: no chat goes elsewhere, nobody else is let in."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from horde_proxy import create_app, reconfigure
from horde_proxy.app.factory import composition_of
from horde_proxy.app.reload import Reloader
from horde_proxy.config import Config, ConfigError, load
from tests.support import World, is_thorough

PUBLIC = "https://aihorde.net/api"
LAN = "http://10.0.0.12:8000"
CLOUD = "https://api.cloud.invalid/v1"
HORDE = "http://horde.lan.invalid/api"
LAPTOP, CHILD = "laptop-key-0123456789", "child-key-0123456789"

SERVER = """\
[server]
places = 50
trusted_proxies = ["127.0.0.1"]
timeout = 120

"""
ACCESS = f"""\
[access]
mode = "keys"
database = "sqlite:////nowhere/ledger.db"
admins = ["laptop"]
[access.keys]
laptop = "{LAPTOP}"
[access.keys.child]
key = "{CHILD}"
models = ["llama*"]
endpoints = ["lan", "a-horde"]
requests_per_minute = 10
concurrent = 2
tokens_per_day = 100000
kudos_per_day = 50.5

"""
ENDPOINTS = f"""\
[[endpoints]]
url = "{LAN}"
name = "lan"
[[endpoints]]
url = "{CLOUD}"
name = "cloud"
api_key = "secret-of-the-cloud"  # a paid one
priority = 10
models = ["gpt-*"]
prefix = '''cloud/'''
headers = {{OpenAI-Organization = "home"}}
timeout = 600
[[endpoints]]
type = "horde"
name = "a-horde"
url = "{HORDE}"
priority = 20

"""
HORDES = """\
[horde]
api_key = "key-at-the-horde"
max_kudos_per_request = 20
trusted_workers = true
allow_workers = ["mine"]

"""
NAMES = """\
[aliases]
"gpt-4o" = "llama3"
default = "llama3"
[fallbacks]
llama3 = ["cloud/gpt-4o-mini"]
"""
LOCK = f"""\
[access]
mode = "keys"
[access.keys]
laptop = "{LAPTOP}"
"""
SUBSET = f"""\
[[endpoints]]
url = "{LAN}"
[[endpoints]]
type = "horde"
priority = 10
"""
FILES = {
    "in the order of the documentation": SERVER + ACCESS + HORDES + ENDPOINTS + NAMES,
    "endpoints first": ENDPOINTS + HORDES + NAMES + SERVER + ACCESS,
    "names first": NAMES + HORDES + ENDPOINTS + ACCESS + SERVER,
    "without a last newline": (SERVER + ACCESS + HORDES + NAMES + ENDPOINTS).rstrip(),
    "with the public horde": LOCK + SUBSET,
    "with an end mark": LOCK + SUBSET + "# end\n",
}
LAST_LINES_OF_USED_CUTS = {
    "in the order of the documentation": {
        "[aliases]",
        '"gpt-4o" = "llama3"',
        'default = "llama3"',
        "[fallbacks]",
    },
    "endpoints first": {
        'database = "sqlite:////nowhere/ledger.db"',
        f'laptop = "{LAPTOP}"',
    },
    "names first": {'trusted_proxies = ["127.0.0.1"]'},
    "without a last newline": set(),
    "with the public horde": {f'url = "{LAN}"'},
    "with an end mark": set(),
}
"""What is lost below these lines opens nothing: whole entries, and settings of other kinds."""
PYTHON = f"""\
import os
port = 800
port *= 10
endpoints = [{{"type": "horde"}}]
if os.sep:
    endpoints = [{{"url": f"http://10.0.0.1:{{port}}", "name": "lan", "priority": 1}}]
    endpoints[0]["models"] = ["llama*"]
access = {{"mode": "open"}}
access["mode"] = "keys"
access["keys"] = {{"laptop": "{LAPTOP}"}}
"""


def cuts(content: bytes) -> list[int]:
    """The lengths to which tests cut a file off: all of them, or in the quick run fewer.

    Those are one in five, and the four around each end of a line, where most is decided.
    """
    return [
        length
        for length in range(len(content))
        if is_thorough() or length % 5 == 0 or b"\n" in content[max(length - 2, 0) : length + 2]
    ]


class Served:
    """An app, the file that its settings come from, and what reloads it."""

    def __init__(self, path: Path, text: str, environ: Mapping[str, str] | None = None) -> None:
        self.path, self.environ = path, environ or {}
        self._times = itertools.count(1)
        self.write(text)
        self.app = create_app(self.read(), World().runtime)
        self.reloader = Reloader(self.app, self.read, lambda settings: None, [str(path)])

    def read(self) -> Config:
        return load(str(self.path), self.environ)

    def write(self, text: str | bytes) -> None:
        """Write the file, at another time than before, however fast the machine is."""
        self.path.write_bytes(text.encode() if isinstance(text, str) else text)
        self._touch()

    def cut_off_everywhere(self, text: str) -> Iterator[bytes]:
        """Write a text, and cut it off at all `cuts`, from behind; what is left."""
        self.write(text)
        content = text.encode()
        for length in reversed(cuts(content)):
            os.truncate(self.path, length)
            self._touch()
            yield content[:length]

    def _touch(self) -> None:
        second = next(self._times) * 10**9
        os.utime(self.path, ns=(second, second))

    def look(self) -> str | None:
        """What is wrong with the file, after two looks at it: the second finds it unchanged."""
        self.reloader.look()
        self.reloader.look()
        return composition_of(self.app).live.settings.problem


def destinations(app: Flask) -> dict[str, str]:
    """By URL, what decides which chats an endpoint gets, and with which key."""
    settings = composition_of(app).settings
    given = {entry.label(): entry for entry in settings.endpoints}
    found = {}
    for endpoint in app.extensions["horde_proxy"].router.endpoints:
        entry = given.get(endpoint.name)
        found[endpoint.upstream.url] = (
            entry.model_dump_json(exclude={"name", "timeout", "weight"}) if entry else ""
        ) + (settings.horde.model_dump_json() if endpoint.upstream.kind == "horde" else "")
    return found


def rights(app: Flask) -> dict[str, object]:
    """By key, what it may do; and who is believed."""
    access = app.extensions["horde_proxy"].access
    settings = composition_of(app).settings
    assert access.requires_key
    assert not access.passthrough
    return {
        "trusted proxies": tuple(settings.server.trusted_proxies),
        "database": settings.access.database,
        **{name: key.model_dump_json() for name, key in settings.access.keys.items()},
    }


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_off_at_any_byte_opens_nothing_and_moves_no_chat(
    tmp_path: Path, name: str
) -> None:
    served = Served(tmp_path / "a.toml", FILES[name])
    places, may = destinations(served.app), rights(served.app)
    used = set()
    for content in served.cut_off_everywhere(FILES[name].rstrip()):
        served.reloader.reload()
        assert destinations(served.app).items() <= places.items(), content[-60:]
        assert rights(served.app).items() <= may.items(), content[-60:]
        if composition_of(served.app).settings.file.text != FILES[name]:  # type: ignore[union-attr]
            # Where whole entries are cut off, the rest may be used; then the whole file again.
            used.add(content.decode().splitlines()[-1])
            served.write(FILES[name])
            reconfigure(served.app, served.read())
            assert (destinations(served.app), rights(served.app)) == (places, may)
    assert used == LAST_LINES_OF_USED_CUTS[name]


def test_the_places_of_the_file_that_is_cut_off_are_these(tmp_path: Path) -> None:
    served = Served(tmp_path / "a.toml", FILES["names first"])
    assert set(destinations(served.app)) == {LAN, CLOUD, f"{HORDE}/v2"}


@pytest.mark.thorough
@pytest.mark.parametrize("mark", ["", "# end\n"])
def test_a_new_version_cut_off_at_any_byte_goes_to_no_horde_that_nobody_named(
    tmp_path: Path, mark: str
) -> None:
    """A full disk leaves the beginning of a version that was never read before."""
    old = LOCK + f'[[endpoints]]\nurl = "{LAN}"\n' + mark
    new = f"# Edited.\n{LOCK}{ENDPOINTS}{HORDES}{mark}"
    served = Served(tmp_path / "a.toml", old)
    seen: set[str] = set()
    content = new.rstrip().encode()
    for length in cuts(content):
        served.write(content[:length])
        served.reloader.reload()
        seen |= destinations(served.app).keys()
        assert rights(served.app)
    assert seen == ({LAN} if mark else {LAN, CLOUD, f"{HORDE}/v2"})


def test_a_python_file_cut_off_at_any_byte_is_not_used(tmp_path: Path) -> None:
    served = Served(tmp_path / "a.py", PYTHON)
    places = destinations(served.app)
    assert set(places) == {"http://10.0.0.1:8000"}
    for content in served.cut_off_everywhere(PYTHON.rstrip()):
        served.reloader.reload()
        assert destinations(served.app) == places, content[-60:]
        assert rights(served.app)["laptop"]
        assert composition_of(served.app).live.settings.problem


SILENT: dict[str, tuple[str | bytes, str]] = {
    "emptied": ("", "sets nothing"),
    "a byte order mark alone": (b"\xef\xbb\xbf", "sets nothing"),
    "commented out": ("\n".join(f"# {line}" for line in ENDPOINTS.splitlines()), "sets nothing"),
    "tables without settings": ("[server]\n[access]\n", "sets nothing"),
    "zeros after a crash": (b"\0" * 400, "is not valid"),
    "no text": (b"\xff\xfe[\0", "is not valid"),
    "an empty list of endpoints": (
        f"{LOCK}[server]\nplaces = 9\n".replace("[access]", "endpoints = []\n[access]"),
        "names no server",
    ),
    "other settings only": (f"{LOCK}[server]\nplaces = 9\n", "name no endpoint"),
    "the horde's key alone": (f"{LOCK}[horde]\napi_key = 'k'\n", "name no endpoint"),
    "another horde's settings": (f"{LOCK}[horde]\nurl = '{PUBLIC}'\n", "name no endpoint"),
    "a private horde that is not there yet": (
        f"{LOCK}[private_horde]\nenabled = true\n",
        "name no endpoint",
    ),
    "a horde without a url": (f"{LOCK}[[endpoints]]\ntype = 'horde'\n", "write its url"),
    "a horde's lost url": (
        f"{LOCK}[[endpoints]]\ntype = 'horde'\nname = 'a-horde'\n",
        "endpoints.a-horde.url",
    ),
    "no access": (f"[[endpoints]]\nurl = '{LAN}'\n", "have no access.mode"),
    "a key without limits under another name": (
        f"{SERVER}{ACCESS}{ENDPOINTS}".replace("[access.keys.child]\nkey =", "child2 =")
        .replace(ACCESS[ACCESS.index("models ") : ACCESS.index("kudos_per_day")], "")
        .replace("kudos_per_day = 50.5\n", ""),
        "no longer set, so that defaults would apply: access.keys.child2.models, "
        "access.keys.child2.endpoints, access.keys.child2.requests_per_minute",
    ),
    "open access": (
        f"[access]\nmode = 'open'\n[[endpoints]]\nurl = '{LAN}'\n",
        "access.mode = 'open' lets more clients in than 'keys'",
    ),
    "a key without limits": (
        (ACCESS + ENDPOINTS).replace("requests_per_minute = 10\n", ""),
        "no longer set, so that defaults would apply: server.trusted_proxies, "
        "access.keys.child.requests_per_minute",
    ),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_file_that_lost_what_made_it_private_keeps_the_old_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    served = Served(tmp_path / "a.toml", SERVER + ACCESS + ENDPOINTS)
    places, may = destinations(served.app), rights(served.app)
    content, reason = SILENT[name]
    served.write(content)
    problem = served.look()
    assert problem is not None
    assert reason in problem
    assert (destinations(served.app), rights(served.app)) == (places, may)
    served.look()
    assert [record.getMessage() for record in caplog.records] == [
        f"the settings were not reloaded: {problem}"
    ]
    served.write(SERVER + ACCESS + ENDPOINTS)
    assert served.look() is None


def remove(path: Path) -> None:
    path.unlink()


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.toml")


@pytest.mark.parametrize("change", [remove, replace_by_folder, replace_by_dead_link])
def test_a_file_that_cannot_be_read_keeps_the_old_settings_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Any
) -> None:
    served = Served(tmp_path / "a.toml", LOCK + ENDPOINTS)
    places = destinations(served.app)
    change(served.path)
    assert str(served.look()).startswith(f"cannot read the configuration {served.path}: ")
    served.look()
    assert len(caplog.records) == 1
    assert destinations(served.app) == places
    # A signal asks again, and gets the answer again.
    served.reloader.request()
    served.look()
    assert len(caplog.records) == 2


def test_a_link_to_another_file_is_noticed(tmp_path: Path) -> None:
    """So Kubernetes changes the files of a ConfigMap."""
    first, second = tmp_path / "1.toml", tmp_path / "2.toml"
    first.write_text(f"{LOCK}[[endpoints]]\nurl = '{LAN}'\n")
    second.write_text(f"{LOCK}[[endpoints]]\nurl = '{CLOUD}'\n")
    link = tmp_path / "a.toml"
    link.symlink_to(first)
    settings = load(str(link), {})
    app = create_app(settings, World().runtime)
    reloader = Reloader(app, lambda: load(str(link), {}), lambda settings: None, [str(link)])
    (tmp_path / "new").symlink_to(second)
    os.replace(tmp_path / "new", link)
    reloader.look()
    reloader.look()
    assert set(destinations(app)) == {CLOUD}


def test_a_file_is_read_only_once_it_has_stopped_changing(tmp_path: Path) -> None:
    served = Served(tmp_path / "a.toml", f"{LOCK}[[endpoints]]\nurl = '{LAN}'\n")
    # A signal comes while the file is being written: half of it is there.
    served.write(f"{LOCK}[[endpoints]]\nurl = '{CLOUD}'\n")
    served.reloader.request()
    served.reloader.look()
    assert set(destinations(served.app)) == {LAN}
    served.write(f"{LOCK}[[endpoints]]\nurl = '{CLOUD}'\npriority = 1\n")
    served.reloader.look()
    assert set(destinations(served.app)) == {LAN}
    served.reloader.look()
    assert set(destinations(served.app)) == {CLOUD}


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    served = Served(tmp_path / "a.toml", f"{LOCK}[[endpoints]]\nurl = '{LAN}'\n")
    read = served.read

    def read_and_write() -> Config:
        settings = read()
        served.write(f"{LOCK}[[endpoints]]\nurl = '{CLOUD}'\nname = 'whole'\n")
        return settings

    served.write(f"{LOCK}[[endpoints]]\nurl = '{CLOUD}'\n")
    served.reloader._read = read_and_write
    assert served.look() is None
    assert set(destinations(served.app)) == {LAN}
    served.reloader._read = read
    assert served.look() is None
    assert [entry.label() for entry in composition_of(served.app).settings.endpoints] == ["whole"]


def test_a_worker_that_replaces_a_killed_one_reads_the_file_first(tmp_path: Path) -> None:
    served = Served(tmp_path / "a.toml", f"[[endpoints]]\nurl = '{LAN}'\n")
    served.write(f"{LOCK}[[endpoints]]\nurl = '{LAN}'\n")
    served.reloader.start()
    assert rights(served.app)["laptop"]


# What a reload may do.

CHANGES: dict[str, tuple[str, str]] = {
    "the public horde by default, again": ("[server]\ntimeout = 5\n", "[server]\ntimeout = 6\n"),
    "from the public horde to a server": (
        "[server]\ntimeout = 5\n",
        f"[[endpoints]]\nurl = '{LAN}'\n",
    ),
    "another server": (f"[[endpoints]]\nurl = '{LAN}'\n", f"[[endpoints]]\nurl = '{CLOUD}'\n"),
    "one server less": (
        f"[[endpoints]]\nurl = '{LAN}'\n[[endpoints]]\nurl = '{CLOUD}'\nmodels = ['gpt-*']\n",
        f"[[endpoints]]\nurl = '{LAN}'\n",
    ),
    "the first of two unnamed ones less": (
        f"[[endpoints]]\nurl = '{LAN}/a'\nmodels = ['a']\n[[endpoints]]\nurl = '{LAN}/b'\n",
        f"[[endpoints]]\nurl = '{LAN}/b'\n",
    ),
    "the public horde, named": (
        f"[[endpoints]]\nurl = '{LAN}'\n",
        f"[[endpoints]]\nurl = '{LAN}'\n[[endpoints]]\ntype = 'horde'\nurl = '{PUBLIC}'\n",
    ),
    "other restrictions": (
        f"[[endpoints]]\nurl = '{LAN}'\nmodels = ['a']\npriority = 10\n",
        f"[[endpoints]]\nurl = '{LAN}'\nmodels = []\npriority = 1\n",
    ),
    "a key less": (
        f"{LOCK}child = '{CHILD}'\n[[endpoints]]\nurl = '{LAN}'\n",
        f"{LOCK}[[endpoints]]\nurl = '{LAN}'\n",
    ),
    "the last key revoked": (
        f"[[endpoints]]\nurl = '{LAN}'\n{LOCK}",
        f"[[endpoints]]\nurl = '{LAN}'\n[access]\nmode = 'keys'\n",
    ),
    "keys for everybody": (
        f"[[endpoints]]\nurl = '{LAN}'\n",
        f"[[endpoints]]\nurl = '{LAN}'\n{LOCK}",
    ),
    "settings that open nothing": (
        f"[[endpoints]]\nurl = '{LAN}'\nweight = 2\ntimeout = 9\n[server]\ntimeout = 5\n",
        f"[[endpoints]]\nurl = '{LAN}'\n",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_file_says_is_applied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    before, after = CHANGES[name]
    served = Served(tmp_path / "a.toml", before)
    served.write(after)
    with caplog.at_level(logging.INFO):
        served.reloader.request()
        served.reloader.look()
        served.reloader.look()
    assert [record.getMessage() for record in caplog.records] == ["the settings were reloaded"]
    assert composition_of(served.app).settings == load(str(served.path), {})


def test_the_environment_still_says_what_the_file_no_longer_does(tmp_path: Path) -> None:
    environ = {
        "ENDPOINTS": LAN,
        "HORDE_PROXY_ACCESS__MODE": "keys",
        "HORDE_PROXY_ACCESS__KEYS": f'{{"laptop": "{LAPTOP}"}}',
    }
    served = Served(tmp_path / "a.toml", "[server]\nplaces = 5\n", environ)
    served.write("")
    assert served.look() is None
    assert composition_of(served.app).settings.server.places == 1000
    assert set(destinations(served.app)) == {LAN}
    assert rights(served.app)


def test_a_key_in_the_environment_says_nothing_of_where_chats_go(tmp_path: Path) -> None:
    environ = {"AI_HORDE_API_KEY": "k" * 22}
    served = Served(tmp_path / "a.toml", f"[[endpoints]]\nurl = '{LAN}'\n", environ)
    served.write("")
    assert "sets nothing" in str(served.look())
    assert set(destinations(served.app)) == {LAN}


def test_a_private_horde_that_runs_is_a_place_for_chats(tmp_path: Path) -> None:
    private = "[private_horde]\nenabled = true\n"
    served = Served(tmp_path / "a.toml", f"{private}[[endpoints]]\nurl = '{LAN}'\n")
    served.write(private)
    assert served.look() is None
    assert set(destinations(served.app)) == {"http://private-horde.invalid/api/v2"}
    served.write("[server]\nplaces = 5\n")
    assert "private_horde.enabled" in str(served.look())


@pytest.mark.parametrize("setting", ["max_kudos_per_request", "allow_workers", "api_key", "url"])
def test_what_limits_a_horde_is_not_lost(tmp_path: Path, setting: str) -> None:
    lines = (HORDES.strip() + f"\nurl = '{HORDE}'").splitlines()
    served = Served(tmp_path / "a.toml", "\n".join(lines))
    served.write("\n".join(line for line in lines if not line.startswith(setting)) + "\n")
    assert f"defaults would apply: horde.{setting};" in str(served.look())


# Where it is said.


@pytest.fixture
def no_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of the endpoints' models are not loaded."""
    monkeypatch.setattr("horde_proxy.router.router.Router.states", lambda router, scope: [])
    monkeypatch.setattr("horde_proxy.router.router.Router.models", lambda router, scope: [])


@pytest.mark.usefixtures("no_lists")
def test_the_list_of_endpoints_says_what_is_wrong_with_the_settings(tmp_path: Path) -> None:
    is_open = "[access]\nmode = 'open'\n"
    served = Served(tmp_path / "a.toml", f"{is_open}[[endpoints]]\nurl = '{LAN}'\n")
    http = served.app.test_client()
    assert http.get("/v1/endpoints").get_json() == {
        "object": "list",
        "data": [],
        "settings": {"loaded_at": 1000, "problem": None, "local_only": False},
    }
    served.write(f"{is_open}[server]\nplaces = 5\n")
    served.look()
    problem = (
        "the new settings name no endpoint, and the running ones do: chats would go to "
        "https://aihorde.net/api; the old settings stay in use: correct the new ones, or restart "
        "to apply them"
    )
    assert http.get("/v1/endpoints").get_json()["settings"] == {
        "loaded_at": 1000,
        "problem": problem,
        "local_only": False,
    }
    assert http.get("/page/state.json").get_json()["settings_problem"] == problem
    elsewhere = {"X-Forwarded-For": "10.0.0.9"}
    answer = http.get("/v1/endpoints", headers=elsewhere).get_json()
    assert answer["settings"]["problem"] == (
        "The settings were changed and could not be reloaded. The log says why."
    )


@pytest.mark.usefixtures("no_lists")
def test_a_client_that_is_no_admin_learns_no_names(tmp_path: Path) -> None:
    served = Served(tmp_path / "a.toml", ACCESS + ENDPOINTS)
    served.write(ENDPOINTS)
    assert "access.mode" in str(served.look())
    headers = {"Authorization": f"Bearer {CHILD}"}
    answer = served.app.test_client().get("/v1/endpoints", headers=headers).get_json()
    assert "access.mode" not in answer["settings"]["problem"]


def test_a_reload_says_when_it_was(tmp_path: Path) -> None:
    world = World(endpoints=[{"url": LAN}])
    app = world.app()
    world.clock.sleep(60)
    reconfigure(app, world.configure(server={"places": 5}).config())
    assert composition_of(app).live.settings.loaded_at == 1060


@pytest.mark.thorough
def test_settings_that_open_the_proxy_leave_the_app_unchanged() -> None:
    world = World(endpoints=[{"url": LAN}])
    app = world.app()
    before = app.extensions["horde_proxy"]
    world.settings.pop("endpoints")
    with pytest.raises(ConfigError, match="name no endpoint"):
        reconfigure(app, world.config())
    assert app.extensions["horde_proxy"] is before

"""The settings file that pages change: what stays of it, what is refused, and which file it is."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.config import Config, ConfigError, load, load_with_origins
from horde_proxy.config.edited_file import EditedFile, FileChanged, NotEditable, editable_path
from horde_proxy.config.settings_sources import SettingsSources
from horde_proxy.config.toml_document import TomlDocument

FILE = """\
# My settings.

[server]
bind = "127.0.0.1:8080"  # only here
places = 10

# The public horde:
# my key is a secret.
[horde]
api_key = "a-key-of-the-horde"

# My computer.
[[endpoints]]
url = "http://10.0.0.5:11434"  # ollama
name = "desktop"

# The old one.
[[endpoints]]
url = "http://10.0.0.6:11434"
name = "laptop"

# Names.
[aliases]
fast = "llama*"
# end
"""


def sources(path: Path | None, **environ: str) -> SettingsSources:
    return SettingsSources(str(path) if path else None, environ)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "a.toml"
    path.parent.mkdir()
    path.write_text(FILE)
    path.chmod(0o640)
    return path


def test_a_change_keeps_comments_and_order(file: Path) -> None:
    edited = EditedFile(sources(file))
    edited.set("server.bind", "127.0.0.1:9000")
    edited.set("server.timeout", 60)
    edited.set("horde.trusted_workers", True)
    edited.append("endpoints", {"url": "http://10.0.0.7:8000", "priority": 1})
    edited.set(("endpoints", 1, "weight"), 2.5)
    edited.set(("aliases", "gpt-4.1"), "auto")
    config = edited.save()
    assert (config.server.bind, config.server.timeout) == ("127.0.0.1:9000", 60)
    assert (
        file.read_text()
        == """\
# My settings.

[server]
bind = "127.0.0.1:9000"  # only here
places = 10
timeout = 60

# The public horde:
# my key is a secret.
[horde]
api_key = "a-key-of-the-horde"
trusted_workers = true

# My computer.
[[endpoints]]
url = "http://10.0.0.5:11434"  # ollama
name = "desktop"

# The old one.
[[endpoints]]
url = "http://10.0.0.6:11434"
name = "laptop"
weight = 2.5

[[endpoints]]
url = "http://10.0.0.7:8000"
priority = 1

# Names.
[aliases]
fast = "llama*"
"gpt-4.1" = "auto"
# end
"""
    )


def test_what_is_removed_takes_no_other_comment_with_it(file: Path) -> None:
    edited = EditedFile(sources(file))
    edited.remove("endpoints", "name", "desktop")
    edited.unset("server.places")
    edited.save()
    assert (
        file.read_text()
        == """\
# My settings.

[server]
bind = "127.0.0.1:8080"  # only here

# The public horde:
# my key is a secret.
[horde]
api_key = "a-key-of-the-horde"

# The old one.
[[endpoints]]
url = "http://10.0.0.6:11434"
name = "laptop"

# Names.
[aliases]
fast = "llama*"
# end
"""
    )


def test_the_last_entry_of_a_list_takes_the_list_with_it(file: Path) -> None:
    edited = EditedFile(sources(file))
    edited.remove("endpoints", "name", "desktop")
    edited.remove("endpoints", "name", "laptop")
    edited.unset("server.places")
    assert edited.save().endpoints == []
    assert "endpoints" not in file.read_text()


def test_settings_that_are_commented_out_stay_in_their_section(file: Path) -> None:
    file.write_text(
        "# All.\n\n[server]\nplaces = 1\n#grace = 5\n\n# A.\n[horde]\n\n# B.\n[cache]\n"
    )
    edited = EditedFile(sources(file))
    edited.set("server.timeout", 5)
    edited.unset("horde")
    edited.save()
    assert file.read_text() == (
        "# All.\n\n[server]\nplaces = 1\n#grace = 5\ntimeout = 5\n\n# B.\n[cache]\n"
    )


def test_mode_and_owner_stay_and_the_file_before_is_kept(file: Path) -> None:
    edited = EditedFile(sources(file))
    edited.set("server.places", 20)
    edited.save()
    before = file.with_name("a.toml.before")
    assert before.read_text() == FILE
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, before)] == [0o640, 0o640]
    assert sorted(os.listdir(file.parent)) == ["a.toml", "a.toml.before"]


def test_a_wrong_setting_never_replaces_the_file(file: Path) -> None:
    edited = EditedFile(sources(file))
    edited.set("server.places", 0)
    with pytest.raises(ConfigError, match=r"setting server.places = 0 from .*a.toml: "):
        edited.save()
    edited = EditedFile(sources(file))
    edited.set("server.bind", "0.0.0.0:8080")
    with pytest.raises(ConfigError, match=r"reachable from other machines: set access.mode"):
        edited.save()
    assert file.read_text() == FILE
    assert os.listdir(file.parent) == ["a.toml"]


def test_a_file_that_changed_since_it_was_read_is_not_overwritten(file: Path) -> None:
    edited = EditedFile(sources(file))
    edited.set("server.places", 20)
    file.write_text(FILE + "# by hand\n")
    with pytest.raises(FileChanged, match="has changed meanwhile: look at it again"):
        edited.save()
    assert file.read_text() == FILE + "# by hand\n"


def test_a_page_that_shows_an_older_version_is_refused(file: Path) -> None:
    shown = EditedFile(sources(file)).digest
    file.write_text(FILE + "# by hand\n")
    edited = EditedFile(sources(file))
    edited.set("server.places", 20)
    with pytest.raises(FileChanged):
        edited.save(expected=shown)


def test_what_a_variable_sets_is_not_changed_in_vain(file: Path) -> None:
    variable = "HORDE_PROXY_SERVER__PLACES"
    edited = EditedFile(sources(file, **{variable: "30", "HORDE_PROXY_ALIASES": '{"a": "b"}'}))
    with pytest.raises(NotEditable) as raised:
        edited.set("server.places", 20)
    assert str(raised.value) == (
        f"server.places comes from environment variable {variable}, which goes before the file"
    )
    with pytest.raises(NotEditable, match="aliases.a comes from environment variable"):
        edited.set("aliases.a", "c")
    edited.set("server.timeout", 20)
    edited.set("aliases.d", "c")


def test_a_setting_that_a_variable_gives_as_well_cannot_get_its_default(file: Path) -> None:
    variable = "HORDE_PROXY_SERVER__PLACES"
    edited = EditedFile(sources(file, **{variable: "30"}))
    with pytest.raises(NotEditable, match=f"server.places comes from environment .*{variable}"):
        edited.clear("server.places")
    edited = EditedFile(sources(file))
    edited.clear("server.places")
    assert edited.save().server.places != 10


def test_what_a_flag_sets_is_not_changed_in_vain(file: Path) -> None:
    given_flags = {"server": {"bind": "127.0.0.1:1"}}
    edited = EditedFile(SettingsSources(str(file), {}, given_flags))
    with pytest.raises(NotEditable, match=r"server.bind comes from the command line"):
        edited.set("server.bind", "127.0.0.1:2")


def test_no_page_writes_a_command(file: Path) -> None:
    edited = EditedFile(sources(file))
    command = {"url": "http://a", "idle_hook": ["rm"]}
    with pytest.raises(NotEditable, match="idle_hook can be a command"):
        edited.set(("endpoints", 0, "idle_hook"), ["rm", "-r", "/"])
    with pytest.raises(NotEditable, match="idle_hook can be a command"):
        edited.append("endpoints", command)
    with pytest.raises(NotEditable, match="idle_hook can be a command"):
        edited.set("endpoints", [command])


def test_files_that_cannot_be_changed_say_what_to_do(file: Path) -> None:
    python = file.with_suffix(".py")
    python.write_text("server = {'places': 3}")
    assert (
        _refusal(sources(python)) == f"{python} is a Python file, which only an editor can change"
    )
    assert _refusal(sources(file, CREDENTIALS_DIRECTORY=str(file.parent))) == (
        f"{file} is a copy that systemd made (LoadCredential=): change the original"
    )
    assert _refusal(sources(None)) == (
        "there is no folder for a settings file: name one with --config, or set STATE_DIRECTORY"
    )
    assert _refusal(None) == ("these settings come from no file: start with `horde-proxy serve`")
    assert _refusal(Config().sources).startswith("these settings come from no file")


def test_a_file_on_a_read_only_place_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tests may run as root, who may write everything.
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != file)
    assert _refusal(sources(file)) == (
        f"{file} is read-only for this process: change it as its owner"
    )
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != file.parent)
    assert _refusal(sources(file)) == (
        f"{file} cannot be replaced, because this process may not write {file.parent}"
    )


def _refusal(places: SettingsSources | None) -> str:
    with pytest.raises(NotEditable) as raised:
        editable_path(places)
    return str(raised.value)


class Service:
    """A service with a credential of systemd and a state folder."""

    def __init__(self, tmp_path: Path, text: str) -> None:
        credentials, self.state = tmp_path / "credentials", tmp_path / "state"
        credentials.mkdir()
        self.main = credentials / "settings.toml"
        self.main.write_text(text)
        self.environ = {
            "HORDE_PROXY_CONFIG": str(self.main),
            "STATE_DIRECTORY": str(self.state),
            "CREDENTIALS_DIRECTORY": str(credentials),
        }
        self.page = self.state / "settings.toml"

    def edited(self) -> EditedFile:
        return EditedFile(SettingsSources(None, self.environ))

    def origins(self) -> Mapping[str, tuple[str, str, tuple[tuple[str, str], ...]]]:
        _, settings = load_with_origins(None, self.environ)
        return {one.name: (one.value, one.source, one.overridden) for one in settings}


def test_a_service_keeps_changes_in_its_state_folder(tmp_path: Path) -> None:
    service = Service(tmp_path, FILE)
    edited = service.edited()
    edited.set("server.places", 20)
    config = edited.save()
    assert (config.server.places, config.horde.api_key) == (20, "a-key-of-the-horde")
    assert service.main.read_text() == FILE
    assert (
        service.page.read_text()
        == f"""\
# Settings of horde-proxy that its page has changed. This file is read after
# {service.main}, and its values go before those there.

[server]
places = 20
"""
    )
    assert stat.S_IMODE(service.page.stat().st_mode) == 0o600
    found = service.origins()
    assert found["server.places"] == ("20", str(service.page), ((str(service.main), "10"),))
    assert found["server.bind"][1] == str(service.main)
    assert [read.path for read in load(None, service.environ).files] == [
        str(service.main),
        str(service.page),
    ]
    edited = service.edited()
    edited.unset("server.places")
    assert edited.save().server.places == 10


def test_a_setting_of_the_other_file_cannot_get_its_default(tmp_path: Path) -> None:
    service = Service(tmp_path, FILE)
    edited = service.edited()
    edited.set("server.places", 20)
    edited.save()
    with pytest.raises(NotEditable) as raised:
        service.edited().clear("server.places")
    assert str(raised.value) == f"server.places stands in {service.main}: remove it there"


def test_a_list_is_copied_before_the_page_changes_it(tmp_path: Path) -> None:
    service = Service(tmp_path, FILE)
    edited = service.edited()
    edited.append("endpoints", {"url": "http://10.0.0.7:8000", "name": "third"})
    assert [one.name for one in edited.save().endpoints] == ["desktop", "laptop", "third"]
    edited = service.edited()
    edited.remove("endpoints", "name", "laptop")
    assert [one.name for one in edited.save().endpoints] == ["desktop", "third"]
    # The list of the page's file counts, whatever the other file says later.
    service.main.write_text(FILE.replace("laptop", "tablet"))
    assert [one.name for one in load(None, service.environ).endpoints] == ["desktop", "third"]
    assert service.origins()["endpoints"][2][0][0] == str(service.main)


def test_tables_with_names_are_merged_name_by_name(tmp_path: Path) -> None:
    keys = '[access]\nmode = "keys"\n[access.keys]\nann = "key-of-ann-0123456789"\n'
    service = Service(tmp_path, keys)
    edited = service.edited()
    edited.set(("access", "keys", "bob@example.org"), "key-of-bob-0123456789")
    assert [*edited.save().access.keys] == ["ann", "bob@example.org"]
    with pytest.raises(NotEditable, match=r"access.keys.ann stands in .*: remove it there"):
        service.edited().unset(("access", "keys", "ann"))
    edited = service.edited()
    edited.unset(("access", "keys", "bob@example.org"))
    assert [*edited.save().access.keys] == ["ann"]


def test_without_a_file_the_state_folder_has_one(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    edited = EditedFile(SettingsSources(None, environ))
    edited.set("server.places", 20)
    edited.save()
    page = tmp_path / "horde-proxy" / "settings.toml"
    assert page.read_text() == (
        "# Settings of horde-proxy, begun by its page.\n\n[server]\nplaces = 20\n"
    )
    assert load(None, environ).server.places == 20
    assert load(None, {**environ, "HORDE_PROXY_PAGE_FILE": "off"}).server.places == 1000
    other = tmp_path / "other.toml"
    other.write_text("[server]\ntimeout = 5\n")
    # Whoever names a file means that file alone.
    assert load(str(other), environ).server.places == 1000


def test_an_emptied_page_file_stops_the_start(tmp_path: Path) -> None:
    environ = {"STATE_DIRECTORY": str(tmp_path)}
    (tmp_path / "settings.toml").write_text("")
    with pytest.raises(ConfigError, match=r"settings.toml sets nothing, and nothing else says"):
        load(None, environ)


def test_port_keeps_the_host_that_the_page_set(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[server]\nbind = "127.0.0.2:1"')
    environ = {"STATE_DIRECTORY": str(tmp_path), "PORT": "9000"}
    assert load(None, environ).server.bind == "127.0.0.2:9000"


def test_a_symbolic_link_stays_one(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(file)
    edited = EditedFile(sources(link))
    edited.set("server.places", 20)
    assert edited.save().server.places == 20
    assert (link.is_symlink(), "places = 20" in file.read_text()) == (True, True)


def test_windows_line_ends_and_a_byte_order_mark_stay(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf# a\r\n[server]\r\nplaces = 1\r\n# end\r\n")
    edited = EditedFile(sources(file))
    edited.set("server.timeout", 5)
    edited.save()
    assert file.read_bytes() == (
        b"\xef\xbb\xbf# a\r\n[server]\r\nplaces = 1\r\ntimeout = 5\r\n# end\r\n"
    )


def test_settings_remember_where_they_came_from_without_other_variables(file: Path) -> None:
    config = load(
        str(file), {"HORDE_PROXY_SERVER__TIMEOUT": "7", "SSH_AUTH_SOCK": "/x", "HOME": "/"}
    )
    kept = pickle.loads(pickle.dumps(config)).sources  # noqa: S301
    assert kept.environ == {"HORDE_PROXY_SERVER__TIMEOUT": "7", "HOME": "/"}
    assert "TIMEOUT" not in repr(kept)


NAMES = st.sampled_from(["a", "b", "c.d", "e f"])
SCALARS = st.one_of(st.integers(-5, 5), st.booleans(), st.text("ab\"'\\#\n", max_size=4))
ENTRIES = st.dictionaries(NAMES, SCALARS, max_size=2)
DOCUMENTS = st.sampled_from(
    [
        FILE,
        "a = 1\n# x\n\n[b]\n# y\n[b.c]\nd = 1 # z\n\n# w\n[[e]]\n[[e]]\n# v",
        'server = {bind = "x", a = 1}\nendpoints = [{url = "a"}, {url = "b"}]\n',
        "[a.b]\nx = 1\n[c]\ny = 1\n[a.d]\nz = 1\n",
        "a.b = 1\na.c = 2\n\n# t\n[d]\nlist = [\n  1, # one\n  2,\n]\n",
        "",
    ]
)


@given(DOCUMENTS)
def test_a_document_that_is_not_changed_stays_byte_for_byte(text: str) -> None:
    assert TomlDocument(text).text() == text


@given(DOCUMENTS, st.lists(st.tuples(NAMES, NAMES, SCALARS | ENTRIES), max_size=4), st.data())
def test_any_change_is_either_right_or_refused(
    text: str, changes: list[tuple[str, str, object]], data: st.DataObject
) -> None:
    from horde_proxy.config.toml_document import CannotEdit

    document = TomlDocument(text)
    try:
        for section, name, value in changes:
            if data.draw(st.booleans()):
                document.set((section, name), value)
            else:
                document.unset((section, name))
        result = document.text()
    except CannotEdit:
        return
    assert TomlDocument(result).tree == document.tree

"""The admin's pages: the settings with their sources, and the accounts at hordes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.app.editable_settings import EDITABLE
from horde_proxy.config.reference import setting_fields
from tests.admin_world import BASE, GUEST, SETTINGS_TEXT, FiledWorld, Operator, shown_once, words
from tests.support import CLIENT_KEY, OWNER_KEY

SERVER = "\n[server]\n# For the long novels.\nmax_n = 2  # not more\n"
CHANGES = (
    "set-setting unset-setting replace-key make-shared-key change-shared-key delete-shared-key"
)


@pytest.fixture
def house(tmp_path: Path) -> FiledWorld:
    return FiledWorld(tmp_path, SERVER)


@pytest.mark.parametrize("action", CHANGES.split())
@pytest.mark.parametrize(("key", "status"), [(GUEST, 403), (None, 401)])
def test_only_an_administrator_changes_settings_and_accounts(
    house: FiledWorld, action: str, key: str | None, status: int
) -> None:
    visitor = Operator(house.app(), key)
    fields = {"name": "server.max_n", "value": "9", "horde": "horde", "api_key": OWNER_KEY}
    response = visitor.http.post(f"{BASE}/{action}", data=fields)
    assert (response.status_code, house.added()) == (status, SERVER)


def test_settings_are_shown_with_their_sources_and_no_secrets(house: FiledWorld) -> None:
    admin = Operator(house.app())
    text = admin.text("settings")
    assert f"server.max_n 2 {house.path}" in text
    assert f"horde.api_key set {house.path}" in text
    assert "server.timeout" not in text
    everything = admin.text("settings?all=1")
    assert "server.timeout 280 default" in everything
    assert 'server.bind "127.0.0.1:8080" after a restart default' in everything
    assert "webhooks.secret not set default" in everything
    for secret in (CLIENT_KEY, GUEST, "key-of-admin-longer"):
        assert secret not in admin.get("settings?all=1").text
        assert secret not in admin.get("setting?name=horde.api_key").text
    assert "1 setting." in admin.text("settings?q=max_n")


def test_an_overridden_setting_names_what_overrides_it_and_is_not_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde_proxy import create_app
    from horde_proxy.config import load

    house = FiledWorld(tmp_path, SERVER)
    environ = {"HORDE_PROXY_SERVER__MAX_N": "7"}
    app = create_app(load(str(house.path), environ), house.world.runtime)
    admin = Operator(app)
    assert (
        f"server.max_n 7 overrides 2 from {house.path} environment variable "
        "HORDE_PROXY_SERVER__MAX_N"
    ) in admin.text("settings")
    refused = admin.send("set-setting", name="server.max_n", value="3")
    assert refused.status_code == 400
    assert (
        "server.max_n comes from environment variable HORDE_PROXY_SERVER__MAX_N, which goes before "
        "the file."
    ) in words(refused)
    assert house.added() == SERVER


def test_a_changed_setting_holds_at_once_and_comments_stay(
    house: FiledWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.web.admin_pages")
    app = house.app()
    admin = Operator(app)
    changed = words(admin.send("set-setting", name="server.max_n", value="3"))
    assert changed.startswith("server.max_n was changed.")
    assert house.path.read_text() == SETTINGS_TEXT + SERVER.replace("max_n = 2", "max_n = 3")
    assert app.extensions["horde_proxy"].serving.max_n == 3
    unset = words(admin.send("unset-setting", name="server.max_n"))
    assert unset.startswith("server.max_n is not in the file any more.")
    assert "max_n" not in house.added()
    assert [record.message for record in caplog.records] == [
        "changed by the key admin: set server.max_n to 3",
        "changed by the key admin: removed server.max_n from the file",
    ]


def test_what_needs_a_restart_says_so(house: FiledWorld) -> None:
    admin = Operator(house.app())
    assert "A change is applied by a restart" in admin.text("setting?name=server.bind")
    changed = words(admin.send("set-setting", name="server.bind", value="127.0.0.1:9999"))
    assert changed.startswith("server.bind was changed. Applied by a restart: server.bind.")


@pytest.mark.parametrize(
    ("name", "value", "written"),
    [
        ("server.strict", "true", "strict = true"),
        ("server.keepalive", "off", 'keepalive = "off"'),
        ("server.timeout", "12.5", "timeout = 12.5"),
        ("server.hosts", "a.example, b.example\nc.example", 'hosts = ["a.example", "b.example", '),
    ],
)
def test_values_are_written_with_their_types(
    house: FiledWorld, name: str, value: str, written: str
) -> None:
    Operator(house.app()).send("set-setting", name=name, value=value)
    assert written in house.added()


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("server.max_n", "many", "Please correct server.max_n: Input should be a valid integer"),
        ("server.max_n", "0", "greater than or equal to 1"),
        ("server.keepalive", "x", "Please correct server.keepalive: Input should be 'chunk'"),
        ("server.max_n", "", "Write a value, or let the setting have its default."),
        ("endpoints", "[]", "This setting cannot be changed here: write it into the file."),
        ("access.keys.guest", "x", "This setting cannot be changed here: write it into the file."),
        ("server.nothing", "1", "There is no setting of this name."),
        ("access.mode", "passthrough", "[access.keys] is not used unless access.mode = 'keys'"),
    ],
)
def test_a_wrong_value_is_refused_before_it_is_written(
    house: FiledWorld, name: str, value: str, problem: str
) -> None:
    refused = Operator(house.app()).send("set-setting", name=name, value=value)
    assert refused.status_code in (400, 404)
    assert problem in words(refused)
    assert house.added() == SERVER


def test_a_secret_can_be_replaced_and_is_in_no_page_and_no_log(
    house: FiledWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    admin = Operator(house.app())
    secret = "whsec_" + "c2VjcmV0LW9mLXRoZS13ZWJob29rcy0zMg=="
    changed = admin.send("set-setting", name="webhooks.secret", value=secret)
    assert "Value set" in words(changed)
    assert secret in house.added()
    assert secret not in changed.text + caplog.text
    assert "set webhooks.secret" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "access.database",
        "private_horde.database",
        "stats.history_database",
        "store.database",
        "cache.redis_url",
        "server.proxy_url",
        "stats.cache_directory",
        "stats.text_reference",
        "webhooks.secret_file",
        "notices.secret_file",
        "notices.ntfy_token_file",
    ],
)
def test_databases_and_files_are_for_the_editor_of_the_file_alone(
    house: FiledWorld, name: str
) -> None:
    admin = Operator(house.app())
    assert "Change this in the file by hand" in admin.text(f"setting?name={name}")
    refused = admin.send("set-setting", name=name, value="/etc/shadow")
    assert refused.status_code == 400
    assert "This setting cannot be changed here: write it into the file." in words(refused)
    assert house.added() == SERVER


def test_the_settings_that_pages_may_change_are_settings() -> None:
    assert set(setting_fields()) >= EDITABLE
    assert len(EDITABLE) == 100


def test_the_menu_leads_the_operator_to_the_first_run(house: FiledWorld) -> None:
    page = Operator(house.app()).get("settings").text
    assert '<a href="../first-run">First start</a>' in page


def test_a_setting_with_a_page_of_its_own_leads_there(house: FiledWorld) -> None:
    assert "This has a page of its own." in Operator(house.app()).text("setting?name=endpoints")


def test_code_in_the_meaning_of_a_setting_is_marked_as_code(house: FiledWorld) -> None:
    page = Operator(house.app()).get("setting?name=server.inspect").text
    assert "<code>GET /v1/inspections</code>, and the page <code>/page/inspector</code>." in page


# The account at a horde.


def test_the_account_is_shown_with_kudos_trust_and_workers(house: FiledWorld) -> None:
    text = Operator(house.app()).text("horde")
    assert "Account at horde 10,000 kudos Name client#2 Trusted no Workers 0" in text
    assert "There is no shared key." in text


def test_the_key_is_replaced_after_the_horde_has_said_whose_it_is(
    house: FiledWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    admin = Operator(house.app())
    refused = admin.send("replace-key", horde="horde", api_key="a-wrong-key")
    assert refused.status_code == 400
    assert "The key was not replaced:" in words(refused)
    assert CLIENT_KEY in house.path.read_text()
    replaced = admin.send("replace-key", horde="horde", api_key=OWNER_KEY)
    assert words(replaced).startswith("The key is that of owner#1 now.")
    assert "Name owner#1 Trusted yes" in words(replaced)
    assert f'api_key = "{OWNER_KEY}"' in house.path.read_text()
    assert OWNER_KEY not in replaced.text + caplog.text


def test_shared_keys_are_made_changed_and_deleted(
    house: FiledWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    admin = Operator(house.app())
    made = admin.send(
        "make-shared-key", horde="horde", name="family", kudos="500", max_text_tokens="100"
    )
    shared = shown_once(made)
    [fields] = [house.world.horde.people.shared_key(shared)]
    assert (fields["name"], fields["kudos"], fields["max_text_tokens"]) == ("family", 500, 100)
    page = admin.get("horde")
    assert shared not in page.text
    assert "500 kudos left · 0 spent · 100 tokens a request" in words(page)
    of: Any = page.text.partition('name="fingerprint" value="')[2].partition('"')[0]
    changed = admin.send("change-shared-key", horde="horde", fingerprint=of, kudos="-1")
    assert changed.headers["Location"] == "horde?done=change-shared-key&horde=horde"
    assert "no limit of kudos" in admin.text("horde")
    admin.send("delete-shared-key", horde="horde", fingerprint=of)
    assert "There is no shared key." in admin.text("horde")
    assert shared not in caplog.text
    assert f"changed the shared key {of} at the horde horde" in caplog.text


@pytest.mark.parametrize(
    ("action", "fields", "problem"),
    [
        ("make-shared-key", {"kudos": "many"}, "Please correct kudos: write a number."),
        ("change-shared-key", {"fingerprint": "x"}, "Fill in what is to be changed."),
        ("change-shared-key", {"fingerprint": "x", "kudos": "1"}, "There is no such shared key."),
        ("delete-shared-key", {"fingerprint": "x"}, "There is no such shared key."),
        ("replace-key", {"api_key": ""}, "Paste the key of an account of this horde."),
        ("replace-key", {"horde": "moon", "api_key": "x"}, "No endpoint of this name is a horde."),
    ],
)
def test_what_the_horde_would_refuse_is_refused(
    house: FiledWorld, action: str, fields: dict[str, str], problem: str
) -> None:
    refused = Operator(house.app()).send(action, **{"horde": "horde", **fields})
    assert refused.status_code in (400, 404)
    assert problem in words(refused)


def test_a_horde_that_does_not_answer_leaves_the_page(house: FiledWorld) -> None:
    app = house.app()
    admin = Operator(app)
    house.world.cable().is_cut = True
    assert "The account cannot be read now:" in admin.text("horde")


def test_without_a_horde_the_page_says_so(tmp_path: Path) -> None:
    house = FiledWorld(tmp_path, '\n[[endpoints]]\nurl = "http://home.invalid:1"\n')
    assert "No endpoint of this proxy is a horde." in Operator(house.app()).text("horde")

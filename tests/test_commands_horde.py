"""`horde-proxy horde`: a private horde alone, and what an operator arranges in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from horde_proxy.app.runtime import open_horde_store
from horde_proxy.commands import check
from horde_proxy.commands.cli import main
from horde_proxy.commands.horde_welcome import horde_lines, reachable_url
from horde_proxy.config import Config, exposures, load
from horde_proxy.config.owner_key import keep_owner_key
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.store.opening import open_store
from tests.support import World

KEY = "0123456789abcdefghijkl"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The settings of the servers that were run."""
    settings: list[Config] = []

    class Idle:
        def __init__(self, given: Config, read: Any, file: str | None) -> None:
            settings.extend((given, read()))

        def run(self) -> None:
            """Returns at once."""

    monkeypatch.setattr("horde_proxy.commands.serve.Server", Idle)
    monkeypatch.setattr("horde_proxy.logs.configure", lambda style: None)
    return settings


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"HORDE_PROXY_PRIVATE_HORDE__DATABASE": f"sqlite:///{tmp_path}/horde.db"}


def run(*words: str, env: dict[str, str]) -> Result:
    return CliRunner().invoke(main, ["horde", *words], env=env)


def test_a_horde_alone_needs_no_settings_and_says_where_everything_is(
    served: list[Config], environ: dict[str, str], tmp_path: Path
) -> None:
    result = run(env=environ)
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stderr.splitlines()]
    assert lines[1:6] == [
        "Horde's URL: http://127.0.0.1:8080 (AI-Horde's API below /api/v2)",
        "OpenAI base URL: http://127.0.0.1:8080/v1 (the API key is a member's key)",
        "Members: http://127.0.0.1:8080/page/horde/",
        f"Database: {tmp_path}/horde.db",
        f"Owner's key: in {tmp_path}/owner.key",
    ]
    assert lines[-1].startswith(f'AI_HORDE_API_KEY="$(cat {tmp_path}/owner.key)" ')
    assert lines[-1].endswith("worker --horde http://127.0.0.1:8080 --backend URL")
    key = (tmp_path / "owner.key").read_text()
    assert (len(key), key in result.stderr) == (22, False)


@pytest.mark.parametrize("number", [0, 1], ids=["at the start", "after a reload"])
def test_it_is_the_only_endpoint_and_members_pay_with_their_own_keys(
    served: list[Config], environ: dict[str, str], tmp_path: Path, number: int
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("[[endpoints]]\nname = 'box'\nurl = 'http://box.invalid'\n")
    result = run("--config", str(file), "--bind", "0.0.0.0:8080", env=environ)
    assert result.exit_code == 0, result.output
    settings = served[number]
    assert settings.private_horde.enabled
    assert (settings.endpoints, settings.access.mode) == ([], "passthrough")
    assert "the endpoints box; `serve` uses them" in result.stderr


def test_the_settings_may_choose_another_access_mode(
    served: list[Config], environ: dict[str, str]
) -> None:
    assert run(env={**environ, "HORDE_PROXY_ACCESS__MODE": "open"}).exit_code == 0
    assert served[0].access.mode == "open"


def test_serve_says_where_the_private_hordes_key_is(
    served: list[Config], environ: dict[str, str], tmp_path: Path
) -> None:
    env = {**environ, "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true"}
    result = CliRunner().invoke(main, ["serve"], env=env)
    assert "in front of its private horde" in result.stderr
    assert f"in {tmp_path}/owner.key" in result.stderr


@pytest.mark.parametrize(
    ("private", "line"),
    [
        ({"api_key": KEY}, "Owner's key:      private_horde.api_key"),
        (
            {"database": "memory"},
            "Owner's key:      not known to anybody; set private_horde.api_key",
        ),
    ],
)
def test_a_key_that_is_in_no_file_is_not_shown(private: dict[str, Any], line: str) -> None:
    lines = horde_lines(load(environ={}, flags={"private_horde": private}), "http://h:1")
    assert lines[1] == line
    assert lines[-1].startswith("  AI_HORDE_API_KEY=KEY ")
    assert lines[-1].endswith("worker --horde http://h:1 --backend URL")


@pytest.mark.parametrize(
    ("bind", "url"),
    [
        ("127.0.0.1:1", "http://127.0.0.1:1"),
        ("0.0.0.0:1", "http://127.0.0.1:1"),
        ("[::]:1", "http://127.0.0.1:1"),
        ("unix:/run/h.sock", None),
    ],
)
def test_a_url_for_this_machine(bind: str, url: str | None) -> None:
    assert reachable_url(bind) == url


def test_the_owners_key_is_made_once_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "owner.key"
    key = keep_owner_key(path)
    assert (len(key), keep_owner_key(path)) == (22, key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["owner.key"]


def test_a_spoilt_file_of_the_key_is_named(
    served: list[Config], environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "owner.key").write_text("\n")
    result = run(env=environ)
    assert result.exit_code == 78
    assert result.stderr.splitlines()[-1] == (
        f"Error: the owner's key cannot be kept: {tmp_path}/owner.key holds no key: delete it, and "
        "the next start makes a new one"
    )


def test_a_key_file_that_others_may_read_is_found(tmp_path: Path) -> None:
    path = tmp_path / "owner.key"
    keep_owner_key(path)
    path.chmod(0o644)
    private = {"enabled": True, "database": f"sqlite:///{tmp_path}/horde.db"}
    found = exposures(load(environ={}, flags={"private_horde": private}))
    assert [exposure.what for exposure in found] == [
        f"others may read or write the private horde's key {path}"
    ]


def test_the_owner_comes_in_with_the_key_of_the_file_until_it_is_replaced(tmp_path: Path) -> None:
    world = World(private_horde={"enabled": True, "database": f"sqlite:///{tmp_path}/horde.db"})
    world.runtime = replace(world.runtime, open_horde_store=open_horde_store)

    def status(key: str) -> int:
        return world.http().get("/api/v2/find_user", headers={"apikey": key}).status_code

    http = world.http()
    first = (tmp_path / "owner.key").read_text()
    user: Any = http.get("/api/v2/find_user", headers={"apikey": first}).json
    assert user["username"] == "owner#1"
    (tmp_path / "owner.key").unlink()
    world.http()
    second = (tmp_path / "owner.key").read_text()
    assert (status(first), status(second)) == (404, 200)


def test_a_horde_without_workers_is_ready_for_them() -> None:
    world = World(private_horde={"enabled": True}, endpoints=[])
    response = world.http().get("/health/ready")
    assert (response.status_code, response.json) == (
        200,
        {"status": "ok", "models": 0, "reason": "No worker of the private horde is online."},
    )
    hint: Any = world.http().get("/", headers={"Accept": "application/json"}).json
    assert hint["see"][-3:] == [
        "/page/horde/",
        "/api/v2/status/models?type=text",
        "/api/v2/workers",
    ]


def test_check_looks_into_the_hordes_database(
    served: list[Config], environ: dict[str, str], tmp_path: Path
) -> None:
    flags = {"private_horde": {"enabled": True, "database": f"sqlite:///{tmp_path}/horde.db"}}
    settings = load(environ={}, flags=flags)

    def found() -> str:
        [finding] = check.check_horde(settings, None)  # type: ignore[arg-type]
        return finding.what.removeprefix("horde: the private one, in the proxy's own process")

    assert found() == f"; the first start makes its database {tmp_path}/horde.db"
    assert CliRunner().invoke(main, ["users", "add", "ann"], env=environ).exit_code == 0
    assert found() == ": 2 accounts, 0 workers online"
    (tmp_path / "horde.db").write_text("no database")
    for name in ("horde.db-wal", "horde.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    [finding] = check.check_horde(settings, None)  # type: ignore[arg-type]
    assert finding.fix == "correct private_horde.database, or its server"


def test_options_of_serving_go_with_no_command(environ: dict[str, str]) -> None:
    result = run("--bind", "127.0.0.1:1", "news", "list", env=environ)
    assert result.exit_code == 2
    assert "--bind and --log-format go with no command" in result.stderr


class Shell:
    """Runs `horde-proxy horde ...` for a horde in a file."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def out(self, *words: str, text: str = "") -> str:
        """What a command writes to stdout. It must succeed."""
        result = CliRunner().invoke(main, ["horde", *words], env=self.env, input=text)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.out(*words, "--json"))

    def error(self, *words: str) -> str:
        """The error of a command that fails."""
        result = CliRunner().invoke(main, ["horde", *words], env=self.env)
        assert result.exit_code == 1, result.output
        return result.stderr.splitlines()[-1]


@pytest.fixture
def shell(environ: dict[str, str]) -> Shell:
    return Shell({**environ, "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true"})


@pytest.fixture
def running(environ: dict[str, str]) -> Iterator[PrivateHorde]:
    """The horde while it runs in another process."""
    store = open_store(environ["HORDE_PROXY_PRIVATE_HORDE__DATABASE"])
    yield PrivateHorde(store=store)
    store.close()


def test_news_are_published_listed_and_deleted(shell: Shell, running: PrivateHorde) -> None:
    shell.out("news", "add", "First", "words")
    shell.out("news", "add", "Second", "-", "--tag", "a", "--link", "https://x", text="of stdin\n")
    [second, first] = running.moderation.news()
    assert (first["title"], first["newspiece"], first["importance"]) == (
        "First",
        "words",
        "Information",
    )
    assert (second["newspiece"], second["tags"], second["more_info_urls"]) == (
        "of stdin",
        ["a"],
        ["https://x"],
    )
    rows = [line.split() for line in shell.out("news", "list").splitlines()]
    assert [(row[0], row[-1]) for row in rows] == [("ID", "TITLE"), ("2", "Second"), ("1", "First")]
    shell.out("news", "delete", "1")
    assert [item["id"] for item in shell.json("news", "list")] == [2]
    assert shell.error("news", "delete", "1") == "Error: News with ID '1' not found."


def test_a_field_that_a_route_would_refuse_is_named(shell: Shell) -> None:
    assert shell.error("news", "add", "", "words").startswith("title: ")


def test_filters_are_added_tried_and_deleted(shell: Shell, running: PrivateHorde) -> None:
    shell.out("filters", "add", "bad(word|phrase)", "--replacement", "nice")
    shell.out("filters", "add", "worse", "--type", "20", "--description", "insults")
    [nice, worse] = shell.json("filters", "list")
    assert (nice["regex"], nice["replacement"], nice["filter_type"]) == (
        "bad(word|phrase)",
        "nice",
        10,
    )
    assert (worse["id"], worse["filter_type"], worse["description"]) == ("2", 20, "insults")
    assert [match["id"] for match in shell.json("filters", "test", "a BADWORD")] == ["1"]
    running.add_account(KEY, "ann", roles=("moderator",))
    assert running.moderation.test_prompt(KEY, {"prompt": "worse"})["matches"] == ["worse"]
    shell.out("filters", "delete", "1")
    lines = shell.out("filters", "list").splitlines()
    assert [line.split()[0] for line in lines] == ["ID", "2"]
    assert shell.error("filters", "add", "(") == "Error: The regex is not valid: missing ): ("


def test_modes_are_shown_and_switched(shell: Shell, running: PrivateHorde) -> None:
    assert shell.out("modes").split() == [
        "maintenance_mode",
        "off",
        "invite_only_mode",
        "off",
        "raid_mode",
        "off",
    ]
    shell.out("modes", "--maintenance", "on")
    assert running.maintenance
    assert shell.json("modes", "--maintenance", "off", "--invite-only", "on") == {
        "maintenance_mode": False,
        "invite_only_mode": True,
        "raid_mode": False,
    }


def test_addresses_are_put_into_time_out(shell: Shell, running: PrivateHorde) -> None:
    shell.out("timeouts", "add", "198.51.100.0/24", "--hours", "2")
    running.add_account(KEY, "ann", roles=("moderator",))
    [timeout] = running.operations.timeouts_of(KEY, "198.51.100.7")
    assert (timeout["ipaddr"], 7190 < timeout["seconds"] <= 7200) == ("198.51.100.0/24", True)
    assert shell.out("timeouts", "list").splitlines()[1].split()[0] == "198.51.100.0/24"
    assert shell.error("timeouts", "add", "nowhere") == "Error: Invalid IP Address"
    shell.out("timeouts", "delete", "198.51.100.0/24")
    assert shell.json("timeouts", "list") == []


def test_a_file_before_the_command_is_the_commands(environ: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        f"[private_horde]\nenabled = true\ndatabase = 'sqlite:///{tmp_path}/other.db'\n"
    )
    Shell({}).out("--config", str(file), "news", "add", "t", "words")
    assert Shell({}).json("--config", str(file), "news", "list")[0]["title"] == "t"
    assert Shell(environ).json("news", "list") == []


def test_serve_says_nothing_where_the_settings_hold_the_key(
    served: list[Config], environ: dict[str, str]
) -> None:
    key = {"HORDE_PROXY_PRIVATE_HORDE__API_KEY": KEY}
    env = {**environ, **key, "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true"}
    assert len(CliRunner().invoke(main, ["serve"], env=env).stderr.splitlines()) == 1


def test_the_api_without_a_route_is_the_hordes_own_404() -> None:
    http = World(private_horde={"enabled": True}).http()
    answers = {path: http.get(path) for path in ("/api/v2", "/api/v2/")}
    assert {path: (answer.status_code, answer.json) for path, answer in answers.items()} == {
        path: (404, {"message": "There is no such route here."}) for path in answers
    }

"""Where each setting comes from, what it overrides, and what of it may be shown."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from horde_proxy.commands.cli import main
from horde_proxy.config import Origin, load_with_origins

FILE = """\
[server]
bind = "127.0.0.1:9000"
places = 50
[horde]
api_key = "my-own-horde-key"
[access]
mode = "keys"
[access.keys]
laptop = "a-long-random-key"
[aliases]
gpt-4o = "auto"
[[endpoints]]
url = "http://ann:secret@10.0.0.12:8000/v1"
api_key = "secret-of-the-server"
headers = {X-Key = "secret-header"}
priority = 3
[cache]
redis_key_prefix = "home"
"""


def written(tmp_path: Path) -> Path:
    file = tmp_path / "a.toml"
    file.write_text(FILE)
    return file


def by_name(file: Path, environ: dict[str, str]) -> dict[str, Origin]:
    _, settings = load_with_origins(str(file), environ)
    return {origin.name: origin for origin in settings}


def test_the_environment_overrides_a_file_and_it_is_said(tmp_path: Path) -> None:
    file = written(tmp_path)
    variable = "HORDE_PROXY_SERVER__BIND"
    found = by_name(file, {variable: "127.0.0.1:8080", "HORDE_PROXY_SERVER__PLACES": "50"})
    bind = found["server.bind"]
    assert bind == Origin(
        "server.bind",
        '"127.0.0.1:8080"',
        f"environment variable {variable}",
        ((str(file), '"127.0.0.1:9000"'),),
    )
    assert list(bind.override_lines()) == [
        f'server.bind = "127.0.0.1:8080" from environment variable {variable} overrides '
        f'server.bind = "127.0.0.1:9000" from {file}'
    ]
    # The same value twice overrides nothing.
    assert list(found["server.places"].override_lines()) == []
    assert found["server.grace"] == Origin("server.grace", "30", "default")
    assert found["aliases.gpt-4o"].source == str(file)


def test_no_key_and_no_password_is_shown(tmp_path: Path) -> None:
    file = written(tmp_path)
    found = by_name(file, {"AI_HORDE_API_KEY": "another-secret"})
    assert found["horde.api_key"] == Origin(
        "horde.api_key",
        "(hidden)",
        "environment variable AI_HORDE_API_KEY",
        ((str(file), "(hidden)"),),
    )
    assert found["access.keys.laptop"].value == "(hidden)"
    [endpoint] = json.loads(found["endpoints"].value)
    assert endpoint["url"] == "http://10.0.0.12:8000/v1"
    assert (endpoint["priority"], endpoint["api_key"], endpoint["headers"]) == (
        3,
        "(hidden)",
        "(hidden)",
    )
    everything = repr(found)
    for secret in ("my-own-horde-key", "a-long-random-key", "secret", "ann"):
        assert secret not in everything.replace("webhooks.secret", "").replace(
            "notices.secret", ""
        ), secret


def test_the_command_prints_every_setting_with_its_source(tmp_path: Path) -> None:
    file = written(tmp_path)
    env = {"HORDE_PROXY_SERVER__BIND": "127.0.0.1:8080"}
    result = CliRunner().invoke(main, ["config", "--set", "--config", str(file)], env=env)
    [head, bind, places, *_] = result.stdout.splitlines()
    assert head.split() == ["SETTING", "VALUE", "SOURCE", "OVERRIDES"]
    assert bind.split() == [
        "server.bind",
        '"127.0.0.1:8080"',
        "environment",
        "variable",
        "HORDE_PROXY_SERVER__BIND",
        '"127.0.0.1:9000"',
        "from",
        str(file),
    ]
    assert places.split() == ["server.places", "50", str(file)]
    [listed] = [
        entry
        for entry in json.loads(
            CliRunner().invoke(main, ["config", "--json", "--config", str(file)], env=env).stdout
        )
        if entry["name"] == "server.bind"
    ]
    assert listed["overridden"] == [{"source": str(file), "value": '"127.0.0.1:9000"'}]


def test_a_wrong_setting_ends_the_command(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[server]\nplaces = 0\n")
    result = CliRunner().invoke(main, ["config", "--config", str(file)])
    assert result.exit_code == 1
    assert result.output.startswith("Error: setting server.places = 0 from")

"""Commands of root find the settings and the data of the service, and say which they use."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from horde_proxy.commands import running_service
from horde_proxy.commands.cli import main
from horde_proxy.commands.running_service import ServicePlaces, read_environment_file, use_service


@pytest.fixture
def service(tmp_path: Path) -> ServicePlaces:
    places = ServicePlaces(
        tmp_path / "lib", tmp_path / "cache", tmp_path / "a.env", tmp_path / "cgroup.procs"
    )
    places.state.mkdir()
    places.settings.write_text(
        "# of the service\nAI_HORDE_API_KEY=secret\nHORDE_PROXY_ACCESS__MODE='keys'\nLANG=C\n"
    )
    return places


def test_root_uses_the_data_and_the_settings_of_the_service(service: ServicePlaces) -> None:
    environ, said = {"HOME": "/root", "AI_HORDE_API_KEY": "own"}, list[str]()
    used = use_service(said.append, environ=environ, services=[service], is_root=True)
    assert used is service
    assert environ == {
        "HOME": "/root",
        "AI_HORDE_API_KEY": "own",
        "HORDE_PROXY_ACCESS__MODE": "keys",
        "STATE_DIRECTORY": str(service.state),
        "CACHE_DIRECTORY": str(service.cache),
    }
    assert said == [
        f"Using the service's data in {service.state} and settings in {service.settings}."
    ]


def test_a_folder_that_was_chosen_and_another_user_keep_their_own(service: ServicePlaces) -> None:
    said = list[str]()
    for environ in ({"STATE_DIRECTORY": "/srv/other"}, {"XDG_STATE_HOME": "/root/state"}):
        before = dict(environ)
        use_service(said.append, environ=environ, services=[service], is_root=True)
        assert environ == before
    assert said == []
    environ = {}
    assert use_service(said.append, environ=environ, services=[service], is_root=False) is None
    assert (environ, said) == (
        {},
        [f"The data of the service are in {service.state}: for those, run this as root."],
    )


def test_the_service_that_has_the_database_is_chosen(
    service: ServicePlaces, tmp_path: Path
) -> None:
    alone = ServicePlaces(tmp_path / "alone", tmp_path, tmp_path / "b.env", tmp_path / "none")
    alone.state.mkdir()
    (alone.state / "horde.db").touch()
    services = [service, alone]
    assert use_service(str, "horde.db", environ={}, services=services, is_root=True) is alone
    assert use_service(str, "ledger.db", environ={}, services=services, is_root=True) is service


def test_an_environment_file_is_read_as_systemd_reads_it() -> None:
    text = """# a comment
; another
KEYS='{"laptop": "a b"}'
PLAIN=two words
QUOTED="x"
LONG=a\\
b
"""
    assert read_environment_file(text) == {
        "KEYS": '{"laptop": "a b"}',
        "PLAIN": "two words",
        "QUOTED": "x",
        "LONG": "ab",
    }


def test_a_service_without_a_process_does_not_run(service: ServicePlaces) -> None:
    assert not service.is_running()
    service.processes.write_text("")
    assert not service.is_running()
    service.processes.write_text("12\n13\n")
    assert service.is_running()


def test_keys_say_which_ledger_they_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_service, "SERVICES", ())
    monkeypatch.setattr("horde_proxy.config.access.state_folder", lambda: tmp_path)
    variables = {"HORDE_PROXY_ACCESS__MODE": "keys"}
    result = CliRunner().invoke(main, ["keys", "list"], env=variables)
    assert result.stderr == f"The keys are in {tmp_path}/ledger.db.\n"
    assert result.stdout == "NAME  MADE  STATE  LIMITS\n"


def test_a_stopped_service_has_the_settings_file_of_its_installation(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    places = ServicePlaces(tmp_path, tmp_path, tmp_path / "none.env", tmp_path / "none", file=file)
    assert places.environment() == {}
    file.touch()
    assert places.environment() == {"HORDE_PROXY_CONFIG": str(file)}
    places.settings.write_text("HORDE_PROXY_CONFIG=/etc/other.toml\n")
    assert places.environment() == {"HORDE_PROXY_CONFIG": "/etc/other.toml"}

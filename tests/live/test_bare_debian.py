"""The life of a service on a bare Debian 12: installed by the documents, upgraded, removed.

The tests are in the order of that life, on one machine. It has no network but its own loopback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.doc_commands import shell_blocks
from tests.live.debian import (
    SNAPSHOT,
    DebianMachine,
    copy_of_the_repository,
    remove_tree,
    unpack_tree,
)

# debootstrap and pip take their time on a busy machine.
pytestmark = pytest.mark.timeout(3600)
LAST_RELEASE = "2eb2003"
"""The commit before `horde-proxy service`: units were copied by hand then."""
URL = "http://127.0.0.1:8080"


def documented(page: str, first_words: str) -> str:
    """The shell block of a page that begins so and is marked for this test."""
    [block] = [
        block for block in shell_blocks(page, "systemd") if first_words in block.text.splitlines()
    ]
    return f"set -e\n{block.text}"


def status_with(machine: DebianMachine, key: str) -> str:
    """The status of a call with a key."""
    header = f"-H 'Authorization: Bearer {key}'"
    return machine.run(f"curl -s -o /dev/null -w '%{{http_code}}' {header} {URL}/v1/usage")


def wait_for_the_service(machine: DebianMachine) -> None:
    machine.until(f"curl -sf {URL}/health/live")


def properties(machine: DebianMachine, *names: str) -> list[str]:
    """Properties of the service, as systemd has them, in this order."""
    shown = machine.run(f"systemctl show horde-proxy -p {','.join(names)}").split()
    values = dict(line.split("=", 1) for line in shown)
    return [values[name] for name in names]


class Life:
    """The machine and what the tests know of it."""

    def __init__(self, machine: DebianMachine) -> None:
        self.machine = machine
        self.before = machine.run(SNAPSHOT).splitlines()
        self.keys: dict[str, str] = {}

    def left_behind(self) -> list[str]:
        """What is in the machine's file system that was not there before, or has changed."""
        return sorted(set(self.machine.run(SNAPSHOT).splitlines()) ^ set(self.before))


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    machine = DebianMachine(unpack_tree(tmp_path_factory.mktemp("machine") / "root"))
    try:
        machine.boot()
        yield Life(machine)
    finally:
        machine.close()
        remove_tree(machine.folder)


@pytest.fixture
def machine(life: Life) -> DebianMachine:
    return life.machine


def put_checkout(machine: DebianMachine, commit: str | None = None) -> None:
    """What `git clone` or `git pull` leaves in /opt/horde-proxy; its .venv stays."""
    copy_of_the_repository(machine.folder / "opt" / "horde-proxy", commit)


@pytest.fixture(scope="module")
def last_key(life: Life) -> str:
    """A key of the last release, which runs now; skips where a clone has no such commit."""
    machine = life.machine
    put_checkout(machine, LAST_RELEASE)
    machine.run(
        "set -e; cd /opt/horde-proxy\n"
        "python3 -m venv .venv && .venv/bin/pip install -q .\n"
        "cp systemd/horde-proxy.service /etc/systemd/system/\n"
        "install -m 600 systemd/horde-proxy.env.example /etc/horde-proxy.env\n"
        "echo HORDE_PROXY_ACCESS__MODE=keys >> /etc/horde-proxy.env\n"
        "systemctl daemon-reload && systemctl enable --now horde-proxy"
    )
    wait_for_the_service(machine)
    added = machine.run(
        "cd /opt/horde-proxy; set -a && . /etc/horde-proxy.env\n"
        "STATE_DIRECTORY=/var/lib/horde-proxy .venv/bin/horde-proxy keys add laptop 2> /dev/null"
    )
    life.keys["laptop"] = added.split()[-1]
    return life.keys["laptop"]


def test_the_last_release_runs_as_its_readme_said(machine: DebianMachine, last_key: str) -> None:
    machine.until(f"curl -sf -H 'Authorization: Bearer {last_key}' {URL}/v1/usage > /dev/null")


def test_the_last_release_is_upgraded_as_documented_and_its_keys_stay(
    machine: DebianMachine, last_key: str
) -> None:
    put_checkout(machine)
    code, output = machine.status(
        "cd /opt/horde-proxy && .venv/bin/pip install -q . && .venv/bin/horde-proxy service upgrade"
    )
    assert code == 1 and "move your settings there" in output
    machine.run(
        "set -e; cd /opt/horde-proxy; mkdir -m 700 /etc/horde-proxy\n"
        "printf '[server]\\nbind = \"127.0.0.1:8080\"\\n' > /etc/horde-proxy/settings.toml\n"
        "chmod 600 /etc/horde-proxy/settings.toml; .venv/bin/horde-proxy service upgrade"
    )
    wait_for_the_service(machine)
    assert status_with(machine, last_key) == "200"
    assert status_with(machine, "another-key-0123456789") == "401"


def test_uninstalling_the_upgraded_service_leaves_nothing_of_it(life: Life, last_key: str) -> None:
    life.machine.run("cd /opt/horde-proxy && .venv/bin/horde-proxy service uninstall --yes")
    assert [line for line in life.left_behind() if " /opt" in line or "/opt/" not in line] == []


def test_the_readme_installs_it_with_a_first_key(life: Life, machine: DebianMachine) -> None:
    put_checkout(machine)
    output = machine.run(documented("README.md", "cd /opt/horde-proxy"))
    [life.keys["first"]] = re.findall(r"^hp-\S+$|^sk-\S+$", output, re.M)
    wait_for_the_service(machine)
    assert status_with(machine, life.keys["first"]) == "200"
    if "laptop" in life.keys:
        assert status_with(machine, life.keys["laptop"]) == "401"
    assert properties(machine, "ActiveState", "UnitFileState") == ["active", "enabled"]


def test_the_settings_are_roots_and_a_credential_of_the_service(machine: DebianMachine) -> None:
    listed = machine.run("stat -c '%a %U' /etc/horde-proxy /etc/horde-proxy/settings.toml")
    assert listed.split("\n")[:2] == ["700 root", "600 root"]
    [pid] = properties(machine, "MainPID")
    environment = machine.run(f"tr '\\0' '\\n' < /proc/{pid}/environ")
    assert "HORDE_PROXY_CONFIG=/run/credentials/horde-proxy.service/settings.toml" in environment
    assert machine.run(f"stat -c %U /proc/{pid}").strip() != "root"
    assert "root" not in machine.run(f"stat -c %U /proc/{pid}/root /proc/{pid}").split()[1:]


def test_check_finds_the_service(machine: DebianMachine) -> None:
    # The public horde cannot be reached from here, which is all that it may find.
    _, output = machine.status(documented("docs/operations.md", "cd /opt/horde-proxy"))
    assert "Using the service's data in /var/lib/horde-proxy" in output


def test_a_key_that_root_adds_works_at_once(life: Life, machine: DebianMachine) -> None:
    added = machine.run("/opt/horde-proxy/.venv/bin/horde-proxy keys add phone 2> /dev/null")
    life.keys["phone"] = added.split()[-1]
    phone = f"-H 'Authorization: Bearer {life.keys['phone']}'"
    machine.until(f"curl -sf {phone} {URL}/v1/usage > /dev/null")


def test_a_reload_takes_the_environment_file_and_names_what_needs_a_restart(
    machine: DebianMachine,
) -> None:
    machine.run(
        "echo HORDE_PROXY_SERVER__PLACES=7 > /etc/horde-proxy.env; systemctl reload horde-proxy"
    )
    machine.run("echo HORDE_PROXY_SERVER__PLACES=many > /etc/horde-proxy.env")
    assert machine.status("systemctl reload horde-proxy")[0] != 0
    assert "server.places" in machine.run("journalctl -u horde-proxy -p err -o cat")
    machine.run("rm /etc/horde-proxy.env; systemctl reload horde-proxy")
    machine.run("echo '# a word' >> /etc/horde-proxy/settings.toml")
    assert machine.status("systemctl reload horde-proxy")[0] != 0
    assert "systemctl restart horde-proxy" in machine.run("journalctl -u horde-proxy -p err -o cat")
    machine.run(f"systemctl restart horde-proxy && curl -sf {URL}/health/live")


def test_wrong_settings_end_it_with_78_and_are_not_tried_again(machine: DebianMachine) -> None:
    settings = "/etc/horde-proxy/settings.toml"
    machine.run(
        f"cp -p {settings} /tmp/kept; printf '[server]\\nplaces = \"many\"\\n' > {settings}"
    )
    assert machine.status("systemctl restart horde-proxy")[0] != 0
    machine.run("sleep 4")  # RestartSec=2
    found = properties(machine, "ActiveState", "ExecMainStatus", "NRestarts")
    assert found == ["failed", "78", "0"]
    said = machine.run("journalctl -u horde-proxy -t horde-proxy -p err -o cat -n 3")
    assert "server.places" in said
    machine.run(f"cp -p /tmp/kept {settings}; rm /tmp/kept; systemctl restart horde-proxy")
    wait_for_the_service(machine)


def test_a_killed_proxy_is_started_again(machine: DebianMachine) -> None:
    [before] = properties(machine, "MainPID")
    machine.run(f"kill -9 {before}")
    machine.until(f"test $(systemctl show horde-proxy -p MainPID --value) -ne {before}")
    wait_for_the_service(machine)
    assert properties(machine, "ActiveState", "NRestarts") == ["active", "1"]


def test_lines_of_the_journal_have_the_services_name_and_priorities(machine: DebianMachine) -> None:
    machine.run(f"curl -s {URL}/v1/models > /dev/null")
    lines = machine.run("journalctl -u horde-proxy -t horde-proxy -p info -o cat").splitlines()
    assert any("/v1/models" in line for line in lines)
    # systemd writes the time.
    assert [line for line in lines if re.match(r"\d{4}-\d\d-\d\d", line)] == []
    warnings = machine.run("journalctl -u horde-proxy -t horde-proxy -p warning -o cat")
    assert "GET /v1/models" not in warnings


def test_state_holds_over_a_reboot(life: Life, machine: DebianMachine) -> None:
    machine.reboot()
    wait_for_the_service(machine)
    expected = {"laptop": "401", "first": "200", "phone": "200"}
    for name, key in life.keys.items():
        assert status_with(machine, key) == expected[name]


def test_backup_and_restore_run_as_documented(life: Life, machine: DebianMachine) -> None:
    block = documented(
        "docs/operations.md", ".venv/bin/horde-proxy restore --list /srv/backups/horde-proxy.tar"
    )
    # The page's own settings are among what comes back.
    page = "/var/lib/private/horde-proxy/settings.toml"
    machine.run(
        f"printf '[server]\\nplaces = 7\\n' > {page}; chmod 600 {page}\n"
        f"chown --reference=/var/lib/private/horde-proxy {page}; systemctl restart horde-proxy"
    )
    machine.run(f"cd /opt/horde-proxy; {block}")
    wait_for_the_service(machine)
    assert status_with(machine, life.keys["phone"]) == "200"
    assert machine.run(f"cat {page}") == "[server]\nplaces = 7\n"
    owners = machine.run(f"stat -c '%a %u' {page} {page}.replaced").splitlines()
    assert owners[0] == owners[1]
    machine.run(f"rm -r /srv/backups {page}; rm -rf /var/lib/private/horde-proxy/*.replaced")


def test_the_socket_starts_it_with_the_first_connection(machine: DebianMachine) -> None:
    machine.run(
        "set -e; systemctl disable -q --now horde-proxy\n"
        "cp /opt/horde-proxy/systemd/horde-proxy.socket /etc/systemd/system/\n"
        "systemctl daemon-reload; systemctl enable -q --now horde-proxy.socket"
    )
    assert properties(machine, "ActiveState") == ["inactive"]
    wait_for_the_service(machine)
    assert properties(machine, "ActiveState") == ["active"]


def test_a_horde_alone_runs_as_documented(machine: DebianMachine) -> None:
    machine.run("systemctl stop horde-proxy.socket horde-proxy")
    block = documented("docs/private-horde.md", "cat /var/lib/private/horde-proxy-horde/owner.key")
    machine.run(f"cd /opt/horde-proxy; {block}")
    machine.until(f"curl -sf {URL}/api/v2/status/heartbeat > /dev/null")
    machine.run(
        "set -e; systemctl disable -q --now horde-proxy-horde\n"
        "systemctl clean --what=all horde-proxy-horde\n"
        "rm /etc/systemd/system/horde-proxy-horde.service; systemctl daemon-reload"
    )


def test_uninstalling_leaves_nothing_at_all(life: Life, machine: DebianMachine) -> None:
    machine.run(
        "cd /opt/horde-proxy && .venv/bin/horde-proxy service uninstall --yes\n"
        "cd / && rm -r /opt/horde-proxy"
    )
    assert life.left_behind() == []

"""The Debian package: built, looked at by lintian, and tried in a clean chroot and on a machine.

Nothing is left after a purge. The machine's systemd starts, restarts and stops the service.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.debian import (
    ROOT,
    SNAPSHOT,
    DebianMachine,
    DebianTree,
    checked,
    remove_tree,
    skip_without,
    unpack_tree,
    wheels,
)

# debootstrap, pip and lintian take their time on a busy machine.
pytestmark = pytest.mark.timeout(3600)
URL = "http://127.0.0.1:8080"
LIVE = f"curl -sf {URL}/health/live"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of this checkout, with the versions and hashes of the lock files."""
    skip_without("dpkg-buildpackage", "dh", "debootstrap")
    folder = tmp_path_factory.mktemp("package")
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels())}
    # Whoever builds it may have Python write bytecode, or not.
    clean = {"PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": ""}
    checked(str(ROOT / "packaging" / "build-deb"), str(folder), **clean, **pip)
    [path] = folder.glob("horde-proxy_*.deb")
    return path


@pytest.fixture(scope="module")
def next_package(package: Path) -> Path:
    """The same package as a later version, for upgrades."""
    tree = package.with_name("next")
    checked("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN" / "control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 9:"))
    path = package.with_name("next.deb")
    checked("dpkg-deb", "-Znone", "--build", str(tree), str(path))
    shutil.rmtree(tree)
    return path


@pytest.fixture(scope="module")
def root(
    package: Path, next_package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A clean root folder, which has both packages in /srv."""
    folder = unpack_tree(tmp_path_factory.mktemp("debian") / "root")
    shutil.copyfile(package, folder / "srv" / "first.deb")
    shutil.copyfile(next_package, folder / "srv" / "next.deb")
    yield folder
    remove_tree(folder)


@pytest.fixture(scope="module")
def machine(root: Path) -> Iterator[DebianMachine]:
    machine = DebianMachine(root)
    try:
        machine.boot()
        yield machine
    finally:
        machine.close()


def test_lintian_finds_nothing_but_what_the_package_explains(package: Path) -> None:
    skip_without("lintian")
    ended = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", str(package)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.stdout, ended.returncode) == ("", 0)


def test_it_depends_on_the_python_that_it_was_built_for(package: Path) -> None:
    depends = checked("dpkg-deb", "-f", str(package), "Depends")
    version = checked("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2])").split()
    major, minor = map(int, version)
    assert f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})" in depends


def test_a_clean_chroot_installs_runs_upgrades_and_purges_it(root: Path) -> None:
    tree = DebianTree(root)
    try:
        before = tree.run(SNAPSHOT)
        tree.run("dpkg -i /srv/first.deb")
        run = (
            "export STATE_DIRECTORY=/tmp/state CACHE_DIRECTORY=/tmp/cache; "
            "horde-proxy demo --model ngram & "
            "demo=$!; trap 'kill $demo' EXIT; "
            # Its worker offers the model a little later.
            "for _ in $(seq 300); do horde-proxy chat Hello 2> /dev/null && break; sleep 1; done"
        )
        tree.run(f"{run}; horde-proxy chat Hello")
        tree.run("rm -r /tmp/*")
        tree.run("dpkg -i /srv/next.deb && dpkg -r horde-proxy && test -e /etc/horde-proxy")
        tree.run("dpkg --purge horde-proxy")
        assert changes(before, tree.run(SNAPSHOT)) == []
    finally:
        tree.close()


def changes(before: str, after: str) -> list[str]:
    """What differs of two lists of files, but for what dpkg itself keeps."""
    differing = set(before.splitlines()) ^ set(after.splitlines())
    return sorted(line for line in differing if "/var/lib/dpkg/" not in line)


@pytest.fixture(scope="module")
def before(machine: DebianMachine) -> str:
    """The files of the machine before the package was installed, which is done now."""
    files = machine.run(SNAPSHOT)
    machine.run("dpkg -i /srv/first.deb")
    return files


@pytest.mark.parametrize("command", ["install", "upgrade", "uninstall --yes"])
def test_the_service_of_the_package_is_not_installed_twice(
    machine: DebianMachine, before: str, command: str
) -> None:
    code, output = machine.status(f"horde-proxy service {command}")
    assert code == 1 and "belongs to the Debian package" in output


def test_systemd_runs_it_from_its_installation_to_its_purge(
    machine: DebianMachine, before: str
) -> None:
    machine.until(LIVE)
    shown = machine.run("systemctl is-active horde-proxy; systemctl is-enabled horde-proxy")
    assert shown.split() == ["active", "enabled"]
    settings = "/etc/horde-proxy/settings.toml"
    machine.run(f"printf '[access]\\nmode = \"keys\"\\n' >> {settings}")
    machine.run("systemctl restart horde-proxy")
    key = machine.run("horde-proxy keys add laptop 2> /dev/null").split()[-1]
    upgraded = f"{LIVE} && curl -sf -H 'Authorization: Bearer {key}' {URL}/v1/usage"
    machine.until(upgraded)
    [pid] = machine.run("systemctl show horde-proxy -p MainPID --value").split()
    machine.run("dpkg -i /srv/next.deb")
    machine.until(upgraded)
    assert machine.run("systemctl show horde-proxy -p MainPID --value").strip() != pid
    assert 'mode = "keys"' in machine.run(f"cat {settings}")
    machine.run("dpkg -r horde-proxy")
    assert machine.status(LIVE)[0] != 0
    machine.run(f"test -e {settings} -a -e /var/lib/private/horde-proxy")
    machine.run("dpkg --purge horde-proxy")
    assert changes(before, machine.run(SNAPSHOT)) == []

"""The locked dependencies of the container and the Debian package: they keep to setup.cfg."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "build.lock")
# deprecated==1.3.1 ; python_full_version < '3.12' \  and its lines with --hash=sha256:...
_ENTRY = re.compile(r"^([a-z0-9].*?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M)
RENEW = "the lock is older than setup.cfg: run packaging/lock"


def locked(name: str) -> list[Requirement]:
    """The entries of a lock file, each of which has a hash."""
    text = (ROOT / "packaging" / name).read_text()
    entries = _ENTRY.findall(text)
    rest = _ENTRY.sub("", text)
    assert [line for line in rest.splitlines() if not line.startswith("#")] == []
    return [Requirement(entry) for entry, _ in entries]


def wanted() -> list[Requirement]:
    """What setup.cfg says that the program and its extras for databases need."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    lists = (setup["options"]["install_requires"], extras["redis"], extras["postgres"])
    return [Requirement(line) for text in lists for line in text.split("\n") if line.strip()]


def canonical(name: str) -> str:
    """A package's name as pip compares it: backports.zstd is backports-zstd."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("python", ["3.11.2", "3.12.1", "3.13.0"])
def test_the_lock_has_one_version_of_all_that_setup_cfg_names(python: str, machine: str) -> None:
    environment = {
        name: str(value)
        for name, value in {
            **default_environment(),
            "python_full_version": python,
            "python_version": python.rpartition(".")[0],
            "platform_machine": machine,
        }.items()
    }
    pins: dict[str, list[str]] = {}
    for entry in locked("requirements.lock"):
        if entry.marker is None or entry.marker.evaluate(environment):
            [specifier] = entry.specifier
            pins.setdefault(canonical(entry.name), []).append(specifier.version)
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}
    for requirement in wanted():
        if requirement.marker is None or requirement.marker.evaluate(environment):
            versions = pins.get(canonical(requirement.name), [])
            assert any(map(requirement.specifier.contains, versions)), f"{requirement}: {RENEW}"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_versions_and_hashes_and_no_server(name: str) -> None:
    entries = locked(name)
    assert entries
    assert all(re.fullmatch(r"==[\w.]+", str(entry.specifier)) for entry in entries)
    assert "://" not in (ROOT / "packaging" / name).read_text()

"""The settings and the data of the service, for commands that root calls beside it.

root has a state folder of its own. `horde-proxy keys add` would make a key in a ledger there, of
which the service knows nothing. So the commands that read or change what the service keeps use its
folders and its environment, and say so, unless the caller has set a folder.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from horde_proxy.config.sources import is_setting_variable


@dataclass(frozen=True)
class ServicePlaces:
    """A service of systemd: `settings` is its EnvironmentFile, `processes` lists its processes."""

    state: Path
    cache: Path
    settings: Path
    processes: Path
    file: Path = Path("/nonexistent")
    """The settings file that the unit hands to the service as a credential."""

    def is_running(self) -> bool:
        """Whether the service has a process."""
        return bool(self._process_ids())

    def environment(self) -> dict[str, str]:
        """The variables of the running service; of one that does not run, those of its file."""
        for process in self._process_ids():
            with suppress(OSError):
                entries = Path(f"/proc/{process}/environ").read_bytes().decode("utf-8", "replace")
                pairs = (entry.partition("=") for entry in entries.split("\0"))
                return {name: value for name, _, value in pairs if name}
        variables = dict[str, str]()
        with suppress(OSError):
            variables = read_environment_file(self.settings.read_text(encoding="utf-8"))
        if self.file.is_file():
            variables.setdefault("HORDE_PROXY_CONFIG", str(self.file))
        return variables

    def _process_ids(self) -> list[str]:
        try:
            return self.processes.read_text().split()
        except OSError:
            return []


def places_of(unit: str) -> ServicePlaces:
    """The places of a unit of the system, as those in systemd/ name them."""
    return ServicePlaces(
        Path("/var/lib") / unit,
        Path("/var/cache") / unit,
        Path(f"/etc/{unit}.env"),
        # cgroup v2, which every systemd of the last years mounts here.
        Path(f"/sys/fs/cgroup/system.slice/{unit}.service/cgroup.procs"),
        Path(f"/etc/{unit}/settings.toml"),
    )


SERVICES = (places_of("horde-proxy"), places_of("horde-proxy-horde"))


def use_service(
    say: Callable[[str], object],
    database: str | None = None,
    *,
    environ: MutableMapping[str, str] = os.environ,
    services: Sequence[ServicePlaces] | None = None,
    is_root: bool | None = None,
) -> ServicePlaces | None:
    """Let this process use the service's folders and settings; the service, or None without one.

    `database` is the file that the command is for, by which one of several services is chosen.
    Variables that are set already, and a folder that the caller has set, go before.
    """
    known = [service for service in services or SERVICES if service.state.is_dir()]
    if environ.get("STATE_DIRECTORY"):
        own = Path(environ["STATE_DIRECTORY"].partition(":")[0]).resolve()
        return next((service for service in known if service.state.resolve() == own), None)
    if not known or environ.get("XDG_STATE_HOME"):
        return None
    if not (os.geteuid() == 0 if is_root is None else is_root):
        say(f"The data of the service are in {known[0].state}: for those, run this as root.")
        return None
    service = known[0]
    if database is not None:
        service = next((one for one in known if (one.state / database).exists()), service)
    for name, value in _settings_in(service.environment()).items():
        environ.setdefault(name, value)
    environ.setdefault("CACHE_DIRECTORY", str(service.cache))
    environ["STATE_DIRECTORY"] = str(service.state)
    say(f"Using the service's data in {service.state} and settings in {service.settings}.")
    return service


def _settings_in(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if is_setting_variable(name)}


def read_environment_file(text: str) -> dict[str, str]:
    """The variables of an EnvironmentFile; see systemd.exec(5)."""
    variables = dict[str, str]()
    for line in text.replace("\\\n", "").splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith(("#", ";")):
            variables[name.strip()] = _unquoted(value.strip())
    return variables


def _unquoted(value: str) -> str:
    """A value without its quotes, as of KEYS='{"a": "b"}'. Other values may have spaces."""
    if not value.startswith(("'", '"')):
        return value
    try:
        return "".join(shlex.split(value))
    except ValueError:
        return value

"""Bare Debians for the live tests: a tree of its own as a root folder, and as a machine that boots.

debootstrap makes the tree once, from the mirror that apt of this machine uses, and keeps it as an
archive in the folder for temporary files, which all test processes share. So it is with the wheels
that the lock files name: what runs inside has no network.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.live.processes import until

ROOT = Path(__file__).parent.parent.parent
RELEASE = "bookworm"
# python3-venv is all that the README asks for. dbus is what systemctl talks through.
PACKAGES = "systemd,systemd-sysv,dbus,procps,python3,python3-venv,ca-certificates,curl"
# No test reads what is in these folders, and it is a third of the tree.
UNREAD = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale"),
    *("var/cache/apt/archives", "var/lib/apt/lists"),
)
MEMORY = 4_000_000
"""kB that must be free for trees in memory: up to four at a time, of 500 MB each."""
LOCKS = [ROOT / "packaging" / "requirements.lock", ROOT / "packaging" / "build.lock"]
# On two cores that are busy, pip and debootstrap take minutes.
PATIENCE = 1800
# Not what a machine writes by itself while it runs: its log, its clock, its random seed.
SNAPSHOT = (
    r"find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/tmp"
    r" -o -path /var/log -o -path /var/lib/systemd \) -prune -o -printf '%p %y %m %u\n' | sort"
)
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "LC_ALL": "C.UTF-8",
}


def skip_without(*programs: str) -> None:
    """Skip the test where a program is missing, or root's rights."""
    if os.geteuid() != 0:
        pytest.skip("only root makes a Debian and boots it")
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def checked(*command: str, **variables: str) -> str:
    """What a command prints; fails with all of it."""
    ended = subprocess.run(
        command,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-4000:]}"
    return ended.stdout


def _mirror() -> str:
    """The URL that apt fetches the release from; skips where there is none."""
    targets = checked(
        "apt-get", "indextargets", "Created-By: Packages", "--format", "$(REPO_URI) $(RELEASE)"
    )
    for line in targets.splitlines():
        url, _, release = line.partition(" ")
        if release == RELEASE:
            return url
    pytest.skip(f"apt has no {RELEASE} here: apt-get update")


@contextmanager
def _made_once(path: Path) -> Iterator[Path | None]:
    """A place to make `path` in, or None where that was done before, by any process."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            yield None
            return
        with tempfile.TemporaryDirectory(dir=path.parent, prefix="horde-proxy-new-") as folder:
            new = Path(folder) / "new"
            yield new
            new.rename(path)


def _shared_path(name: str, contents: bytes) -> Path:
    digest = hashlib.sha256(contents).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"horde-proxy-{name}-{digest}"


def tree_archive() -> Path:
    """The tar file of a bare Debian with Python and systemd."""
    skip_without("debootstrap", "apt-get")
    path = _shared_path("debian", f"{RELEASE} {PACKAGES} {UNREAD}".encode())
    with _made_once(path) as new:
        if new is not None:
            tree = new.with_name("tree")
            _new_folder(tree)
            try:
                _make_tree(tree)
                checked("tar", "-C", str(tree), "-cf", str(new), ".")
            finally:
                remove_tree(tree)
    return path


def _make_tree(tree: Path) -> None:
    options = ["--variant=minbase", f"--include={PACKAGES}", RELEASE]
    try:
        checked("debootstrap", *options, str(tree), _mirror())
    finally:
        # debootstrap leaves it mounted where the host has no systemd.
        for name in ("proc", "sys"):
            subprocess.run(["umount", "-q", tree / name], check=False)
    (tree / "etc" / "machine-id").write_text("")
    for name in UNREAD:
        shutil.rmtree(tree / name)
        (tree / name).mkdir()


def _new_folder(folder: Path) -> None:
    """Make a folder, in memory where there is enough: a busy disk takes minutes for a tree."""
    folder.mkdir(parents=True)
    # MemAvailable:   22062592 kB
    [free] = re.findall(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    if int(free) >= MEMORY:
        checked("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(folder))


def remove_tree(folder: Path) -> None:
    """Remove the folder of `unpack_tree`."""
    subprocess.run(["umount", "-q", "-l", folder], stderr=subprocess.DEVNULL, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def unpack_tree(folder: Path) -> Path:
    """A bare Debian in a new folder, which `remove_tree` removes."""
    archive = tree_archive()
    _new_folder(folder)
    checked("tar", "-C", str(folder), "-xf", str(archive))
    return folder


def wheels() -> Path:
    """A folder with all that the lock files name, for Debian's Python, checked by the hashes."""
    path = _shared_path("wheels", b"".join(lock.read_bytes() for lock in LOCKS))
    with _made_once(path) as new:
        if new is not None:
            for lock in LOCKS:
                # Debian's own Python, whose third number decides about packages, too.
                pip = [sys.executable, "-m", "pip", "--python", "/usr/bin/python3", "download"]
                options = ["-q", "--require-hashes", "--only-binary=:all:", "-d", str(new)]
                checked(*pip, *options, "-r", str(lock))
    return path


def copy_of_the_repository(folder: Path, commit: str | None = None) -> None:
    """Fill a folder with this checkout, or with a commit of it; skips where that is not here."""
    folder.mkdir(parents=True, exist_ok=True)
    if commit is None:
        excluded = [".git", ".venv*", "__pycache__", ".*_cache", "*.egg-info", "build"]
        options = [f"--exclude={name}" for name in excluded]
        pack = ["tar", "-C", str(ROOT), "-c", *options, "."]
    else:
        known = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
        if subprocess.run(known, stderr=subprocess.DEVNULL, check=False).returncode != 0:
            pytest.skip(f"the commit {commit}, which stands for the last release, is not here")
        pack = ["git", "-C", str(ROOT), "archive", commit]
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        subprocess.run(["tar", "-C", folder, "-x"], stdin=packing.stdout, check=True)
    assert packing.returncode == 0


class DebianTree:
    """A root folder from `unpack_tree`, whose commands run in a chroot without the network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.folder / "wheels").mkdir(exist_ok=True)
        checked("mount", "--bind", "-o", "ro", str(wheels()), str(self.folder / "wheels"))
        # Programs in it look for terminals, random bytes and their own processes.
        checked("mount", "-t", "proc", "proc", str(self.folder / "proc"))
        checked("mount", "--bind", "/dev", str(self.folder / "dev"))

    def run(self, command: str, **variables: str) -> str:
        """What a line for the shell prints; fails with all of it."""
        pairs = [f"{name}={value}" for name, value in {**ENVIRONMENT, **variables}.items()]
        inside = ["chroot", str(self.folder), "env", "-i", *pairs, "bash", "-ec", command]
        # A network namespace of its own has not even a loopback, until that is up.
        up = 'ip link set lo up && exec "$@"'
        return checked("unshare", "--net", "bash", "-ec", up, "bash", *inside)

    def close(self) -> None:
        for name in ("wheels", "proc", "dev"):
            subprocess.run(["umount", "-l", self.folder / name], check=False)


class DebianMachine:
    """A root folder that systemd-nspawn boots, with a network and a cgroup of its own."""

    def __init__(self, folder: Path) -> None:
        skip_without("systemd-nspawn", "nsenter", "debootstrap")
        self._mounts = _cgroup_mounts()
        self.folder = folder
        self.name = f"horde-proxy-{os.getpid()}"
        self._nspawn: subprocess.Popen[bytes] | None = None
        # Not pip's own cache, which is no part of an installation.
        settings = "[global]\nno-index = true\nfind-links = /wheels\nno-cache-dir = true\n"
        (self.folder / "etc" / "pip.conf").write_text(settings)

    def boot(self) -> None:
        """Start it, and wait until systemd says that it runs."""
        groups = [mount / self.name for mount in self._mounts]
        for group in groups:
            group.mkdir(exist_ok=True)
        enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
        options = ["--register=no", "--keep-unit", "--private-network", "--console=pipe"]
        nspawn = ["systemd-nspawn", "-q", "-D", str(self.folder), f"--machine={self.name}"]
        bind = f"--bind-ro={wheels()}:/wheels"
        self._nspawn = subprocess.Popen(
            ["bash", "-ec", f'{enter}exec "$@"', "bash", *nspawn, *options, bind, "--boot"],
            env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        until(self._is_up)

    def _is_up(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            said = self._nspawn.stderr.read().decode() if self._nspawn.stderr else ""
            pytest.fail(f"systemd-nspawn ended with {self._nspawn.returncode}: {said}")
        with suppress(OSError, AssertionError, IndexError):
            return self.run("systemctl is-system-running || true").strip() in (
                "running",
                "degraded",
            )
        return False

    def _leader(self) -> str:
        """The process id of the machine's systemd."""
        assert self._nspawn is not None
        pid = self._nspawn.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]

    def status(self, command: str, **variables: str) -> tuple[int, str]:
        """How a line for the machine's shell ended, and what it printed."""
        pairs = [f"{name}={value}" for name, value in {**ENVIRONMENT, **variables}.items()]
        inside = ["env", "-i", *pairs, "bash", "-c", command]
        ended = subprocess.run(
            ["nsenter", "-t", self._leader(), "-a", *inside],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return ended.returncode, ended.stdout

    def run(self, command: str, **variables: str) -> str:
        """What a line for the machine's shell prints; fails with all of it."""
        code, output = self.status(command, **variables)
        assert code == 0, f"{command}\nended with {code}:\n{output[-4000:]}"
        return output

    def until(self, command: str) -> None:
        """Wait until a line for the machine's shell succeeds."""
        until(lambda: self.status(command)[0] == 0)

    def reboot(self) -> None:
        self._end("systemctl reboot")
        self.boot()

    def close(self) -> None:
        if self._nspawn is not None and self._nspawn.poll() is None:
            self._end("systemctl poweroff")
        for mount in self._mounts:
            groups = [path for path, _, _ in os.walk(mount / self.name, topdown=False)]
            for group in groups:
                with suppress(OSError):
                    os.rmdir(group)

    def _end(self, command: str) -> None:
        assert self._nspawn is not None
        # The connection to systemd ends before its answer.
        self.status(command)
        try:
            self._nspawn.wait(120)
        except subprocess.TimeoutExpired:
            self._nspawn.send_signal(signal.SIGKILL)
            self._nspawn.wait()
            raise
        finally:
            if self._nspawn.stderr is not None:
                self._nspawn.stderr.close()


def _cgroup_mounts() -> list[Path]:
    """Where cgroup v2 is, and the hierarchy of systemd's beside it; skips without the first."""
    mounts = Path("/proc/mounts").read_text()
    # cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
    unified = re.findall(r"^\S+ (\S+) cgroup2 ", mounts, re.M)
    if not unified:
        pytest.skip("cgroup v2 is not mounted here")
    named = re.findall(r"^\S+ (\S+) cgroup \S*name=systemd", mounts, re.M)
    return [Path(path) for path in (unified[0], *named[:1])]

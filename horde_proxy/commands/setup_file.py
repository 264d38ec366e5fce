"""A client's configuration file, with what stood there before the first setup kept beside it.

Two files are beside NAME: NAME.before-horde-proxy, a copy of the old file, and
NAME.horde-proxy-record, which says whether there was one and what setup wrote last. It must not
know what a configuration looks like.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from platformdirs import user_config_path

from horde_proxy import opencode
from horde_proxy.protocol.models import as_mapping

_BACKUP = ".before-horde-proxy"
_RECORD = ".horde-proxy-record"
_REPLACED = ".before-restore"


def place(paths: Sequence[str], environ: Mapping[str, str]) -> Path:
    """The path of a client's file: the first of these that needs no variable which is not set.

    "$NAME/file" needs NAME, "{config}" is the user's folder of configurations. Raises
    ClickException for a user without a home directory.
    """
    for path in paths:
        variable, _, rest = path.partition("/")
        if not variable.startswith("$"):
            filled = path.replace("{config}", str(user_config_path()))
            try:
                return Path(filled).expanduser()
            except RuntimeError as exc:
                raise click.ClickException(
                    "this user has no home directory: name the file with --output"
                ) from exc
        if environ.get(variable[1:]):
            # A variable may name the file itself, or its folder.
            return Path(environ[variable[1:]], *([rest] if rest else []))
    raise click.ClickException("name the file with --output")


def read(path: Path) -> str:
    """The text of the file; "" if there is none. Raises OSError, UnicodeDecodeError."""
    return path.read_bytes().decode() if path.exists() else ""


def write(path: Path, text: str) -> bool:
    """Write a configuration, after a copy of what stood there before. False if it was the same.

    Raises OSError, or RuntimeError for a symbolic link that leads back to itself.
    """
    existed = path.exists()
    current = path.read_bytes() if existed else b""
    content = text.encode("utf-8", "backslashreplace")
    if current == content:
        return False
    record = _read_record(path)
    if record is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if existed:
            _copy(path, _beside(path, _BACKUP))
        record = {"existed": existed, "written": _digest(content)}
    else:
        # What somebody else changed since the last setup is kept when the old file comes back.
        is_ours = record.get("written") == _digest(current)
        record = {**record, "written": _digest(content) if is_ours else ""}
    opencode.write(_beside(path, _RECORD), json.dumps(record) + "\n")
    opencode.write(path, text)
    return True


def restore(path: Path) -> list[str]:
    """Put back what stood there before the first setup, and say what was done, in lines.

    Raises ClickException, OSError, UnicodeDecodeError.
    """
    record, backup = _read_record(path), _beside(path, _BACKUP)
    if record is None:
        raise click.ClickException(f"{path}: setup has not changed it, so nothing is restored")
    if record.get("existed") and not backup.exists():
        raise click.ClickException(f"{path}: the copy {backup} is gone, so nothing is restored")
    lines = []
    if path.exists() and record.get("written") != _digest(path.read_bytes()):
        replaced = _free(_beside(path, _REPLACED))
        _copy(path, replaced)
        lines.append(f"{path} was changed after setup: that version is now {replaced}")
    if record.get("existed"):
        opencode.write(path, backup.read_bytes().decode())
        backup.unlink()
        lines.append(f"{path}: restored")
    else:
        path.resolve().unlink(missing_ok=True)
        lines.append(f"{path}: deleted, since there was none before setup")
    _beside(path, _RECORD).unlink()
    return lines


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not there yet."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        return dict(as_mapping(json.loads(_beside(path, _RECORD).read_bytes())))
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise click.ClickException(
            f"{_beside(path, _RECORD)} is damaged: delete it, after a look at {path} and at "
            f"{_beside(path, _BACKUP)}"
        ) from exc


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its mode. The copy appears complete, and is never readable for more."""
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        shutil.copyfile(source, part)
        shutil.copymode(source, part)
        os.replace(part, target)
    except BaseException:  # Ctrl-C as well: nothing may be left beside the user's file
        os.unlink(part)
        raise


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

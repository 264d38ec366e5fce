"""The settings file as it was read, and what tells two versions of it apart.

It must not know what a setting means: `sources` puts the file together with the other sources.
"""

from __future__ import annotations

import os
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from horde_proxy.config.errors import ConfigError
from horde_proxy.config.permissions import refuse_foreign_code

_MODULE = "<run_path>"
"""The __name__ in a Python file, as runpy.run_path has it: not "__main__", so that what a script
does only when it is started is not done."""

FileVersion = tuple[int, int, int]
"""Modification time (ns), size and inode: together they differ after every kind of replacement."""


@dataclass(frozen=True)
class SettingsFile:
    """A file that was read: its text, and the version that it had just before.

    So a change during the reading shows later.
    """

    path: str
    version: FileVersion | None
    text: str = field(repr=False)

    @property
    def is_python(self) -> bool:
        return _is_python(self.path)


def file_version(path: str) -> FileVersion | None:
    """Values that differ between two versions of a file; None while there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def read_file(path: str, content: bytes | None = None) -> tuple[SettingsFile, dict[str, Any]]:
    """(the file, its names with their values), read now; with `content`, as if it held that.

    Raises ConfigError where it cannot be read or is not valid.
    """
    version = file_version(path)
    try:
        status = None
        if content is None:
            with open(path, "rb") as source:
                status, content = os.fstat(source.fileno()), source.read()
        if _is_python(path) and status is not None:
            refuse_foreign_code(path, status)
            text, names = content.decode("utf-8", "replace"), _run(path, content)
        else:
            # Editors on Windows begin a file with a byte order mark.
            text = content.decode("utf-8-sig").replace("\r\n", "\n")
            names = tomllib.loads(text)
    except OSError as exc:
        # A Python file may read others, and fail there.
        is_own = exc.filename in (path, str(Path(path)), str(Path(path).absolute()))
        reason = exc.strerror if is_own else exc
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, SyntaxError) as exc:
        raise ConfigError(f"the configuration {path} is not valid: {exc}") from exc
    except ConfigError:
        raise
    # A Python file may raise anything.
    except Exception as exc:
        raise ConfigError(f"the configuration {path} failed: {type(exc).__name__}: {exc}") from exc
    return SettingsFile(path, version, text), names


def _run(path: str, content: bytes) -> dict[str, Any]:
    """The names of a Python file after its lines were executed: those that were checked.

    runpy.run_path would open the file once more, when it may be another one.
    """
    module = ModuleType(_MODULE)
    module.__file__ = path
    # Dataclasses, for example, look up the module that they are in.
    sys.modules[_MODULE] = module
    try:
        # The owner of the settings wrote these lines: refuse_foreign_code has checked that.
        exec(compile(content, path, "exec"), module.__dict__)  # noqa: S102
    finally:
        sys.modules.pop(_MODULE, None)
    return module.__dict__


def _is_python(path: str) -> bool:
    return Path(path).suffix == ".py"

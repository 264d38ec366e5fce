"""Changes of the settings file by pages: comments and order are kept, and no file is spoilt.

A change is made in memory. `save` reads the whole result as a start would, and only then replaces
the file: in one step, with its mode and owner, and with a copy of it beside it (`.before`). Whoever
saves a file that somebody else has changed meanwhile is refused. Which settings a page may change
is not decided here, but for commands (`idle_hook`): those are for the operator's editor alone.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from horde_proxy.config.errors import ConfigError
from horde_proxy.config.settings import Config
from horde_proxy.config.settings_sources import SettingsSources
from horde_proxy.config.sources import LoadedSettings, load_sources
from horde_proxy.config.toml_document import CannotEdit, TomlDocument

BEFORE_SUFFIX = ".before"
"""Of the copy of the file as it was before the last change."""
_COMMAND = "idle_hook"
"""The one setting that can be a command: a page must not be a way to run programs."""
_PRIVATE = 0o600
"""The mode of a new file, which may hold keys."""
_BOM = "\ufeff"
"""The mark that Windows' Notepad begins a UTF-8 file with. A file that has one keeps it."""

Name = str | Sequence[str | int]
"""`"server.bind"`, or its parts, where a name has dots or a list is meant: `("aliases", "gpt-4.1")`
or `("endpoints", 0, "weight")`."""


class NotEditable(ConfigError):
    """The settings cannot be changed here; the message says why, and what to do instead."""


class FileChanged(NotEditable):
    """Somebody has changed the file since it was read."""


def editable_path(sources: SettingsSources | None) -> Path:
    """The file that pages change, without symbolic links. Raises NotEditable.

    The page's own file where it exists, for it is read last. Else the operator's, if it can be
    written; else the page's own, which is then made.
    """
    return Path(_editable_name(sources)).resolve()


def _editable_name(sources: SettingsSources | None) -> str:
    """The file that pages change, as the sources name it. Raises NotEditable."""
    if sources is None:
        raise NotEditable("these settings come from no file: start with `horde-proxy serve`")
    page, main = sources.page_file, sources.main_file
    if main is not None and not (page is not None and os.path.exists(page)):
        reason = _why_not_editable(sources, main)
        if reason is None:
            return main
        if page is None:
            raise NotEditable(reason)
    if page is None:
        raise NotEditable(
            "there is no folder for a settings file: name one with --config, or set STATE_DIRECTORY"
        )
    reason = _why_not_writable(Path(page).resolve())
    if reason is not None:
        raise NotEditable(reason)
    return page


def _why_not_editable(sources: SettingsSources, path: str) -> str | None:
    """Why the operator's file is not changed by pages; None where it can be."""
    if Path(path).suffix == ".py":
        return f"{path} is a Python file, which only an editor can change"
    if sources.is_credential(path):
        return f"{path} is a copy that systemd made (LoadCredential=): change the original"
    return _why_not_writable(Path(path).resolve())


def _why_not_writable(path: Path) -> str | None:
    """Why this process cannot replace a file; None where it can."""
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        return f"{path} is read-only for this process: change it as its owner"
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    # A file is replaced by a new one, which needs the right to write its folder.
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{path} cannot be replaced, because this process may not write {folder}"
    return None


class EditedFile:
    """The settings file with changes that are not saved yet. Raises NotEditable, ConfigError.

    `path` is the file, `digest` tells its version, for a page that saves it later.
    """

    def __init__(self, sources: SettingsSources | None) -> None:
        self._name = _editable_name(sources)
        self.path = Path(self._name).resolve()
        self._sources = sources = sources or SettingsSources()
        self._loaded: LoadedSettings = load_sources(sources)
        content = _read(self.path)
        self.digest = _digest(content)
        text = content.decode("utf-8-sig")
        self._begin = _BOM if content.startswith(_BOM.encode()) else ""
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._document = TomlDocument(text.replace("\r\n", "\n") or self._heading())

    def set(self, name: Name, value: Any) -> None:
        """Set a setting to a value of TOML: text, number, boolean, list, table."""
        path = self._changed_path(name, value)
        self._call(lambda: self._document.set(path, value))

    def unset(self, name: Name) -> None:
        """Let a setting have its default, or what the file read before this one says."""
        path = _parts(name)
        self._copy_list(path[:-1])
        self._refuse_kept_below(path)
        self._call(lambda: self._document.unset(path))

    def clear(self, name: Name) -> None:
        """Let a setting have its default. Raises NotEditable where another source gives it."""
        path = self._changed_path(name, None)
        self._refuse_elsewhere(path)
        self._call(lambda: self._document.unset(path))

    def append(self, name: Name, value: Any) -> None:
        """Add an entry to a list."""
        path = self._changed_path(name, value)
        self._copy_list(path)
        self._call(lambda: self._document.append(path, value))

    def remove(self, name: Name, field: str, value: Any) -> None:
        """Remove the entries of a list of tables whose field has a value. Raises NotEditable."""
        path = self._changed_path(name, None)
        self._copy_list(path)
        entries = self._document.get(path) or []
        numbers = [number for number, entry in enumerate(entries) if entry.get(field) == value]
        if not numbers:
            raise NotEditable(f"{_dotted(path)} has no entry with {field} = {value!r}")
        for number in reversed(numbers):
            self._call(partial(self._document.unset, [*path, number]))

    def save(
        self,
        expected: str | None = None,
        check: Callable[[Config], object] = lambda config: None,
    ) -> Config:
        """Check the settings as a whole and replace the file; the settings as they are read now.

        `expected` is the digest of the version that the user has seen, where that was earlier.
        `check` raises ConfigError for settings that the running proxy would not take. Raises
        ConfigError for settings that a start would refuse, FileChanged, NotEditable.
        """
        try:
            text = self._document.text()
        except CannotEdit as exc:
            raise NotEditable(f"{self.path}: {exc}") from exc
        content = (self._begin + text.replace("\n", self._newline)).encode()
        config = load_sources(self._sources, {self._name: content}).config
        check(config)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _alone(self.path.parent):
                now = _digest(_read(self.path))
                if now != self.digest or expected not in (None, now):
                    raise FileChanged(f"{self.path} has changed meanwhile: look at it again")
                _replace(self.path, content)
        except OSError as exc:
            raise NotEditable(f"{self.path} cannot be written: {exc.strerror}") from exc
        return config

    def _changed_path(self, name: Name, value: Any) -> Sequence[str | int]:
        """The parts of a name that may be changed here. Raises NotEditable."""
        path = _parts(name)
        entries = value if isinstance(value, list) else [value]
        if _COMMAND in path or any(_COMMAND in one for one in entries if isinstance(one, Mapping)):
            raise NotEditable(f"{_COMMAND} can be a command: write it into the file by hand")
        for source, tree in self._loaded.layers_after(self._name):
            if _gives(tree, path):
                raise NotEditable(
                    f"{_dotted(path)} comes from {source}, which goes before the file"
                )
        self._copy_list(path[:-1])
        return path

    def _copy_list(self, path: Sequence[str | int]) -> None:
        """Take over a list that only the file read before this one has.

        A list comes from one source as a whole, so that a change in it needs the whole list.
        """
        names = [part for part in path if isinstance(part, str)]
        if not names or self._document.get(names) is not None:
            return
        for _, tree in reversed(self._loaded.layers_before(self._name)):
            entries = _value_in(tree, names)
            if isinstance(entries, list):
                self._call(partial(self._document.set, names, entries))
                return

    def _refuse_kept_below(self, path: Sequence[str | int]) -> None:
        """An entry of a table in the other file would stay there. Raises NotEditable."""
        if self._document.get(path) is None:
            self._refuse_elsewhere(path)

    def _refuse_elsewhere(self, path: Sequence[str | int]) -> None:
        """Raises NotEditable where the file read before this one gives the setting."""
        for source, tree in self._loaded.layers_before(self._name):
            if _value_in(tree, path) is not None:
                raise NotEditable(f"{_dotted(path)} stands in {source}: remove it there")

    def _call(self, change: Callable[[], None]) -> None:
        """Change the document. Raises NotEditable in place of CannotEdit."""
        try:
            change()
        except CannotEdit as exc:
            raise NotEditable(f"{self.path}: {exc}") from exc

    def _heading(self) -> str:
        main = self._sources.main_file
        if main is None or self._name == main:
            return "# Settings of horde-proxy, begun by its page.\n"
        return (
            "# Settings of horde-proxy that its page has changed. This file is read after\n"
            f"# {main}, and its values go before those there.\n"
        )


def _parts(name: Name) -> list[str | int]:
    return list(name.split(".")) if isinstance(name, str) else list(name)


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def _value_in(tree: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        is_there = isinstance(tree, Mapping) and part in tree
        if not (is_there or (isinstance(tree, list) and part in range(len(tree)))):
            return None
        tree = tree[part]
    return tree


def _gives(tree: Any, path: Sequence[str | int]) -> bool:
    """Whether a source sets this, or a list or a value that it would be in."""
    for part in path:
        if not isinstance(tree, Mapping):
            return True
        if part not in tree:
            return False
        tree = tree[part]
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as exc:
        raise NotEditable(f"{path} cannot be read: {exc.strerror}") from exc


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a lock of the folder: two processes must not replace the file at the same time."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        # The new name lasts only when the folder is on disk.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Give a file a new content in one step, and keep the one before it beside it."""
    if path.exists():
        status = path.stat()
        _write_new(path.with_name(path.name + BEFORE_SUFFIX), path.read_bytes(), status)
        _write_new(path, content, status)
    else:
        _write_new(path, content, None)


def _write_new(path: Path, content: bytes, like: os.stat_result | None) -> None:
    """Write a file beside `path` and rename it. Its mode and owner are those of `like`."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if like is not None:
                _take_over(descriptor, like)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def _take_over(descriptor: int, like: os.stat_result) -> None:
    own = os.fstat(descriptor)
    # The owner first: changing it may clear bits of the mode (chown(2)).
    if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
        os.fchown(descriptor, like.st_uid, like.st_gid)
    os.fchmod(descriptor, like.st_mode & 0o7777)

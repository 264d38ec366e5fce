"""A TOML document that is changed with its comments and its order kept. Pure: it reads no file.

tomlkit takes the comment above a section for the end of the section before it. A new setting would
come below that comment, and removing a section would remove the comment of the next one. So these
comments are taken out before anything is changed, and written above the headers that follow them.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomlkit
from tomlkit.container import Container
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array, Comment, InlineTable, Null, Table, Whitespace

Path = Sequence[str | int]
"""The names that lead to a setting, and numbers in lists, as in ("endpoints", 0, "weight")."""


class CannotEdit(Exception):
    """The document cannot be changed like that; the message says why."""


class TomlDocument:
    """One document. Changes are made to it and to `tree`, its plain values, so that they agree."""

    def __init__(self, text: str) -> None:
        self.tree: dict[str, Any] = tomllib.loads(text)
        self._document = tomlkit.parse(text)
        self._comments, self._tail = _comments_above(self._document)
        if self._dumped() + self._tail != text:
            # What tomlkit writes in its own way stays as it came: a misplaced comment is no loss.
            self._document, self._comments, self._tail = tomlkit.parse(text), [], ""

    def get(self, path: Path) -> Any:
        """The plain value at a path; None where there is none."""
        value: Any = self.tree
        for part in path:
            is_there = isinstance(value, Mapping) and part in value
            if not (is_there or (isinstance(value, list) and part in range(len(value)))):
                return None
            value = value[part]
        return value

    def set(self, path: Path, value: Any) -> None:
        """Set a value; the tables on the way are made. Raises CannotEdit."""
        self._change(path, lambda container, last: _put(container, last, value, len(path) == 1))
        _plain_parent(self.tree, path)[path[-1]] = copy.deepcopy(value)

    def unset(self, path: Path) -> None:
        """Remove a value, or an entry of a list. Nothing happens where there is none."""
        if self.get(path) is None:
            return
        parent = _plain_parent(self.tree, path)
        if isinstance(parent, list) and len(parent) == 1:
            # TOML cannot write an empty list of sections: [[endpoints]] would be one.
            self.unset(path[:-1])
            return
        self._change(path, _remove)
        del parent[path[-1]]

    def append(self, path: Path, value: Any) -> None:
        """Add an entry to the list at a path, which is made where there is none."""
        entries = self.get(path)
        if entries is None:
            self.set(path, [value])
            return
        if not isinstance(entries, list):
            raise CannotEdit(f"{'.'.join(map(str, path))} is not a list")
        self._change(path, lambda container, last: _append(container[last], value))
        entries.append(copy.deepcopy(value))

    def text(self) -> str:
        """The document. Raises CannotEdit where it does not say what it should."""
        text = self._dumped()
        # The tail follows the last line, also where that one had no newline.
        text += (
            self._tail if not self._tail or text.endswith("\n") or not text else "\n" + self._tail
        )
        try:
            is_right = tomllib.loads(text) == self.tree
        except tomllib.TOMLDecodeError:
            is_right = False
        if not is_right:
            raise CannotEdit("the file is written in a way that cannot be changed here")
        return text

    def _dumped(self) -> str:
        """The document with its comments above headers, and without its end."""
        # Only now: tomlkit would indent new settings like the last blank of a comment.
        for table, comment in self._comments:
            table.trivia.indent = comment + table.trivia.indent
        try:
            return tomlkit.dumps(self._document)
        finally:
            for table, comment in self._comments:
                table.trivia.indent = table.trivia.indent.removeprefix(comment)

    def _change(self, path: Path, change: Any) -> None:
        container: Any = self._document
        try:
            for part in path[:-1]:
                if isinstance(part, str) and part not in container:
                    is_inline = isinstance(container, InlineTable)
                    container[part] = tomlkit.inline_table() if is_inline else tomlkit.table()
                container = container[part]
            change(container, path[-1])
        except (TOMLKitError, LookupError, TypeError, ValueError) as exc:
            where = ".".join(map(str, path))
            raise CannotEdit(f"{where} cannot be changed in this file: {exc}") from exc


def _plain_parent(tree: Any, path: Path) -> Any:
    for part in path[:-1]:
        tree = tree.setdefault(part, {}) if isinstance(tree, dict) else tree[part]
    return tree


def _put(container: Any, name: str | int, value: Any, is_section: bool) -> None:
    container[name] = _item(value, is_section=is_section)


def _remove(container: Any, name: str | int) -> None:
    del container[name]


def _append(entries: Any, value: Any) -> None:
    if isinstance(entries, AoT):
        table = _table(value)
        # A blank line above it, as between sections that a person writes.
        table.trivia.indent = "\n"
        entries.append(table)
    else:
        entries.append(_item(value, is_section=False))


def _item(value: Any, *, is_section: bool) -> Any:
    """A value of tomlkit's. Only what stands at the top is written as sections."""
    if isinstance(value, Mapping):
        return _table(value) if is_section else _inline(value)
    if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
        return _list_of_tables(value) if is_section else _list([_inline(entry) for entry in value])
    if isinstance(value, list):
        return _list([_item(entry, is_section=False) for entry in value])
    return tomlkit.item(value)


def _table(value: Mapping[str, Any]) -> Table:
    table = tomlkit.table()
    for name, entry in value.items():
        table.add(name, _item(entry, is_section=False))
    return table


def _inline(value: Mapping[str, Any]) -> InlineTable:
    table = tomlkit.inline_table()
    for name, entry in value.items():
        table.append(name, _item(entry, is_section=False))
    return table


def _list_of_tables(values: Sequence[Mapping[str, Any]]) -> AoT:
    tables = tomlkit.aot()
    for value in values:
        tables.append(_table(value))
    return tables


def _list(items: Sequence[Any]) -> Array:
    array = tomlkit.array()
    for item in items:
        array.append(item)
    return array


def _comments_above(document: tomlkit.TOMLDocument) -> tuple[list[tuple[Table, str]], str]:
    """The comments above each header, and those at the end, all of them taken out."""
    comments, pending = list[tuple[Table, str]](), ""
    if not any(key for key, _ in document.body):
        # Without any setting, they are the heading of the file.
        return comments, pending
    for table, container in _sections(None, document):
        if table is not None and pending:
            comments.append((table, pending))
        pending = _cut_end(container)
    return comments, pending


def _sections(
    table: Table | None, container: Container
) -> Iterator[tuple[Table | None, Container]]:
    """Each section with a header, in order, and its content. The document itself has none."""
    if table is None or not table.is_super_table():
        yield table, container
    for _, item in list(container.body):
        for inner in item.body if isinstance(item, AoT) else [item]:
            if isinstance(inner, Table):
                yield from _sections(inner, inner.value)


def _cut_end(container: Container) -> str:
    """The last comment of a section with the blank lines above it, taken out of it.

    What stands above those blank lines stays: such as settings that are commented out.
    """
    body = container.body
    end = next((n for n, (_, item) in enumerate(body) if isinstance(item, Table | AoT)), len(body))
    start = end
    for kinds in ((Comment, Null), (Whitespace, Null)):
        while start and isinstance(body[start - 1][1], kinds):
            start -= 1
    cut = "".join(item.as_string() for _, item in body[start:end])
    body[start:end] = [(None, Null())] * (end - start)
    return cut

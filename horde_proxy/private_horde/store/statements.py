"""The SQL of a horde's records, and how records become rows.

Statements are plain strings with `:name` parameters, made once: a horde executes thousands a
second, and building and compiling SQLAlchemy's objects would take longer than the database does.
They hold names of tables and columns from `kinds` and `tables` only; every value is a parameter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, get_origin, get_type_hints

from horde_proxy.printable import encodable
from horde_proxy.private_horde.store.kinds import KINDS, Kind
from horde_proxy.private_horde.store.tables import TABLES

# ":id" in "WHERE id = :id", but not the "::" of a cast.
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")

_LARGEST = 2**63 - 1
"""The largest BIGINT. Workers choose their lengths and seeds."""

Row = Sequence[Any]


class RecordSql:
    """The statements of one kind of records, and how its records become rows."""

    def __init__(self, kind: Kind) -> None:
        self.kind, self.table = kind, TABLES[kind.record]
        self.names = kind.names
        self._dumps: dict[str, Callable[[Any], Any]] = {}
        # (position in the row, how the value is read).
        self._loads: list[tuple[int, Callable[[Any], Any]]] = []
        self._read_types()
        self.columns = ", ".join(self.names)
        self.is_it = " AND ".join(f"{name} = :{name}" for name in kind.key)
        self.by_key = self.select(f"WHERE {self.is_it}")
        self.parent_by_key = self._parent_by_key()
        self.delete = f"DELETE FROM {self.table} WHERE {self.is_it}"
        self.insert = self._insert(self.names)
        self.insert_numbered = self._insert(tuple(name for name in self.names if name != "id"))
        # A new row, or its counters added to those of the row that there is.
        sums = (f"{name} = {self.table}.{name} + excluded.{name}" for name in kind.counters)
        self.add_up = (
            f"{self.insert} ON CONFLICT ({', '.join(kind.key)}) DO UPDATE SET {', '.join(sums)}"
        )
        self._updates: dict[tuple[str, ...], str] = {}
        self._finds: dict[tuple[str, ...], str] = {}

    def _read_types(self) -> None:
        hints = get_type_hints(self.kind.record)
        for position, name in enumerate(self.names):
            hint = hints[name]
            if get_origin(hint) in (tuple, list, dict):
                self._dumps[name] = json.dumps
                read = _tuple if get_origin(hint) is tuple else json.loads
                self._loads.append((position, read))
            elif hint is bytes:
                # A driver may give a view of its own memory.
                self._loads.append((position, bytes))
            elif hint is bool:
                # SQLite has no booleans, only 0 and 1.
                self._loads.append((position, bool))
            elif hint is str:
                # No database stores half a surrogate pair.
                self._dumps[name] = encodable
            elif hint is int:
                self._dumps[name] = _storable_number

    def select(self, condition: str) -> str:
        """All columns of the rows with this condition."""
        return f"SELECT {self.columns} FROM {self.table} {condition}"

    def _parent_by_key(self) -> str:
        """All columns of the parent of the row with this key; "" for a kind without a parent."""
        if self.kind.parent is None:
            return ""
        parent, field = self.kind.parent
        names, table = ", ".join(KINDS[parent].names), TABLES[parent]
        key = f"SELECT {field} FROM {self.table} WHERE {self.is_it}"
        return f"SELECT {names} FROM {table} WHERE id = ({key})"

    def find(self, names: tuple[str, ...]) -> str:
        """All columns of the rows with some values, in order of their keys."""
        if (sql := self._finds.get(names)) is None:
            condition = " AND ".join(f"{name} = :{name}" for name in names)
            order = ", ".join(self.kind.key)
            sql = self._finds[names] = self.select(f"WHERE {condition} ORDER BY {order}")
        return sql

    def update(self, names: tuple[str, ...]) -> str:
        """New values for some columns of one row; counters grow by theirs."""
        if (sql := self._updates.get(names)) is None:
            counters = self.kind.counters
            changes = ", ".join(
                f"{name} = {name} + :{name}" if name in counters else f"{name} = :{name}"
                for name in names
            )
            sql = self._updates[names] = f"UPDATE {self.table} SET {changes} WHERE {self.is_it}"
        return sql

    def _insert(self, names: tuple[str, ...]) -> str:
        values = ", ".join(f":{name}" for name in names)
        return f"INSERT INTO {self.table} ({', '.join(names)}) VALUES ({values})"

    def dump(self, name: str, value: Any) -> Any:
        """A field's value as the database takes it."""
        dump = self._dumps.get(name)
        return value if dump is None else dump(value)

    def row(self, record: Any) -> dict[str, Any]:
        """All values of a record as the database takes them."""
        return {name: self.dump(name, value) for name, value in record.__dict__.items()}

    def load(self, row: Row) -> Any:
        """The record of a row that has all columns."""
        values = list(row)
        for position, read in self._loads:
            values[position] = read(values[position])
        record = object.__new__(self.kind.record)
        record.__dict__.update(zip(self.names, values, strict=True))
        return record


def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """A statement with its parameters as PostgreSQL writes them ($1), and their names."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    return _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", sql), names


def _storable_number(number: int) -> int:
    return min(max(number, -_LARGEST), _LARGEST)


def _tuple(text: str) -> tuple[Any, ...]:
    """A list of a column; lists in it become tuples as well, as in the speeds of a worker."""
    if text == "[]":
        return ()
    return tuple(tuple(item) if isinstance(item, list) else item for item in json.loads(text))


RECORD_SQL = {record: RecordSql(kind) for record, kind in KINDS.items()}
"""The statements of all kinds, by the class of their records."""

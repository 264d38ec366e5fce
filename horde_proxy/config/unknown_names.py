"""What to say of a setting that does not exist: where it belongs, or which one is meant. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, get_args

_NONE = "there is no such setting"


def no_such_setting(name: str, fields: Iterable[str], homes: Mapping[str, Any]) -> str:
    """The reason why `name` is refused in a table with these `fields`.

    `homes` are all tables, each by the words for it: {"[server]": ServerSettings}. A name that
    another table has was written below the wrong line, which TOML makes easy.
    """
    owners = [words for words, table in homes.items() if name in _fields_of(table)]
    if owners:
        return f"{_NONE} here; `{name}` belongs to {' or '.join(owners)}"
    near = get_close_matches(name, list(fields), 1, 0)
    return _NONE + (f"; did you mean {near[0]}?" if near else "")


def tables_of(root: Any) -> dict[str, Any]:
    """The tables of a model of all settings, by the words for them: [server], [[endpoints]]."""
    tables: dict[str, Any] = {}
    for name, field in root.model_fields.items():
        # list[EndpointSettings] and its like, or a section itself.
        several = [kind for kind in get_args(field.annotation) if _fields_of(kind)]
        if several:
            tables[f"[[{name}]]"] = several[0]
        elif _fields_of(field.annotation):
            tables[f"[{name}]"] = field.annotation
    return tables


def _fields_of(table: Any) -> Mapping[str, Any]:
    """The fields of a table; none for what is no table."""
    return getattr(table, "model_fields", None) or {}

"""Every setting with its value, the source that it comes from, and what that source overrides.

Keys, passwords and whatever may contain one are never in it. No I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from horde_proxy.config.settings import Config
from horde_proxy.printable import without_login

DEFAULT = "default"
HIDDEN = "(hidden)"
Layer = tuple[str, Mapping[str, Any]]
"""A source by name, and the settings that it gives, nested as in the file."""


@dataclass(frozen=True)
class Origin:
    """One setting. `value` and those of `overridden` are JSON, or HIDDEN.

    `overridden` are the sources that give another value in vain, as (source, value), the nearest
    first.
    """

    name: str
    value: str
    source: str
    overridden: tuple[tuple[str, str], ...] = ()

    def override_lines(self) -> Iterator[str]:
        """A sentence for each source that this setting's source overrides."""
        for source, value in self.overridden:
            yield (
                f"{self.name} = {self.value} from {self.source} overrides "
                f"{self.name} = {value} from {source}"
            )


def origins(config: Config, layers: Sequence[Layer]) -> list[Origin]:
    """All settings in the order of docs/settings.md. `layers` are the sources, the last first used.

    A list, such as the endpoints, comes from one source as a whole.
    """
    return list(_origins(config, layers))


def _origins(config: Config, layers: Sequence[Layer]) -> Iterator[Origin]:
    for section, field in type(config).model_fields.items():
        value = getattr(config, section)
        if not isinstance(value, BaseModel):
            for where, entry in _entries(section, value):
                yield _origin(where, entry, field, layers)
            continue
        for name, inner in type(value).model_fields.items():
            for where, entry in _entries(name, getattr(value, name)):
                yield _origin([section, *where], entry, inner, layers)


def _entries(name: str, value: Any) -> Iterator[tuple[list[str], Any]]:
    """A setting, or each entry of a table with free names on the left, such as [aliases]."""
    if isinstance(value, dict) and value:
        yield from (([name, key], entry) for key, entry in value.items())
    else:
        yield [name], value


def _origin(where: list[str], value: Any, field: FieldInfo, layers: Sequence[Layer]) -> Origin:
    given = [
        (source, found[0]) for source, tree in reversed(layers) if (found := _given(tree, where))
    ]
    shown = _shown(value, field)
    if not given:
        return Origin(".".join(where), shown, DEFAULT)
    (source, first), *rest = given
    # Two sources that say the same, in whatever type, are no surprise to anybody.
    others = [(other, entry) for other, entry in rest if _text(entry) != _text(first)]
    overridden = tuple((other, _shown(entry, field)) for other, entry in others)
    return Origin(".".join(where), shown, source, overridden)


def _given(tree: Any, where: Sequence[str]) -> tuple[Any] | None:
    """What a source gives for a setting; None for nothing."""
    for part in where:
        if not isinstance(tree, Mapping) or part not in tree:
            return None
        tree = tree[part]
    return (tree,)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _shown(value: Any, field: FieldInfo) -> str:
    """A value as JSON. What `repr` leaves out may be a key, and so is any URL's login."""
    if value is None or value in ({}, []):
        return "not set" if value is None else json.dumps(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if not field.repr:
        is_file = isinstance(value, str) and value.startswith("sqlite:///")
        return json.dumps(value) if is_file else HIDDEN
    return json.dumps(_without_secrets(value), ensure_ascii=False, default=str)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: _of_section(getattr(value, name), fields[name])
            for name in fields
            if name in value.model_fields_set
        }
    if isinstance(value, Mapping):
        # What a source says of an endpoint, before it is checked: any name may be wrong.
        return dict.fromkeys(value, HIDDEN)
    if isinstance(value, list):
        return [_without_secrets(entry) for entry in value]
    return without_login(value) if isinstance(value, str) and "://" in value else value


def _of_section(value: Any, field: FieldInfo) -> Any:
    if field.repr or value is None:
        return _without_secrets(value)
    is_url = isinstance(value, str) and value.startswith(("http://", "https://"))
    return without_login(value) if is_url else HIDDEN

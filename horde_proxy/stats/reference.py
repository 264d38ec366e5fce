"""What the optional model reference tells of the models: text `db.json`, image
`stable_diffusion.json`. Pure reading; nothing of the reference is shipped.

A field that is of another kind than expected counts as absent, and a record that is none is left
out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from horde_proxy.aihorde.names import CANONICAL, canonical, family, parameters_of
from horde_proxy.numbers import finite

T = TypeVar("T")


@dataclass(frozen=True)
class ReferenceRecord:
    """One model. `parameters` are counted one by one, `url` is where it comes from; None: untold.

    `downloads` are the addresses of its files as written, good or bad.
    """

    name: str
    baseline: str | None = None
    description: str | None = None
    parameters: int | None = None
    style: str | None = None
    tags: tuple[str, ...] = ()
    nsfw: bool | None = None
    url: str | None = None
    instruct_format: str | None = None
    downloads: tuple[str, ...] = ()
    size_bytes: int | None = None
    inpainting: bool = False
    requirements: bool = False
    trigger: tuple[str, ...] = ()
    showcases: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The record as a client gets it."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(self).items()
        }


class Reference:
    """The records by model, whatever engine, author or quantisation a name has. Never changes."""

    def __init__(self, records: Iterable[ReferenceRecord] = (), left_out: int = 0) -> None:
        self.left_out = left_out
        self._records: dict[str, ReferenceRecord] = {}
        for record in records:
            key = canonical(record.name).key
            known = self._records.get(key)
            self._records[key] = _pooled(known, record) if known else record

    def __len__(self) -> int:
        return len(self._records)

    def get(self, name: str) -> ReferenceRecord | None:
        """The record of the model that the name means."""
        return self._records.get(canonical(name).key)

    def names(self) -> list[str]:
        """The name of each model, once."""
        return [record.name for record in self._records.values()]


def read_reference(document: Any) -> Reference:
    """The reference in a JSON document {name: record}; text entries of one model are pooled."""
    if not isinstance(document, Mapping):
        return Reference(left_out=1)
    records = [
        _record(name, found)
        for name, found in document.items()
        if isinstance(name, str) and name and isinstance(found, Mapping)
    ]
    return Reference(records, len(document) - len(records))


def described(names: Iterable[str], reference: Reference | None) -> dict[str, ReferenceRecord]:
    """A record for each name: the reference's, else one with what the name itself tells."""
    return {name: _described(name, reference) for name in names}


def by_family(records: Mapping[str, ReferenceRecord]) -> dict[str, ReferenceRecord]:
    """One record for each family of names: that of its first member."""
    found: dict[str, tuple[str, ReferenceRecord]] = {}
    for name, record in records.items():
        base = family(name)
        found.setdefault(base.casefold(), (base, record))
    return dict(found.values())


def _described(name: str, reference: Reference | None) -> ReferenceRecord:
    record = (None if reference is None else reference.get(name)) or ReferenceRecord(name)
    if record.parameters is None:
        return replace(record, parameters=parameters_of(name))
    return record


def _record(name: str, found: Mapping[str, Any]) -> ReferenceRecord:
    config = _typed(found.get("config"), dict) or {}
    return ReferenceRecord(
        name=name,
        baseline=_text(found.get("baseline")),
        description=_text(found.get("description")),
        parameters=_count(found.get("parameters")) or _count(found.get("parameters_count")),
        style=_text(found.get("style")),
        tags=_texts(found.get("tags")),
        nsfw=_typed(found.get("nsfw"), bool),
        url=_text(found.get("url")) or _text(found.get("homepage")),
        instruct_format=_text(found.get("instruct_format")),
        downloads=_downloads(config.get("download")),
        size_bytes=_count(found.get("size_on_disk_bytes")),
        inpainting=found.get("inpainting") is True,
        requirements=bool(found.get("requirements")),
        trigger=_texts(found.get("trigger")),
        showcases=_texts(found.get("showcases")),
    )


def _pooled(first: ReferenceRecord, second: ReferenceRecord) -> ReferenceRecord:
    """The record whose name tells no engine, else the first; the other fills its gaps."""
    if canonical(first.name).backend != CANONICAL and canonical(second.name).backend == CANONICAL:
        first, second = second, first
    gaps = {key: value for key, value in vars(second).items() if not vars(first)[key] and value}
    return replace(first, **gaps)


def _typed(value: Any, kind: type[T]) -> T | None:
    return value if isinstance(value, kind) else None


def _text(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(filter(None, map(_text, value))) if isinstance(value, list) else ()


def _count(value: Any) -> int | None:
    """A number of things; 0 is a number that nobody has filled in."""
    return int(finite(value) or 0) or None


def _downloads(value: Any) -> tuple[str, ...]:
    entries: Sequence[Any] = value if isinstance(value, list) else []
    return _texts([each.get("file_url") for each in entries if isinstance(each, Mapping)])

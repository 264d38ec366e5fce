"""The optional model reference: descriptions of text (`db.json`) or image models
(`stable_diffusion.json`), read from a JSON document. Pure. The horde's references are under the
AGPL, so none is shipped; they are loaded where the settings name one.

A field of an unexpected type counts as absent. A record that is not an object is left out and
counted.
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
    """One model. None means that the reference has no value.

    `parameters` is 8000000000 for "8B", `url` is the model's home page. `downloads` are the
    unchecked URLs of its files.
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
    """The records by model, without regard to engine, author and quantisation. Immutable."""

    def __init__(self, records: Iterable[ReferenceRecord] = (), left_out: int = 0) -> None:
        self.left_out = left_out
        self._records: dict[str, ReferenceRecord] = {}
        for record in records:
            key = canonical(record.name).key
            known = self._records.get(key)
            self._records[key] = _merge_records(known, record) if known else record

    def __len__(self) -> int:
        return len(self._records)

    def get(self, name: str) -> ReferenceRecord | None:
        """The record of the model that the name refers to."""
        return self._records.get(canonical(name).key)

    def names(self) -> list[str]:
        """One name for each model."""
        return [record.name for record in self._records.values()]


def read_reference(document: Any) -> Reference:
    """The reference in a JSON document {name: record}; entries of the same model are merged."""
    if not isinstance(document, Mapping):
        return Reference(left_out=1)
    # db.json has each text model three times: plain, as "aphrodite/..." and as "koboldcpp/...".
    records = [
        _record(name, fields)
        for name, fields in document.items()
        if isinstance(name, str) and name and isinstance(fields, Mapping)
    ]
    return Reference(records, len(document) - len(records))


def described(names: Iterable[str], reference: Reference | None) -> dict[str, ReferenceRecord]:
    """A record for each name: from the reference, or else made from the name alone."""
    return {name: _described(name, reference) for name in names}


def by_family(records: Mapping[str, ReferenceRecord]) -> dict[str, ReferenceRecord]:
    """One record for each family of names: the record of its first member."""
    families: dict[str, tuple[str, ReferenceRecord]] = {}
    for name, record in records.items():
        base = family(name)
        families.setdefault(base.casefold(), (base, record))
    return dict(families.values())


def _described(name: str, reference: Reference | None) -> ReferenceRecord:
    record = (None if reference is None else reference.get(name)) or ReferenceRecord(name)
    # A name often has the size, so that models without a record are counted by size too.
    if record.parameters is None:
        return replace(record, parameters=parameters_of(name))
    return record


def _record(name: str, fields: Mapping[str, Any]) -> ReferenceRecord:
    config = _typed(fields.get("config"), dict) or {}
    return ReferenceRecord(
        name=name,
        baseline=_text(fields.get("baseline")),
        description=_text(fields.get("description")),
        # db.json has the first name, the API of horde-model-reference the second.
        parameters=_count(fields.get("parameters")) or _count(fields.get("parameters_count")),
        style=_text(fields.get("style")),
        tags=_texts(fields.get("tags")),
        nsfw=_typed(fields.get("nsfw"), bool),
        # Text models have a "url", image models a "homepage".
        url=_text(fields.get("url")) or _text(fields.get("homepage")),
        instruct_format=_text(fields.get("instruct_format")),
        downloads=_downloads(config.get("download")),
        size_bytes=_count(fields.get("size_on_disk_bytes")),
        inpainting=fields.get("inpainting") is True,
        requirements=bool(fields.get("requirements")),  # an object, e.g. {"min_steps": 20}
        trigger=_texts(fields.get("trigger")),
        showcases=_texts(fields.get("showcases")),
    )


def _merge_records(first: ReferenceRecord, second: ReferenceRecord) -> ReferenceRecord:
    """The record with a name without engine, or else the first; the other one fills its gaps."""
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
    """A positive count; in the reference, 0 means that the number is unknown."""
    return int(finite(value) or 0) or None


def _downloads(value: Any) -> tuple[str, ...]:
    entries: Sequence[Any] = value if isinstance(value, list) else []
    return _texts([entry.get("file_url") for entry in entries if isinstance(entry, Mapping)])

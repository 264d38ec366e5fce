"""Which models a client of the statistics wants to see: by name, tags and backend. Pure.

The parameters have the names of horde-model-reference's search. All that are given must fit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from horde_proxy.aihorde.names import matches_glob
from horde_proxy.stats.reference import ReferenceRecord

_GLOB_SIGNS = "*?["


@dataclass(frozen=True)
class ModelFilter:
    """`name` is a glob or a part of the name, `backend` an engine such as "koboldcpp".

    A model needs all of the `tags`. Upper and lower case are alike. "", () and None select all.
    """

    name: str = ""
    tags: tuple[str, ...] = ()
    backend: str | None = None

    def __bool__(self) -> bool:
        return bool(self.name or self.tags or self.backend)

    def select(
        self,
        names: Iterable[str],
        record_of: Callable[[str], ReferenceRecord | None],
        backends_of: Callable[[str], Collection[str]],
    ) -> list[str]:
        """The names that fit. The functions give the record and the backends of a model's name."""
        selected = [name for name in names if self._fits_name(name)]
        if self.backend:
            backend = self.backend.casefold()
            selected = [name for name in selected if backend in backends_of(name)]
        if self.tags:
            selected = list(filter(partial(self._has_tags, record_of), selected))
        return selected

    def _fits_name(self, name: str) -> bool:
        if any(sign in self.name for sign in _GLOB_SIGNS):
            return matches_glob(name, self.name)
        return self.name.casefold() in name.casefold()

    def _has_tags(self, record_of: Callable[[str], ReferenceRecord | None], name: str) -> bool:
        record = record_of(name)
        tags = {tag.casefold() for tag in record.tags} if record else set()
        return tags.issuperset(tag.casefold() for tag in self.tags)


EVERY_MODEL = ModelFilter()

"""Long lists, cut into the pages of an address such as workers?page=2. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

PAGE = "page"
"""The argument of an address for the number of a page, from 1."""


@dataclass(frozen=True)
class ListPage(Generic[T]):
    """A part of a list: page `number`, and `count` items in the whole list."""

    items: Sequence[T]
    number: int
    count: int
    has_more: bool


def page_number(arguments: Mapping[str, str], name: str = PAGE) -> int:
    """The number of a page; 1 where the address has none, or something else."""
    text = arguments.get(name, "1")
    return max(int(text), 1) if text.isascii() and text.isdecimal() and len(text) < 7 else 1


def page_of(
    items: Sequence[T], arguments: Mapping[str, str], size: int, name: str = PAGE
) -> ListPage[T]:
    """The page of a list that an address asks for."""
    number = page_number(arguments, name)
    end = number * size
    return ListPage(items[end - size : end], number, len(items), end < len(items))

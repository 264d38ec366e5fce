"""OpenAI's lists, which clients read page by page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.files import list_object

MOST_OF_PAGE = 100
"""OpenAI's largest `limit`."""
USUAL_PAGE = 20
"""OpenAI's `limit` where a client names none."""


@dataclass(frozen=True)
class PageWish:
    """Which page a client wants: `limit` objects that follow the one with the id `after`."""

    limit: int = USUAL_PAGE
    after: str | None = None
    newest_first: bool = True


def page_of(oldest_first: Sequence[Mapping[str, Any]], wish: PageWish) -> dict[str, Any]:
    """The list object with the wanted page of all objects. Raises InvalidRequest for `after`."""
    objects = list(reversed(oldest_first)) if wish.newest_first else list(oldest_first)
    begin = 0
    if wish.after is not None:
        places = [place for place, entry in enumerate(objects) if entry["id"] == wish.after]
        if not places:
            raise unknown_after(wish.after)
        begin = places[-1] + 1
    page = objects[begin : begin + wish.limit]
    return list_object(page, has_more=begin + len(page) < len(objects))


def unknown_after(after: str) -> InvalidRequest:
    """The error for an `after` that is not in the list."""
    return InvalidRequest(
        f"`after` is not usable: the list has no '{after[:200]}'.",
        param="after",
        code="invalid_value",
    )

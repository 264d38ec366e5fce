"""Reading the parameters of a query. Each fault is an InvalidRequest that names its parameter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from flask import request

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.lists import MOST_OF_PAGE, USUAL_PAGE, PageWish
from horde_proxy.stats.listing import one_of

_LARGEST = 999_999_999
"""More than anybody counts; longer numbers would cost time to read."""
_ORDERS = {"asc": False, "desc": True}
"""The values of `order`, and whether the newest comes first."""

T = TypeVar("T")


def whole_number(name: str, least: int, most: int = _LARGEST) -> int | None:
    """A number in the query, or None without it. Raises InvalidRequest."""
    text = request.args.get(name)
    if text is None:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST))
    if not is_number or not least <= int(text) <= most:
        raise unusable(name, f"it must be a whole number from {least} to {most}")
    return int(text)


def choice(name: str, choices: Mapping[str, T]) -> T | None:
    """The choice that a parameter names, or None without it. Raises InvalidRequest for others."""
    text = request.args.get(name)
    return None if text is None else one_of(name, text, choices)


def page_wish(*, newest_first: bool = True) -> PageWish:
    """The page of a list that the query names by `limit`, `after` and `order`."""
    order = choice("order", _ORDERS)
    return PageWish(
        whole_number("limit", 1, MOST_OF_PAGE) or USUAL_PAGE,
        request.args.get("after"),
        newest_first if order is None else order,
    )


def unusable(name: str, why: str) -> InvalidRequest:
    """The error for a parameter that is not usable."""
    return InvalidRequest(f"`{name}` is not usable: {why}.", param=name, code="invalid_value")

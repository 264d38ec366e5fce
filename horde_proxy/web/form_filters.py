"""The filters of templates with forms: times, numbers, links, and the names of forms. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

from horde_proxy.web.tables import number, seconds


def link(page: str, /, **arguments: str) -> str:
    """A relative link to a page."""
    return f"{page}?{urlencode(arguments)}" if arguments else page


def day(time: float | None) -> str:
    """A time, such as 2026-11-29 16:04 UTC; a dash for None."""
    if time is None:
        return "–"
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M UTC")


def date(text: str) -> str:
    """A date of the API, such as "Tue, 29 Dec 2026 16:20:36 -0000", as `day` shows times."""
    return day(parsedate_to_datetime(text).replace(tzinfo=UTC).timestamp())


def age(seconds_: float) -> str:
    """A long time: 3 days; below two days as `seconds` writes it."""
    return f"{seconds_ // 86_400:,.0f} days" if seconds_ >= 2 * 86_400 else seconds(seconds_)


def form_name(action: str, hidden: Mapping[str, Any]) -> str:
    """Which form of a page a form is: its action, and of what it changes that (see `SentForm`)."""
    return " ".join([action, *map(str, hidden.values())])


def page_link(page: str, kept: Mapping[str, str], name: str, number_: int) -> str:
    """A link to another page of a list; `kept` are the arguments of the current one."""
    return link(page, **{**kept, name: str(number_)})


FILTERS = (number, seconds, day, date, age, form_name, page_link)
"""The filters, by the names of the functions."""

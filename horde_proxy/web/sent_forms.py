"""Reads the fields of forms that browsers send, and keeps a form that is shown again. Pure.

It checks nothing: a number that is none goes on as text, and is refused by whoever needs a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Form = Mapping[str, str]

FORM = "form"
"""The field that says which form of a page was sent, because many have the same action."""


_LARGEST = 2**63 - 1
"""What databases and TOML take for a whole number. A larger one is no number that anybody means."""


@dataclass(frozen=True)
class SentForm:
    """A form whose page is shown again with what was filled in: `problem` says why, if refused."""

    values: Form
    problem: str = ""

    @property
    def name(self) -> str:
        """Which form of the page it is."""
        return self.values.get(FORM, "")


def text(form: Form, name: str) -> str:
    """A field without spaces around it; "" if it is missing."""
    return form.get(name, "").strip()


def lines(form: Form, name: str) -> str:
    """As `text`, for a field of several lines."""
    # Browsers end lines with CR and LF (HTML, "constructing the entry list").
    return text(form, name).replace("\r\n", "\n")


def number(form: Form, name: str) -> Any:
    """A field as a number; None if it is empty, and its text if it is no number."""
    value = text(form, name)
    try:
        whole = int(value) if value else None
        if whole is None or abs(whole) <= _LARGEST:
            return whole
    except ValueError:
        pass
    try:
        return float(value)
    except ValueError:
        return value


def filled(**fields: Any) -> dict[str, Any]:
    """The fields that were filled in."""
    return {name: value for name, value in fields.items() if value not in (None, "")}

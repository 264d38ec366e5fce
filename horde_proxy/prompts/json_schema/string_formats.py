"""The `format` keyword of strings: what each format looks like, and how to find one in a text.

The grammars are those to which JSON Schema refers, as strictly as clients validate: RFC 3339 (dates
and times), 5321 (email), 3986 (uri), 4122 (uuid), 1123 (hostname).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LONGEST_FORMATTED = 2_000
"""Characters: in practice, no text in a format is longer, and the expressions may backtrack."""

# February has 29 days here; _is_date checks the year.
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# 2024-02-29
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
# Z or +02:00
_ZONE = r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
# 23:59:59 or 10:30:00.5
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
# "example" in example.com; at most 63 characters, no hyphen at either end.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


def _is_date(text: str) -> bool:
    """Whether the date at the beginning of a text exists; 2023-02-29 does not."""
    year, month, day = (int(part) for part in text[:10].split("-"))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if year == 0 or not 1 <= month <= 12:
        return False
    return 1 <= day <= _DAYS[month - 1] and (leap or (month, day) != (2, 29))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class StringFormat:
    """A regular expression for a format, a neutral value, and a check for the other rules."""

    expression: str
    neutral: str
    check: Callable[[str], bool] = lambda text: True


_EMAIL = StringFormat(
    # first.last@mail.example.com
    rf"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@{_LABEL}(?:\.{_LABEL})+",
    "nobody@example.com",
)
STRING_FORMATS = {
    "date": StringFormat(_DATE, "1970-01-01", _is_date),
    "time": StringFormat(_TIME + _ZONE, "00:00:00Z"),
    "date-time": StringFormat(f"{_DATE}[Tt]{_TIME}{_ZONE}", "1970-01-01T00:00:00Z", _is_date),
    "email": _EMAIL,
    "idn-email": _EMAIL,
    # A scheme, then visible ASCII except <, >, ", ^, `, {, | and }: https://example.com/a?b=c#d
    "uri": StringFormat(r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-Z_a-z~@&$\[\]]+", "https://example.com/"),
    # 123e4567-e89b-12d3-a456-426614174000
    "uuid": StringFormat(
        "-".join(f"[0-9A-Fa-f]{{{size}}}" for size in (8, 4, 4, 4, 12)),
        "00000000-0000-0000-0000-000000000000",
    ),
    # An address in an example of the format, to which nothing is bound.
    "ipv4": StringFormat(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", "0.0.0.0", _is_ip),  # noqa: S104
    "ipv6": StringFormat(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", "::", _is_ip),
    # A DNS name has at most 253 characters.
    "hostname": StringFormat(
        rf"{_LABEL}(?:\.{_LABEL})*", "example.com", lambda text: len(text) < 254
    ),
}


def has_format(name: str, text: str) -> bool:
    """Whether a text has a format. True for unknown formats."""
    format = STRING_FORMATS.get(name)
    if format is None or len(text) > LONGEST_FORMATTED:
        return format is None
    return bool(re.fullmatch(format.expression, text)) and format.check(text)


def formatted_parts(name: str, text: str) -> Iterator[str]:
    """Parts of a model's text in the format: matches, and times with their missing parts added."""
    text = text[:LONGEST_FORMATTED]
    yield from re.findall(STRING_FORMATS[name].expression, text)
    # Models write "at 10:30" when a schema requires 10:30:00Z.
    clock = re.search(r"([0-9]{2}:[0-9]{2})(:[0-9]{2})?", text)
    time = f"{clock[1]}{clock[2] or ':00'}Z" if clock else "00:00:00Z"
    if name == "time" and clock:
        yield time
    if name == "date-time":
        yield from (f"{date}T{time}" for date in re.findall(_DATE, text))

"""What a shared key may be used for: its kudos, its limits and its end. No I/O.

A shared key pays from the account of its owner. The horde answers a request beyond one of its
limits with a plain 500 (captures text_async_sharedkey_over_limit, sharedkey_image_too_big), a
private horde with a 403 and the code SharedKeyLimitExceeded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from horde_proxy.errors import Refused
from horde_proxy.numbers import finite

# The form of a UUID, e.g. "7edd2c33-4c68-42f9-af9b-d85a7e138d3b". Accounts' own keys have 22
# characters without a structure.
_SHARED_KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_LONGEST_NAME = 100


class SharedKeyLimit(Refused):
    """A request is beyond a limit of the shared key that pays for it."""


@dataclass(frozen=True)
class SharedKey:
    """A shared key, without the key itself. None: unlimited, or no end.

    `kudos` are left, `utilized` were spent. `expires` is Unix time. The limits are those of one
    request. `requests_left` is how many it may still send; only a private horde limits that.
    """

    name: str = ""
    kudos: float | None = None
    utilized: float = 0.0
    expires: float | None = None
    max_text_tokens: int | None = None
    max_image_pixels: int | None = None
    max_image_steps: int | None = None
    requests_left: int | None = None

    @property
    def end(self) -> str | None:
        """When it expires, e.g. "2026-12-02 05:35 UTC"; None where it does not."""
        if self.expires is None:
            return None
        return datetime.fromtimestamp(self.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")

    def refusal(self, payload: Mapping[str, Any]) -> SharedKeyLimit | None:
        """The limit that a submit with this payload exceeds, or None."""
        params = payload.get("params")
        params = params if isinstance(params, dict) else {}
        width, height = finite(params.get("width")), finite(params.get("height"))
        for requested, most, unit, limit in (
            (finite(params.get("max_length")), self.max_text_tokens, "tokens", "max_text_tokens"),
            ((width or 0) * (height or 0), self.max_image_pixels, "pixels", "max_image_pixels"),
            (finite(params.get("steps")), self.max_image_steps, "steps", "max_image_steps"),
        ):
            if most is not None and requested and requested > most:
                return SharedKeyLimit(
                    f"The shared key allows at most {most} {unit} ({limit}) for each request, and "
                    f"this one needs {requested:.0f}. Ask for less, or ask its owner for more."
                )
        return None


def is_shared_key(api_key: str) -> bool:
    """Whether an API key looks like a shared key."""
    return _SHARED_KEY.fullmatch(api_key) is not None


def read_shared_key(document: Mapping[str, Any]) -> SharedKey:
    """A shared key from the answer of GET sharedkeys/{key} (capture sharedkey_get_1)."""
    name = document.get("name")
    return SharedKey(
        name=name[:_LONGEST_NAME] if isinstance(name, str) else "",
        # -1 says that there is no limit, here and below.
        kudos=finite(document.get("kudos")),
        utilized=finite(document.get("utilized")) or 0.0,
        expires=_unix_time(document.get("expiry")),
        max_text_tokens=_limit(document.get("max_text_tokens")),
        max_image_pixels=_limit(document.get("max_image_pixels")),
        max_image_steps=_limit(document.get("max_image_steps")),
        requests_left=_requests_left(document),
    )


def _requests_left(document: Mapping[str, Any]) -> int | None:
    most, sent = _limit(document.get("max_requests")), finite(document.get("requests"))
    return None if most is None else max(most - int(sent or 0), 0)


def _limit(value: object) -> int | None:
    number = finite(value)
    return None if number is None else int(number)


def _unix_time(value: object) -> float | None:
    """E.g. of "Wed, 02 Dec 2026 05:35:48 -0000", a date as in e-mails (RFC 5322)."""
    try:
        date = parsedate_to_datetime(str(value))
        # "-0000" is UTC, and gives a date without a time zone.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None

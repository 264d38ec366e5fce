"""The HTTP side of AI-Horde's API: URLs, headers, and how answers are read.

It makes no calls itself: callers pass in the answers that they received.
"""

from __future__ import annotations

import math
import re
from email.utils import parsedate_to_datetime
from typing import Any

from horde_proxy.json_reading import parse_json
from horde_proxy.version import VERSION

ANONYMOUS_KEY = "0000000000"
"""The API key of everybody without an account (contract: classes/__init__.py:91-100)."""

EXTENSIONS_HEADER = "Horde-Extensions"
"""With it, each answer of our private horde names what it can do beyond AI-Horde's API."""

KEY_BYTES = 16
"""Random bytes of an account's API key: 22 characters in base64, as horde-sdk demands."""

LONGEST_RETRY_AFTER = 3600
"""Seconds. A longer pause would hide that a server has recovered early."""

# "7", and also "120.5", though the RFC has whole numbers only.
_SECONDS = re.compile(r"[0-9.]{1,12}", re.ASCII)


def api_url(url: str) -> str:
    """The base URL ".../api/v2" of a horde, from the URL of its host, its /api or its /api/v2."""
    base = url.rstrip("/").removesuffix("/v2").removesuffix("/api")
    return f"{base}/api/v2"


def extensions(value: str) -> frozenset[str]:
    """The extensions that a horde names in its header, "stream, wait"."""
    return frozenset(name.strip() for name in value[:200].split(",") if name.strip())


def client_agent(contact: str) -> str:
    """The value of Client-Agent and `bridge_agent`, "name:version:contact".

    The horde refuses even the polls of a caller that does not name itself while its address is in
    time-out (contract: stable.py:610-617).
    """
    return f"horde-proxy:{VERSION}:{contact}"


def json_object(content: bytes) -> dict[str, Any]:
    """The JSON object in a body; {} for anything else, such as a list or a load balancer's page."""
    try:
        value = parse_json(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def retry_after(value: str, now: float) -> int | None:
    """Whole seconds to wait, from 1 to 3600, by a Retry-After header; None if it is unusable.

    `now` is Unix time: the header may hold a date (RFC 9110, section 10.2.3). The horde sends the
    header with successful answers too, so obey it only on a refusal.
    """
    try:
        if _SECONDS.fullmatch(value):
            seconds = float(value)
        else:
            seconds = parsedate_to_datetime(value).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(math.ceil(seconds), 1), LONGEST_RETRY_AFTER)

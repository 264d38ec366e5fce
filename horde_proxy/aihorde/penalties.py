"""For how long AI-Horde keeps out those whom it holds for abusers. Facts only, no I/O.

An address is in time-out for everything: its texts are refused because of a picture's prompt. An
address that the horde holds for a VPN's may send no pictures while the horde is being attacked
("raid mode"), unless the account is trusted.
"""

from __future__ import annotations

import re

TIMEOUT = "TimeoutIP"
UNSAFE = frozenset({"UnsafeIP", "UntrustedUnsafeIP"})
"""The codes for an address of a VPN: of workers, and of clients (contract: stable.py:141-148)."""
CORRUPT_PROMPT = "CorruptPrompt"
"""A prompt that the filter refuses is a strike against its address (countermeasures.py:116-141)."""
PICTURE_KINDS = frozenset({"image", "alchemy"})
"""The kinds of jobs that raid mode keeps out."""
STRIKES_SECONDS = 86_400.0
"""Seconds for which the horde counts an address's strikes."""
UNSAFE_SECONDS = 900.0
"""Seconds after which an address may be tried again: the horde does not say when raid mode ends."""
_LEAST_SECONDS = 180.0
"""Seconds of the first and shortest time-out."""
_SECONDS_LEFT = re.compile(r"timeout for (\d{1,9}) more seconds", re.ASCII)
"""As in "your IP address has been put into timeout for 3591 more seconds." (captured case
generate_text_timeout_ip)."""


def timeout_seconds(message: str) -> float:
    """The seconds that are left of a time-out, by the horde's message; else those of a first one.

    It is the only one of the horde's messages that says what its code does not.
    """
    match = _SECONDS_LEFT.search(message)
    return float(match[1]) if match else _LEAST_SECONDS


def strike_seconds(strikes: int) -> float:
    """The seconds of a time-out for an address that had so many strikes within the day before."""
    return (2 * strikes + 1) * _LEAST_SECONDS

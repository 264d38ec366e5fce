"""What a client's key may be called, and how it may be weighed. No I/O."""

from __future__ import annotations

import re

LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0
"""Of a key. With less than a hundredth of the others' turns, it would wait for hours."""
_KEY_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
"""As in "laptop", "ann@example.com" and "phone-2". api.auth's other accounts have spaces."""
_WITHOUT_KEY = "anybody"
"""api.auth.ANONYMOUS_ACCOUNT."""


def key_name(name: str) -> str:
    """A name for a client's key. Raises ValueError.

    Names are in logs, usage and the page. "anybody" is what requests without a key are counted for.
    """
    if not _KEY_NAME.fullmatch(name):
        raise ValueError("a key's name has up to 64 letters, digits and . _ - @, without spaces")
    if name == _WITHOUT_KEY:
        raise ValueError(f"requests without a key are counted for {name!r}: choose another name")
    return name

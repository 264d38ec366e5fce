"""The digest of an API key, which replaces the key wherever one is stored, compared or counted.

The algorithm must never change: databases and configuration files hold such digests. No I/O.
"""

from __future__ import annotations

import hashlib
import re

FINGERPRINT = 12
"""Digits of a digest: enough to tell keys apart, of no use to anybody."""
_WRITTEN_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")
"""A key in the configuration may be written as its digest: "sha256:5b0680...ef7e5"."""


def key_digest(key: str) -> str:
    """The SHA-256 of a key as a client sends it, as 64 hex digits.

    A key that looks like a digest is hashed too, so a leaked digest does not work as a key.
    """
    # JSON may hold half a surrogate pair, which UTF-8 cannot encode.
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def key_fingerprint(key: str) -> str:
    """A short name of a key for pages, which must not show the key itself."""
    return key_digest(key)[:FINGERPRINT]


def digest_of_setting(written: str) -> str:
    """The digest of a key in the configuration, written in plain or as "sha256:" and its digest."""
    match = _WRITTEN_DIGEST.fullmatch(written)
    return match[1].lower() if match else key_digest(written)

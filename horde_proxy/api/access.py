"""Who may use the proxy: everybody, or who sends a known key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from horde_proxy.errors import InvalidApiKey

_HASHED = "sha256:"


class KeyRing:
    """The known keys by name, of which only digests are kept; without any, all may come in."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = {name: _digest(key) for name, key in keys.items()}

    def name_of(self, sent: str | None) -> str | None:
        """The name of the key that a client sent. Raises InvalidApiKey; takes constant time."""
        if not self._digests:
            return None
        if sent is None:
            raise InvalidApiKey(
                "You didn't provide an API key. Send it as Authorization: Bearer YOUR_KEY."
            )
        digest = hashlib.sha256(sent.encode("utf-8", "replace")).digest()
        found = [
            name for name, known in self._digests.items() if hmac.compare_digest(known, digest)
        ]
        if not found:
            raise InvalidApiKey("Incorrect API key provided.")
        return found[0]


def _digest(key: str) -> bytes:
    if key.startswith(_HASHED):
        return bytes.fromhex(key.removeprefix(_HASHED))
    return hashlib.sha256(key.encode()).digest()

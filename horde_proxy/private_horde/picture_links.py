"""Links to pictures: signed, for one picture and one use, and only for a time. Pure.

    {base}/api/v2/pictures/{id}.webp?expires=1796000000&signature=...

Workers put a picture there, and clients get it, without an API key: AI-Horde's workers and clients
expect links to a storage that asks for none. Whoever has a link may use it until it expires.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

PUT, GET = "put", "get"
SECONDS = 1800.0
"""How long a link works: as long as one of the real horde."""
SETTING = "picture_links"
"""The name of the `HordeSetting` with the secret: links outlast a restart."""


@dataclass
class SignedLinks:
    """Makes links and checks them. `secret` is set before the first call."""

    secret: str = field(default="", repr=False)

    def link(self, use: str, base: str, picture_id: str, kind: str, now: float) -> str:
        """A link for PUT or GET. `base` is the root of the horde's URL, `kind` "webp" or "png"."""
        # Whole seconds, so that a link of one second is the same in all polls of it.
        expires = int(now + SECONDS)
        signature = self._signature(use, picture_id, expires)
        path = f"{base}/api/v2/pictures/{picture_id}.{kind}"
        return f"{path}?expires={expires}&signature={signature}"

    def is_right(self, use: str, picture_id: str, expires: str, signature: str, now: float) -> bool:
        """Whether a link of ours for this use has these values, and has not expired."""
        if not expires.isascii() or not expires.isdecimal() or len(expires) > 15:
            return False
        if not now < int(expires) <= now + 2 * SECONDS:
            return False
        right = self._signature(use, picture_id, int(expires))
        return hmac.compare_digest(right.encode(), signature.encode("utf-8", "replace"))

    def _signature(self, use: str, picture_id: str, expires: int) -> str:
        signed = f"{use}\n{picture_id}\n{expires}".encode()
        return hmac.new(self.secret.encode(), signed, hashlib.sha256).hexdigest()

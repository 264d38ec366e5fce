"""The headers that sign an event for its receiver, as Standard Webhooks and OpenAI's do. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac

_KEY_PREFIX = "whsec_"


def signed_headers(secret: str, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of an event. Source: the specification of Standard Webhooks, "Signature scheme".

    `secret` is "whsec_" and base64; a secret without that is taken as it is written.
    """
    key = secret.encode()
    if secret.startswith(_KEY_PREFIX):
        key = base64.b64decode(secret.removeprefix(_KEY_PREFIX))
    signed = f"{event_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }

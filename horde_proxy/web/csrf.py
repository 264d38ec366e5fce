"""The two checks against requests that other sites make a browser send (CSRF)."""

from __future__ import annotations

from hmac import compare_digest

from flask import request


def is_foreign() -> bool:
    """Whether the browser says that another site sent this request."""
    # "none" is an address that the visitor typed. Old browsers and scripts send no such header.
    # Origin says less: with Referrer-Policy no-referrer, our own forms send "null".
    return request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")


def is_same_token(one: str | None, other: str | None) -> bool:
    """Whether both are the same token, and not empty."""
    # Compares in constant time, and bytes, because compare_digest accepts only ASCII in a str.
    return bool(one and other) and compare_digest(
        (one or "").encode("utf-8", "replace"), (other or "").encode("utf-8", "replace")
    )

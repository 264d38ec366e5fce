"""The two checks against requests that other sites make a browser send (CSRF)."""

from __future__ import annotations

from hmac import compare_digest

from flask import request

FORM_EXPIRED = "This form has expired, or was sent from another site. Please send it again."
"""What a visitor is told when a check refuses a form."""


def is_own_form(token: str | None) -> bool:
    """Whether the request is a form with this token that no other site has sent."""
    return not is_foreign() and is_same_token(token, request.form.get("token"))


def is_foreign() -> bool:
    """Whether the browser says that another site sent this request."""
    # "none" is an address that the visitor typed. Old browsers and scripts send no such header.
    # Origin says less: old browsers call that of our own forms "null".
    return request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")


def is_same_token(one: str | None, other: str | None) -> bool:
    """Whether both are the same token, and not empty."""
    # Compares in constant time, and bytes, because compare_digest accepts only ASCII in a str.
    return bool(one and other) and compare_digest(
        (one or "").encode("utf-8", "replace"), (other or "").encode("utf-8", "replace")
    )

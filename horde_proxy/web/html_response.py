"""Makes a page's response from its HTML, and the headers that all pages have."""

from __future__ import annotations

from flask import Response, make_response

PAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # With no-referrer, browsers call the origin of our own forms "null" (Fetch standard), which
    # api/request_guard.py refuses. No other site gets one.
    "Referrer-Policy": "same-origin",
    # Other sites can neither embed the page's files nor keep a reference to its window.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""The headers of all pages, beside the Content-Security-Policy of each."""
_CLOSED = "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
PLAIN_CSP = f"default-src 'none'; style-src 'self'; img-src 'self' data:; {_CLOSED}"
"""The Content-Security-Policy of pages without scripts."""
SCRIPTED_CSP = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; {_CLOSED}"
"""The Content-Security-Policy of pages whose scripts call nothing."""
CALLING_CSP = SCRIPTED_CSP.replace("form-action", "connect-src 'self'; form-action")
"""The Content-Security-Policy of pages whose scripts call this proxy."""
# Pictures are blobs that the page's scripts have made, or files of this proxy: what a model writes
# loads nothing from other servers.
PICTURES_CSP = CALLING_CSP.replace("img-src 'self'", "img-src 'self' blob:")
"""The Content-Security-Policy of pages whose scripts also show pictures that they were sent."""

# What turns the direction of text around, such as U+202E: somebody's name would do so to the words
# after it. No page needs these; Hebrew and Arabic are written without them.
_DIRECTIONS = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)))


def add_page_headers(response: Response, csp: str) -> Response:
    """The response with the headers of all pages, and one of the policies above."""
    response.headers.update(PAGE_HEADERS)
    response.headers["Content-Security-Policy"] = csp
    # What a page shows is its visitor's alone. Static files say for how long they may be kept.
    response.headers.setdefault("Cache-Control", "no-store")
    return response


def html_response(html: str, status: int) -> Response:
    """The response with a page."""
    # A model's name may hold half a surrogate pair, which UTF-8 cannot encode.
    return make_response(html.translate(_DIRECTIONS).encode("utf-8", "replace"), status)

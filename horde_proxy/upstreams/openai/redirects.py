"""Redirects of a server: where a request goes instead, or why it goes nowhere. Sends nothing.

A server that adds a slash or knows a newer path is followed. Another host is not: it would get our
key. Nor does the client get the Location: it may name a host that only we can reach.
"""

from __future__ import annotations

import logging
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import requests

from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.printable import without_login

MOST_REDIRECTS = 4
"""Requests for one call, the first included."""
_READS = frozenset({301, 302, 303, 307, 308})
"""Statuses after which a GET or HEAD goes to the Location."""
_WRITES = frozenset({301, 307, 308})
"""The same for other methods. A 302 or 303 may mean that the server took the request, and shows
its result elsewhere (RFC 9110, 15.4.3 and 15.4.4): it must not be sent twice."""
_PORTS = {"http": 80, "https": 443}
log = logging.getLogger(__name__)


class Redirected(ProxyError):
    """A server sends a download elsewhere. It is well otherwise, so that it does not cool down."""

    status = 502
    code = "upstream_error"


def redirect_target(response: requests.Response, base: str, name: str) -> str | None:
    """The URL below `base` that the request is sent to instead; None if this is no redirect.

    Raises UpstreamFailed or Redirected for a redirect that is not followed; the log names its
    target, for the owner of the endpoint `name`.
    """
    status, method = response.status_code, response.request.method
    # 304 answers a condition of the client: what it has is still good.
    if not 300 <= status < 400 or status == 304:
        return None
    is_read = method in ("GET", "HEAD")
    location = response.headers.get("Location", "")
    target = _absolute(response.url, location)
    if location and status in (_READS if is_read else _WRITES) and _is_below(base, target):
        return target
    log.warning("%s redirects to %s: correct its url", name, _shown(target) if location else "?")
    response.close()
    message = (
        f"it redirects to another address (status {status}), which is not followed: "
        "correct its url in the settings; the log of this proxy names the address"
    )
    raise Redirected(message) if is_read else UpstreamFailed(message)


def _absolute(url: str, location: str) -> str:
    """The URL of a Location, which may be relative; "" for one that is no URL."""
    try:
        target = urljoin(url, location).partition("#")[0]
        _ = urlsplit(target).port
    except ValueError:
        return ""
    return target


def _is_below(base: str, target: str) -> bool:
    """Whether a URL has the origin and the beginning of the path of another, without "..": a
    client must not be led to other parts of the server, where our key is good as well."""
    ours, theirs = urlsplit(base), urlsplit(target)
    path, beginning = unquote(theirs.path).replace("\\", "/"), ours.path.rstrip("/")
    return (
        _origin(ours) == _origin(theirs)
        and not theirs.username
        and f"{path}/".startswith(f"{beginning}/")
        and ".." not in path.split("/")
        and target.isascii()
        and target.isprintable()
    )


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """RFC 6454, section 4: http://a and http://a:80 are one origin."""
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _shown(url: str) -> str:
    return repr(without_login(url)[:200])

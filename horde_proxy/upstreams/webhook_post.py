"""Posts to webhooks, whose URLs strangers choose: only to addresses of the Internet by default.

Redirects are not followed, and no answer is read.
"""

from __future__ import annotations

from collections.abc import Mapping

import requests

from horde_proxy.upstreams.public_addresses import PublicAdapter
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.version import VERSION

_AGENT = f"horde-proxy/{VERSION}"
_TIMEOUT = (3.0, 5.0)
"""Seconds to connect and to wait for the answer; the real horde allows 3 in all."""


class WebhookPost:
    """Posts to any URL; to private addresses only with `private`. Thread-safe."""

    def __init__(self, *, private: bool = False) -> None:
        self._private = private

    def __call__(self, url: str, content: bytes, headers: Mapping[str, str]) -> str | None:
        """Post a body. None, or in a few words why the receiver did not get it."""
        # A session of its own: it is used once, and sessions are not made for several threads.
        with new_session(None if self._private else PublicAdapter()) as session:
            try:
                with session.post(
                    url,
                    data=content,
                    headers={"User-Agent": _AGENT, **headers},
                    timeout=_TIMEOUT,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    status = response.status_code
            except (requests.RequestException, ValueError) as exc:
                # The whole message may contain the URL, and so the receiver's secret.
                return _reason(exc)
        return None if 200 <= status < 300 else f"it answered {status}"


def _reason(exc: Exception) -> str:
    if "not public" in str(exc):
        return "its address is not public (private_horde.webhooks)"
    return type(exc).__name__

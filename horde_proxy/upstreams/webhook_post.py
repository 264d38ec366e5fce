"""Posts to webhooks, whose URLs strangers choose: only to addresses of the Internet by default.

Redirects are not followed, and no answer is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import requests

from horde_proxy.upstreams.public_addresses import PublicAdapter
from horde_proxy.upstreams.sessions import new_session, with_proxy
from horde_proxy.version import VERSION

_AGENT = f"horde-proxy/{VERSION}"
_TIMEOUT = (3.0, 5.0)
"""Seconds to connect and to wait for the answer; the real horde allows 3 in all."""


class WebhookPost:
    """Posts to any URL; to private addresses only with `private`. Thread-safe.

    `setting` is what permits those. `proxy_for` returns the HTTP proxy for a URL, None for none.
    """

    def __init__(
        self,
        *,
        private: bool = False,
        setting: str = "private_horde.webhooks",
        proxy_for: Callable[[str], str | None] = lambda url: None,
    ) -> None:
        self._private, self._setting, self._proxy_for = private, setting, proxy_for

    def __call__(self, url: str, content: bytes, headers: Mapping[str, str]) -> str | None:
        """Post a body. None, or in a few words why the receiver did not get it."""
        # A session of its own: it is used once, and sessions are not made for several threads.
        session = new_session(None if self._private else PublicAdapter())
        with with_proxy(session, self._proxy_for(url)):
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
                return self._reason(exc)
        return None if 200 <= status < 300 else f"it answered {status}"

    def _reason(self, exc: Exception) -> str:
        if "not public" in str(exc):
            return f"its address is not public ({self._setting})"
        return type(exc).__name__

"""What posts to webhooks and topics, from the settings: directly, or through the HTTP proxy."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from horde_proxy.app.assembly import proxy_for
from horde_proxy.app.runtime import Runtime
from horde_proxy.config import Config
from horde_proxy.upstreams.webhook_post import WebhookPost


def webhook_post(
    settings: Config, runtime: Runtime, *, private: bool, setting: str
) -> Callable[[str, bytes, Mapping[str, str]], str | None]:
    """What posts a body; `setting` permits private addresses, if it does (`private`)."""
    return runtime.post_webhook or WebhookPost(
        private=private, setting=setting, proxy_for=lambda url: proxy_for(url, settings)
    )

"""Where notices go: a program of the operator's (webhook), or a topic of ntfy, for phones.

A target only says what is posted. upstreams/webhook_post.py posts it, and checks the address.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote

from horde_proxy.notices.conditions import Notice
from horde_proxy.upstreams.webhook_signature import signed_headers

Post = Callable[[str, bytes, Mapping[str, str]], "str | None"]
"""Posts a body to a URL with headers. None, or in a few words why it did not arrive."""


class Target(Protocol):
    """Where notices go. `name` is that of its setting."""

    @property
    def name(self) -> str: ...

    def send(self, notice: Notice, now: float, post: Post) -> str | None:
        """Send a notice. None, or in a few words why it did not arrive."""


@dataclass(frozen=True)
class WebhookTarget:
    """Posts JSON. With a secret, it is signed as Standard Webhooks are.

    `text` is what Slack's, Mattermost's and Rocket.Chat's incoming webhooks show.
    """

    url: str = field(repr=False)
    secret: str = field(default="", repr=False)
    name: str = "webhook"

    def send(self, notice: Notice, now: float, post: Post) -> str | None:
        seed = f"{notice.event} {sorted(notice.data.items())} {int(now)}"
        event_id = f"evt_{hashlib.sha256(seed.encode()).hexdigest()[:48]}"
        body = json.dumps(
            {
                "id": event_id,
                "object": "event",
                "type": notice.event,
                "created_at": int(now),
                "text": notice.text,
                "data": dict(notice.data),
            }
        ).encode()
        headers: Mapping[str, str] = {"Content-Type": "application/json"}
        if self.secret:
            headers = signed_headers(self.secret, event_id, int(now), body)
        return post(self.url, body, headers)


@dataclass(frozen=True)
class NtfyTarget:
    """Posts a text to a topic. Source of the headers: docs.ntfy.sh/publish."""

    url: str = field(repr=False)
    token: str = field(default="", repr=False)
    name: str = "ntfy"

    def send(self, notice: Notice, now: float, post: Post) -> str | None:
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            # Headers are Latin-1, and names of models may be anything.
            "Title": quote(notice.title, safe=_PRINTABLE, errors="replace"),
            "Priority": "high" if notice.is_bad else "default",
            "Tags": "warning" if notice.is_bad else "white_check_mark",
        }
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return post(self.url, notice.text.encode("utf-8", "replace"), headers)


_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
"""Printable ASCII, which every server takes in a header."""

"""Results that the horde pushes: where they are announced, so that nobody has to ask often.

A delivery is taken as a hint only, and the result fetched from the horde itself: whoever forges
one gains nothing. Each request has a secret of its own, in the URL that the horde is told.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

PATH = "/horde/webhook/"


class Mailbox:
    """Waits for the deliveries of one request."""

    def __init__(self, webhook: Webhook, secret: str) -> None:
        self.url = webhook.url + PATH + secret
        self._webhook, self._secret = webhook, secret
        self._changed = threading.Condition()
        self._request_id: str | None = None
        self._early: list[tuple[str, str]] = []
        self._jobs: set[str] = set()
        self._news = 0

    def expect(self, request_id: str) -> None:
        """From now on it is known which request the deliveries have to be of."""
        with self._changed:
            self._request_id = request_id
            early, self._early = self._early, []
        for request, job in early:
            self.put(request, job)

    def put(self, request: str, job: str) -> bool:
        """Whether a delivery is new and of this request; one that came early waits to be told."""
        with self._changed:
            if self._request_id is None:
                self._early = [*self._early[-20:], (request, job)]
                return True
            if request != self._request_id or job in self._jobs:
                return False
            self._jobs.add(job)
            self._news += 1
            self._changed.notify()
            return True

    def wait(self, seconds: float) -> bool:
        """Whether something came within that time; it is then taken note of."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._news > 0, seconds):
                return False
            self._news = 0
            return True

    def close(self) -> None:
        """Later deliveries are nobody's."""
        self._webhook.forget(self._secret)


class Webhook:
    """`url`: where the horde reaches this proxy, https."""

    def __init__(
        self, url: str, new_secret: Callable[[], str] = lambda: secrets.token_urlsafe(24)
    ) -> None:
        self.url = url.rstrip("/")
        self._new_secret = new_secret
        self._boxes: dict[str, Mailbox] = {}

    def mailbox(self) -> Mailbox:
        """A new mailbox, for a request that is about to be submitted."""
        secret = self._new_secret()
        self._boxes[secret] = Mailbox(self, secret)
        return self._boxes[secret]

    def deliver(self, secret: str, body: Mapping[str, Any]) -> bool:
        """Whether a delivery found its request. `body`: the generation, with `id` and `request`."""
        box = self._boxes.get(secret)
        request, job = body.get("request"), body.get("id")
        if box is None or not isinstance(request, str) or not isinstance(job, str):
            return False
        return box.put(request, job)

    def forget(self, secret: str) -> None:
        """No request waits for deliveries with this secret any more."""
        self._boxes.pop(secret, None)

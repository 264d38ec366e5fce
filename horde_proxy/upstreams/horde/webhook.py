"""Results that the horde pushes: each wakes the thread that waits for it.

    view thread      deliver() -> Mailbox.put(): notes the job, and wakes the sleeper
    waiting thread   wakes, sees take_news(), and polls

A delivery is a hint only. The result is fetched from the horde, so that a forged delivery gains
nothing. Each request has a secret of its own, in the URL that the horde gets.

Whether polls may become rare is decided by what arrives:

    unproven --a delivery--> reliable --a result whose delivery is missing--> unproven
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

PATH = "/horde/webhook/"
PUSHED = 15.0
"""Seconds between two polls of a request whose results are pushed: a push may get lost."""
_MOST_MISSING = 10
"""Results in a row, none of which was pushed, after which the log says so. A poll that comes before
its push is usual, but not ten times."""
_MOST_EARLY = 20
"""Deliveries kept before the request's id is known: as many as a request may have jobs."""

log = logging.getLogger(__name__)


class Mailbox:
    """Where the deliveries of one request arrive. Each one calls `wake`."""

    def __init__(self, webhook: Webhook, secret: str, wake: Callable[[], None]) -> None:
        self.url = webhook.url + PATH + secret
        self._webhook, self._secret, self._wake = webhook, secret, wake
        # Guards all that follows. Nothing else is called while it is held.
        self._lock = threading.Lock()
        self._request_id: str | None = None
        self._early: list[tuple[str, str]] = []
        self._jobs: set[str] = set()
        self._has_news = False

    def expect(self, request_id: str) -> None:
        """Tell which request the deliveries have to be of, and take those that came before."""
        with self._lock:
            self._request_id = request_id
            early, self._early = self._early, []
        for request, job in early:
            self.put(request, job)

    def put(self, request: str, job: str) -> bool:
        """Whether a delivery is new and of this request.

        One that comes before the submit was answered is kept until the request's id is known.
        """
        with self._lock:
            if self._request_id is None:
                self._early = [*self._early, (request, job)][-_MOST_EARLY:]
                return True
            if request != self._request_id or job in self._jobs:
                return False
            self._jobs.add(job)
            self._has_news = True
        self._webhook.note_delivery()
        self._wake()
        return True

    def count(self) -> int:
        """How many results of this request were delivered."""
        with self._lock:
            return len(self._jobs)

    def take_news(self) -> bool:
        """Whether something was delivered since the last call."""
        with self._lock:
            has_news, self._has_news = self._has_news, False
        return has_news

    def close(self) -> None:
        """Refuse later deliveries."""
        self._webhook.forget(self._secret)


class Webhook:
    """The mailboxes of all requests. `url`: where the horde reaches this proxy, https.

    `is_reliable`: results were pushed, and none is missing since.
    """

    def __init__(
        self, url: str, new_secret: Callable[[], str] = lambda: secrets.token_urlsafe(24)
    ) -> None:
        self.url = url.rstrip("/")
        self._new_secret = new_secret
        # Several threads use it, each of them with one operation, which the interpreter does whole.
        self._mailboxes: dict[str, Mailbox] = {}
        self.is_reliable = self._has_warned = False
        self._missing = 0

    def mailbox(self, wake: Callable[[], None]) -> Mailbox:
        """A new mailbox, for a request that is about to be submitted."""
        secret = self._new_secret()
        mailbox = self._mailboxes[secret] = Mailbox(self, secret, wake)
        return mailbox

    def awaits(self, secret: str) -> bool:
        """Whether a request waits for deliveries with this secret."""
        return secret in self._mailboxes

    def note_delivery(self) -> None:
        """A result was pushed in time."""
        self.is_reliable, self._missing = True, 0

    def note_missing(self, since_last_poll: float) -> None:
        """A poll found a result, so many seconds after the poll before, that was not pushed."""
        # With less time between polls, the push may just be on its way.
        if self.is_reliable and since_last_poll < PUSHED:
            return
        self._missing += 1
        if (self.is_reliable or self._missing >= _MOST_MISSING) and not self._has_warned:
            self._has_warned = True
            log.warning(
                "results of the horde do not come to the webhook_url %s; the horde is polled until "
                "one comes. `horde-proxy check` tries the way there",
                self.url,
            )
        self.is_reliable = False

    def deliver(self, secret: str, body: Mapping[str, Any]) -> bool:
        """Whether a delivery found its request. `body`: the generation, with `id` and `request`."""
        mailbox = self._mailboxes.get(secret)
        request, job = body.get("request"), body.get("id")
        if mailbox is None or not isinstance(request, str) or not isinstance(job, str):
            return False
        return mailbox.put(request, job)

    def forget(self, secret: str) -> None:
        """Refuse deliveries with this secret from now on."""
        self._mailboxes.pop(secret, None)

"""Webhooks that tell the operator's own program how background responses and batches end.

    an end --notify--> a stored job --WebhookWork--> POST, signed --> 2xx: done
                          ^------ else again, after growing gaps, for 72 hours ---'

The form is that of Standard Webhooks, as OpenAI's: the body has the id alone, and the receiver
fetches what it belongs to. The address comes from the settings, never from a client.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from horde_proxy.api.context import AppContext
from horde_proxy.store.taken_job import Later, NewJob, TakenJob
from horde_proxy.upstreams.webhook_signature import signed_headers

if TYPE_CHECKING:
    from sqlalchemy import Connection

WEBHOOK_JOB = "webhook"
_OWNER = "webhooks"
"""In the order of the jobs, a receiver that is slow delays no client's."""
_GAPS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0)
"""Seconds between two tries: the schedule of Standard Webhooks, whose last gap repeats."""
_LAST_TRY = 72 * 3600.0
"""Seconds after which an event is given up; OpenAI does so as well."""

log = logging.getLogger(__name__)

PostWebhook = Callable[[str, bytes, Mapping[str, str]], "str | None"]
"""Posts a body to a URL with headers. None, or in a few words why it did not arrive."""


@dataclass(frozen=True)
class WebhookOptions:
    """Where events go. `events` are the types that are sent; empty: all."""

    url: str = field(repr=False)
    secret: str = field(repr=False)
    events: tuple[str, ...]
    post: PostWebhook = field(repr=False)


def notify(
    ctx: AppContext, event: str, object_id: str, connection: Connection | None = None
) -> None:
    """Have an event sent, e.g. "response.completed", if the settings ask for it.

    Within the transaction that ends what it is about, where one is given. Raises DatabaseError.
    """
    options, jobs = ctx.webhooks, ctx.store.jobs
    if options is None or jobs is None or (options.events and event not in options.events):
        return
    # The same end always has the same id, by which receivers recognise repeats.
    digest = hashlib.sha256(f"{event} {object_id}".encode()).hexdigest()
    body = {
        "id": f"evt_{digest[:48]}",
        "object": "event",
        "type": event,
        "created_at": int(ctx.now()),
        "data": {"id": object_id},
    }
    job = NewJob(str(body["id"]), WEBHOOK_JOB, _OWNER, {"body": json.dumps(body)})
    jobs.add([job], connection)
    if ctx.jobs is not None:
        ctx.jobs.wake()


class WebhookWork:
    """Sends events."""

    def __init__(self, context: Callable[[], AppContext]) -> None:
        self._context = context

    def run(self, job: TakenJob) -> Later | None:
        """See store.job_runner.JobWork."""
        ctx = self._context()
        options = ctx.webhooks
        if options is None:
            # The setting was removed meanwhile.
            return None
        body = job.details["body"].encode()
        headers = signed_headers(options.secret, job.id, int(ctx.now()), body)
        failure = options.post(options.url, body, headers)
        if failure is None:
            return None
        left = job.created + _LAST_TRY - ctx.now()
        host = urlsplit(options.url).hostname
        log.warning("the event %s did not reach %s: %s", job.id, host, failure)
        if left <= 0:
            log.error("the event %s is given up after 72 hours", job.id)
            return None
        return Later(min(_GAPS[min(job.attempts, len(_GAPS) - 1)], left))

    def give_up(self, job: TakenJob) -> None:
        """See store.job_runner.JobWork."""
        log.error("the event %s is given up", job.id)

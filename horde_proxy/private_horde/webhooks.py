"""Which webhooks are to be called, and what a call says. Pure rules over the store.

A call is kept in the store, in the transaction that delivers the job, so a restart loses none. It
is sent by `webhook_sender`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from horde_proxy.private_horde import alchemy_requests, image_responses, responses
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import (
    ALCHEMY,
    IMAGE,
    NEW,
    HordeRequest,
    Job,
    StoredGeneration,
    WebhookCall,
)

RETRY_SECONDS = (5.0, 30.0, 120.0)
"""Pauses before the further attempts. Then clients find the result by polling, as always."""
_LONGEST_URL = 2000


def check_url(url: str, *, plain: bool) -> None:
    """Raises BadRequest (400) for a URL that is not called; with `plain`, http is."""
    allowed = ("https://", "http://") if plain else ("https://",)
    if not url.startswith(allowed) or len(url) > _LONGEST_URL or not host_of(url):
        raise refusal("BadRequest", reason="webhooks need to point to an https endpoint.")


def host_of(url: str) -> str:
    """The host and port of a URL; "" for a URL without a host, or one that cannot be read."""
    try:
        parts = urlsplit(url)
        # Reading the port checks it, e.g. that of "https://host:99999".
        is_readable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        # E.g. "https://[x", which begins like an IPv6 address.
        return ""
    return parts.netloc.rpartition("@")[2] if is_readable else ""


def subscribe(op: Operation, request: HordeRequest, url: str, key: str) -> None:
    """Call a URL with each result of a new request. `key` is the digest of its API key."""
    request.webhook, request.webhook_key = url, key
    op.tx.save(request)


def announce(op: Operation, request: HordeRequest, job: Job, kudos: float) -> None:
    """Note that a delivered job's webhook is to be called, if its request has one."""
    if request.webhook is None or request.forgotten or op.rules.webhooks_are_full(op):
        return
    call = WebhookCall(NEW, op.now, request.id, job.id, request.webhook, request.webhook_key, kudos)
    op.tx.add(call)


def body(op: Operation, call: WebhookCall) -> bytes | None:
    """What a call sends: the generation, its ids and kudos (processing_generation.py:389-406).

    None if the result is gone: the request was cancelled, or has expired.
    """
    generation = op.tx.get(StoredGeneration, call.job_id)
    request = op.tx.get(HordeRequest, call.request_id)
    if generation is None or request is None:
        return None
    if request.kind == IMAGE:
        result = image_responses.generation(op, request, generation, request.needs["base"])
    elif request.kind == ALCHEMY:
        return json.dumps(_form(op, call, request, generation)).encode()
    else:
        result = responses.generation(generation)
    fields = {
        **result,
        "id": call.job_id,
        "request": call.request_id,
        "kudos": call.kudos,
    }
    return json.dumps(fields).encode()


def _form(
    op: Operation, call: WebhookCall, request: HordeRequest, generation: StoredGeneration
) -> dict[str, Any]:
    """What a call sends of a form: as in its status, with the id of the whole request."""
    name, result = generation.model, json.loads(generation.text)
    return {
        "form": name,
        "state": alchemy_requests.DONE,
        "result": alchemy_requests.shown(op, name, result, request.needs["base"]),
        "id": call.job_id,
        "request": request.needs["group"],
        "kudos": call.kudos,
    }


def headers(call: WebhookCall, content: bytes, now: float) -> Mapping[str, str]:
    """The headers of a call, with its signature (docs/private-horde.md, Webhooks)."""
    signed = f"{int(now)}.".encode() + content
    signature = hmac.new(call.key.encode(), signed, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Horde-Timestamp": str(int(now)),
        "X-Horde-Signature": f"sha256={signature}",
    }

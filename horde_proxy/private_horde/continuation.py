"""Results that grow: which slot a job fills, and how it goes on where a lost worker stopped.

    job of worker 1    "The capital of"               saved, and kept when the job fails
    job of worker 2                    " France is"   `begun` = 14: the prompt ends with the text
    result             "The capital of France is"

A chat goes on with the partial answer as its last message, or begins anew (see `chats.resumed`).

Pure rules over the store; what readers see meanwhile is in `growing_texts`.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.aihorde import kudos, transcript
from horde_proxy.aihorde.limits import TEXT_PARAMETERS
from horde_proxy.private_horde import chats
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import GrowingText, HordeRequest, Job, Payload

_SILENT_SECONDS = 20.0
"""The time without progress after which a job that had some is given to another worker: our workers
send some twice a second, and a restart of the horde or a short outage must not cost the job."""
_FAILED = ("faulted", "aborted")
_LEAST_TOKENS = int(TEXT_PARAMETERS["max_length"].least or 1)


def free_slots(op: Operation, request: HordeRequest) -> list[int]:
    """The slots that no job fills, in order: where some have a text already, those come first."""
    if request.n == 1:
        return [0]
    jobs = op.tx.find(Job, request_id=request.id)
    taken = {job.slot for job in jobs if job.state not in _FAILED}
    begun = {text.slot for text in _texts(op, request)} if request.restarted else set()
    free = [slot for slot in range(request.n) if slot not in taken]
    return sorted(free, key=lambda slot: slot not in begun)


def begun_text(op: Operation, request: HordeRequest, slot: int) -> str:
    """What lost workers wrote of a slot's result."""
    # Only after a job has failed can there be any, so most pops need not look.
    text = op.tx.get(GrowingText, (request.id, slot)) if request.restarted else None
    return text.text if text else ""


def resumed_text(op: Operation, request: HordeRequest, slot: int) -> str:
    """What the next job of a slot comes after. A chat that begins anew says so in its text."""
    begun = begun_text(op, request, slot)
    if not begun or not request.is_chat:
        return begun
    payload = op.tx.get(Payload, request.id)
    growing = op.tx.get(GrowingText, (request.id, slot))
    assert payload is not None and growing is not None
    resumed = chats.resumed(begun, payload.chat)
    if resumed != begun:
        growing.text = resumed
        op.tx.save(growing)
    return resumed


def save(op: Operation, job_id: str, text: str) -> None:
    """Save a running job's text so far, and give the job more time: its worker lives."""
    job = op.tx.get(Job, job_id)
    # Whoever holds the request ends the job, or saves soon again.
    request = None if job is None else op.tx.try_lock(HordeRequest, job.request_id)
    newest = None if request is None else op.tx.lock(Job, job_id)
    if request is None or newest is None or request.forgotten or newest.state != "processing":
        return
    newest.deadline = op.now + min(_SILENT_SECONDS, op.rules.job_ttl)
    op.tx.save(newest)
    keep(op, newest, text)


def keep(op: Operation, job: Job, text: str) -> None:
    """Keep the text of a job's slot, for the worker that comes next. The request is locked."""
    if not text:
        return
    growing = op.tx.get(GrowingText, (job.request_id, job.slot))
    if growing is None:
        op.tx.add(GrowingText(job.request_id, job.slot, text))
    elif len(text) > len(growing.text):
        growing.text = text
        op.tx.save(growing)


def whole_text(op: Operation, job: Job, text: str) -> str:
    """The result of a job: what it continued, and its own text."""
    return continued_text(op, job) + text


def continued_text(op: Operation, job: Job) -> str:
    """What a job continues. It does not change while the job is there."""
    growing = op.tx.get(GrowingText, (job.request_id, job.slot)) if job.begun else None
    return growing.text[: job.begun] if growing else ""


def forget(op: Operation, request: HordeRequest) -> None:
    """Delete what was kept for a request."""
    for growing in _texts(op, request):
        op.tx.delete(growing)


def continued(payload: Payload, text: str) -> Payload:
    """The payload of a job that goes on after this text, by fewer tokens."""
    if payload.chat:
        return _continued_chat(payload, text)
    if not text:
        return payload
    params = _shortened(payload.params, len(text))
    return Payload(payload.request_id, payload.prompt + text, params)


def _continued_chat(payload: Payload, text: str) -> Payload:
    """The same for a chat; its parameters have `continue` where the answer is begun."""
    begun = transcript.fold(transcript.read(text))
    if not begun.written:
        return payload
    params = {**_shortened(payload.params, begun.written), "continue": True}
    return Payload(payload.request_id, "", params, chats.continued(payload.chat, begun))


def _shortened(params: dict[str, Any], written: int) -> dict[str, Any]:
    """Parameters for the rest of a text, of which so many characters are there."""
    length = params["max_length"]
    left = max(length - kudos.counted_tokens(written, length), _LEAST_TOKENS)
    return {**params, "max_length": min(left, length)}


def _texts(op: Operation, request: HordeRequest) -> list[GrowingText]:
    return op.tx.find(GrowingText, request_id=request.id)

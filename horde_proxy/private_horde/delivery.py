"""The worker's side of the horde: check-in, and what a delivered job pays and costs.

Callers hold the state's lock.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.limits import MOST_MODELS_OF_A_WORKER
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.records import Job, Worker, WorkerOffer
from horde_proxy.private_horde.state import HordeState

# Without a least duration, a job that takes no time, as in tests, would have an infinite speed.
_FASTEST_SECONDS = 0.01

_BAD_MODELS = "Unfortunately we cannot accept workers serving unrecognised models at this time"


def check_in(state: HordeState, fields: dict[str, Any], api_key: str, now: float) -> Worker:
    """The worker that sent a pop, registered if its name is new. `fields`: see `schema.POP`.

    Raises AnonForbiddenWorker and WrongCredentials (403), and BadRequest for no models or too many
    (captures text_pop_403_* and text_pop_400_no_models).
    """
    owner = state.accounts.require(api_key)
    if owner.anonymous:
        raise refusal("AnonForbiddenWorker")
    if not 0 < len(fields["models"]) <= MOST_MODELS_OF_A_WORKER:
        raise refusal("BadRequest", reason=_BAD_MODELS)
    offer = WorkerOffer(
        # Without duplicates, in the worker's order: its first model serves requests without models.
        models=tuple(dict.fromkeys(fields["models"])),
        max_length=fields["max_length"],
        max_context_length=fields["max_context_length"],
        threads=fields["threads"],
        nsfw=fields["nsfw"],
        bridge_agent=fields["bridge_agent"],
    )
    return state.workers.check_in(fields["name"], owner, offer, now)


def find_job(state: HordeState, job_id: str, api_key: str) -> Job:
    """A running job, popped by a worker of the account.

    Raises InvalidJobID (404), WrongCredentials (403), AbortedGen and DuplicateGen (400).
    """
    account = state.accounts.require(api_key)
    job = state.queue.find_job(job_id)
    if job.worker.owner is not account:
        raise refusal("WrongCredentials")
    # The code tells a late worker whether its job was taken away or is already submitted.
    if job.state in ("faulted", "aborted"):
        raise refusal("AbortedGen", id=job.id, ttl=state.queue.job_ttl)
    if job.state != "processing":
        raise refusal("DuplicateGen", id=job.id)
    return job


def settle(state: HordeState, job: Job, now: float) -> float:
    """Pay the worker's owner, bill the requester, and count the job. The reward in kudos."""
    worker, request = job.worker, job.request
    reward = kudos.reward(
        prompt=len(request.prompt),
        text=len(job.text),
        max_length=request.max_length,
        size=state.sizes.of(job.model),
        trusted=worker.owner.trusted,
        validated=worker.offer.validated,
    )
    # A censored text earns the full reward: the worker did the work.
    state.charge(request, reward + kudos.TAX if job.state == "ok" else kudos.CENSORED_COST, now)
    tokens = kudos.counted_tokens(len(job.text), request.max_length)
    _credit(worker, reward, tokens)
    speed = tokens / max(now - job.popped, _FASTEST_SECONDS)
    state.workers.record_speed(worker, job.model, speed)
    # Totals count requested tokens, not generated ones (contract: stats/text/totals).
    state.counts.record(job.model, request.max_length, now)
    return reward


def _credit(worker: Worker, reward: float, tokens: int) -> None:
    """Add a delivered job to the counts of its worker and of the worker's owner."""
    worker.fulfilled += 1
    worker.kudos += reward
    worker.owner.earn(reward)
    worker.owner.jobs_done += 1
    worker.owner.tokens_made += tokens

"""The JSON objects of the private horde's answers, each made by one function.

Records in, plain dicts out, with fields in the real horde's order (tests/data/captures). Nothing is
changed or decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from horde_proxy.private_horde import chats
from horde_proxy.private_horde.counters import Counts
from horde_proxy.private_horde.fleet_responses import popped_message
from horde_proxy.private_horde.popping import TakenJobs
from horde_proxy.private_horde.records import (
    ALCHEMY,
    IMAGE,
    TEXT,
    HordeRequest,
    StoredGeneration,
    Worker,
)
from horde_proxy.private_horde.schema import default_params, worker_params
from horde_proxy.private_horde.view import QueueView

_MEGA = 1_000_000

VERSION = "5.1.5"
"""The version of AI-Horde that these answers imitate."""

Body = dict[str, Any]


def status(
    request: HordeRequest,
    generations: Iterable[StoredGeneration],
    *,
    position: int,
    wait_time: int,
    possible: bool,
) -> Body:
    """GET generate/text/status/{id}; the generations are in order of delivery."""
    return {
        "generations": [generation(result) for result in generations],
        "finished": request.finished,
        "processing": request.processing,
        "restarted": request.restarted,
        "waiting": request.waiting,
        "done": request.done,
        "faulted": request.faulted,
        "wait_time": wait_time,
        "queue_position": position,
        # Consumed so far: first the tax, then the price of each delivered job.
        "kudos": round(request.kudos, 2),
        "is_possible": possible,
    }


def generation(result: StoredGeneration) -> Body:
    """One delivered result, an element of `generations` in the status."""
    # The real horde's text generations have no id either (capture text_status_finished).
    body = {
        "text": chats.content(result.chat) if result.chat else result.text,
        "seed": result.seed,
        "gen_metadata": result.gen_metadata,
        "worker_id": result.worker_id,
        "worker_name": result.worker_name,
        "model": result.model,
        "state": result.state,
    }
    return {**body, "chat": result.chat} if result.chat else body


def progress(request: HordeRequest, *, position: int, wait_time: int, possible: bool) -> Body:
    """The status without its generations: how far a request is."""
    body = status(request, (), position=position, wait_time=wait_time, possible=possible)
    del body["generations"]
    return body


def popped(taken: TakenJobs, ttl: float) -> Body:
    """POST generate/text/pop: jobs of one request, or no job. `ttl` is in seconds.

    Without a job, the payload holds the defaults and is not null (capture text_pop_no_job).
    """
    jobs, payload = taken.jobs, taken.payload
    first = jobs[0] if jobs else None
    params = default_params()
    if payload is not None:
        # A job is one result, even if the request has several.
        params = {"prompt": payload.prompt, **worker_params(payload.params), "n": 1}
        if payload.chat:
            params["chat"] = chats.of_slot(payload.chat, first.slot if first else 0)
        if payload.params.get("continue"):
            params["continue"] = True
    return {
        "payload": params,
        "id": first.id if first else None,
        "ids": [job.id for job in jobs],
        "messages": [popped_message(message) for message in taken.messages],
        "ttl": round(ttl) if first else None,
        "extra_source_images": None,
        "skipped": dict(taken.skipped),
        "softprompt": None,
        "model": first.model if first else None,
    }


def models(view: QueueView, kind: str) -> list[Body]:
    """GET status/models: the models of a kind that are served, each with its queue.

    As in the real horde, `queued` sums the max_length or the pixel-steps of the requests that name
    a model, without their `n`, and `jobs` sums their open jobs.
    """
    workers = view.workers
    queued: dict[str, tuple[int, int]] = {}
    for request in view.open_requests(kind):
        open_jobs = request.waiting + request.processing
        # A request for any model is not counted; one that names a model twice is counted once.
        for name in set(request.models):
            work, jobs = queued.get(name, (0, 0))
            queued[name] = (work + request.work, jobs + open_jobs)
    return [
        {**_model(workers.serving(name, kind), name, *queued.get(name, (0, 0))), "type": kind}
        for name in workers.served(kind)
    ]


def _model(serving: list[Worker], name: str, queued: int, jobs: int) -> Body:
    speeds = [speed for worker in serving for model, speed in worker.speeds if model == name]
    performance = round(sum(speeds) / len(speeds), 1) if speeds else 0.0
    count = sum(worker.threads for worker in serving)
    eta = 0
    if queued:
        # 10000 is the real horde's value for a model without a measured speed.
        eta = int(queued / (count * performance)) if performance else 10000
    return {
        "performance": performance,
        "queued": float(queued),
        "jobs": float(jobs),
        "eta": eta,
        "type": "text",
        "name": name,
        "count": count,
    }


def performance(view: QueueView, past_minute: Mapping[str, int]) -> Body:
    """GET status/performance. `past_minute` are delivered tokens and pixel-steps, by kind."""
    workers = view.workers
    texts, tokens = view.queued(TEXT)
    images, pixelsteps = view.queued(IMAGE)
    forms, _ = view.queued(ALCHEMY)
    return {
        # In spite of the names, these are results and not requests; what is free depends on them.
        "queued_requests": images,
        "queued_text_requests": texts,
        "worker_count": len(workers.of_kind(IMAGE)),
        "text_worker_count": len(workers.of_kind(TEXT)),
        "thread_count": workers.threads(IMAGE),
        "text_thread_count": workers.threads(TEXT),
        "queued_megapixelsteps": round(pixelsteps / _MEGA, 2),
        "past_minute_megapixelsteps": round(past_minute[IMAGE] / _MEGA, 2),
        "queued_forms": float(forms),
        "interrogator_count": len(workers.of_kind(ALCHEMY)),
        "interrogator_thread_count": workers.threads(ALCHEMY),
        "queued_tokens": float(tokens),
        "past_minute_tokens": float(past_minute[TEXT]),
    }


def capabilities(extensions: Iterable[str]) -> Body:
    """GET status/capabilities: what this horde can do beyond AI-Horde's API."""
    return {"extensions": list(extensions)}


def heartbeat() -> Body:
    """GET status/heartbeat: always OK, since the horde could answer."""
    return {
        "message": "OK",
        "version": VERSION,
        "queue": 0,
        "threads": 1,
        "active_count": 0,
        "db_connection": True,
    }


def text_totals(totals: Mapping[str, tuple[int, int]]) -> Body:
    """GET stats/text/totals, from (jobs, tokens) by window."""
    return {
        window: {"requests": requests, "tokens": tokens}
        for window, (requests, tokens) in totals.items()
    }


def text_models(counts: Mapping[str, Counts]) -> Body:
    """GET stats/text/models and stats/img/models: delivered jobs by model, from the counts."""
    return {
        window: {name: jobs for name, (jobs, _) in models.items()}
        for window, models in counts.items()
    }


def image_totals(totals: Mapping[str, tuple[int, int]]) -> Body:
    """GET stats/img/totals, from (images, pixel-steps) by window."""
    return {
        window: {"images": images, "ps": pixelsteps}
        for window, (images, pixelsteps) in totals.items()
    }

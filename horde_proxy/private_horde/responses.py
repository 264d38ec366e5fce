"""The JSON objects of the private horde's answers, each made by one function.

Records in, plain dicts out, with fields in the real horde's order (tests/data/captures). Nothing is
changed or decided here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from horde_proxy.private_horde import chats
from horde_proxy.private_horde.counters import WINDOWS, Counts
from horde_proxy.private_horde.fleet_responses import popped_message
from horde_proxy.private_horde.online import OnlineWorkers
from horde_proxy.private_horde.records import (
    Job,
    Payload,
    StoredGeneration,
    TextRequest,
    Worker,
    WorkerMessage,
)
from horde_proxy.private_horde.schema import default_params, worker_params
from horde_proxy.private_horde.view import QueueView

VERSION = "5.1.5"
"""The version of AI-Horde that these answers imitate."""

Body = dict[str, Any]


def status(
    request: TextRequest,
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


def progress(request: TextRequest, *, position: int, wait_time: int, possible: bool) -> Body:
    """The status without its generations: how far a request is."""
    body = status(request, (), position=position, wait_time=wait_time, possible=possible)
    del body["generations"]
    return body


def popped(
    jobs: list[Job],
    payload: Payload | None,
    ttl: float,
    skipped: Mapping[str, int],
    messages: Iterable[WorkerMessage] = (),
) -> Body:
    """POST generate/text/pop: jobs of one request, or no job. `ttl` is in seconds.

    `skipped` are the numbers of requests that the worker could not take, by reason.
    Without a job, the payload holds the defaults and is not null (capture text_pop_no_job).
    """
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
        "messages": [popped_message(message) for message in messages],
        "ttl": round(ttl) if first else None,
        "extra_source_images": None,
        "skipped": dict(skipped),
        "softprompt": None,
        "model": first.model if first else None,
    }


def models(workers: OnlineWorkers, requests: Iterable[TextRequest]) -> list[Body]:
    """GET status/models?type=text: the models that are served, each with its queue.

    As in the real horde, `queued` sums the max_length of the requests that name a model, without
    their `n`, and `jobs` sums their open jobs.
    """
    queued: dict[str, tuple[int, int]] = {}
    for request in requests:
        open_jobs = request.waiting + request.processing
        # A request for any model is not counted; one that names a model twice is counted once.
        for name in set(request.models):
            tokens, jobs = queued.get(name, (0, 0))
            queued[name] = (tokens + request.max_length, jobs + open_jobs)
    return [
        _model(name, workers.serving(name), *queued.get(name, (0, 0))) for name in workers.served()
    ]


def _model(name: str, serving: list[Worker], queued: int, jobs: int) -> Body:
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


def performance(view: QueueView, past_minute_tokens: int) -> Body:
    """GET status/performance; all figures of images and alchemy are zero."""
    return {
        "queued_requests": 0,
        # In spite of the name, these are results and not requests; the free length depends on them.
        "queued_text_requests": view.queued_results,
        "worker_count": 0,
        "text_worker_count": len(view.workers.all),
        "thread_count": 0,
        "text_thread_count": view.workers.threads(),
        "queued_megapixelsteps": 0.0,
        "past_minute_megapixelsteps": 0.0,
        "queued_forms": 0.0,
        "interrogator_count": 0,
        "interrogator_thread_count": 0,
        "queued_tokens": float(view.queued_tokens),
        "past_minute_tokens": float(past_minute_tokens),
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
    """GET stats/text/models: delivered jobs by model, from the counts by window."""
    return {
        window: {name: jobs for name, (jobs, _) in models.items()}
        for window, models in counts.items()
    }


def image_totals() -> Body:
    """GET stats/img/totals: there are no images here."""
    return {window: {"images": 0, "ps": 0} for window in (*WINDOWS, "total")}


def image_models() -> Body:
    """GET stats/img/models: there are no images here."""
    return {"day": {}, "month": {}, "total": {}}

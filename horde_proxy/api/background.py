"""Responses in the background: a POST is answered at once, and a job makes the answer.

    POST background: true --> stored as queued, and a job in the table --> 200 at once
    a runner's thread: ResponseWork.run --> an internal POST /responses --> BackgroundAnswer
                         '--> its end: the status, a webhook
    GET, cancel, streams read the store, whichever process makes the answer

The body is kept in the job until the answer is there, with the client's own horde key where such
a key pays; both go with the job.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, g, jsonify, request

from horde_proxy.api.auth import account_name, authenticate, job_identity
from horde_proxy.api.background_answer import BackgroundAnswer, lifecycle_event
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.front import EVENT_STREAM
from horde_proxy.api.internal_call import InternalAnswer, JobIdentity, call
from horde_proxy.api.kept_elsewhere import fetched_elsewhere
from horde_proxy.api.recall import reading_store
from horde_proxy.api.received_call import client_socket
from horde_proxy.api.stream import HEADERS
from horde_proxy.api.webhooks import notify
from horde_proxy.errors import InvalidRequest, ProxyError, RateLimited
from horde_proxy.protocol import sse
from horde_proxy.protocol.responses.object import response_object
from horde_proxy.protocol.responses.question import ResponseQuestion
from horde_proxy.protocol.stored import ResponseNotFound
from horde_proxy.store.job_runner import JobWork
from horde_proxy.store.taken_job import Later, NewJob, TakenJob

if TYPE_CHECKING:
    from horde_proxy.store.responses import ResponseStore

RESPONSE_JOB, FORGET_JOB = "response", "forget_response"
MOST_UNFINISHED = 500
"""Responses of an owner that have not ended: each keeps its body, which may have some MB."""
MOST_UNFINISHED_OF_ALL = 2_000
"""Those of all owners: in mode `passthrough` a stranger's horde key is one."""
_UNSTORED_SECONDS = 600.0
"""Seconds for which an answer with `store: false` is kept: as long as at OpenAI."""
_FOLLOW_SECONDS = 0.5
"""Seconds between two looks at the events of a response that is streamed from the store."""
_LONGEST_GAP = 60.0
"""The longest pause (s) before another try of a refused response, unless Retry-After is longer."""
_AFTER_FAILED_SAVE = 10.0
"""Seconds until another try after the database did not take an answer: it may be back by then."""
_LOCKED_SECONDS = 2.0
"""Seconds until a conversation is tried again: as clients are told (recall.ConversationLocked)."""
_NO_MODEL_SECONDS, _MOST_WITHOUT_MODEL = 30.0, 20
"""A model that was there when the request came may be back soon: ten minutes are waited for it."""
_KEPT_HEADERS = ("X-Endpoint",)
"""Headers of a request that decide who answers it."""
# Codes of errors that clients look for; all others become one of OpenAI's list.
_KNOWN_CODES = frozenset({"context_length_exceeded", "insufficient_quota", "model_not_found"})

blueprint = Blueprint("background", __name__)
log = logging.getLogger(__name__)


def defer(ctx: AppContext, question: ResponseQuestion, content: bytes) -> Response | None:
    """The response to a request for an answer in the background; None for any other.

    `content` is the body as it came. Raises InvalidRequest where nothing is kept.
    """
    if not question.background:
        return None
    store, jobs = ctx.store.responses, ctx.store.jobs
    if store is None or jobs is None:
        raise InvalidRequest(
            "This proxy keeps no answers, so it can make none in the background. Leave "
            "'background' out, or have store.days set above zero.",
            param="background",
            code="unsupported_parameter",
        )
    owner, is_streamed = account_name(ctx), question.requests[0].stream
    response = response_object(question, status="queued")
    events = [lifecycle_event(name, response, at) for at, name in enumerate(("created", "queued"))]
    job = _job(ctx, question, owner, content)
    with reading_store():
        if jobs.count_of(owner, RESPONSE_JOB) >= MOST_UNFINISHED:
            raise TooManyUnfinished(f"You have {MOST_UNFINISHED:,}")
        if jobs.count_of(None, RESPONSE_JOB) >= MOST_UNFINISHED_OF_ALL:
            raise TooManyUnfinished(f"This proxy has {MOST_UNFINISHED_OF_ALL:,}")
        # Both or none: without its job, the response would be queued for ever.
        store.save(
            owner,
            response,
            question.input_items,
            events=events if is_streamed else None,
            also=jobs.adding_background(job),
        )
    if ctx.jobs is not None:
        ctx.jobs.wake()
    g.record.model = g.record.requested
    return followed(ctx, owner, question.id) if is_streamed else jsonify(response)


def _job(ctx: AppContext, question: ResponseQuestion, owner: str, content: bytes) -> NewJob:
    """The job that answers a question, for the client of the current request."""
    identity = job_identity(question.id)
    details = {
        "response": question.id,
        "created": question.created,
        "is_streamed": question.requests[0].stream,
        "body": content.decode("utf-8", "surrogateescape"),
        "headers": {
            name: request.headers[name] for name in _KEPT_HEADERS if name in request.headers
        },
        "client": identity.client,
        "address": identity.address,
        "key_digest": identity.key_digest,
        "horde_key": identity.horde_key,
        "places": identity.places,
    }
    expires = ctx.now() + ctx.serving.background_timeout
    return NewJob(question.id, RESPONSE_JOB, owner, details, expires=expires)


@blueprint.post("/responses/<response_id>/cancel")
def cancel(response_id: str) -> Response:
    """Cancel a response: the object after that. One that has ended keeps its status."""
    authenticate()
    ctx = current_context()
    try:
        return jsonify(cancelled(ctx, account_name(ctx), response_id))
    except ResponseNotFound as exc:
        return fetched_elsewhere(ctx, response_id, exc)


def cancelled(ctx: AppContext, owner: str, response_id: str) -> dict[str, Any]:
    """The response object after a cancel, which may be repeated. Raises ResponseNotFound."""
    store, jobs = ctx.store.responses, ctx.store.jobs
    with reading_store():
        stored = store.get(owner, response_id) if store else None
        if stored is None or store is None or jobs is None:
            raise ResponseNotFound(response_id)
        if not stored.response["background"]:
            raise InvalidRequest(
                "Cannot cancel a synchronous response: only those with 'background' can be "
                "cancelled.",
                code="not_in_background",
            )
        if not stored.is_running:
            return stored.response
        response = {**stored.response, "status": "cancelled"}
        # From here on nobody writes to it any more; then the job is ended, wherever it runs.
        if not store.update(owner, response):
            ended = store.get(owner, response_id)
            if ended is None:
                raise ResponseNotFound(response_id)
            return ended.response
        # Before the job is removed: it sends the webhook if this process is killed in between.
        _tell(ctx, owner, response)
        jobs.cancel(job_id=response_id)
    if ctx.jobs is not None:
        ctx.jobs.stop_cancelled(response_id)
    return response


class TooManyUnfinished(RateLimited):
    """The client, or all clients, have too many background responses that have not ended."""

    code = "too_many_background_responses"
    retry_after = 60

    def __init__(self, count: str) -> None:
        super().__init__(
            f"{count} responses in the background that have not ended. Wait for some of them, or "
            "cancel some."
        )


class ResponseWork:
    """Makes the answers of background responses, by internal calls to the app."""

    def __init__(self, app: Flask, context: Callable[[], AppContext]) -> None:
        self._app, self._context = app, context

    def run(self, job: TakenJob) -> Later | None:
        """See store.job_runner.JobWork."""
        ctx = self._context()
        store = ctx.store.responses
        if store is None:
            return None
        answer = _answer(ctx, job, store)
        if answer.is_over:
            # The process that ended it may have been killed before it sent the webhook.
            self._ended(ctx, job, answer)
            return None
        left = (job.expires or ctx.now()) - ctx.now()
        if left <= 0:
            answer.fail(_failure("timeout", "The answer did not come in time.", 504))
        else:
            outcome = call(
                self._app,
                self._identity(job, answer, left),
                "/v1/responses",
                job.details["body"].encode("utf-8", "surrogateescape"),
                headers=job.details["headers"],
            )
            if job.is_handed_over or job.is_cancelled:
                return None
            if not answer.is_over and (later := self._later(job, answer, outcome)):
                if not answer.has_failed_to_save:
                    # The next try asks anew: what this one had submitted was cancelled.
                    answer.forget_requests()
                return later
        self._ended(ctx, job, answer)
        return None

    def give_up(self, job: TakenJob) -> None:
        """See store.job_runner.JobWork."""
        ctx = self._context()
        if ctx.store.responses is None:
            return
        answer = _answer(ctx, job, ctx.store.responses)
        if not answer.is_over:
            answer.fail(_failure("server_error", "The proxy failed on this request.", 500))
            self._ended(ctx, job, answer)

    def _identity(self, job: TakenJob, answer: BackgroundAnswer, seconds: float) -> JobIdentity:
        details = job.details
        return JobIdentity(
            job.id,
            details["client"],
            details["address"],
            key_digest=details["key_digest"],
            horde_key=details["horde_key"],
            # Jobs of earlier releases have none.
            places=details.get("places"),
            seconds=seconds,
            # It was counted when the client sent it.
            is_new=False,
            journal=answer.journal,
            control=job.control,
            answer=answer,
        )

    def _later(
        self, job: TakenJob, answer: BackgroundAnswer, outcome: InternalAnswer
    ) -> Later | None:
        """When to try again; None for a failure that stays, which is then stored."""
        if answer.has_failed_to_save:
            return Later(_AFTER_FAILED_SAVE)
        seconds, error = outcome.retry_after, _error_of(outcome)
        is_final = outcome.headers.get("x-should-retry") == "false" and outcome.status != 429
        if seconds is not None and not is_final:
            # The gaps grow: many that meet a limit of their key would fill the log.
            gap = max(seconds, min(2.0 ** min(job.attempts, 6), _LONGEST_GAP))
            left = (job.expires or self._context().now()) - self._context().now()
            return Later(max(min(gap, left + 1.0), 1.0))
        # Another answer is being written into the same conversation.
        if outcome.status == 409:
            return Later(_LOCKED_SECONDS)
        if error.get("code") == "model_not_found" and job.attempts < _MOST_WITHOUT_MODEL:
            return Later(_NO_MODEL_SECONDS)
        message = error.get("message") or "The answer broke off."
        answer.fail(_failure(error.get("code"), message, outcome.status))
        return None

    def _ended(self, ctx: AppContext, job: TakenJob, answer: BackgroundAnswer) -> None:
        stored = ctx.store.responses and ctx.store.responses.get(job.owner, answer.id)
        # Nobody is notified of the end of a deleted response.
        if stored and not stored.is_running:
            _tell(ctx, job.owner, stored.response)


def _tell(ctx: AppContext, owner: str, response: Mapping[str, Any]) -> None:
    """Send the webhook of its end, and have the response deleted in time if it is not to be kept.

    Doing it again changes nothing: both are jobs with the ids that they had before.
    """
    if not response["store"] and ctx.store.jobs is not None:
        forget = NewJob(
            f"forget-{response['id']}",
            FORGET_JOB,
            owner,
            {"response": response["id"]},
            delay=_UNSTORED_SECONDS,
        )
        ctx.store.jobs.add([forget])
    notify(ctx, f"response.{response['status']}", response["id"])


class ForgetWork:
    """Deletes the background responses that were not to be stored, after a while."""

    def __init__(self, context: Callable[[], AppContext]) -> None:
        self._context = context

    def run(self, job: TakenJob) -> Later | None:
        """See store.job_runner.JobWork."""
        store = self._context().store.responses
        if store is not None:
            store.delete(job.owner, job.details["response"])
        return None

    def give_up(self, job: TakenJob) -> None:
        """Nothing: pruning removes the response with all that is too old."""


def followed(ctx: AppContext, owner: str, response_id: str, after: int = -1) -> Response:
    """The events of a stored response after one of them, and those that still come."""
    stream = FollowedEvents(ctx, owner, response_id, after)
    return Response(stream, content_type=EVENT_STREAM, headers=HEADERS)


class FollowedEvents:
    """The events of a response that a job makes, read from the store as they come.

    The client may leave and come back; the job goes on. Closing it frees its place.
    """

    def __init__(self, ctx: AppContext, owner: str, response_id: str, after: int) -> None:
        self._ctx, self._owner, self._id, self._after = ctx, owner, response_id, after
        self._sleeper = ctx.live.new_sleeper(_FOLLOW_SECONDS, lambda: float("inf"))
        self._open = ExitStack()
        self._open.enter_context(ctx.live.slots.held())
        self._watch = self._open.enter_context(ctx.live.disconnects.watch_client(client_socket()))
        self._watch.waiter = self
        self._events = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._events)

    def wake(self) -> None:
        """See disconnects.Wakeable."""
        self._sleeper.wake()

    def stop(self, error: ProxyError) -> None:
        """See disconnects.Wakeable."""
        self._sleeper.stop(error)

    def close(self) -> None:
        """Free what it holds."""
        self._events.close()
        self._open.close()

    def _run(self) -> Generator[bytes, None, None]:
        interval, sent = self._ctx.serving.keepalive_interval, self._ctx.clock()
        try:
            is_running = True
            while is_running:
                is_running, events = self._new()
                for event in events:
                    sent = self._ctx.clock()
                    yield event
                if is_running and self._ctx.clock() - sent >= interval:
                    sent = self._ctx.clock()
                    yield sse.comment("in the background")
                if is_running:
                    self._sleeper.wait(_FOLLOW_SECONDS)
                    self._watch.check()
        except ProxyError:
            # The client comes back with the number of its last event.
            return

    def _new(self) -> tuple[bool, list[bytes]]:
        """Whether more will come, and the events since the last call."""
        store = self._ctx.store.responses
        with reading_store():
            # In this order: what is stored with the last status is read after that.
            stored = store.get(self._owner, self._id) if store else None
            is_running = stored is not None and stored.is_running
            events = store.events(self._owner, self._id, after=self._after) if store else []
        self._after += len(events)
        return is_running, events


def works(app: Flask, context: Callable[[], AppContext]) -> dict[str, JobWork]:
    """How the jobs of background responses are done, by kind."""
    return {RESPONSE_JOB: ResponseWork(app, context), FORGET_JOB: ForgetWork(context)}


def _answer(ctx: AppContext, job: TakenJob, store: ResponseStore) -> BackgroundAnswer:
    conversations = ctx.store.conversations
    return BackgroundAnswer(job, store, conversations, clock=ctx.clock, now=ctx.now)


def _failure(code: str | None, message: str, status: int) -> dict[str, str]:
    """The `error` of a failed response."""
    if code not in _KNOWN_CODES:
        code = "invalid_prompt" if status < 500 else "server_error"
    return {"code": code, "message": message}


def _error_of(outcome: InternalAnswer) -> dict[str, Any]:
    """The error object of an answer; empty for none."""
    try:
        document = json.loads(outcome.body)
    except ValueError:
        return {}
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}

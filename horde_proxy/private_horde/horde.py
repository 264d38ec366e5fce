"""The private horde: the text half of AI-Horde's /api/v2 in memory, one method for each route.

Plain Python; it knows no Flask and nothing of the proxy. Bodies come in as parsed JSON, answers go
out as plain dicts, refusals as HordeError. Each method reads its body, takes the state's lock once
(see `state`) and leaves the rules to submission, delivery, queue and workers.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.aihorde import kudos, limits
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import delivery, responses, schema, submission
from horde_proxy.private_horde.errors import key_missing, refusal
from horde_proxy.private_horde.rate_limits import ApiCall, RateLimits, RateLimitState
from horde_proxy.private_horde.records import HordeAccount, Job, TextRequest
from horde_proxy.private_horde.state import HordeState

Body = dict[str, Any]

_MODEL_STATES = ["known", "custom", "all"]
_NO_WORKERS = (
    "Warning: No available workers can fulfill this request. It will expire in {minutes:.0f} "
    "minutes. Consider reducing the amount of tokens to generate."
)


@dataclass(frozen=True)
class OpenRequest:
    """A request that is not finished. `model` is the first model that it names, "" for any.

    `state` is "waiting" until all of its results have been popped, and "processing" after that.
    """

    id: str
    model: str
    state: str


def _uuid() -> str:
    return str(uuid.uuid4())


class PrivateHorde:
    """A horde of your own. Thread-safe; everything is lost when the process ends.

    Where it differs from the real horde: a cancelled request is gone at once (status: 404), but
    its running jobs may still be delivered and earn their reward; generations are in the order of
    delivery; positions, waits and `is_possible` are exact instead of up to 60 s old; the third
    failed job faults a request immediately. Webhooks are accepted but never called. There are no
    shared keys, no styles and no images.

    `clock` gives seconds for everything but the time in X-Ratelimit-Reset, which `wall_clock`
    gives. `job_ttl`, `expiry` and `offline_after` are seconds. With `upfront_kudos`, an account
    must own the kudos of a request beyond the free length; with `rate_limits`, fast callers are
    refused; without `anonymous`, the anonymous key is unknown. `model_sizes` are billions of
    parameters by name; a model with a size is "known". Set `maintenance` to refuse new requests,
    and `settle_every` to charge kudos every so many seconds (the real horde: 3) and not at once.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = _uuid,
        job_ttl: float = limits.JOB_SECONDS,
        expiry: float = limits.REQUEST_SECONDS,
        offline_after: float = limits.WORKER_SECONDS,
        max_faults: int = limits.MOST_FAULTS,
        upfront_kudos: bool = False,
        rate_limits: bool = True,
        anonymous: bool = True,
        model_sizes: Mapping[str, float] | None = None,
    ) -> None:
        self.maintenance = False
        self.upfront_kudos = upfront_kudos
        self.rate_limits = rate_limits
        self.wall_clock = wall_clock
        self._calls = RateLimits(clock)
        self._state = HordeState(
            clock=clock,
            new_id=new_id,
            job_ttl=job_ttl,
            expiry=expiry,
            offline_after=offline_after,
            max_faults=max_faults,
            anonymous=anonymous,
            model_sizes=model_sizes or {},
        )

    @property
    def settle_every(self) -> float:
        """How often kudos are charged (s); 0: at once."""
        return self._state.settle_every

    @settle_every.setter
    def settle_every(self, seconds: float) -> None:
        self._state.settle_every = seconds

    def add_account(
        self,
        api_key: str,
        username: str,
        *,
        kudos: float = 0.0,
        trusted: bool = False,
        service: bool = False,
        concurrency: int = limits.CONCURRENCY,
    ) -> str:
        """Register an account. Its full name, such as "username#1".

        Raises ValueError if the key is empty or taken.
        """
        state = self._state
        with state.locked() as now:
            account = HordeAccount(
                state.accounts.next_id(),
                username,
                now,
                kudos=kudos,
                trusted=trusted,
                service=service,
                concurrency=concurrency,
            )
            state.accounts.add(api_key, account)
            return account.username

    def open_requests(self) -> list[OpenRequest]:
        """Every request that is waiting or being processed, the oldest first."""
        with self._state.locked():
            return [
                OpenRequest(
                    request.id,
                    request.models[0] if request.models else "",
                    "waiting" if request.waiting else "processing",
                )
                for request in self._state.queue.open.values()
            ]

    def count_call(
        self, kind: str, address: str, method: str, path: str, api_key: str | None
    ) -> RateLimitState | None:
        """Count a call for the rate limits. The tightest limit, None for a route without limits.

        Calls are counted even without `rate_limits`, because the headers are always sent.
        """
        key = None if api_key is None else key_digest(api_key)
        call = ApiCall(address, method, path, key, anonymous=api_key == ANONYMOUS_KEY)
        return self._calls.hit(kind, call)

    def authenticate(self, api_key: str | None, *, as_worker: bool = False) -> str:
        """The username of a key's account. Call it before a body is read.

        Raises HordeError: 400 without a key, InvalidAPIKey (401), and for a worker without an
        account of its own AnonForbiddenWorker (403).
        """
        if api_key is None:
            raise key_missing()
        with self._state.locked():
            account = self._state.accounts.require(api_key)
        if as_worker and account.anonymous:
            raise refusal("AnonForbiddenWorker")
        return account.username

    # The routes for clients.

    def submit(self, api_key: str | None, body: Any, address: str = "") -> Body:
        """POST generate/text/async: {"id", "kudos", "message"?}, or {"kudos"} for a dry run.

        `address` is the caller's. After a trusted account has used it, it may submit faster.
        """
        # Bodies are validated before the lock is taken, because a large one takes long.
        fields = schema.read(schema.SUBMIT, body)
        state = self._state
        with state.locked() as now:
            account = submission.admit(state, fields, api_key or "", self.maintenance)
            if fields["dry_run"]:
                return {"kudos": submission.dry_run(state, fields)}
            request = submission.new_request(
                state, fields, account, now, check_kudos=self.upfront_kudos
            )
            state.queue.add(request, now)
            state.charge(request, kudos.TAX, now)
            account.requests_sent += 1
            account.tokens_requested += request.n * request.max_length
            # Contract: base.py:319-321 and limiter_api.py:14-25.
            if account.trusted or account.service:
                self._calls.trust(address)
            # As in the real horde, `kudos` is always 0 for text (capture text_async_202).
            answer: Body = {"id": request.id, "kudos": 0.0}
            if not state.workers.any_fits(request):
                answer["message"] = _NO_WORKERS.format(minutes=state.queue.expiry / 60)
            return answer

    def status(self, request_id: str) -> Body:
        """GET generate/text/status/{id}. Raises RequestNotFound."""
        with self._state.locked() as now:
            return self._status(self._state.queue.find(request_id), now)

    def cancel(self, request_id: str) -> Body:
        """DELETE generate/text/status/{id}: forget the request. Its last status.

        Workers may still submit its running jobs; their texts are dropped. Raises RequestNotFound.
        """
        with self._state.locked() as now:
            request = self._state.queue.find(request_id)
            body = self._status(request, now)
            self._state.queue.forget(request)
            return body

    # The routes for workers.

    def pop(self, api_key: str | None, body: Any) -> Body:
        """POST generate/text/pop: up to `amount` jobs of one request; `id` is null without one.

        A pop also checks the worker in, and registers it if its name is new.
        """
        fields = schema.read(schema.POP, body)
        state = self._state
        with state.locked() as now:
            worker = delivery.check_in(state, fields, api_key or "", now)
            favoured = [worker.owner, *state.accounts.named(fields["priority_usernames"])]
            request = state.queue.next_for(
                favoured, lambda candidate: state.workers.fits(worker, candidate)
            )
            jobs: list[Job] = []
            if request is not None:
                jobs = state.queue.take(request, worker, fields["amount"], state.new_id, now)
            # Not earlier: a worker in maintenance still gets its owner's requests.
            elif worker.maintenance:
                raise refusal("WorkerMaintenance")
            return responses.popped(jobs, state.queue.job_ttl)

    def submit_generation(self, api_key: str | None, body: Any) -> Body:
        """POST generate/text/submit: {"reward": kudos}, 0 for a job that the worker faulted.

        Raises InvalidJobID, WrongCredentials, DuplicateGen and AbortedGen.
        """
        fields = schema.read(schema.GENERATION, body)
        state = self._state
        with state.locked() as now:
            job = delivery.find_job(state, fields["id"], api_key or "")
            # The worker gives the job back, and its result waits for another worker.
            if fields["state"] == "faulted":
                state.queue.fail(job, "faulted")
                return {"reward": 0.0}
            job.text = fields["generation"]
            job.seed = fields["seed"]
            job.gen_metadata = fields["gen_metadata"]
            state.queue.deliver(job, fields["state"], now)
            return {"reward": delivery.settle(state, job, now)}

    def set_maintenance(self, api_key: str | None, worker_id: str, body: Any) -> Body:
        """PUT workers/{id}: {"maintenance": bool}, for one of the caller's workers.

        Raises WrongCredentials for somebody else's worker, and WorkerNotFound.
        """
        fields = schema.read(schema.WORKER_CHANGE, body)
        state = self._state
        with state.locked():
            account = state.accounts.require(api_key or "")
            worker = state.workers.find(worker_id)
            if worker.owner is not account:
                raise refusal("WrongCredentials")
            # The real horde can also change name, info and team.
            if fields["maintenance"] is None:
                raise refusal("BadRequest", reason="Only `maintenance` can be changed here.")
            state.workers.set_maintenance(worker, fields["maintenance"])
            return {"maintenance": worker.maintenance}

    # The public routes.

    def models(
        self,
        kind: str = "image",
        model_state: str = "all",
        min_count: int | None = None,
        max_count: int | None = None,
    ) -> list[Body]:
        """GET status/models: the models that online workers serve; [] for any kind but "text".

        `kind` defaults to "image", as in the real horde.
        """
        if model_state not in _MODEL_STATES:
            reason = f"'model_state' needs to be one of {_MODEL_STATES}"
            raise refusal("BadRequest", reason=reason)
        if kind != "text":
            return []
        # The sizes never change, so they need no lock.
        knows = self._state.sizes.knows
        return [
            model
            for model in self._models()
            if (model_state == "all" or knows(model["name"]) == (model_state == "known"))
            and (min_count is None or model["count"] >= min_count)
            and (max_count is None or model["count"] <= max_count)
        ]

    def model(self, name: str) -> list[Body]:
        """GET status/models/{name}: a list with the one model, or [] if no worker serves it."""
        return [model for model in self._models() if model["name"] == name]

    def workers(self, kind: str | None = None, name: str | None = None) -> list[Body]:
        """GET workers: the workers that are online; [] for any kind but "text"."""
        if kind not in (None, "text"):
            return []
        with self._state.locked():
            return [
                responses.worker(worker, online=True)
                for worker in self._state.workers.online
                if name in (None, worker.name)
            ]

    def worker(self, worker_id: str) -> Body:
        """GET workers/{id}: one worker, online or not. Raises WorkerNotFound."""
        workers = self._state.workers
        with self._state.locked():
            worker = workers.find(worker_id)
            return responses.worker(worker, online=workers.is_online(worker))

    def worker_named(self, name: str) -> Body:
        """GET workers/name/{name}: one worker, online or not. Raises WorkerNotFound."""
        workers = self._state.workers
        with self._state.locked():
            worker = workers.find_named(name)
            return responses.worker(worker, online=workers.is_online(worker))

    def performance(self) -> Body:
        """GET status/performance: the load of queue and workers."""
        state = self._state
        with state.locked() as now:
            _, past_minute = state.counts.totals("minute", now)
            return responses.performance(state.queue, state.workers, past_minute)

    def modes(self) -> Body:
        """GET status/modes: whether new requests are refused."""
        return {"maintenance_mode": self.maintenance, "invite_only_mode": False}

    def find_user(self, api_key: str | None) -> Body:
        """GET find_user: the caller's account. Raises InvalidAPIKey and UserNotFound.

        The real horde repeats a wrong key in its message (capture find_user_404). This one does
        not, so that no log or page shows the key.
        """
        # As captured: 401 without a key, 404 with a wrong key.
        if api_key is None:
            raise refusal("InvalidAPIKey")
        state = self._state
        with state.locked() as now:
            account = state.accounts.find(api_key)
            if account is None:
                raise refusal("UserNotFound")
            return responses.user(account, state.workers.owned_by(account), now)

    def text_totals(self) -> Body:
        """GET stats/text/totals: delivered jobs and tokens by window."""
        with self._state.locked() as now:
            return responses.text_totals(self._state.counts, now)

    def text_models(self) -> Body:
        """GET stats/text/models: delivered jobs by window and model."""
        with self._state.locked() as now:
            return responses.text_models(self._state.counts, now)

    def _status(self, request: TextRequest, now: float) -> Body:
        state = self._state
        return responses.status(
            request,
            position=state.queue.position(request),
            wait_time=state.wait_time(request, now),
            possible=state.workers.any_fits(request),
        )

    def _models(self) -> list[Body]:
        with self._state.locked():
            return responses.models(self._state.workers, self._state.queue.open.values())

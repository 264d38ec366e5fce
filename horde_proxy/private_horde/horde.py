"""The private horde: the text half of AI-Horde's /api/v2 in memory, one method for each route.

Plain Python under one lock; it knows no Flask and nothing of the proxy. Bodies come in as parsed
JSON, answers go out as plain dicts, refusals as HordeError.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from horde_proxy.private_horde import admission, kudos, responses, schema
from horde_proxy.private_horde.accounts import ANONYMOUS_KEY, HordeAccounts, digest
from horde_proxy.private_horde.counters import Counters
from horde_proxy.private_horde.errors import HordeError, refusal
from horde_proxy.private_horde.forecast import Forecast
from horde_proxy.private_horde.queue import Queue
from horde_proxy.private_horde.rate_limits import Caller, RateLimitState, Rates
from horde_proxy.private_horde.records import HordeAccount, Job, Offer, TextRequest, Worker
from horde_proxy.private_horde.workers import Workers

Body = dict[str, Any]

_FORECAST_SECONDS = 1.0
_DOWNGRADED = -50.0
_MODELS_OF_A_WORKER = 200
_FASTEST_SECONDS = 0.01
_NO_WORKERS = (
    "Warning: No available workers can fulfill this request. It will expire in {minutes:.0f} "
    "minutes. Consider reducing the amount of tokens to generate."
)


@dataclass(frozen=True)
class OpenRequest:
    """A request that is neither done nor gone. `model` is the first asked for, "" for any.

    `state` is "waiting" while something of it still has to be popped, else "processing".
    """

    id: str
    model: str
    state: str


def _uuid() -> str:
    return str(uuid.uuid4())


class PrivateHorde:
    """A horde of one's own. Thread-safe; everything is lost when the process ends.

    Where it does better than the real one: a cancelled request is gone at once (status: 404), while
    jobs of it that are out may still be handed in and earn their reward; generations come in the
    order of delivery; positions, waits and `is_possible` are exact instead of up to 60 s old; three
    strikes count at once. Webhooks are accepted and never called; there are no shared keys, no
    styles and no images.

    `clock` gives seconds for everything here, `wall_clock` only the time in X-Ratelimit-Reset.
    `job_ttl`, `expiry` and `offline_after` are seconds. `upfront_kudos` asks for kudos beforehand
    above the free limit, `rate_limits` turns fast callers away, `anonymous` False makes the
    anonymous key an unknown one; `model_sizes` are billions of
    parameters by name, and make a model "known". Set `maintenance` to refuse new requests.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = _uuid,
        job_ttl: float = 150.0,
        expiry: float = 1200.0,
        offline_after: float = 300.0,
        max_faults: int = 3,
        upfront_kudos: bool = False,
        rate_limits: bool = True,
        anonymous: bool = True,
        model_sizes: Mapping[str, float] | None = None,
    ) -> None:
        self.maintenance = False
        self.upfront_kudos = upfront_kudos
        self.rate_limits = rate_limits
        self.wall_clock = wall_clock
        self._clock = clock
        self._new_id = new_id
        self._sizes = dict(model_sizes or {})
        self._lock = threading.Lock()
        self._accounts = HordeAccounts(clock(), anonymous)
        self._workers = Workers(offline_after, self._sizes, new_id)
        self._queue = Queue(job_ttl=job_ttl, expiry=expiry, max_faults=max_faults)
        self._tally = Counters()
        self._rates = Rates(clock)
        self._forecast = Forecast((), self._workers)
        self._forecast_until = clock()

    def add_account(
        self,
        api_key: str,
        username: str,
        *,
        kudos: float = 0.0,
        trusted: bool = False,
        service: bool = False,
        concurrency: int = 30,
    ) -> str:
        """Register an account and return its full name, "username#id".

        Raises ValueError for a key that is empty or taken.
        """
        with self._now() as now:
            account = HordeAccount(
                self._accounts.next_id(),
                username,
                now,
                kudos=kudos,
                trusted=trusted,
                service=service,
                concurrency=concurrency,
            )
            self._accounts.add(api_key, account)
            return account.username

    def open_requests(self) -> list[OpenRequest]:
        """Return every request that still waits or is worked on, oldest first."""
        with self._now():
            return [
                OpenRequest(
                    request.id,
                    request.models[0] if request.models else "",
                    "waiting" if request.waiting else "processing",
                )
                for request in self._queue.open.values()
            ]

    def count_call(
        self, kind: str, address: str, method: str, path: str, apikey: str | None
    ) -> RateLimitState | None:
        """Count a call for the rate limits; None for a route without one.

        The reading says whether the limit is exceeded; with `rate_limits` off it never does.
        """
        anonymous = apikey == ANONYMOUS_KEY
        key = None if apikey is None else digest(apikey)
        return self._rates.hit(kind, Caller(address, method, path, key, anonymous))

    # What clients call.

    def submit(self, apikey: str | None, body: Any, address: str = "") -> Body:
        """Return {"id", "kudos", "message"?} of a new request, or {"kudos"} for a dry run.

        POST generate/text/async. `address` is the caller's; one that a trusted account used may
        submit faster afterwards. Raises HordeError, in the order of checks of the real horde.
        """
        asked = schema.read(schema.SUBMIT, body, apikey)
        with self._now() as now:
            account = self._admit(asked, apikey or "")
            if asked["dry_run"]:
                return {"kudos": self._estimate(asked)}
            request = self._request(asked, account, now)
            self._queue.add(request, now)
            self._charge(request, kudos.TAX)
            account.requests_sent += 1
            account.tokens_asked += request.n * request.max_length
            if account.trusted or account.service:
                self._rates.trust(address)
            answer: Body = {"id": request.id, "kudos": 0.0}
            if not self._workers.any_fits(request):
                answer["message"] = _NO_WORKERS.format(minutes=self._queue.expiry / 60)
            return answer

    def status(self, request_id: str) -> Body:
        """Return a request's status, GET generate/text/status/{id}; RequestNotFound when gone."""
        with self._now() as now:
            return self._status(self._queue.find(request_id), now)

    def cancel(self, request_id: str) -> Body:
        """Drop a request and return its status before that; afterwards it is not found any more.

        DELETE generate/text/status/{id}. Jobs in flight may still be delivered, for nobody.
        """
        with self._now() as now:
            request = self._queue.find(request_id)
            body = self._status(request, now)
            self._queue.forget(request)
            return body

    # What workers call.

    def pop(self, apikey: str | None, body: Any) -> Body:
        """Return up to `amount` jobs of one request; `id` is null when nothing fits.

        POST generate/text/pop. It is the worker's check-in, too; a new name makes a new worker.
        """
        offer = schema.read(schema.POP, body, apikey)
        with self._now() as now:
            worker = self._check_in(offer, apikey or "", now)
            favoured = [worker.owner, *self._accounts.named(offer["priority_usernames"])]
            request = self._queue.next_for(favoured, lambda r: self._workers.fits(worker, r))
            jobs: list[Job] = []
            if request is not None:
                amount = offer["amount"]
                jobs = self._queue.take(request, worker, amount, self._new_id, now)
            elif worker.maintenance:
                raise refusal("WorkerMaintenance")
            return responses.popped(jobs, self._queue.job_ttl)

    def deliver(self, apikey: str | None, body: Any) -> Body:
        """Take a job's result and return {"reward": kudos}, 0 for a faulted one.

        POST generate/text/submit. Raises InvalidJobID, WrongCredentials, DuplicateGen, AbortedGen.
        """
        result = schema.read(schema.DELIVER, body, apikey)
        with self._now() as now:
            account = self._accounts.require(apikey or "")
            job = self._queue.find_job(result["id"])
            if job.worker.owner is not account:
                raise refusal("WrongCredentials")
            self._check_running(job)
            if result["state"] == "faulted":
                self._queue.fail(job, "faulted")
                return {"reward": 0.0}
            job.text = result["generation"]
            job.seed = result["seed"]
            job.gen_metadata = result["gen_metadata"]
            self._queue.deliver(job, result["state"], now)
            return {"reward": self._reward(job, now)}

    def set_maintenance(self, apikey: str | None, worker_id: str, body: Any) -> Body:
        """Put a worker of one's own into maintenance or out of it; PUT workers/{id}.

        Returns {"maintenance": bool}; raises WrongCredentials for somebody else's worker.
        """
        change = schema.read(schema.CHANGE, body, apikey)
        with self._now():
            account = self._accounts.require(apikey or "")
            worker = self._workers.find(worker_id)
            if worker.owner is not account:
                raise refusal("WrongCredentials")
            if change["maintenance"] is None:
                raise refusal("BadRequest", reason="Only `maintenance` can be changed here.")
            self._workers.set_maintenance(worker, change["maintenance"])
            return {"maintenance": worker.maintenance}

    # What everybody may ask.

    def models(
        self,
        kind: str = "image",
        model_state: str = "all",
        min_count: int | None = None,
        max_count: int | None = None,
    ) -> list[Body]:
        """Return the models that online workers serve, GET status/models; only text has any."""
        states = ["known", "custom", "all"]
        if model_state not in states:
            raise refusal("BadRequest", reason=f"'model_state' needs to be one of {states}")
        if kind != "text":
            return []
        return [
            model
            for model in self._models()
            if (model_state == "all" or self._known(model["name"]) == (model_state == "known"))
            and (min_count is None or model["count"] >= min_count)
            and (max_count is None or model["count"] <= max_count)
        ]

    def model(self, name: str) -> list[Body]:
        """Return a list of that one model, empty if it is not served; GET status/models/{name}."""
        return [model for model in self._models() if model["name"] == name]

    def workers(self, kind: str | None = None, name: str | None = None) -> list[Body]:
        """Return the online workers, GET workers; `kind` other than text has none."""
        if kind not in (None, "text"):
            return []
        with self._now():
            online = [each for each in self._workers.online if name in (None, each.name)]
            return [responses.worker(each, True) for each in online]

    def worker(self, worker_id: str) -> Body:
        """Return one worker, online or not, GET workers/{id}; raises WorkerNotFound."""
        with self._now():
            worker = self._workers.find(worker_id)
            return responses.worker(worker, self._workers.is_online(worker))

    def worker_named(self, name: str) -> Body:
        """Return one worker by its name, GET workers/name/{name}; raises WorkerNotFound."""
        with self._now():
            worker = self._workers.find_named(name)
            return responses.worker(worker, self._workers.is_online(worker))

    def performance(self) -> Body:
        """Return the load of queue and workers, GET status/performance."""
        with self._now() as now:
            past_minute = self._tally.totals("minute", now)[1]
            return responses.performance(self._queue, self._workers, past_minute)

    def modes(self) -> Body:
        """Return whether new requests are refused, GET status/modes."""
        return {"maintenance_mode": self.maintenance, "invite_only_mode": False}

    def find_user(self, apikey: str | None) -> Body:
        """Return the caller's account, GET find_user; InvalidAPIKey without key, else UserNotFound.

        The real horde repeats a wrong key in its message; this one does not.
        """
        if apikey is None:
            raise refusal("InvalidAPIKey")
        with self._now() as now:
            account = self._accounts.find(apikey)
            if account is None:
                raise refusal("UserNotFound")
            return responses.user(account, self._workers.of(account), now)

    def text_totals(self) -> Body:
        """Return delivered requests and tokens by window, GET stats/text/totals."""
        with self._now() as now:
            return responses.text_totals(self._tally, now)

    def text_models(self) -> Body:
        """Return delivered requests by window and model, GET stats/text/models."""
        with self._now() as now:
            return responses.text_models(self._tally, now)

    @contextmanager
    def _now(self) -> Iterator[float]:
        """Hold the lock and give the time, everything overdue already dealt with."""
        with self._lock:
            now = self._clock()
            self._queue.sweep(now)
            self._workers.sweep(now)
            yield now

    def _admit(self, asked: Body, apikey: str) -> HordeAccount:
        admission.check_before_account(asked, self.maintenance)
        account = self._accounts.require(apikey)
        admission.check_account(asked, account)
        for worker_id in asked["workers"][: admission.WORKERS_CONSIDERED]:
            self._workers.find(worker_id)
        admission.check_concurrency(asked, account)
        admission.check_params(asked, account)
        return account

    def _request(self, asked: Body, account: HordeAccount, now: float) -> TextRequest:
        held, downgraded = self._upfront(asked, account)
        workers = asked["workers"][: admission.WORKERS_CONSIDERED]
        return TextRequest(
            id=self._new_id(),
            account=account,
            prompt=asked["prompt"],
            params=asked["params"],
            models=tuple(asked["models"]),
            workers=frozenset(worker_id.lower() for worker_id in workers),
            worker_blacklist=asked["worker_blacklist"],
            trusted_workers=asked["trusted_workers"],
            validated_backends=asked["validated_backends"],
            slow_workers=asked["slow_workers"],
            priority=_DOWNGRADED if downgraded else account.kudos,
            created=now,
            held=held,
        )

    def _upfront(self, asked: Body, account: HordeAccount) -> tuple[float, bool]:
        """Return (kudos to hold, whether the request was cut down); raises KudosUpfront."""
        params = asked["params"]
        queued = sum(request.waiting for request in self._queue.waiting)
        limit = kudos.free_limit(self._workers.threads(), queued)
        if not self.upfront_kudos or (params["max_length"] <= limit and asked["slow_workers"]):
            return 0.0, False
        required = kudos.upfront(
            max_length=params["max_length"],
            n=params["n"],
            models=asked["models"],
            sizes=self._sizes,
        )
        if account.spendable >= required:
            return required, False
        if not asked["allow_downgrade"]:
            raise refusal("KudosUpfront", limit=limit, required=required)
        params["max_length"] = min(params["max_length"], limit)
        asked["slow_workers"] = True
        return 0.0, True

    def _estimate(self, asked: Body) -> float:
        params = asked["params"]
        return kudos.dry_run(
            max_length=params["max_length"],
            max_context_length=params["max_context_length"],
            n=params["n"],
            size=kudos.largest(asked["models"], self._sizes),
        )

    def _status(self, request: TextRequest, now: float) -> Body:
        if now >= self._forecast_until:
            self._forecast = Forecast(self._queue.waiting, self._workers)
            self._forecast_until = now + _FORECAST_SECONDS
        return responses.status(
            request,
            self._queue.position(request),
            self._forecast.wait_time(request, now),
            self._workers.any_fits(request),
        )

    def _check_in(self, offer: Body, apikey: str, now: float) -> Worker:
        owner = self._accounts.require(apikey)
        if owner.anonymous:
            raise refusal("AnonForbiddenWorker")
        if not 0 < len(offer["models"]) <= _MODELS_OF_A_WORKER:
            raise _bad_models()
        offered = Offer(
            models=tuple(dict.fromkeys(offer["models"])),
            max_length=offer["max_length"],
            max_context_length=offer["max_context_length"],
            threads=offer["threads"],
            nsfw=offer["nsfw"],
            bridge_agent=offer["bridge_agent"],
        )
        return self._workers.check_in(offer["name"], owner, offered, now)

    def _check_running(self, job: Job) -> None:
        if job.state in ("faulted", "aborted"):
            raise refusal("AbortedGen", id=job.id, ttl=self._queue.job_ttl)
        if job.state != "processing":
            raise refusal("DuplicateGen", id=job.id)

    def _reward(self, job: Job, now: float) -> float:
        """Pay the worker, bill the requester, count the job; return the worker's kudos."""
        worker, request = job.worker, job.request
        owner = worker.owner
        reward = kudos.reward(
            prompt=len(request.prompt),
            text=len(job.text),
            max_length=request.max_length,
            size=kudos.size_of(job.model, self._sizes),
            trusted=owner.trusted,
            validated=worker.offer.validated,
        )
        self._charge(request, reward + kudos.TAX if job.state == "ok" else kudos.CENSORED_COST)
        owner.earn(reward)
        made = kudos.tokens(len(job.text), request.max_length)
        owner.jobs_done += 1
        owner.tokens_made += made
        worker.fulfilled += 1
        worker.kudos += reward
        speed = made / max(now - job.popped, _FASTEST_SECONDS)
        self._workers.record_speed(worker, job.model, speed)
        self._tally.record(job.model, request.max_length, now)
        return reward

    def _charge(self, request: TextRequest, amount: float) -> None:
        request.account.pay(amount)
        request.kudos += amount

    def _models(self) -> list[Body]:
        with self._now():
            return responses.models(self._workers, self._queue.open.values())

    def _known(self, model: str) -> bool:
        return kudos.size_of(model, self._sizes) is not None


def _bad_models() -> HordeError:
    return refusal(
        "BadRequest",
        reason="Unfortunately we cannot accept workers serving unrecognised models at this time",
    )

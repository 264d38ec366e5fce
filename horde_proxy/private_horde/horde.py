"""The private horde: AI-Horde's /api/v2, one method for each route of texts.

Images have theirs in `images`, alchemy in `alchemy`, statistics in `queue_statistics`.

Plain Python; it knows no Flask and nothing of the proxy. Bodies come in as parsed JSON, answers go
out as plain dicts, refusals as HordeError. Each method reads its body, begins one transaction of
the store, and leaves the rules to submission, delivery, queue and balances:

    call -> upkeep (what is overdue) -> transaction: rules -> commit -> view (what polls read)
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from limits.storage import Storage

from horde_proxy.aihorde import limits
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.aihorde.transcript import BadTranscript
from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import (
    accounts,
    address_timeouts,
    chats,
    continuation,
    delivery,
    modes,
    popping,
    queue,
    queue_report,
    responses,
    schema,
    stored_pictures,
    submission,
    webhooks,
)
from horde_proxy.private_horde.administration import Administration
from horde_proxy.private_horde.alchemy import Alchemy
from horde_proxy.private_horde.chats import DeliveredChat
from horde_proxy.private_horde.errors import key_missing, refusal
from horde_proxy.private_horde.fleet import Fleet
from horde_proxy.private_horde.growing_texts import GrowingTexts
from horde_proxy.private_horde.images import Images
from horde_proxy.private_horde.matching import CHAT
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.moderation import Moderation
from horde_proxy.private_horde.operation import AccessRules, Operation, Rulebook
from horde_proxy.private_horde.operations import Operations
from horde_proxy.private_horde.operator_rules import OperatorRules
from horde_proxy.private_horde.people import People
from horde_proxy.private_horde.popping import WorkerCall
from horde_proxy.private_horde.queue_statistics import QueueStatistics
from horde_proxy.private_horde.rate_limits import ApiCall, RateLimits, RateLimitState
from horde_proxy.private_horde.records import (
    NEW,
    TEXT,
    HordeAccount,
    HordeRequest,
    Job,
    StoredGeneration,
)
from horde_proxy.private_horde.roles import ADMIN, ROLES
from horde_proxy.private_horde.shared_texts import SharedTexts
from horde_proxy.private_horde.signals import Signals
from horde_proxy.private_horde.store.base import Store
from horde_proxy.private_horde.store.memory import MemoryStore
from horde_proxy.private_horde.streams import StreamRules, Streams, outlook
from horde_proxy.private_horde.submission import Submission
from horde_proxy.private_horde.upkeep import Upkeep
from horde_proxy.private_horde.view import QueueView
from horde_proxy.private_horde.webhook_sender import WebhookRunner, WebhookSender

Body = dict[str, Any]

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


@dataclass(frozen=True)
class AcceptedRequest:
    """A submitted request, None for a dry run, and what it costs in all (kudos)."""

    request: HordeRequest | None
    kudos: float


def _uuid() -> str:
    return str(uuid.uuid4())


class PrivateHorde:
    """A horde of your own. Thread-safe. Without a `store`, everything is in memory.

    Where it differs from the real horde: a cancelled request is gone at once (status: 404), but
    its running jobs may still be delivered and earn their reward; generations are in the order of
    delivery; positions, waits and `is_possible` are exact, or a second old if several processes
    use the store, instead of up to 60 s; the third failed job faults a request immediately.
    Webhooks are called after `call_webhooks`. There are no styles.

    `clock` gives Unix time; a clock that is put back only makes things last longer. `ticks` counts
    the seconds of the rate limits, and is `clock` by default. `wall_clock` is for the time in
    X-Ratelimit-Reset. `job_ttl`, `expiry` and `offline_after` are seconds. Without `kudos`, all is
    free and who got least lately comes first. With `upfront_kudos`, an account must own the kudos
    of a request beyond the free length; with `rate_limits`, fast callers are refused; `access` says
    who may join, and what may be done without an account. `model_sizes` are billions of parameters
    by name; a model with a size is "known". Set `maintenance` to refuse new requests, and
    `settle_every` to charge kudos every so many seconds (the real horde: 3) and not at once.
    `streaming` says what it offers beyond AI-Horde's API; `documents` are texts for those that
    `documents` names. Several processes count their calls together in `windows`, a storage of the
    library `limits` under `clock`. Movements of kudos are folded into sums after `ledger_days`.
    """

    _is_prepared = False
    _webhooks: WebhookSender | None = None

    def __init__(
        self,
        *,
        store: Store | None = None,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] | None = None,
        wall_clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = _uuid,
        job_ttl: float = limits.JOB_SECONDS,
        expiry: float = limits.REQUEST_SECONDS,
        offline_after: float = limits.WORKER_SECONDS,
        max_faults: int = limits.MOST_FAULTS,
        kudos: bool = True,
        upfront_kudos: bool = False,
        rate_limits: bool = True,
        access: AccessRules | None = None,
        model_sizes: Mapping[str, float] | None = None,
        streaming: StreamRules | None = None,
        documents: Mapping[str, str] | None = None,
        windows: Storage | None = None,
        ledger_days: float = 0.0,
    ) -> None:
        self.upfront_kudos, self.rate_limits = upfront_kudos, rate_limits
        self._clock, self.wall_clock = clock, wall_clock
        self.store = store or MemoryStore()
        self._calls = RateLimits(clock if windows else ticks or clock, windows)
        self._rules = Rulebook(
            new_id=new_id,
            sizes=ModelSizes(model_sizes or {}),
            job_ttl=job_ttl,
            expiry=expiry,
            offline_after=offline_after,
            max_faults=max_faults,
            check_in_seconds=self.store.check_in_seconds,
            access=access or AccessRules(),
            kudos=kudos,
            ledger_days=ledger_days,
        )
        self._open_routes(documents or {})
        self.streams = self._open_streams(streaming or StreamRules(), ticks or clock)

    def _open_routes(self, documents: Mapping[str, str]) -> None:
        """The routes of people and of those who look after the horde; its view and its upkeep."""
        self.documents = documents
        self._view = QueueView(self.store, self._rules.offline_after, self._rules.sizes)
        self._upkeep = Upkeep(self.store, self._begin)
        begin = self._changing, self._reading
        self.people, self.fleet = People(*begin), Fleet(*begin)
        self.moderation, self.operations = Moderation(*begin), Operations(*begin)
        self.images = Images(self, *begin, self._wake_webhooks)
        self.alchemy = Alchemy(self, *begin, self._wake_webhooks)
        self.statistics = QueueStatistics(
            self._reading, self._view, self._rules.sizes, update=self._now
        )
        self.administration, self.operator_rules = Administration(*begin), OperatorRules(*begin)

    def _open_streams(self, rules: StreamRules, clock: Callable[[], float]) -> Streams:
        """What it offers beyond AI-Horde's API."""
        self.signals = Signals(self.store)
        self._texts = GrowingTexts(rules.sleep, most_watchers=rules.most_streams)
        self.store.observe(self._texts.note)
        begin = self._changing, self._reading
        shared = SharedTexts(self._texts, self.signals, clock) if self.store.sends_topics else None
        return Streams(
            begin,
            self._texts,
            self.signals,
            rules,
            clock=clock,
            is_shared=self.store.is_shared,
            shared=shared,
        )

    @contextmanager
    def _begin(self, now: float) -> Iterator[Operation]:
        with self.store.transaction() as tx:
            yield Operation(tx, now, self._rules, self._view, self._texts)

    @contextmanager
    def _changing(self) -> Iterator[Operation]:
        """A transaction at the current time, after everything overdue has been dealt with."""
        with self._begin(self._now()) as op:
            yield op

    @contextmanager
    def _reading(self) -> Iterator[Operation]:
        """As `_changing`, for routes that change nothing."""
        now = self._now()
        with self.store.snapshot() as tx:
            yield Operation(tx, now, self._rules, self._view, self._texts)

    def _now(self) -> float:
        now = self._clock()
        if not self._is_prepared:
            with self._begin(now) as op:
                accounts.ensure_anonymous(op)
                self._rules.links.secret = stored_pictures.link_secret(op)
            self._is_prepared = True
        self._upkeep.run(now)
        self._view.update(now)
        return now

    def call_webhooks(self, runner: WebhookRunner, *, plain: bool = False) -> None:
        """Call the webhooks of requests from now on, also those left from before the start.

        With `plain`, http URLs are accepted.
        """
        self._webhooks = WebhookSender(self._changing, runner)
        self._rules.plain_webhooks = plain
        self._rules.webhooks_are_full = self._webhooks.is_full
        self._webhooks.wake()

    @property
    def maintenance(self) -> bool:
        """Whether new requests are refused. It is kept in the store."""
        with self._reading() as op:
            return modes.current(op)["maintenance_mode"]

    @maintenance.setter
    def maintenance(self, is_on: bool) -> None:
        with self._changing() as op:
            modes.change(op, {"maintenance_mode": is_on})

    @property
    def settle_every(self) -> float:
        """How often kudos are charged (s); 0: at once."""
        return self._rules.settle_every

    @settle_every.setter
    def settle_every(self, seconds: float) -> None:
        self._rules.settle_every = seconds

    @property
    def most_picture_bytes(self) -> int:
        """How many bytes of pictures are kept; beyond that, the oldest go."""
        return self._rules.most_picture_bytes

    @most_picture_bytes.setter
    def most_picture_bytes(self, most: int) -> None:
        self._rules.most_picture_bytes = most

    def add_account(
        self,
        api_key: str,
        username: str,
        *,
        kudos: float = 0.0,
        trusted: bool = False,
        service: bool = False,
        roles: tuple[str, ...] = (),
        concurrency: int = limits.CONCURRENCY,
    ) -> str:
        """Register an account. Its full name, such as "username#1".

        Raises ValueError if the key is empty or taken.
        """
        granted = {*roles, *(["trusted"] if trusted else []), *(["service"] if service else [])}
        with self._changing() as op:
            account = HordeAccount(
                NEW,
                username,
                op.now,
                roles=tuple(role for role in ROLES if role in granted),
                concurrency=concurrency,
            )
            accounts.add(op, api_key, account, kudos)
            return account.username

    def ensure_owner(
        self,
        api_key: str,
        *,
        kudos: float,
        concurrency: int,
        is_from_settings: bool,
    ) -> str:
        """Find the owner's account, or make it, and let it use this key. Its full name.

        Raises ValueError if the key is another account's.
        """
        origin = accounts.FROM_SETTINGS if is_from_settings else accounts.FROM_START
        with self._changing() as op:
            owner = HordeAccount(
                NEW, "owner", op.now, roles=(ADMIN, "trusted"), concurrency=concurrency
            )
            return accounts.ensure_owner(op, api_key, owner, kudos, origin)

    def open_requests(self) -> list[OpenRequest]:
        """Every request that is waiting or being processed, the oldest first."""
        with self._reading() as op:
            return [
                OpenRequest(
                    request.id,
                    request.models[0] if request.models else "",
                    "waiting" if request.waiting else "processing",
                )
                for request in op.tx.open_requests()
            ]

    def queue(self, api_key: str) -> Body:
        """What waits and why, see `queue_report.report`: the caller's requests, for moderators all.

        Raises InvalidAPIKey and AnonForbidden.
        """
        with self._reading() as op:
            account = accounts.known(op, api_key)
            if account.anonymous:
                raise refusal("AnonForbidden")
            own = None if accounts.moderates(account) else account.id
            return queue_report.report(op, op.tx.open_requests(own))

    @property
    def access(self) -> AccessRules:
        """Who may join, and what may be done without an account."""
        return self._rules.access

    @property
    def time_limits(self) -> Mapping[str, float]:
        """The seconds of a job, of a request, and until a silent worker is offline; most faults."""
        rules = self._rules
        return {
            "job_ttl": rules.job_ttl,
            "expiry": rules.expiry,
            "offline_after": rules.offline_after,
            "max_faults": rules.max_faults,
        }

    def count_call(
        self, kind: str, address: str, method: str, path: str, api_key: str | None
    ) -> RateLimitState | None:
        """Count a call for the rate limits. The tightest limit, None for a route without limits.

        Calls are counted even without `rate_limits`, because the headers are always sent.
        """
        key = None if api_key is None else key_digest(api_key)
        call = ApiCall(address, method, path, key, anonymous=api_key == ANONYMOUS_KEY)
        return self._calls.hit(kind, call)

    def authenticate(
        self, api_key: str | None, *, as_worker: bool = False, shared: bool = False
    ) -> str:
        """The username of a key's account. Call it before a body is read.

        Raises HordeError: 400 without a key, InvalidAPIKey (401), DeletedUser and BlockedUser
        (403), and for a worker without an account of its own AnonForbiddenWorker (403). Only with
        `shared`, a shared key is known.
        """
        self._check_key_sent(api_key)
        with self._reading() as op:
            payer = accounts.require_payer(op, api_key or "")
        if payer.shared_key is not None and not shared:
            raise refusal("InvalidAPIKey")
        if as_worker and payer.account.anonymous:
            raise refusal("AnonForbiddenWorker")
        return payer.username

    def identify(self, api_key: str | None) -> str:
        """The username of a key's account, also of one that may not act.

        Raises HordeError: 400 without a key, InvalidAPIKey (401).
        """
        self._check_key_sent(api_key)
        with self._reading() as op:
            return accounts.known(op, api_key or "").username

    def _check_key_sent(self, api_key: str | None) -> None:
        """Raises HordeError (400) without a key."""
        if api_key is None:
            raise key_missing()

    # The routes for clients.

    def submit(self, api_key: str | None, body: Any, address: str = "") -> Body:
        """POST generate/text/async: {"id", "kudos", "message"?}, or {"kudos"} for a dry run.

        `address` is the caller's. After a trusted account has used it, it may submit faster.
        """
        # Bodies are validated before the transaction begins, because a large one takes long.
        fields = schema.read(schema.SUBMIT, self._known_fields(body))
        fields["chat"] = chats.read(fields)
        accepted = self.accept(submission.TextSubmission(fields), api_key or "", address)
        request = accepted.request
        if request is None:
            return {"kudos": accepted.kudos}
        # As in the real horde, `kudos` is always 0 for text (capture text_async_202).
        answer: Body = {"id": request.id, "kudos": 0.0}
        if not self.has_worker(request):
            answer["message"] = self.with_reasons(
                _NO_WORKERS.format(minutes=self._rules.expiry / 60), request
            )
        return answer

    def accept(self, new: Submission, api_key: str, address: str) -> AcceptedRequest:
        """Put a submission of any kind into the queue, unless it is a dry run.

        Raises the refusals of `submission`, and TimeoutIP (403).
        """
        fields = new.fields
        with self._changing() as op:
            payer = submission.admit(op, new, api_key)
            address_timeouts.check(op, address)
            kudos = submission.dry_run(op, new)
            if fields["dry_run"]:
                return AcceptedRequest(None, kudos)
            request = submission.submit(op, new, payer, check_kudos=self.upfront_kudos)
            if fields["webhook"] is not None:
                webhooks.subscribe(op, request, fields["webhook"], key_digest(api_key))
        # Contract: base.py:319-321 and limiter_api.py:14-25.
        if payer.account.trusted or payer.account.service:
            self._calls.trust(address)
        return AcceptedRequest(request, kudos)

    def has_worker(self, request: HordeRequest) -> bool:
        """Whether a worker that is online may take the request."""
        return self._view.any_fits(request)

    def with_reasons(self, warning: str, request: HordeRequest) -> str:
        """AI-Horde's warning that no worker may take a request, and which fields exclude them."""
        with self._reading() as op:
            return " ".join([warning, *queue_report.why_impossible(op, request)])

    def _known_fields(self, body: Any) -> Any:
        """The body of a request. One with a chat needs no prompt, where chats are offered."""
        if not isinstance(body, dict) or "chat" not in body:
            return body
        if CHAT in self.streams.extensions:
            return {"prompt": "", **body}
        # AI-Horde ignores what it does not know.
        return {name: value for name, value in body.items() if name != "chat"}

    def status(self, request_id: str) -> Body:
        """GET generate/text/status/{id}. Raises RequestNotFound."""
        with self._reading() as op:
            return self._status(op, queue.find(op, request_id, TEXT))

    def cancel(self, request_id: str) -> Body:
        """DELETE generate/text/status/{id}: forget the request. Its last status.

        Workers may still submit its running jobs; their texts are dropped. Raises RequestNotFound.
        """
        with self._changing() as op:
            request = queue.find_locked(op, request_id, TEXT)
            body = self._status(op, request)
            queue.forget(op, request)
            return body

    # The routes for workers.

    def pop(self, api_key: str | None, body: Any, address: str = "") -> Body:
        """POST generate/text/pop: up to `amount` jobs of one request; `id` is null without one.

        A pop also checks the worker in, and registers it if its name is new. `address` is the
        worker's. A worker that sends `wait` gets its answer when there is a job.
        """
        fields = schema.read(schema.POP, body)
        if CHAT not in self.streams.extensions:
            fields["extensions"] = []
        call = WorkerCall(api_key or "", fields, delivery.text_offer(fields), address)
        return self.streams.pop(lambda: self._pop(call), fields["wait"])

    def _pop(self, call: WorkerCall) -> Body:
        taken = popping.pop(self._changing, call)
        return responses.popped(taken, self._rules.job_ttl)

    def submit_generation(self, api_key: str | None, body: Any) -> Body:
        """POST generate/text/submit: {"reward": kudos}, 0 for a job that the worker faulted.

        A chat whose transcript cannot be read is given to another worker. Raises BadRequest for it,
        InvalidJobID, WrongCredentials, DuplicateGen and AbortedGen.
        """
        fields = schema.read(schema.GENERATION, body)
        reward, begun = self._hand_in(api_key, fields)
        if begun is not None:
            # Between two transactions: a long transcript would keep those of others waiting.
            try:
                chat = chats.delivered(begun, fields["generation"], fields["state"])
            except BadTranscript as exc:
                self._hand_in(api_key, {**fields, "state": "faulted"})
                reason = f"{exc}. The job was given back, for another worker."
                raise refusal("BadRequest", reason=reason) from exc
            reward, _ = self._hand_in(api_key, fields, chat)
        return {"reward": reward}

    def _hand_in(
        self, api_key: str | None, fields: Body, chat: DeliveredChat | None = None
    ) -> tuple[float, str | None]:
        """(the reward of a submitted job, None).

        For a chat that was not read yet, nothing is changed, and it is (0, what its job continues).
        """
        with self._changing() as op:
            account = accounts.require(op, api_key or "")
            job, request = delivery.find_job(op, fields["id"], account, TEXT)
            # The worker gives the job back, and its result waits for another worker.
            if fields["state"] == "faulted":
                queue.fail(op, request, job, "faulted")
                return 0.0, None
            if request.is_chat and chat is None:
                return 0.0, continuation.continued_text(op, job)
            reward = delivery.deliver(op, fields, job, request, chat)
            webhooks.announce(op, request, job, reward)
        if request.webhook is not None:
            self._wake_webhooks()
        return reward, None

    def _wake_webhooks(self) -> None:
        if self._webhooks is not None:
            self._webhooks.wake()

    def _status(self, op: Operation, request: HordeRequest) -> Body:
        results, running = [], []
        # Most polls find a request that waits: one row tells all about it.
        if request.finished:
            results = op.tx.find(StoredGeneration, request_id=request.id)
        if request.processing:
            running = op.tx.find(Job, request_id=request.id)
        return responses.status(
            request,
            sorted(results, key=lambda result: result.number)[: request.finished],
            **outlook(op, request, running),
        )

"""The records of a horde: accounts and their keys, workers, requests, jobs, generations, kudos.

A record is also a row: it refers to others by id, and holds plain values only. The rules that
change records are in queue, balances, workers and delivery; how records are kept is in `store`.
All times are Unix seconds. No repr shows a prompt, a generation or a key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde.agents import is_validated
from horde_proxy.aihorde.baselines import is_inpainting
from horde_proxy.aihorde.limits import CONCURRENCY

TEXT, IMAGE, ALCHEMY = "text", "image", "interrogation"
"""The kinds of requests, and of the workers that take them: AI-Horde's names of the latter."""

NEW = -1
"""The id of a record whose number the store chooses when it is added."""

_SPEEDS_KEPT = 50
"""A worker's speed is the mean of this many jobs, so that one short answer changes it little."""


# eq=False for all records: two jobs with equal fields are still two jobs.


@dataclass(eq=False)
class HordeAccount:
    """An account. Its kudos never fall below `floor`; `held` kudos are reserved, but not yet paid.

    `kudos` is the sum of the account's ledger entries, `accumulated` that of its earnings and
    paid, `gifted` was sent to others (negative), `received` came from others, `granted` from
    administrators, `recurring` each month, `awarded` as an award. `monthly_kudos` are next paid at
    `monthly_due`. Its payments are multiplied by `usage_multiplier`. `deleted` is when the account
    was marked as deleted, None for others. The names in `roles` are those of the module `roles`.
    `escrow` are earned kudos that it gets once it is trusted, `turn` is its place in the order of a
    horde without kudos (see `fair_share`). Pixel-steps are width x height x steps. `requests_sent`
    and `jobs_done` count texts only.
    """

    id: int
    alias: str
    created: float
    kudos: float = 0.0
    floor: float = 0.0
    roles: tuple[str, ...] = ()
    concurrency: int = CONCURRENCY
    accumulated: float = 0.0
    held: float = 0.0
    requests_sent: int = 0
    tokens_requested: int = 0
    jobs_done: int = 0
    tokens_made: int = 0
    gifted: float = 0.0
    received: float = 0.0
    granted: float = 0.0
    recurring: float = 0.0
    awarded: float = 0.0
    monthly_kudos: int = 0
    monthly_due: float | None = None
    usage_multiplier: float = 1.0
    worker_invited: int = 0
    public_workers: bool = False
    contact: str = field(default="", repr=False)
    admin_comment: str = field(default="", repr=False)
    blocked: bool = False
    deleted: float | None = None
    escrow: float = 0.0
    turn: float = 0.0
    images_requested: int = 0
    pixelsteps_requested: int = 0
    images_made: int = 0
    pixelsteps_made: int = 0
    forms_requested: int = 0
    forms_made: int = 0

    @property
    def username(self) -> str:
        """The unique name, "alias#id"."""
        return f"{self.alias}#{self.id}"

    @property
    def anonymous(self) -> bool:
        """Whether this is the account that everybody without a key shares."""
        return self.id == 0

    @property
    def trusted(self) -> bool:
        """Whether its workers may take requests that only trusted workers get."""
        return "trusted" in self.roles

    @property
    def service(self) -> bool:
        """Whether it sends requests for users of its own."""
        return "service" in self.roles

    @property
    def admin(self) -> bool:
        """Whether it may give kudos and make moderators."""
        return "admin" in self.roles

    @property
    def moderator(self) -> bool:
        """Whether it may change other accounts; administrators may."""
        return "moderator" in self.roles or self.admin

    @property
    def spendable(self) -> float:
        """The kudos that a new request may reserve."""
        return self.kudos - self.floor - self.held


@dataclass(eq=False)
class AccountKey:
    """An API key of an account, by its digest. `origin` says who made it (see `accounts`).

    `name` is what its owner calls it, e.g. "phone".
    """

    digest: str = field(repr=False)
    account_id: int
    created: float
    origin: str = ""
    name: str = ""

    @property
    def fingerprint(self) -> str:
        """A short form of the digest, by which people tell keys apart."""
        return self.digest[:12]


@dataclass(eq=False)
class Invitation:
    """A link with which somebody may register, by the digest of its token.

    It works `uses_left` times, until `expires`. New accounts get its `kudos`.
    """

    id: int
    digest: str = field(repr=False)
    made_by: int
    created: float
    expires: float | None
    uses_left: int
    note: str = ""
    kudos: float = 0.0


@dataclass(eq=False)
class KudosTransfer:
    """Kudos that one account sent to another.

    `token` is the digest of the client's Idempotency-Key, or empty.
    """

    id: int
    sender_id: int
    receiver_id: int
    at: float
    amount: float
    token: str = ""


@dataclass(eq=False)
class HordeSharedKey:
    """A key with limits of its own that spends the kudos of an account. Its id is the key.

    It may spend `kudos` in all, has spent `utilized`, and has reserved `held`. It may send
    `max_requests` in all and has sent `requests`. The other limits hold for each request. A limit
    of -1 is none. The key works until `expires`.
    """

    id: str = field(repr=False)
    account_id: int
    name: str
    created: float
    expires: float | None = None
    kudos: float = -1.0
    utilized: float = 0.0
    max_text_tokens: int = -1
    max_image_pixels: int = -1
    max_image_steps: int = -1
    held: float = 0.0
    max_requests: int = -1
    requests: int = 0

    @property
    def kudos_left(self) -> float:
        """The kudos that it may still spend; infinite without a limit."""
        return math.inf if self.kudos < 0 else max(self.kudos - self.utilized, 0.0)

    @property
    def requests_left(self) -> float:
        """The requests that it may still send; infinite without a limit."""
        return math.inf if self.max_requests < 0 else max(self.max_requests - self.requests, 0)


@dataclass(frozen=True)
class WorkerOffer:
    """What a worker declares at a pop; lengths are in tokens.

    The models of an alchemist are the forms that it takes. `abilities` are what else decides about
    images and alchemy, by the names of the pop: max_pixels, allow_img2img, max_tiles.
    """

    models: tuple[str, ...]
    max_length: int
    max_context_length: int
    threads: int
    nsfw: bool
    bridge_agent: str
    blacklist: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    kind: str = TEXT
    abilities: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Worker:
    """A worker: its owner, what it offers, and how it has done so far. See `WorkerOffer`.

    Its speeds are in tokens/s, for images in pixel-steps/s, for alchemy in forms/s.

    `trusted` is its owner's trust at the last pop. `speeds` are (model, tokens/s) of its last jobs.
    Prompts with a word of its `blacklist` do not go to it. `faults` are the times of its failed
    jobs of the last hour. `suspicions` are sentences for moderators. `rewarded_uptime` is the
    uptime (s) that was paid or forfeited, `uptime_kudos` what it earned. `address` is the last.
    `extensions` are those beyond AI-Horde's API that decide what it gets: "chat". `work_done` are
    the pixel-steps or forms that it has delivered.
    """

    id: str
    name: str
    owner_id: int
    created: float
    last_seen: float
    models: tuple[str, ...]
    max_length: int
    max_context_length: int
    threads: int
    nsfw: bool
    bridge_agent: str
    trusted: bool = False
    maintenance: bool = False
    uptime: float = 0.0
    fulfilled: int = 0
    uncompleted: int = 0
    kudos: float = 0.0
    speeds: tuple[tuple[str, float], ...] = ()
    blacklist: tuple[str, ...] = ()
    maintenance_message: str = ""
    paused: bool = False
    info: str = ""
    team_id: str | None = None
    faults: tuple[float, ...] = ()
    suspicions: tuple[str, ...] = ()
    rewarded_uptime: float = 0.0
    uptime_kudos: float = 0.0
    address: str = ""
    extensions: tuple[str, ...] = ()
    kind: str = TEXT
    abilities: dict[str, Any] = field(default_factory=dict)
    work_done: int = 0

    @property
    def offer(self) -> WorkerOffer:
        """What it declared at its last pop."""
        return WorkerOffer(
            self.models,
            self.max_length,
            self.max_context_length,
            self.threads,
            self.nsfw,
            self.bridge_agent,
            self.blacklist,
            self.extensions,
            self.kind,
            self.abilities,
        )

    @property
    def validated(self) -> bool:
        """Whether the horde trusts the worker's software."""
        return is_validated(self.bridge_agent)

    @property
    def speed(self) -> float | None:
        """Mean speed of its last jobs; None before the first."""
        if not self.speeds:
            return None
        return sum(speed for _, speed in self.speeds) / len(self.speeds)

    def add_speed(self, model: str, speed: float) -> None:
        """Remember the speed of a delivered job."""
        self.speeds = (*self.speeds, (model, speed))[-_SPEEDS_KEPT:]

    def model_for(self, request: HordeRequest) -> str | None:
        """The model for a request: the first of the request's models that this worker serves.

        For a request without models, it is the worker's first model. None if no model matches.
        Images are inpainted by models for that, and these do nothing else unless a client names
        them.
        """
        # The real horde draws one at random. Here, the client's order decides.
        served = self.models
        if request.kind == IMAGE and not request.models:
            paints = request.needs.get("processing") == "inpainting"
            return next((model for model in served if is_inpainting(model) == paints), None)
        if not request.models:
            return served[0]
        return next((model for model in request.models if model in served), None)


@dataclass(eq=False)
class WorkerMessage:
    """A message to a worker's owner, which its pops carry until it expires.

    Without a `worker_id`, it is for all workers. `account_id` is its author.
    """

    id: str
    worker_id: str
    message: str
    origin: str
    created: float
    expires: float
    account_id: int


@dataclass(eq=False)
class WorkerTeam:
    """Workers that count together; `Worker.team_id` names it. Only its creator changes it."""

    id: str
    name: str
    info: str
    creator_id: int
    created: float


@dataclass(eq=False)
class PromptFilter:
    """A regular expression that prompts must not match, or whose matches are replaced."""

    id: int
    regex: str
    filter_type: int
    description: str
    replacement: str
    account_id: int


@dataclass(eq=False)
class Job:
    """One result that a worker has popped. `state` starts as "processing" and changes once.

    Afterwards it is ok, censored, csam, faulted (the worker gave up) or aborted (time ran out).
    `deadline` is None from then on. `owner_id` is the account of the worker. `slot` is the place of
    its result in the request, from 0. `begun` are the characters of this result that a worker wrote
    that was lost; the job continues them.
    """

    id: str
    request_id: str
    worker_id: str
    owner_id: int
    model: str
    popped: float
    deadline: float | None
    state: str = "processing"
    slot: int = 0
    begun: int = 0


@dataclass(eq=False)
class StoredGeneration:
    """The text of a delivered job. `number` counts the deliveries of its request, from 1.

    It keeps the worker's name of that time: a worker may be renamed or deleted. The text of a chat
    is its transcript, and `chat` what that amounts to (see `chats.result`); {} for other texts. An
    image has no text: it is a stored picture with the id of the job. That of a form of alchemy is
    its result as JSON.
    """

    job_id: str
    request_id: str
    number: int
    text: str = field(repr=False)
    # Most workers send 0.
    seed: int
    # Entries such as {"type": "censorship", "value": "csam"}.
    gen_metadata: list[dict[str, Any]]
    state: str
    model: str
    worker_id: str
    worker_name: str
    chat: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class GrowingText:
    """What was saved of a result that a worker is writing, by its slot in the request."""

    request_id: str
    slot: int
    text: str = field(repr=False)


@dataclass(eq=False)
class Payload:
    """What a worker gets of a request. It is kept apart: only a pop needs it.

    A request has a prompt, or a `chat` (see `chats`), which is {} for those with a prompt.
    """

    request_id: str
    prompt: str = field(repr=False)
    params: dict[str, Any]
    chat: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(eq=False)
class HordeRequest:
    """A client's request, of any kind. Always n == finished + processing + waiting.

    `rank` and `queued_at` sort the queue and never change (see `queue`). `held` are the reserved
    kudos and `kudos` the consumed ones. `expires` is None once the request is forgotten; its row
    stays until its last running job has ended. `shared_key` is the key that it was sent with, and
    `key_held` what is reserved of that key's kudos. Calls of its `webhook` are signed with
    `webhook_key`. With `is_chat`, only workers that offer chats get it. `needs` are what decides
    about an image (see `image_needs`) or alchemy (see `alchemy_forms`), and `work`, what one result
    takes of a worker: pixel-steps, forms. Their lengths are 0.
    """

    id: str
    account_id: int
    n: int
    max_length: int
    max_context_length: int
    prompt_length: int
    models: tuple[str, ...]
    workers: tuple[str, ...]
    worker_blacklist: bool
    trusted_workers: bool
    validated_backends: bool
    slow_workers: bool
    created: float
    rank: float
    queued_at: float
    expires: float | None
    waiting: int
    held: float = 0.0
    processing: int = 0
    finished: int = 0
    restarted: int = 0
    faulted: bool = False
    kudos: float = 0.0
    shared_key: str | None = field(default=None, repr=False)
    key_held: float = 0.0
    webhook: str | None = field(default=None, repr=False)
    webhook_key: str = field(default="", repr=False)
    is_chat: bool = False
    kind: str = TEXT
    needs: dict[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> int:
        """What one result takes of a worker: tokens, pixel-steps, or a form."""
        return int(self.needs.get("work", self.max_length))

    @property
    def order(self) -> tuple[float, float, str]:
        """Sorts the queue: the least comes first."""
        return (self.rank, self.queued_at, self.id)

    @property
    def forgotten(self) -> bool:
        """Whether it was cancelled or has expired."""
        return self.expires is None

    @property
    def settled(self) -> bool:
        """Whether no more results will come: all were delivered, or the request faulted."""
        return self.faulted or self.finished >= self.n

    @property
    def open(self) -> bool:
        """Whether results are still to come, for a client that waits for them."""
        return not self.settled and not self.forgotten

    @property
    def queued(self) -> bool:
        """Whether a worker may pop one of its results."""
        return self.waiting > 0 and self.open

    @property
    def done(self) -> bool:
        """The `done` of the status, by the real horde's formula (waiting_prompt.py:466-473).

        It counts restarts as results, so after two restarts it is true although the third attempt
        is still running (capture text_status_done_empty_while_processing).
        """
        if self.faulted:
            return True
        results = self.finished + self.restarted - self.processing
        return self.waiting == 0 and results >= self.n


@dataclass(eq=False)
class LedgerEntry:
    """A movement of kudos. Positive amounts are earned, negative ones are paid.

    It never changes, until it is old: then it becomes a part of a sum (see `ledger_folding`).

    `reason` is one of those in `balances`; `request_id` and `job_id` name its cause, `partner_id`
    the other account of a transfer.
    """

    id: int
    account_id: int
    at: float
    amount: float
    reason: str
    request_id: str | None = None
    job_id: str | None = None
    partner_id: int | None = None


@dataclass(eq=False)
class Charge:
    """Kudos of a request that its account will pay at `due`, and its shared key if it has one."""

    id: int
    due: float
    account_id: int
    request_id: str
    amount: float
    reason: str
    job_id: str | None = None
    shared_key: str | None = field(default=None, repr=False)


@dataclass(eq=False)
class WebhookCall:
    """A delivered job that a request's webhook has to learn of, at `due`.

    `key` signs it, `kudos` is what the job earned; `attempts` have been made so far.
    """

    id: int
    due: float
    request_id: str
    job_id: str
    url: str = field(repr=False)
    key: str = field(repr=False)
    kudos: float
    attempts: int = 0


@dataclass(eq=False)
class UseCount:
    """Delivered jobs in a span of `width` seconds from `start`, by account and model.

    `tokens` are the requested ones; `kudos` is what the account paid for the jobs.
    """

    width: int
    start: int
    account_id: int
    model: str
    jobs: int
    tokens: int
    kudos: float


@dataclass(eq=False)
class HordeSetting:
    """Something that the whole horde must remember, as JSON, by its name."""

    name: str
    value: str


@dataclass(eq=False)
class NewsItem:
    """An element of GET status/news."""

    id: int
    published: float
    title: str
    newspiece: str
    importance: str = "Information"
    tags: tuple[str, ...] = ()
    more_info_urls: tuple[str, ...] = ()

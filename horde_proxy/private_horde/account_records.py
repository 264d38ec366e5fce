"""Records of people: accounts, their keys, invitations, gifts of kudos. See `records`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from horde_proxy.aihorde.limits import CONCURRENCY

NEW = -1
"""The id of a record whose number the store chooses when it is added."""


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

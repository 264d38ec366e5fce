"""Accepts a request: the checks in order, the kudos that it needs, and its record.

What differs between texts, images and alchemy is in a `Submission`: that of texts is here, the
others are in `image_submission` and `alchemy_submission`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.limits import DOWNGRADED_PRIORITY, MOST_WORKERS
from horde_proxy.private_horde import (
    accounts,
    admission,
    balances,
    fair_share,
    modes,
    prompt_filters,
    shared_keys,
    webhooks,
)
from horde_proxy.private_horde.accounts import Payer
from horde_proxy.private_horde.admission import Fields
from horde_proxy.private_horde.chats import SubmittedChat
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.queue import rank
from horde_proxy.private_horde.records import TEXT, HordeAccount, HordeRequest, Payload, Worker

# Billions of parameters that the upfront check assumes if no model is known (kobold.py:115-127).
_UNKNOWN_UPFRONT_SIZE = 1.0
# Billions of parameters that a dry run assumes if no model is known.
_UNKNOWN_PRICE_SIZE = 13.0
_NEAR_THE_FLOOR = 1000.0
"""Kudos that the taxes of a moment's requests do not use up: several may be charged at once."""


class Submission(ABC):
    """A body that was read, on its way into the queue. `fields` may be changed on the way.

    `kind` is that of the request. Not all checks are the same for all kinds.
    """

    kind: str
    concurrency_factor = 1
    """How many times as many results as an account's concurrency may wait."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields

    @property
    @abstractmethod
    def n(self) -> int:
        """The results that it wants."""

    @property
    def models(self) -> list[str]:
        """The models that it names."""
        return list(self.fields["models"])

    @property
    def tax(self) -> float:
        """The kudos that are charged at once."""
        return kudos.TAX

    @abstractmethod
    def clean(self, op: Operation) -> None:
        """Replace what filters replace in the prompt. Raises CorruptPrompt (400)."""

    @abstractmethod
    def check(self, op: Operation, account: HordeAccount) -> None:
        """Raises HordeError for what this kind does not take from this account."""

    @abstractmethod
    def price(self, op: Operation) -> float:
        """The kudos that it would cost: the answer to a dry run."""

    @abstractmethod
    def upfront(self, op: Operation, account: HordeAccount) -> tuple[float, bool]:
        """(kudos to hold, whether it was downgraded). Raises KudosUpfront (403).

        If the account cannot afford a request with `allow_downgrade`, the request becomes a free
        one: it is made smaller, slow workers may take it, and all other requests come first.
        """

    @abstractmethod
    def details(self, request_id: str) -> dict[str, Any]:
        """The fields of its record that only this kind has."""

    @abstractmethod
    def payload(self, request_id: str) -> Payload:
        """What its workers get."""

    @abstractmethod
    def count(self, account: HordeAccount, request: HordeRequest) -> None:
        """Count the request at its account, which is locked."""

    def store(self, op: Operation, request: HordeRequest) -> None:
        """Store the payload of the new request, and what else belongs to it."""
        op.tx.add(self.payload(request.id))


def admit(op: Operation, new: Submission, api_key: str) -> Payer:
    """Who pays for a request. Raises HordeError if the request is not acceptable.

    The checks are in the real horde's order (contract: base.py:271-454), so that a request with
    two mistakes gets the same refusal here and there.
    """
    fields = new.fields
    admission.check_before_account(fields, modes.current(op)["maintenance_mode"])
    if fields["webhook"] is not None:
        webhooks.check_url(fields["webhook"], plain=op.rules.plain_webhooks)
    payer = shared_keys.downgraded(op, accounts.require_payer(op, api_key), fields)
    account = payer.account
    admission.check_account(fields, account)
    new.clean(op)
    # Raises WorkerNotFound: otherwise a request with a misspelt worker would wait for 20 minutes.
    for worker_id in fields["workers"][:MOST_WORKERS]:
        if op.tx.get(Worker, worker_id.lower()) is None:
            raise refusal("WorkerNotFound", id=worker_id)
    counted = admission.counted_models(new.models, account)
    waiting = op.view.waiting_results(account.id, counted, new.kind)
    admission.check_concurrency(new.n, account, waiting, new.concurrency_factor)
    new.check(op, account)
    return payer


def submit(op: Operation, new: Submission, payer: Payer, *, check_kudos: bool) -> HordeRequest:
    """Put an admitted request into the queue, hold its kudos and charge the tax.

    With `check_kudos`, raises KudosUpfront (403). Raises the refusals of `shared_keys.reserve`.
    """
    locked = _paying_account(op, payer, check_kudos)
    assert locked is not None
    request = _request(op, new, locked, check_kudos)
    if payer.shared_key is not None:
        price = dry_run(op, new) * locked.usage_multiplier
        shared_keys.reserve(op, payer.shared_key.id, request, price)
    op.tx.add(request)
    new.store(op, request)
    locked.held += request.held
    new.count(locked, request)
    op.tx.save(locked)
    if new.tax:
        balances.charge(op, locked, request, new.tax, balances.TAX)
    return request


def _paying_account(op: Operation, payer: Payer, check_kudos: bool) -> HordeAccount | None:
    """The account that a request changes, locked if what it decides must be exact.

    A lock keeps all other requests of the account waiting, and a sum needs none (see `kinds`).
    """
    account = payer.account
    is_exact = check_kudos or not op.rules.kudos or payer.shared_key is not None
    if is_exact or account.kudos - account.floor < _NEAR_THE_FLOOR:
        return op.tx.lock(HordeAccount, account.id)
    return op.tx.get(HordeAccount, account.id)


def _priority(account: HordeAccount) -> float:
    """The priority of an account's requests: its kudos (horde-api-2.md, section 4)."""
    if "flagged" not in account.roles:
        return account.kudos
    return account.kudos / 1000 if account.kudos > 10 else -100.0


def _request(
    op: Operation, new: Submission, account: HordeAccount, check_kudos: bool
) -> HordeRequest:
    # VIPs need not own the kudos of a long request.
    is_checked = check_kudos and op.rules.kudos and "special" not in account.roles
    held, downgraded = new.upfront(op, account) if is_checked else (0.0, False)
    fields, request_id = new.fields, op.rules.new_id()
    queued_at = op.view.queue_time(op.now)
    # Further workers are silently ignored, as in the real horde.
    workers = fields["workers"][:MOST_WORKERS]
    request = HordeRequest(
        id=request_id,
        account_id=account.id,
        n=new.n,
        models=tuple(new.models),
        workers=tuple(worker_id.lower() for worker_id in workers),
        worker_blacklist=fields["worker_blacklist"],
        trusted_workers=fields["trusted_workers"],
        slow_workers=fields["slow_workers"],
        created=op.now,
        rank=0.0,
        queued_at=queued_at,
        expires=op.now + op.rules.expiry,
        waiting=new.n,
        held=held,
        kind=new.kind,
        **new.details(request_id),
    )
    if op.rules.kudos:
        request.rank = rank(DOWNGRADED_PRIORITY if downgraded else _priority(account), queued_at)
    else:
        request.rank = fair_share.take_turn(account, request)
    return request


def dry_run(op: Operation, new: Submission) -> float:
    """The kudos that a request would cost, rounded to a whole number; 0 in a free horde."""
    return float(round(new.price(op))) if op.rules.kudos else 0.0


class TextSubmission(Submission):
    """A request for texts. `fields` were read with `schema.SUBMIT`, their chat by `chats.read`."""

    kind = TEXT

    @property
    def n(self) -> int:
        return int(self.fields["params"]["n"])

    def clean(self, op: Operation) -> None:
        fields = self.fields
        if fields["chat"] is None:
            fields["prompt"] = prompt_filters.cleaned(op, fields["prompt"])
            return
        chat: SubmittedChat = fields["chat"]
        fields["chat"] = chat.with_text(prompt_filters.cleaned(op, chat.text))

    def check(self, op: Operation, account: HordeAccount) -> None:
        admission.check_params(self.fields, account)
        admission.check_anonymous(self.fields, account, op.rules.access.anonymous_max_length)

    def price(self, op: Operation) -> float:
        params = self.fields["params"]
        size = op.rules.sizes.largest(self.models)
        return kudos.price(
            params["max_length"],
            params["max_context_length"],
            _UNKNOWN_PRICE_SIZE if size is None else size,
            params["n"],
        )

    def upfront(self, op: Operation, account: HordeAccount) -> tuple[float, bool]:
        fields, params = self.fields, self.fields["params"]
        # Counted at every submit. The real horde uses figures that are up to a minute old.
        queued, threads = op.view.load()
        limit = kudos.free_length(threads, queued)
        if params["max_length"] <= limit and fields["slow_workers"]:
            return 0.0, False
        required = self._required(op)
        if account.spendable >= required:
            return required, False
        if not fields["allow_downgrade"]:
            raise refusal("KudosUpfront", limit=limit, required=required)
        params["max_length"] = min(params["max_length"], limit)
        fields["slow_workers"] = True
        return 0.0, True

    def _required(self, op: Operation) -> float:
        """The kudos that an account must own for a request that is not free."""
        if not self.models:
            return kudos.UPFRONT_WITHOUT_MODEL * self.n
        size = op.rules.sizes.largest(self.models) or _UNKNOWN_UPFRONT_SIZE
        return kudos.upfront(self.fields["params"]["max_length"], size, self.n)

    def details(self, request_id: str) -> dict[str, Any]:
        params, chat = self.fields["params"], self.fields["chat"]
        return {
            "max_length": int(params["max_length"]),
            "max_context_length": int(params["max_context_length"]),
            "prompt_length": chat.length if chat else len(self.fields["prompt"]),
            "validated_backends": self.fields["validated_backends"],
            "is_chat": chat is not None,
        }

    def payload(self, request_id: str) -> Payload:
        fields, chat = self.fields, self.fields["chat"]
        return Payload(request_id, fields["prompt"], fields["params"], chat.body if chat else {})

    def count(self, account: HordeAccount, request: HordeRequest) -> None:
        account.requests_sent += 1
        account.tokens_requested += request.n * request.max_length

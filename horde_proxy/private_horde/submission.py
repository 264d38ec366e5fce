"""Accepts a request: the checks in order, the kudos that it needs, and its record.

`fields` is a body that was read with `schema.SUBMIT`, its chat with `chats.read`.
"""

from __future__ import annotations

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
from horde_proxy.private_horde.records import HordeAccount, Payload, TextRequest, Worker

# Billions of parameters that the upfront check assumes if no model is known (kobold.py:115-127).
_UNKNOWN_UPFRONT_SIZE = 1.0
# Billions of parameters that a dry run assumes if no model is known.
_UNKNOWN_PRICE_SIZE = 13.0
_NEAR_THE_FLOOR = 1000.0
"""Kudos that the taxes of a moment's requests do not use up: several may be charged at once."""


def admit(op: Operation, fields: Fields, api_key: str) -> Payer:
    """Who pays for a request. Raises HordeError if the request is not acceptable.

    The checks are in the real horde's order (contract: base.py:271-454), so that a request with
    two mistakes gets the same refusal here and there.
    """
    admission.check_before_account(fields, modes.current(op)["maintenance_mode"])
    if fields["webhook"] is not None:
        webhooks.check_url(fields["webhook"], plain=op.rules.plain_webhooks)
    payer = shared_keys.downgraded(op, accounts.require_payer(op, api_key), fields)
    account = payer.account
    admission.check_account(fields, account)
    _clean(op, fields)
    # Raises WorkerNotFound: otherwise a request with a misspelt worker would wait for 20 minutes.
    for worker_id in fields["workers"][:MOST_WORKERS]:
        if op.tx.get(Worker, worker_id.lower()) is None:
            raise refusal("WorkerNotFound", id=worker_id)
    counted = admission.counted_models(fields, account)
    waiting = op.view.waiting_results(account.id, counted)
    admission.check_concurrency(fields, account, waiting)
    admission.check_params(fields, account)
    admission.check_anonymous(fields, account, op.rules.access.anonymous_max_length)
    return payer


def submit(op: Operation, fields: Fields, payer: Payer, *, check_kudos: bool) -> TextRequest:
    """Put an admitted request into the queue, hold its kudos and charge the tax.

    With `check_kudos`, raises KudosUpfront (403). Raises the refusals of `shared_keys.reserve`.
    """
    locked = _paying_account(op, payer, check_kudos)
    assert locked is not None
    request = _request(op, fields, locked, check_kudos)
    if payer.shared_key is not None:
        price = dry_run(op, fields) * locked.usage_multiplier
        shared_keys.reserve(op, payer.shared_key.id, request, price)
    op.tx.add(request)
    chat = fields["chat"]
    body = chat.body if chat else {}
    op.tx.add(Payload(request.id, fields["prompt"], fields["params"], body))
    locked.held += request.held
    locked.requests_sent += 1
    locked.tokens_requested += request.n * request.max_length
    op.tx.save(locked)
    balances.charge(op, locked, request, kudos.TAX, balances.TAX)
    return request


def _clean(op: Operation, fields: Fields) -> None:
    """Replace what filters replace in the prompt, or in all texts of the chat.

    Raises CorruptPrompt (400).
    """
    if fields["chat"] is None:
        fields["prompt"] = prompt_filters.cleaned(op, fields["prompt"])
        return
    chat: SubmittedChat = fields["chat"]
    fields["chat"] = chat.with_text(prompt_filters.cleaned(op, chat.text))


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
    op: Operation, fields: Fields, account: HordeAccount, check_kudos: bool
) -> TextRequest:
    # VIPs need not own the kudos of a long request.
    is_checked = check_kudos and op.rules.kudos and "special" not in account.roles
    held, downgraded = _upfront(op, fields, account) if is_checked else (0.0, False)
    params = fields["params"]
    queued_at = op.view.queue_time(op.now)
    if op.rules.kudos:
        place = rank(DOWNGRADED_PRIORITY if downgraded else _priority(account), queued_at)
    else:
        tokens = int(params["n"]) * int(params["max_length"])
        place = fair_share.take_turn(account, tokens, queued_at)
    # Further workers are silently ignored, as in the real horde.
    workers = fields["workers"][:MOST_WORKERS]
    return TextRequest(
        id=op.rules.new_id(),
        account_id=account.id,
        n=int(params["n"]),
        max_length=int(params["max_length"]),
        max_context_length=int(params["max_context_length"]),
        prompt_length=chat.length if (chat := fields["chat"]) else len(fields["prompt"]),
        models=tuple(fields["models"]),
        workers=tuple(worker_id.lower() for worker_id in workers),
        worker_blacklist=fields["worker_blacklist"],
        trusted_workers=fields["trusted_workers"],
        validated_backends=fields["validated_backends"],
        slow_workers=fields["slow_workers"],
        created=op.now,
        rank=place,
        queued_at=queued_at,
        expires=op.now + op.rules.expiry,
        waiting=int(params["n"]),
        held=held,
        is_chat=fields["chat"] is not None,
    )


def dry_run(op: Operation, fields: Fields) -> float:
    """The kudos that a request would cost, rounded to a whole number; 0 in a free horde."""
    if not op.rules.kudos:
        return 0.0
    params = fields["params"]
    size = op.rules.sizes.largest(fields["models"])
    price = kudos.price(
        params["max_length"],
        params["max_context_length"],
        _UNKNOWN_PRICE_SIZE if size is None else size,
        params["n"],
    )
    return float(round(price))


def _upfront(op: Operation, fields: Fields, account: HordeAccount) -> tuple[float, bool]:
    """(kudos to hold, whether the request was downgraded). Raises KudosUpfront (403).

    If the account cannot afford a request with `allow_downgrade`, the request becomes a free one:
    its length is cut, slow workers may take it, and all other requests come first.
    """
    params = fields["params"]
    # Counted at every submit. The real horde uses figures that are up to a minute old.
    queued, threads = op.view.load()
    limit = kudos.free_length(threads, queued)
    if params["max_length"] <= limit and fields["slow_workers"]:
        return 0.0, False
    required = _required(op, fields)
    if account.spendable >= required:
        return required, False
    if not fields["allow_downgrade"]:
        raise refusal("KudosUpfront", limit=limit, required=required)
    params["max_length"] = min(params["max_length"], limit)
    fields["slow_workers"] = True
    return 0.0, True


def _required(op: Operation, fields: Fields) -> float:
    """The kudos that an account must own for a request that is not free."""
    models, n = fields["models"], int(fields["params"]["n"])
    if not models:
        return kudos.UPFRONT_WITHOUT_MODEL * n
    size = op.rules.sizes.largest(models) or _UNKNOWN_UPFRONT_SIZE
    return kudos.upfront(fields["params"]["max_length"], size, n)

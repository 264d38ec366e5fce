"""Accepts a request: the checks in order, the kudos that it needs, and its record.

Callers hold the state's lock. `fields` is a body that was read with `schema.SUBMIT`.
"""

from __future__ import annotations

from horde_proxy.aihorde import kudos
from horde_proxy.aihorde.limits import DOWNGRADED_PRIORITY, MOST_WORKERS
from horde_proxy.private_horde import admission
from horde_proxy.private_horde.admission import Fields
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.records import HordeAccount, TextRequest
from horde_proxy.private_horde.state import HordeState

# Billions of parameters that the upfront check assumes if no model is known (kobold.py:115-127).
_UNKNOWN_UPFRONT_SIZE = 1.0
# Billions of parameters that a dry run assumes if no model is known.
_UNKNOWN_PRICE_SIZE = 13.0


def admit(state: HordeState, fields: Fields, api_key: str, maintenance: bool) -> HordeAccount:
    """The account of a request. Raises HordeError if the request is not acceptable.

    The checks are in the real horde's order (contract: base.py:271-454), so that a request with
    two mistakes gets the same refusal here and there.
    """
    admission.check_before_account(fields, maintenance)
    account = state.accounts.require(api_key)
    admission.check_account(fields, account)
    # Raises WorkerNotFound: otherwise a request with a misspelt worker would wait for 20 minutes.
    for worker_id in fields["workers"][:MOST_WORKERS]:
        state.workers.find(worker_id)
    admission.check_concurrency(fields, account)
    admission.check_params(fields, account)
    return account


def new_request(
    state: HordeState, fields: Fields, account: HordeAccount, now: float, *, check_kudos: bool
) -> TextRequest:
    """The record of an admitted request. With `check_kudos`, raises KudosUpfront (403)."""
    held, downgraded = _upfront(state, fields, account) if check_kudos else (0.0, False)
    # Further workers are silently ignored, as in the real horde.
    workers = fields["workers"][:MOST_WORKERS]
    return TextRequest(
        id=state.new_id(),
        account=account,
        prompt=fields["prompt"],
        params=fields["params"],
        models=tuple(fields["models"]),
        workers=frozenset(worker_id.lower() for worker_id in workers),
        worker_blacklist=fields["worker_blacklist"],
        trusted_workers=fields["trusted_workers"],
        validated_backends=fields["validated_backends"],
        slow_workers=fields["slow_workers"],
        priority=DOWNGRADED_PRIORITY if downgraded else account.kudos,
        created=now,
        held=held,
    )


def dry_run(state: HordeState, fields: Fields) -> float:
    """The kudos that a request would cost, rounded to a whole number."""
    params = fields["params"]
    size = state.sizes.largest(fields["models"])
    price = kudos.price(
        params["max_length"],
        params["max_context_length"],
        _UNKNOWN_PRICE_SIZE if size is None else size,
        params["n"],
    )
    return float(round(price))


def _upfront(state: HordeState, fields: Fields, account: HordeAccount) -> tuple[float, bool]:
    """(kudos to hold, whether the request was downgraded). Raises KudosUpfront (403).

    If the account cannot afford a request with `allow_downgrade`, the request becomes a free one:
    its length is cut, slow workers may take it, and all other requests come first.
    """
    params = fields["params"]
    # Counted at every submit. The real horde uses figures that are up to a minute old.
    queued = sum(request.waiting for request in state.queue.waiting)
    limit = kudos.free_length(state.workers.threads(), queued)
    if params["max_length"] <= limit and fields["slow_workers"]:
        return 0.0, False
    required = _required(state, fields)
    if account.spendable >= required:
        return required, False
    if not fields["allow_downgrade"]:
        raise refusal("KudosUpfront", limit=limit, required=required)
    params["max_length"] = min(params["max_length"], limit)
    fields["slow_workers"] = True
    return 0.0, True


def _required(state: HordeState, fields: Fields) -> float:
    """The kudos that an account must own for a request that is not free."""
    models, n = fields["models"], int(fields["params"]["n"])
    if not models:
        return kudos.UPFRONT_WITHOUT_MODEL * n
    size = state.sizes.largest(models) or _UNKNOWN_UPFRONT_SIZE
    return kudos.upfront(fields["params"]["max_length"], size, n)

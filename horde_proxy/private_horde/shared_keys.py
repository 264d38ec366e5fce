"""Shared keys: what a request may take from one, and how they are made and changed.

A shared key spends its owner's kudos within limits of its own. Requests are refused where they
would exceed a limit; the real horde answers some of these with a plain 500 (horde-api-2.md,
section 5).
"""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde import accounts
from horde_proxy.private_horde.accounts import Payer
from horde_proxy.private_horde.errors import refusal, shared_key_not_found
from horde_proxy.private_horde.image_needs import ImageNeeds
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import IMAGE, HordeAccount, HordeRequest, HordeSharedKey

MOST_KEYS, MOST_KEYS_TRUSTED, MOST_KEYS_EDUCATION = 3, 10, 1000
"""Shared keys of one account (contract: user.py)."""
_DAY = 86_400.0


def downgraded(op: Operation, payer: Payer, fields: dict[str, Any]) -> Payer:
    """Who pays in place of a shared key that has no kudos left: the anonymous account.

    Only for requests with `allow_downgrade` (capture text_async_sharedkey_empty_downgrade), and
    where anonymous use is allowed.
    """
    key = payer.shared_key
    if (
        key is None
        or key.kudos_left > 0
        or not (fields["allow_downgrade"] and op.rules.access.anonymous)
    ):
        return payer
    anonymous = op.tx.get(HordeAccount, 0)
    assert anonymous is not None
    return Payer(anonymous)


def reserve(op: Operation, key_id: str, request: HordeRequest, price: float) -> None:
    """Hold the price of a request at its shared key, and count the request there.

    Raises InvalidAPIKey (401) if the key was deleted meanwhile, and SharedKeyExpired,
    SharedKeyEmpty, SharedKeyInsufficientKudos or SharedKeyLimitExceeded (403).
    """
    key = op.tx.lock(HordeSharedKey, key_id)
    if key is None:
        raise refusal("InvalidAPIKey")
    _check(op, key, request)
    left = key.kudos_left - key.held
    if left < price:
        raise refusal("SharedKeyInsufficientKudos", left=round(max(left, 0), 2), required=price)
    key.held += price
    key.requests += 1
    op.tx.save(key)
    request.shared_key, request.key_held = key.id, price


def _check(op: Operation, key: HordeSharedKey, request: HordeRequest) -> None:
    if key.expires is not None and key.expires <= op.now:
        raise refusal("SharedKeyExpired")
    if key.kudos_left <= 0:
        raise refusal("SharedKeyEmpty")
    if key.requests_left < 1:
        reason = f"This shared key has sent all of its {key.max_requests} requests."
        raise refusal("SharedKeyLimitExceeded", reason=reason)
    if request.kind == IMAGE:
        _check_image(key, ImageNeeds.of(request))
    if 0 <= key.max_text_tokens < request.max_length:
        reason = (
            f"This shared key allows at most {key.max_text_tokens} tokens for each request, and "
            f"this one needs {request.max_length}."
        )
        raise refusal("SharedKeyLimitExceeded", reason=reason)


def _check_image(key: HordeSharedKey, needs: ImageNeeds) -> None:
    for name, most, needed in (
        ("pixels", key.max_image_pixels, needs.pixels),
        ("steps", key.max_image_steps, needs.plain_steps),
    ):
        if 0 <= most < needed:
            reason = f"This shared key allows at most {most} {name}, and this image needs {needed}."
            raise refusal("SharedKeyLimitExceeded", reason=reason)


def find(op: Operation, key_id: str) -> HordeSharedKey:
    """A shared key. Raises InvalidAPIKey (401)."""
    key = op.tx.get(HordeSharedKey, key_id.lower())
    if key is None:
        raise shared_key_not_found()
    return key


def make(op: Operation, owner: HordeAccount, fields: dict[str, Any]) -> HordeSharedKey:
    """A new key. `fields`: see `schema.SHARED_KEY`. Raises AnonForbidden and Forbidden (403)."""
    if owner.anonymous:
        raise refusal("AnonForbidden")
    # Two keys made at the same moment must both be counted.
    op.tx.lock(HordeAccount, owner.id)
    most = _most_keys(owner)
    if len(op.tx.find(HordeSharedKey, account_id=owner.id)) >= most:
        raise refusal("Forbidden", reason=f"You cannot have more than {most} shared keys.")
    key = HordeSharedKey(op.rules.new_id(), owner.id, "", op.now, kudos=5000.0)
    _apply(op, key, fields)
    op.tx.add(key)
    return key


def _most_keys(owner: HordeAccount) -> int:
    if "education" in owner.roles:
        return MOST_KEYS_EDUCATION
    return MOST_KEYS_TRUSTED if owner.trusted else MOST_KEYS


def change(
    op: Operation, account: HordeAccount, key_id: str, fields: dict[str, Any]
) -> HordeSharedKey:
    """Change what `fields` names. Raises InvalidAPIKey, Forbidden and NoSharedKeyModSelected."""
    key = _own(op, account, key_id)
    if all(value is None for value in fields.values()):
        raise refusal("NoSharedKeyModSelected")
    # `kudos` and `max_requests` are from now on, so that the answer shows what was sent.
    _apply(op, key, fields)
    op.tx.save(key)
    return key


def delete(op: Operation, account: HordeAccount, key_id: str) -> None:
    """Remove a key; its running requests go on. Raises InvalidAPIKey and Forbidden."""
    op.tx.delete(_own(op, account, key_id))


def _own(op: Operation, account: HordeAccount, key_id: str) -> HordeSharedKey:
    find(op, key_id)
    key = op.tx.lock(HordeSharedKey, key_id.lower())
    if key is None:
        raise shared_key_not_found()
    if key.account_id != account.id:
        owner = op.tx.get(HordeAccount, key.account_id)
        name = "another account" if owner is None else owner.username
        reason = f"Shared Key {key.id} belongs to {name} and not to {account.username}."
        raise refusal("Forbidden", reason=reason)
    return key


def _apply(op: Operation, key: HordeSharedKey, fields: dict[str, Any]) -> None:
    for name in ("name", "max_text_tokens", "max_image_pixels", "max_image_steps"):
        if fields[name] is not None:
            setattr(key, name, fields[name])
    if (amount := fields["kudos"]) is not None:
        key.kudos = -1.0 if amount < 0 else amount + key.utilized
    if (most := fields["max_requests"]) is not None:
        key.max_requests = -1 if most < 0 else most + key.requests
    if (days := fields["expiry"]) is not None:
        # 0 and -1 are no end (capture sharedkey_put_bad_expiry).
        key.expires = op.now + days * _DAY if days > 0 else None


def top_up(op: Operation, key_id: str, amount: float) -> None:
    """Let a key spend more, after kudos were sent to it. A key without a limit stays so."""
    key = op.tx.lock(HordeSharedKey, key_id)
    if key is not None and key.kudos >= 0:
        key.kudos += amount
        op.tx.save(key)


def owner_of(op: Operation, key_id: str) -> HordeAccount | None:
    """The account of a shared key; None if there is no such key."""
    payer = accounts.find_payer(op, key_id)
    return payer.account if payer is not None and payer.shared_key is not None else None

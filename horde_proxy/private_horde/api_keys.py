"""The API keys of accounts: made, shown once, replaced and deleted. Only digests are kept."""

from __future__ import annotations

import secrets

from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import AccountKey, HordeAccount

MOST_KEYS = 10
"""Keys of one account that people made: one for each of their devices and programs."""


def new_secret() -> str:
    """A new key: 128 random bits in 22 urlsafe characters, the only length that horde-sdk takes."""
    return secrets.token_urlsafe(16)


def make(op: Operation, account: HordeAccount, name: str = "", replaced: str | None = None) -> str:
    """A new key of an account, which cannot be shown again.

    `replaced` is the fingerprint of a key that stops working. Raises KeyNotFound (404), and
    Forbidden (403) for too many keys.
    """
    # Two keys made at the same moment must both be counted.
    op.tx.lock(HordeAccount, account.id)
    if replaced is not None:
        op.tx.delete(_find(op, account, replaced))
    made = [key for key in op.tx.find(AccountKey, account_id=account.id) if not key.origin]
    if len(made) >= MOST_KEYS:
        reason = f"An account has at most {MOST_KEYS} keys. Delete or replace one."
        raise refusal("Forbidden", reason=reason)
    secret = new_secret()
    op.tx.add(AccountKey(key_digest(secret), account.id, op.now, name=name))
    return secret


def listed(op: Operation, account: HordeAccount) -> list[AccountKey]:
    """The keys of an account, the oldest first."""
    return sorted(op.tx.find(AccountKey, account_id=account.id), key=lambda key: key.created)


def delete(op: Operation, account: HordeAccount, fingerprint: str) -> None:
    """Remove a key. Raises KeyNotFound (404), and Forbidden (403) for one of the settings."""
    op.tx.delete(_find(op, account, fingerprint))


def delete_all(op: Operation, account: HordeAccount) -> None:
    """Remove all keys that people made."""
    for key in op.tx.find(AccountKey, account_id=account.id):
        if not key.origin:
            op.tx.delete(key)


def _find(op: Operation, account: HordeAccount, fingerprint: str) -> AccountKey:
    for key in op.tx.find(AccountKey, account_id=account.id):
        if key.fingerprint == fingerprint.lower():
            if key.origin:
                reason = (
                    "This key is that of the settings or of owner.key: change "
                    "private_horde.api_key, or delete that file, and restart."
                )
                raise refusal("Forbidden", reason=reason)
            return key
    raise refusal("KeyNotFound", id=fingerprint)

"""Who may use the horde: accounts by API key. Keys are kept as digests only and never shown."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.records import HordeAccount

ANONYMOUS_KEY = "0000000000"
_ANONYMOUS_FLOOR = -50.0
_ANONYMOUS_CONCURRENCY = 500


def digest(apikey: str) -> bytes:
    """Return what stands for a key in tables: its SHA-256."""
    return sha256(apikey.encode("utf-8", "surrogatepass")).digest()


class HordeAccounts:
    """All accounts; the anonymous one (id 0, at its floor) is there, if not always with its key."""

    def __init__(self, now: float, anonymous: bool = True) -> None:
        self.anonymous = HordeAccount(
            0,
            "Anonymous",
            now,
            kudos=_ANONYMOUS_FLOOR,
            floor=_ANONYMOUS_FLOOR,
            concurrency=_ANONYMOUS_CONCURRENCY,
        )
        self._by_key = {digest(ANONYMOUS_KEY): self.anonymous} if anonymous else {}
        self._by_name = {self.anonymous.username: self.anonymous}

    def add(self, apikey: str, account: HordeAccount) -> None:
        """Register an account under a key; raises ValueError when the key is taken or empty."""
        key = digest(apikey)
        if not apikey or key in self._by_key:
            raise ValueError(f"the key for account {account.alias!r} is empty or already taken")
        self._by_key[key] = account
        self._by_name[account.username] = account

    def next_id(self) -> int:
        """Return the id of the next account."""
        return len(self._by_name)

    def find(self, apikey: str) -> HordeAccount | None:
        """Return the account of a key, or None."""
        return self._by_key.get(digest(apikey))

    def require(self, apikey: str) -> HordeAccount:
        """Return the account of a key; raises InvalidAPIKey (401)."""
        account = self.find(apikey)
        if account is None:
            raise refusal("InvalidAPIKey")
        return account

    def named(self, usernames: Iterable[str]) -> list[HordeAccount]:
        """Return the accounts of those "alias#id" that exist."""
        return [self._by_name[name] for name in usernames if name in self._by_name]

"""The accounts of the horde, by API key. Keys are kept only as digests and never shown."""

from __future__ import annotations

from collections.abc import Iterable

from horde_proxy.aihorde.kudos import ANONYMOUS_FLOOR
from horde_proxy.aihorde.limits import ANONYMOUS_CONCURRENCY
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.records import HordeAccount


class HordeAccounts:
    """All accounts. The anonymous one (id 0, at its floor) always exists.

    Its key is accepted only if `anonymous` is true.
    """

    def __init__(self, now: float, anonymous: bool = True) -> None:
        self.anonymous = HordeAccount(
            0,
            "Anonymous",
            now,
            kudos=ANONYMOUS_FLOOR,
            floor=ANONYMOUS_FLOOR,
            concurrency=ANONYMOUS_CONCURRENCY,
        )
        # A horde that is not open to everybody treats the anonymous key like any unknown key.
        self._by_digest = {key_digest(ANONYMOUS_KEY): self.anonymous} if anonymous else {}
        self._by_name = {self.anonymous.username: self.anonymous}

    def add(self, api_key: str, account: HordeAccount) -> None:
        """Register an account under a key. Raises ValueError if the key is empty or taken."""
        # If the horde accepts anonymous users, their key counts as taken, too.
        digest = key_digest(api_key)
        if not api_key or digest in self._by_digest:
            raise ValueError(f"the key for account {account.alias!r} is empty or already taken")
        self._by_digest[digest] = account
        self._by_name[account.username] = account

    def next_id(self) -> int:
        """The id of the next account."""
        return len(self._by_name)

    def find(self, api_key: str) -> HordeAccount | None:
        """The account of a key, or None."""
        return self._by_digest.get(key_digest(api_key))

    def require(self, api_key: str) -> HordeAccount:
        """The account of a key. Raises InvalidAPIKey (401) for an unknown key."""
        account = self.find(api_key)
        if account is None:
            raise refusal("InvalidAPIKey")
        return account

    def named(self, usernames: Iterable[str]) -> list[HordeAccount]:
        """The accounts of usernames such as "alias#id"; unknown names are left out."""
        return [self._by_name[name] for name in usernames if name in self._by_name]

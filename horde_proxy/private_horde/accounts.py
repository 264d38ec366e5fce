"""The accounts of the horde, by API key. Keys are kept only as digests and never shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from horde_proxy.aihorde.kudos import ANONYMOUS_FLOOR
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import balances
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import (
    AccountKey,
    HordeAccount,
    HordeSetting,
    HordeSharedKey,
)
from horde_proxy.private_horde.roles import ROLES

_ANONYMOUS_ID = 0

FROM_SETTINGS = "settings"
"""The origin of the owner's key that the settings hold. There is one."""
FROM_START = "start"
"""The origin of an owner's key that a process made for itself when it started."""

_OWNER = "owner_account"
"""The setting of the horde with the number of the account that its settings make."""
_MOST_START_KEYS = 100
"""Of keys made at starts, the newest ones stay: other processes may still use them."""

# The form of a UUID, which shared keys have, e.g. "7edd2c33-4c68-42f9-af9b-d85a7e138d3b".
_SHARED_KEY = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


class SignedIn(str):
    """The digest of a key whose holder has signed in: it goes wherever a key goes.

    Only a page that keeps sessions makes one. A key that a client sends is a plain str, so that
    nobody gets in with a digest.
    """


@dataclass(frozen=True)
class Payer:
    """Who pays for a request: an account, and the shared key that it was sent with, if any."""

    account: HordeAccount
    shared_key: HordeSharedKey | None = None

    @property
    def username(self) -> str:
        """The account's name, with that of the shared key (capture sharedkey_find_user)."""
        if self.shared_key is None:
            return self.account.username
        return f"{self.account.username} (Shared Key: {self.shared_key.name})"


def ensure_anonymous(op: Operation) -> None:
    """Make the anonymous account (id 0, at its floor), or give it the settings' concurrency."""
    account = op.tx.get(HordeAccount, _ANONYMOUS_ID)
    if account is None:
        # Its workers would be nobody's, so they are nobody's secret either (capture user_anon).
        account = HordeAccount(
            _ANONYMOUS_ID,
            "Anonymous",
            op.now,
            floor=ANONYMOUS_FLOOR,
            concurrency=op.rules.access.anonymous_concurrency,
            public_workers=True,
        )
        op.tx.add(account)
        balances.give(op, account, ANONYMOUS_FLOOR, balances.OPENING)
    elif account.concurrency != op.rules.access.anonymous_concurrency:
        op.tx.lock(HordeAccount, _ANONYMOUS_ID)
        account.concurrency = op.rules.access.anonymous_concurrency
        op.tx.save(account)


def add(op: Operation, api_key: str, account: HordeAccount, kudos: float) -> None:
    """Register an account under a key. Raises ValueError if the key is empty or taken."""
    if not api_key or find(op, api_key) is not None:
        raise ValueError(f"the key for account {account.alias!r} is empty or already taken")
    op.tx.add(account)
    if kudos:
        balances.give(op, account, kudos, balances.OPENING)
    op.tx.add(AccountKey(key_digest(api_key), account.id, op.now))


def ensure_owner(
    op: Operation, api_key: str, owner: HordeAccount, kudos: float, origin: str
) -> str:
    """The username of the owner's account, which is made the first time and found again later.

    It gets the key, and so many kudos at least. A key that the settings held before no longer
    works. Raises ValueError if the key is another account's.
    """
    account = _owner(op, owner)
    if account.kudos < kudos:
        balances.give(op, account, kudos - account.kudos, balances.OPENING)
    digest = key_digest(api_key)
    known = op.tx.get(AccountKey, digest)
    if known is not None and known.account_id != account.id:
        raise ValueError("private_horde.api_key is the key of another account of this horde")
    if known is None:
        op.tx.add(AccountKey(digest, account.id, op.now, origin))
    keys = [key for key in op.tx.find(AccountKey, account_id=account.id) if key.digest != digest]
    others = [key for key in keys if key.origin == origin]
    others.sort(key=lambda key: key.created, reverse=True)
    for key in others[0 if origin == FROM_SETTINGS else _MOST_START_KEYS :]:
        op.tx.delete(key)
    return account.username


def _owner(op: Operation, owner: HordeAccount) -> HordeAccount:
    """The owner's account, locked; the given one if there is none yet."""
    setting = op.tx.get(HordeSetting, _OWNER)
    account = None if setting is None else op.tx.lock(HordeAccount, int(setting.value))
    if account is None:
        op.tx.add(owner)
        op.tx.add(HordeSetting(_OWNER, str(owner.id)))
        return owner
    account.roles = tuple(role for role in ROLES if role in (*account.roles, *owner.roles))
    account.concurrency = owner.concurrency
    op.tx.save(account)
    return account


def find(op: Operation, api_key: str) -> HordeAccount | None:
    """The account of a key, or None.

    A horde that is not open to everybody treats the anonymous key like any unknown key.
    """
    if api_key == ANONYMOUS_KEY and op.rules.access.anonymous:
        return op.tx.get(HordeAccount, _ANONYMOUS_ID)
    digest = str(api_key) if isinstance(api_key, SignedIn) else key_digest(api_key)
    key = op.tx.get(AccountKey, digest)
    return None if key is None else op.tx.get(HordeAccount, key.account_id)


def known(op: Operation, api_key: str) -> HordeAccount:
    """The account of a key. Raises InvalidAPIKey (401) for an unknown key."""
    account = find(op, api_key)
    if account is None:
        raise refusal("InvalidAPIKey")
    return account


def require(op: Operation, api_key: str) -> HordeAccount:
    """The account of a key, which may act.

    Raises InvalidAPIKey (401), and DeletedUser or BlockedUser (403).
    """
    return _active(known(op, api_key))


def _active(account: HordeAccount) -> HordeAccount:
    if account.deleted is not None:
        raise refusal("DeletedUser")
    if account.blocked:
        raise refusal("BlockedUser")
    return account


def require_moderator(op: Operation, api_key: str) -> HordeAccount:
    """As `require`. Raises NotModerator (403) for other accounts than moderators'."""
    account = require(op, api_key)
    if not account.moderator:
        raise refusal("NotModerator")
    return account


def require_admin(op: Operation, api_key: str) -> HordeAccount:
    """As `require`. Raises NotAdmin (403) for other accounts than administrators'."""
    account = require(op, api_key)
    if not account.admin:
        raise refusal("NotAdmin")
    return account


def moderates(account: HordeAccount) -> bool:
    """Whether an account may act as a moderator: a blocked or deleted moderator may not."""
    return account.moderator and not account.blocked and account.deleted is None


def find_payer(op: Operation, api_key: str) -> Payer | None:
    """Who a key of an account, or a shared key, belongs to. None for an unknown key."""
    account = find(op, api_key)
    if account is not None:
        return Payer(account)
    if not _SHARED_KEY.fullmatch(api_key):
        return None
    key = op.tx.get(HordeSharedKey, api_key.lower())
    owner = None if key is None else op.tx.get(HordeAccount, key.account_id)
    return None if owner is None else Payer(owner, key)


def require_payer(op: Operation, api_key: str) -> Payer:
    """As `require`, also for a shared key."""
    payer = find_payer(op, api_key)
    if payer is None:
        raise refusal("InvalidAPIKey")
    _active(payer.account)
    return payer


def named(op: Operation, usernames: Iterable[str]) -> list[HordeAccount]:
    """The accounts of usernames such as "alias#id"; unknown names are left out."""
    accounts = []
    for username in usernames:
        number = username.rpartition("#")[2]
        # int() also reads "1_000" and digits of other scripts; a database's numbers end at 2^63.
        if number.isascii() and number.isdecimal() and len(number) < 19:
            account = op.tx.get(HordeAccount, int(number))
            if account is not None and account.username == username:
                accounts.append(account)
    return accounts

"""How people join: invitations, and new accounts.

An invitation is a link with a token, which works a number of times and until an end. The store
keeps the token's digest; the link is shown once.
"""

from __future__ import annotations

from horde_proxy.aihorde.kudos import REGISTERED_FLOOR
from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import api_keys, balances
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import NEW, HordeAccount, Invitation
from horde_proxy.private_horde.roles import concurrency_of

LONGEST_NAME = 30
"""Characters of a name (capture user_put_username_long)."""
MOST_USES = 1000
"""Uses of one invitation: a school's largest class year."""
DEFAULT_DAYS = 7.0
"""Days for which an invitation works unless it names others."""
_DAY = 86_400.0


def checked_name(name: str) -> str:
    """A name without spaces around it. Raises TooLongUserName and BadRequest (400)."""
    name = name.strip()
    if len(name) > LONGEST_NAME:
        raise refusal("TooLongUserName")
    # "#" would end the alias in "alias#id"; the rest would spoil lists in a terminal.
    if not name or "#" in name or not name.isprintable():
        reason = "A username has 1 to 30 visible characters, and no #."
        raise refusal("BadRequest", reason=reason)
    return name


def add(
    op: Operation,
    name: str,
    *,
    roles: tuple[str, ...] = (),
    kudos: float = 0.0,
    contact: str = "",
) -> tuple[HordeAccount, str]:
    """A new account and its first key, which cannot be shown again.

    It starts at the floor of registered accounts, and with so many kudos beyond it.
    """
    account = HordeAccount(
        NEW,
        checked_name(name),
        op.now,
        floor=REGISTERED_FLOOR,
        roles=roles,
        concurrency=concurrency_of(roles),
        contact=contact,
    )
    op.tx.add(account)
    balances.give(op, account, REGISTERED_FLOOR + kudos, balances.OPENING)
    return account, api_keys.make(op, account)


def register(
    op: Operation, name: str, token: str | None, contact: str = ""
) -> tuple[HordeAccount, str]:
    """A new account for somebody who joins, and its key.

    Raises RegistrationClosed, InvitationRequired and InvalidInvitation (403).
    """
    # An invitation also works where none is needed: it may bring kudos.
    mode = op.rules.access.registration
    if mode == "closed":
        raise refusal("RegistrationClosed")
    if token is None and mode != "open":
        raise refusal("InvitationRequired")
    kudos = 0.0 if token is None else _use(op, token).kudos
    return add(op, name, kudos=kudos, contact=contact)


def _use(op: Operation, token: str) -> Invitation:
    """An invitation that works, with one use less."""
    # Looked up by the digest, so that the time of an answer tells nothing about other tokens.
    [*matches] = op.tx.find(Invitation, digest=key_digest(token))
    invitation = op.tx.lock(Invitation, matches[0].id) if matches else None
    if invitation is None or not works(op, invitation):
        raise refusal("InvalidInvitation")
    invitation.uses_left -= 1
    op.tx.save(invitation)
    return invitation


def works(op: Operation, invitation: Invitation) -> bool:
    """Whether somebody may still register with an invitation."""
    return invitation.uses_left > 0 and not (
        invitation.expires is not None and invitation.expires <= op.now
    )


def invite(
    op: Operation,
    made_by: int,
    *,
    uses: int = 1,
    days: float | None = DEFAULT_DAYS,
    kudos: float = 0.0,
    note: str = "",
) -> tuple[Invitation, str]:
    """A new invitation and its token, which cannot be shown again. Without `days` it has no end."""
    token = api_keys.new_secret()
    expires = None if days is None else op.now + days * _DAY
    invitation = Invitation(NEW, key_digest(token), made_by, op.now, expires, uses, note, kudos)
    op.tx.add(invitation)
    return invitation, token


def invitations(op: Operation) -> list[Invitation]:
    """The invitations that still work, the newest first."""
    # More than these are no list that somebody reads.
    newest = op.tx.page(Invitation, "created", descending=True, offset=0, limit=1000)
    return [invitation for invitation in newest if works(op, invitation)]


def withdraw(op: Operation, invitation_id: int) -> None:
    """Make an invitation useless. Raises InvitationNotFound (404)."""
    invitation = op.tx.lock(Invitation, invitation_id)
    if invitation is None:
        raise refusal("InvitationNotFound", id=invitation_id)
    op.tx.delete(invitation)

"""The roles that an account may have, by AI-Horde's names, and who may give them. Pure.

trusted     its workers may take requests for trusted workers; 10 shared keys
moderator   may change other accounts, block them and invite people
admin       also gives kudos and makes moderators; comes only from the settings and `users` commands
flagged     its requests come last
service     may send requests for users of its own (proxied_account)
education   a school or a class: 200 requests at a time, 1000 shared keys
special     a VIP: long requests without owning their kudos first
customizer, vpn: kept for the API; they mean nothing for text
"""

from __future__ import annotations

from collections.abc import Iterable

from horde_proxy.aihorde.limits import CONCURRENCY

ADMIN, MODERATOR = "admin", "moderator"

BY_MODERATORS = (
    "trusted",
    "flagged",
    "customizer",
    "vpn",
    "service",
    "education",
    "special",
)
"""The roles that a moderator may give and take."""

ROLES = (ADMIN, MODERATOR, *BY_MODERATORS)
"""All roles, in the order in which they are listed."""

EDUCATION_CONCURRENCY = 200
"""The requests at a time of an account with the role education (capture user_put_education)."""


def with_role(roles: Iterable[str], role: str, has_it: bool) -> tuple[str, ...]:
    """The roles with one more, or with one less."""
    wanted = {*roles, role} if has_it else {*roles} - {role}
    return tuple(name for name in ROLES if name in wanted)


def concurrency_of(roles: Iterable[str]) -> int:
    """The requests at a time of an account that nobody has given another number."""
    return EDUCATION_CONCURRENCY if "education" in roles else CONCURRENCY

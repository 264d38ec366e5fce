"""Signing in to the private horde's pages: cookies, CSRF tokens, and who a session belongs to.

As with the proxy's page (see `login`), one cookie holds the session and another the token of the
forms that need no session; both are HttpOnly and SameSite=Strict. A session knows the digest of a
horde key, and ends with that key. Nothing here knows the proxy, so a horde that runs alone has the
same pages.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from flask import Response, request

from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.accounts import SignedIn
from horde_proxy.private_horde.errors import HordeError
from horde_proxy.web.csrf import is_own_form
from horde_proxy.web.sessions import SESSION_SECONDS, Session, Sessions

SESSION_COOKIE, FORM_COOKIE = "horde_page", "horde_form"
_FORM_SECONDS = 3600


@dataclass(frozen=True)
class PageHost:
    """What the application gives the pages.

    `sessions` signs cookies. The functions are for the current request: its client's address,
    whether the client's connection is encrypted, and to count a wrong key, which raises
    TooManyWrongKeys (horde_proxy.errors) above a bound.
    """

    sessions: Sessions
    client_address: Callable[[], str]
    is_https: Callable[[], bool]
    count_wrong_key: Callable[[str], None]


@dataclass(frozen=True)
class HordeVisitor:
    """Somebody who has signed in. `key` goes wherever a method of the horde takes a key."""

    key: SignedIn
    session: Session
    id: int
    username: str
    moderator: bool
    admin: bool
    state: str


def visitor_of(horde: PrivateHorde, host: PageHost) -> HordeVisitor | None:
    """Who sent the current request; None without a session, or if its key no longer works."""
    session = host.sessions.find(request.cookies.get(SESSION_COOKIE, ""))
    if session is None:
        return None
    key = SignedIn(session.digest)
    try:
        return HordeVisitor(key, session, **horde.people.caller(key))
    except HordeError:
        return None


def begin_session(host: PageHost, response: Response, api_key: str) -> None:
    """Put the cookie of a new session on a response."""
    cookie = host.sessions.begin(key_digest(api_key))
    _set_cookie(host, response, SESSION_COOKIE, cookie, SESSION_SECONDS)
    response.delete_cookie(FORM_COOKIE)


def end_session(host: PageHost, response: Response) -> None:
    """End the session of the current request. Raises Unavailable (horde_proxy.errors)."""
    host.sessions.end(request.cookies.get(SESSION_COOKIE, ""))
    response.delete_cookie(SESSION_COOKIE)


def form_token() -> str:
    """The token for a form that needs no session."""
    return request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(32)


def keep_form_token(host: PageHost, response: Response, token: str) -> None:
    """Put the token's cookie on the response with the form."""
    _set_cookie(host, response, FORM_COOKIE, token, _FORM_SECONDS)


def is_our_form(visitor: HordeVisitor | None) -> bool:
    """Whether the current request comes from a form that this visitor was shown here (CSRF)."""
    expected = visitor.session.token if visitor else request.cookies.get(FORM_COOKIE, "")
    return is_own_form(expected)


def _set_cookie(host: PageHost, response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        name, value, max_age=seconds, secure=host.is_https(), httponly=True, samesite="Strict"
    )

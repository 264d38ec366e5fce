"""Logging in to the page: the check of visitors, the form and its cookies, and CSRF tokens.

There are two cookies: one holds the session, the other the token of the login form. Both are
HttpOnly and SameSite=Strict. Every request that changes something also needs a token, against
requests that other sites make the browser send (CSRF): the login needs the form's token, all others
the session's.
"""

from __future__ import annotations

import secrets

from flask import Response, g, make_response, redirect, render_template, request

from horde_proxy.api.auth import (
    act_as,
    authenticate,
    client_key,
    count_wrong_key,
    is_operator,
)
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.errors import InvalidApiKey, Refused, TooManyWrongKeys
from horde_proxy.key_digest import key_digest
from horde_proxy.router import EVERYTHING
from horde_proxy.web.csrf import FORM_EXPIRED, is_foreign, is_own_form, is_same_token
from horde_proxy.web.sessions import SESSION_SECONDS, Session

SESSION_COOKIE, FORM_COOKIE = "horde_proxy_page", "horde_proxy_form"
# The name of a header, not a token.
TOKEN_HEADER = "X-Page-Token"  # noqa: S105
_FORM_SECONDS = 3600
_LONGEST_FORM = 16_384
"""Bytes. The form has a key and a token; the bound of other bodies is for chats."""
_OPERATORS_ONLY = {
    True: (
        "This is for administrators: log in with the key of one (`horde-proxy keys add NAME "
        "--admin`)."
    ),
    False: (
        "Without keys, only this machine may administer the proxy. Open the page there, or set "
        'access.mode = "keys".'
    ),
}
"""Why a visitor may not administer the proxy, by whether keys are required."""


def visitor_is_allowed() -> bool:
    """Whether a key in a header, or a session, allows the visitor to see the page.

    The request gets the rights of this key. Raises InvalidApiKey for a wrong key in a header.
    """
    ctx = current_context()
    g.key, g.scope = None, EVERYTHING
    if not ctx.access.requires_key or client_key() is not None:
        authenticate()
        return True
    session = current_session(ctx)
    key = ctx.access.keys.find_digest(session.digest) if session else None
    if session is None or key is None:
        return False
    act_as(key)
    g.visitor, g.page_token = session.digest, session.token
    return True


def require_visitor() -> None:
    """Raises InvalidApiKey for a visitor who may not see the page."""
    if not visitor_is_allowed():
        raise InvalidApiKey("You are not logged in. Log in at the page, or send an API key.")


def require_operator() -> None:
    """Raises InvalidApiKey for a visitor who may not see the page, Refused for one who is no admin.

    Where no key is required, whoever is at this machine is the operator.
    """
    require_visitor()
    if not is_operator():
        raise Refused(_OPERATORS_ONLY[current_context().access.requires_key])


def operators_token() -> str:
    """The token of the operator's forms: the session's, else one that a cookie holds as well."""
    if "visitor" in g:
        return str(g.page_token)
    if "form_token" not in g:
        g.form_token = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(32)
    return str(g.form_token)


def keep_form_token(response: Response) -> None:
    """Put the cookie of the operator's forms on a response; a session needs none."""
    if "form_token" in g:
        _set_cookie(response, FORM_COOKIE, g.form_token, _FORM_SECONDS)


def is_operators_form() -> bool:
    """Whether a form was shown by this proxy to who sends it now, and not by another site."""
    if is_foreign():
        return False
    # Another site can make a browser send cookies, but no key in a header.
    if "visitor" not in g and current_context().access.requires_key:
        return True
    token = g.page_token if "visitor" in g else request.cookies.get(FORM_COOKIE)
    return is_own_form(token)


def current_session(ctx: AppContext) -> Session | None:
    """The session of the request's cookie."""
    return ctx.live.page.sessions.find(request.cookies.get(SESSION_COOKIE, ""))


def log_in() -> Response:
    """A redirect to the page with a new session, or the form again with the reason."""
    ctx = current_context()
    request.max_content_length = _LONGEST_FORM
    key = request.form.get("key", "").strip()
    g.key, g.scope = None, EVERYTHING
    if not ctx.access.requires_key:
        return _redirect_to_page()
    if not is_own_form(request.cookies.get(FORM_COOKIE)):
        return login_form(FORM_EXPIRED, 400)
    if ctx.access.keys.find(key) is None:
        return _wrong_key(key)
    response = _redirect_to_page()
    begin_session(response, key_digest(key))
    response.delete_cookie(FORM_COOKIE)
    return response


def begin_session(response: Response, digest: str) -> None:
    """Log the visitor in with the key of a digest. Raises Unavailable."""
    cookie = current_context().live.page.sessions.begin(digest)
    _set_cookie(response, SESSION_COOKIE, cookie, SESSION_SECONDS)


def _wrong_key(key: str) -> Response:
    """The form again, with what is wrong."""
    g.record.error = InvalidApiKey.code
    try:
        count_wrong_key(current_context(), key)
    except TooManyWrongKeys as exc:
        g.record.error = exc.code
        response = login_form(exc.message, exc.status)
        response.headers.update(exc.headers())
        return response
    return login_form("This key is not known.", 401)


def log_out() -> Response:
    """End the session. A redirect to the page. Raises InvalidApiKey, Refused and Unavailable."""
    require_visitor()
    check_token(request.form.get("token"))
    current_context().live.page.sessions.end(request.cookies.get(SESSION_COOKIE, ""))
    response = _redirect_to_page()
    response.delete_cookie(SESSION_COOKIE)
    return response


def check_token(token: str | None) -> None:
    """Raises Refused for a request that another site has made the browser send."""
    if is_foreign() or ("visitor" in g and not is_same_token(g.page_token, token)):
        raise Refused(FORM_EXPIRED)


def login_form(message: str, status: int) -> Response:
    """The login form, with a message above it."""
    token = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(32)
    # Links are relative: from /page/admin/keys, the root is two folders up.
    base = "../" * (request.path.count("/") - 1)
    html = render_template(
        "login.html",
        token=token,
        message=message,
        base=base,
        has_horde_pages=current_context().serving.has_horde_pages,
    )
    response = make_response(html, status)
    _set_cookie(response, FORM_COOKIE, token, _FORM_SECONDS)
    return response


def _redirect_to_page() -> Response:
    # The path is relative, since a reverse proxy may serve the page below another path.
    return make_response(redirect("../", 303))


def _set_cookie(response: Response, name: str, value: str, seconds: int) -> None:
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        secure=is_https(current_context()),
        httponly=True,
        samesite="Strict",
    )


def is_https(ctx: AppContext) -> bool:
    """Whether the client's own connection is encrypted, as far as trusted proxies report it."""
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip()
    return request.is_secure or (
        forwarded == "https" and request.remote_addr in ctx.access.trusted_proxies
    )

"""What a visitor sees where a page cannot be shown: the form to log in, or a message.

Each blueprint with pages of its own calls `show_errors`. The private horde's pages do not: they
have a login of their own, and errors of the horde (horde_pages.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flask import Blueprint, Response, g
from werkzeug.exceptions import HTTPException

from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import InvalidApiKey, ProxyError
from horde_proxy.web import login

_NO_DATABASE = "The database does not answer. Try again in some seconds."

log = logging.getLogger(__name__)


def show_errors(blueprint: Blueprint, message: Callable[[str, int], Response]) -> None:
    """Answer the errors of a blueprint's views with pages.

    `message` makes a page from a sentence and a status.
    """

    @blueprint.errorhandler(InvalidApiKey)
    def ask_for_key(error: InvalidApiKey) -> Response:
        g.record.error = error.code
        return login.login_form("", error.status)

    @blueprint.errorhandler(ProxyError)
    def refused(error: ProxyError) -> Response:
        g.record.error = error.code or error.type
        response = message(error.message, error.status)
        response.headers.update(error.headers())
        return response

    @blueprint.errorhandler(DatabaseError)
    def unavailable(error: DatabaseError) -> Response:
        # Its own message may name files and hosts.
        log.warning("a page cannot be shown: %s", error)
        return message(_NO_DATABASE, 503)

    @blueprint.errorhandler(HTTPException)
    def not_served(error: HTTPException) -> Response:
        # Such as a form that is too large.
        return message(f"{error.name}.", error.code or 500)

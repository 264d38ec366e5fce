"""The pages of the private horde under /page/horde: for members, moderators and administrators.

    GET  PAGE    -> visitor? -> load (methods of the horde) -> template
    POST ACTION  -> visitor? -> CSRF token? -> method of the horde -> redirect to the page, or the
                    page again with what is wrong, or, for a new key, the only page that shows it

No rule is here: a page calls the methods that the routes of /api/v2 call, with the key of its
visitor. The pages need no script. All links are relative, since a reverse proxy may serve them
below another path. They know nothing of the proxy but `PageHost`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Response,
    g,
    make_response,
    redirect,
    render_template,
    request,
    send_from_directory,
)
from werkzeug.exceptions import HTTPException

from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ProxyError, TooManyWrongKeys
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.errors import HordeError, too_fast
from horde_proxy.web import horde_access as access
from horde_proxy.web import horde_tables, horde_worker_tables
from horde_proxy.web.csrf import FORM_EXPIRED
from horde_proxy.web.form_filters import link
from horde_proxy.web.horde_access import HordeVisitor, PageHost
from horde_proxy.web.horde_actions import ACTIONS, Secret
from horde_proxy.web.horde_sentences import read_sentence
from horde_proxy.web.horde_worker_tables import OWN_PAGE
from horde_proxy.web.html_response import PLAIN_CSP, add_page_headers, html_response
from horde_proxy.web.list_pages import PAGE
from horde_proxy.web.sent_forms import SentForm

PATH = "/page/horde"
_LONGEST_FORM = 131_072
"""Bytes. A message has up to 10,240 characters, each of 12 bytes at most in a form."""
_STATIC = Path(__file__).parent / "static"
_FILES = ("page.css", "forms.css", "icon.svg")
_WRONG_KEY = "This is not the key of an account of this horde."
_NO_DATABASE = "The horde's database does not answer. Try again in some seconds."

log = logging.getLogger(__name__)

Facts = dict[str, Any]
Load = Callable[[PrivateHorde, HordeVisitor, Mapping[str, str]], Facts]


@dataclass(frozen=True)
class Page:
    """A page: its title, what its template gets, and whether only moderators have it.

    Without `in_menu`, it is reached from another page. `arguments` are those of its address, which
    its forms keep.
    """

    title: str
    load: Load
    moderators: bool = False
    in_menu: bool = True
    arguments: tuple[str, ...] = ()


PAGES: Mapping[str, Page] = {
    "account": Page("My account", horde_tables.account),
    "queue": Page("Queue", horde_tables.queue),
    "workers": Page("Workers", horde_worker_tables.workers, arguments=("owner", OWN_PAGE, PAGE)),
    "teams": Page("Teams", horde_worker_tables.teams, arguments=(PAGE,)),
    "messages": Page("Messages", horde_worker_tables.messages, arguments=("worker", PAGE)),
    "news": Page("News", horde_tables.news),
    "people": Page("People", horde_tables.people, moderators=True),
    "person": Page(
        "Account", horde_tables.person, moderators=True, in_menu=False, arguments=("id",)
    ),
    "invitations": Page("Invitations", horde_tables.invitations, moderators=True),
    "filters": Page("Filters", horde_tables.filters, moderators=True, arguments=(PAGE,)),
    "timeouts": Page("Time-outs", horde_tables.timeouts, moderators=True, arguments=(PAGE,)),
    "rules": Page("Rules", horde_tables.rules, moderators=True),
}
"""All pages of somebody who has signed in, by the last part of their paths."""


def blueprint(horde: PrivateHorde, host: PageHost) -> Blueprint:
    """The blueprint that serves the pages of a private horde."""
    pages = _Views(horde, host)
    routes = Blueprint("horde_pages", __name__, url_prefix=PATH, template_folder="templates")
    for rule, view, method in (
        ("", pages.without_slash, "GET"),
        ("/", pages.index, "GET"),
        ("/join", pages.join_form, "GET"),
        ("/join", pages.join, "POST"),
        ("/sign-in", pages.sign_in, "POST"),
        ("/sign-out", pages.sign_out, "POST"),
        ("/static/<name>", pages.static, "GET"),
        ("/<name>", pages.page, "GET"),
        ("/<name>", pages.act, "POST"),
    ):
        routes.add_url_rule(rule, view.__name__, view, methods=[method])
    routes.register_error_handler(HordeError, pages.refused)
    routes.register_error_handler(DatabaseError, pages.unavailable)
    routes.register_error_handler(ProxyError, pages.failed)
    routes.register_error_handler(HTTPException, pages.not_served)
    for filter_ in horde_tables.FILTERS:
        routes.add_app_template_filter(filter_)
    routes.before_request(_limit_form)
    routes.after_request(_with_headers)
    return routes


class _Views:
    """The views of one horde."""

    def __init__(self, horde: PrivateHorde, host: PageHost) -> None:
        self._horde, self._host = horde, host

    def without_slash(self) -> Response:
        """Relative links need the slash at the end of the path."""
        return make_response(redirect(f"{PATH.rpartition('/')[2]}/", 308))

    def index(self) -> Response:
        """The account, or the form to sign in."""
        if self._visitor() is None:
            return self._sign_in_form("", 200)
        return _to("account")

    def static(self, name: str) -> Response:
        """The styles and the icon."""
        if name not in _FILES:
            return self._message("There is no such file.", 404)
        return send_from_directory(_STATIC, name)

    def page(self, name: str) -> Response:
        """One of `PAGES`."""
        visitor = self._visitor()
        if visitor is None:
            return self._open_news() if name == "news" else self._sign_in_form("", 401)
        if name not in PAGES:
            return self._message("There is no such page.", 404)
        action = ACTIONS.get(request.args.get("done", ""))
        return self._show(name, visitor, request.args, notice=action.done if action else "")

    def act(self, name: str) -> Response:
        """One of `ACTIONS`: then its page, or what was made and is shown once."""
        visitor = self._visitor()
        if visitor is None:
            return self._sign_in_form("", 401)
        if name not in ACTIONS:
            return self._message("There is no such page.", 404)
        if not access.is_our_form(visitor):
            return self._message(FORM_EXPIRED, 400)
        page = ACTIONS[name].page
        try:
            outcome = ACTIONS[name].act(self._horde, visitor, request.form)
        except HordeError as exc:
            return self._show_refused(page, visitor, exc)
        arguments = _kept_arguments(PAGES[page], request.form)
        if isinstance(outcome, Secret):
            return self._show_secret(outcome, link(page, **arguments))
        if outcome is not None:
            sent = SentForm(request.form)
            return self._show(page, visitor, request.form, sent=sent, outcome=outcome)
        return _to(page, done=name, **arguments)

    def sign_in(self) -> Response:
        """Begin a session with the key of the form, or show the form again."""
        if not access.is_our_form(None):
            return self._sign_in_form(FORM_EXPIRED, 400)
        key = request.form.get("key", "").strip()
        try:
            g.username = self._horde.people.caller(key)["username"]
        except HordeError as exc:
            g.refusal = exc.rc
            return self._refuse_key(key)
        response = _to("account")
        access.begin_session(self._host, response, key)
        return response

    def sign_out(self) -> Response:
        """End the session."""
        visitor = self._visitor()
        if visitor is not None and not access.is_our_form(visitor):
            return self._message(FORM_EXPIRED, 400)
        response = _to("./")
        access.end_session(self._host, response)
        return response

    def join_form(self) -> Response:
        """The form to join, with the invitation of the link in it."""
        return self._join_form("", 200, request.args.get("invitation", ""))

    def join(self) -> Response:
        """A new account: its key, which is shown once, and a session."""
        # Some people paste the whole link.
        token = request.form.get("invitation", "").rpartition("invitation=")[2].strip()
        if not access.is_our_form(None):
            return self._join_form(FORM_EXPIRED, 400, token)
        body = {"username": request.form.get("username", "")}
        if token:
            body["invitation"] = token
        try:
            self._count_registration()
            made = self._horde.people.register(body)
        except HordeError as exc:
            g.refusal = exc.rc
            return self._join_form(read_sentence(exc), exc.status, token)
        g.username = made["username"]
        response = self._show_secret(
            Secret("api_key", made["api_key"]), "account", made["username"]
        )
        access.begin_session(self._host, response, made["api_key"])
        return response

    # Errors.

    def refused(self, error: HordeError) -> Response:
        """A page could not be loaded, e.g. of an account that is gone."""
        g.refusal = error.rc
        return self._message(read_sentence(error), error.status)

    def unavailable(self, error: DatabaseError) -> Response:
        """The database does not answer. Its message may name files and hosts."""
        log.warning("the private horde cannot answer: %s", error)
        return self._message(_NO_DATABASE, 503, signed_in=False)

    def failed(self, error: ProxyError) -> Response:
        """A refusal of what the application gave: sessions, or the count of wrong keys."""
        response = self._message(error.message, error.status, signed_in=False)
        response.headers.update(error.headers())
        return response

    def not_served(self, error: HTTPException) -> Response:
        """A method that a path does not have, or a form that is too large."""
        return self._message(f"{error.name}.", error.code or 500, signed_in=False)

    # Parts.

    def _visitor(self) -> HordeVisitor | None:
        visitor = access.visitor_of(self._horde, self._host)
        if visitor is not None:
            g.username = visitor.username
        return visitor

    def _show(
        self,
        name: str,
        visitor: HordeVisitor,
        arguments: Mapping[str, str],
        *,
        notice: str = "",
        sent: SentForm | None = None,
        outcome: Facts | None = None,
        status: int = 200,
    ) -> Response:
        page = PAGES[name]
        if page.moderators and not visitor.moderator:
            g.refusal = "NotModerator"
            return self._message("Only moderators of this horde may see this page.", 403)
        facts = page.load(self._horde, visitor, arguments)
        html = render_template(
            f"horde/{name}.html",
            **_frame(name, page.title, visitor),
            address=self._address(),
            notice=notice,
            problem=sent.problem if sent else "",
            sent=sent,
            outcome=outcome,
            kept=_kept_arguments(page, arguments),
            **facts,
        )
        return html_response(html, status)

    def _show_refused(self, page: str, visitor: HordeVisitor, error: HordeError) -> Response:
        """The page of a form again, with what was filled in and why the horde refused it."""
        g.refusal = error.rc
        sent = SentForm(request.form, read_sentence(error))
        if PAGES[page].moderators and not visitor.moderator:
            return self._message(sent.problem, error.status)
        return self._show(page, visitor, request.form, sent=sent, status=error.status)

    def _open_news(self) -> Response:
        """The news for somebody without a session."""
        facts = horde_tables.news(self._horde, None, {})
        html = render_template("horde/news.html", **_frame("news", "News", None), **facts)
        return html_response(html, 200)

    def _show_secret(self, secret: Secret, back: str, username: str = "") -> Response:
        html = render_template(
            "horde/secret.html",
            **_frame("", "Keep this now", self._visitor()),
            secret=secret,
            back=back,
            address=self._address(),
            username=username,
        )
        return html_response(html, 200)

    def _message(self, problem: str, status: int, *, signed_in: bool = True) -> Response:
        visitor = self._visitor() if signed_in else None
        frame = _frame("", "A private horde", visitor)
        return html_response(
            render_template("horde/message.html", **frame, problem=problem), status
        )

    def _sign_in_form(self, problem: str, status: int) -> Response:
        registration = self._horde.access.registration
        return self._open_form("sign_in", problem, status, registration=registration)

    def _join_form(self, problem: str, status: int, invitation: str) -> Response:
        registration = self._horde.access.registration
        facts = {"invitation": invitation, "username": request.form.get("username", "")}
        return self._open_form("join", problem, status, registration=registration, **facts)

    def _open_form(self, name: str, problem: str, status: int, **facts: Any) -> Response:
        """A form for somebody without a session, whose token is in a cookie."""
        token = access.form_token()
        html = render_template(f"horde/{name}.html", problem=problem, token=token, **facts)
        response = html_response(html, status)
        access.keep_form_token(self._host, response, token)
        return response

    def _refuse_key(self, key: str) -> Response:
        try:
            self._host.count_wrong_key(key)
        except TooManyWrongKeys as exc:
            response = self._sign_in_form(exc.message, exc.status)
            response.headers.update(exc.headers())
            return response
        return self._sign_in_form(_WRONG_KEY, 401)

    def _count_registration(self) -> None:
        """Count it as POST /api/v2/register does. Raises HordeError (429)."""
        address = self._host.client_address()
        state = self._horde.count_call("register", address, "POST", "/api/v2/register", None)
        if state is not None and state.exceeded:
            raise too_fast(state.limit)

    def _address(self) -> str:
        """The address of this horde, as the visitor's browser reaches it."""
        scheme = "https" if self._host.is_https() else "http"
        return f"{scheme}://{request.host}"


def _frame(name: str, title: str, visitor: HordeVisitor | None) -> Facts:
    """What the frame of every page needs: its menu, and the token of its forms."""
    menu = [
        (path, page.title, path == name)
        for path, page in PAGES.items()
        if page.in_menu and visitor is not None and (visitor.moderator or not page.moderators)
    ]
    token = visitor.session.token if visitor else ""
    return {"title": title, "menu": menu, "visitor": visitor, "token": token}


def _kept_arguments(page: Page, arguments: Mapping[str, str]) -> dict[str, str]:
    return {name: arguments[name] for name in page.arguments if arguments.get(name)}


def _to(page: str, /, **arguments: str) -> Response:
    """A redirect to a page beside the current one."""
    return make_response(redirect(link(page, **arguments), 303))


def _limit_form() -> None:
    request.max_content_length = _LONGEST_FORM


def _with_headers(response: Response) -> Response:
    return add_page_headers(response, PLAIN_CSP)

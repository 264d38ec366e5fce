"""The pages of the operator under /page/admin: keys, endpoints, aliases, horde, log, settings.

    GET  SECTION -> operator? -> load (what the app knows) -> template
    POST ACTION  -> operator? -> CSRF token? -> act -> one line in the journal -> redirect to the
                    section, or the section again with what is wrong, or the one page that shows a
                    new secret

They need no script: admin.js only adds what is convenient. All links are relative, since a reverse
proxy may serve them below another path. No rule is here: sections read and change, each in its own
module.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, g, make_response, redirect, render_template, request

from horde_proxy.api.context import AppContext, current_context
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import ProxyError
from horde_proxy.web import (
    admin_aliases,
    admin_endpoints,
    admin_horde,
    admin_keys,
    admin_log,
    admin_settings,
    form_filters,
    login,
)
from horde_proxy.web.admin_section import AdminAction, AdminSection, Change, ShownOnce
from horde_proxy.web.csrf import FORM_EXPIRED
from horde_proxy.web.form_filters import link
from horde_proxy.web.html_response import SCRIPTED_CSP, add_page_headers, html_response
from horde_proxy.web.page_errors import show_errors
from horde_proxy.web.sent_forms import SentForm

_LONGEST_FORM = 131_072
"""Bytes. The longest fields are lists of models."""

log = logging.getLogger(__name__)

SECTIONS: Mapping[str, AdminSection] = {
    "keys": admin_keys.KEYS,
    "key": admin_keys.KEY,
    "endpoints": admin_endpoints.ENDPOINTS,
    "endpoint": admin_endpoints.ENDPOINT,
    "aliases": admin_aliases.ALIASES,
    "horde": admin_horde.HORDE,
    "log": admin_log.LOG,
    "settings": admin_settings.SETTINGS,
    "setting": admin_settings.SETTING,
}
"""All sections, by the last part of their paths."""
_HOMES: Mapping[str, tuple[str, AdminAction]] = {
    path: (name, action)
    for name, section in SECTIONS.items()
    for path, action in section.actions.items()
}
"""All actions by the last part of their paths, with the sections that they are on."""

blueprint = Blueprint("admin", __name__, url_prefix="/page/admin", template_folder="templates")
for _filter in form_filters.FILTERS:
    blueprint.add_app_template_filter(_filter)


@blueprint.before_request
def _limit_form() -> None:
    request.max_content_length = _LONGEST_FORM


@blueprint.after_request
def _add_headers(response: Response) -> Response:
    return add_page_headers(response, SCRIPTED_CSP)


@blueprint.get("")
def without_slash() -> Response:
    """Relative links need the slash at the end of the path."""
    login.require_operator()
    return make_response(redirect("admin/", 308))


@blueprint.get("/")
def index() -> Response:
    """The first section."""
    login.require_operator()
    return _to(next(iter(SECTIONS)))


@blueprint.get("/<name>")
def section(name: str) -> Response:
    """One of SECTIONS."""
    login.require_operator()
    if name not in SECTIONS:
        return _message("There is no such page.", 404)
    _, action = _HOMES.get(request.args.get("done", ""), (name, None))
    return _show(name, request.args, notice=action.done if action else "")


@blueprint.post("/<name>")
def act(name: str) -> Response:
    """One of the sections' actions: then its section, or a secret that is shown once."""
    login.require_operator()
    if name not in _HOMES:
        return _message("There is no such page.", 404)
    if not login.is_operators_form():
        return _message(FORM_EXPIRED, 403)
    home, action = _HOMES[name]
    try:
        change = action.act(current_context(), request.form)
    except ProxyError as exc:
        g.record.error = exc.code or exc.type
        return _show(home, request.form, sent=SentForm(request.form, str(exc)), status=exc.status)
    except DatabaseError as exc:
        sent = SentForm(request.form, str(exc))
        return _show(home, request.form, sent=sent, status=409)
    if change.line:
        log.info("changed by %s: %s", _actor(), change.line)
    return _after(name, change)


def _after(name: str, change: Change) -> Response:
    """What is shown after an action."""
    home, action = _HOMES[name]
    next_section = action.leads_to or home
    kept = _kept_arguments(SECTIONS[next_section], request.form)
    if change.shown_once is not None:
        return _show_once(change.shown_once, link(next_section, **kept))
    if change.note or change.facts:
        # What was filled in stays where nothing has changed, such as after a test.
        sent = None if change.line else SentForm(request.form)
        return _show(
            next_section, request.form, notice=change.note, sent=sent, outcome=change.facts
        )
    return _to(next_section, done=name, **kept)


def _show(
    name: str,
    arguments: Mapping[str, str],
    *,
    notice: str = "",
    sent: SentForm | None = None,
    outcome: Mapping[str, Any] | None = None,
    status: int = 200,
) -> Response:
    ctx, shown = current_context(), SECTIONS[name]
    return _page(
        f"admin/{name}.html",
        status,
        **_frame(ctx, shown.within or name, shown.title),
        notice=notice,
        problem=sent.problem if sent else "",
        sent=sent,
        outcome=outcome or {},
        kept=_kept_arguments(shown, arguments),
        **shown.load(ctx, arguments),
    )


def _show_once(shown: ShownOnce, back: str) -> Response:
    frame = _frame(current_context(), "", "Keep this now")
    return _page("admin/shown_once.html", 200, **frame, shown=shown, back=back)


def _message(problem: str, status: int) -> Response:
    # Somebody who is not the operator has no menu.
    frame: dict[str, Any] = {"title": "Administration", "menu": [], "visitor": None, "token": ""}
    return _page("admin/message.html", status, **frame, problem=problem)


def _page(template: str, status: int, **facts: Any) -> Response:
    response = html_response(render_template(template, **facts), status)
    login.keep_form_token(response)
    return response


def _frame(ctx: AppContext, current: str, title: str) -> dict[str, Any]:
    """What the frame of every page needs: its menu, and the token of its forms."""
    menu = [
        (path, section.title, path == current)
        for path, section in SECTIONS.items()
        if not section.within
    ]
    return {
        "title": title,
        "menu": menu,
        "has_guide": ctx.settings is not None,
        "visitor": g.key.name if g.key else None,
        "can_log_out": "visitor" in g,
        "token": login.operators_token(),
        "version": ctx.serving.version,
    }


def _actor() -> str:
    """Who changes something, for the journal."""
    return f"the key {g.key.name}" if g.key else "this machine"


def _kept_arguments(shown: AdminSection, arguments: Mapping[str, str]) -> dict[str, str]:
    return {name: arguments[name] for name in shown.arguments if arguments.get(name)}


def _to(name: str, /, **arguments: str) -> Response:
    """A redirect to a section."""
    return make_response(redirect(link(name, **arguments), 303))


show_errors(blueprint, _message)

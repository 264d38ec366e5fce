"""The first run: pages under /page/first-run that lead an operator through the first settings.

    GET  ?step=STEP  -> operator? -> template of the step
    POST /ACTION     -> operator? -> CSRF token? -> first_run_changes -> one line in the journal
                        -> the step again with what came of it

The operator is who api.auth says, or who has typed the code from the journal (first_run_claim).
Every step can be left out, and the pages stay there for later. Nothing is decided about settings
here.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint, Response, g, make_response, redirect, render_template, request

from horde_proxy import opencode as opencode_models
from horde_proxy.api.auth import count_wrong_key, is_operator
from horde_proxy.api.context import AppContext, current_context
from horde_proxy.api.settings_access import SettingsAccess
from horde_proxy.client_setup.contract import ConfiguredClient, ProxyForClient
from horde_proxy.client_setup.registry import CLIENTS
from horde_proxy.errors import InvalidApiKey, ProxyError, Refused, SettingsRefused
from horde_proxy.key_digest import key_digest
from horde_proxy.router import EVERYTHING
from horde_proxy.web import first_run_changes as changes
from horde_proxy.web import login, tables
from horde_proxy.web.csrf import FORM_EXPIRED, is_own_form
from horde_proxy.web.first_run_changes import StepOutcome
from horde_proxy.web.html_response import CALLING_CSP, add_page_headers, html_response
from horde_proxy.web.page_errors import show_errors

STEPS = {
    "access": "Who may use it",
    "sources": "Who answers",
    "chat": "A first chat",
    "clients": "Your programs",
}
"""The steps and their titles, in order."""
CLAIM_COOKIE, _TOKEN_COOKIE = "horde_proxy_first_run", "horde_proxy_first_run_form"
_FORM_SECONDS = 4 * 3600
_LONGEST_FORM = 16_384
"""Bytes. The longest fields are URLs and keys."""
_WRONG_CODE = "This is not the code. It is in the newest line of the log that has one."
_NOT_YOURS = (
    "Only the operator of this proxy may change its settings: open this page on the machine that "
    "it runs on, or log in with an admin's key."
)

Change = Callable[[SettingsAccess, Mapping[str, str]], StepOutcome]
_CHANGES: Mapping[str, tuple[str, Change]] = {
    "access": ("access", changes.choose_access),
    "horde-key": ("sources", changes.choose_horde_key),
    "test-server": ("sources", changes.test_server),
    "add-server": ("sources", changes.add_server),
    "remove-server": ("sources", changes.remove_server),
    "private-horde": ("sources", changes.choose_private_horde),
}
"""The actions by the last part of their paths: the step that they are on, and what they do."""

log = logging.getLogger(__name__)
blueprint = Blueprint(
    "first_run", __name__, url_prefix="/page/first-run", template_folder="templates"
)


@blueprint.before_request
def _limit_form() -> None:
    request.max_content_length = _LONGEST_FORM


@blueprint.after_request
def _add_headers(response: Response) -> Response:
    return add_page_headers(response, CALLING_CSP)


@blueprint.get("")
def guide() -> Response:
    """One of STEPS; or the form for the code."""
    if not _may_guide():
        return _code_form("", 200)
    step = request.args.get("step", "")
    return _step(step if step in STEPS else next(iter(STEPS)))


@blueprint.post("/code")
def enter_code() -> Response:
    """Take the code from the journal. A redirect to the guide, or the form again."""
    ctx = current_context()
    if not _needs_code(ctx):
        raise Refused(_NOT_YOURS)
    if not _is_our_form():
        return _code_form(FORM_EXPIRED, 403)
    code = request.form.get("code", "")
    cookie = ctx.live.page.first_run.claim(code)
    if cookie is None:
        # As for keys: an address that tries many of them has to wait.
        count_wrong_key(ctx, code)
        ctx.live.page.first_run.count_wrong()
        return _code_form(_WRONG_CODE, 401)
    response = make_response(redirect("../first-run", 303))
    _set_cookie(response, CLAIM_COOKIE, cookie)
    return response


@blueprint.post("/finish")
def finish() -> Response:
    """Leave the guide. A redirect to the page."""
    settings = _require_operator()
    if not _is_our_form():
        raise Refused(FORM_EXPIRED)
    outcome = changes.finish(settings)
    _log(outcome)
    current_context().live.page.first_run.end()
    response = make_response(redirect("../../", 303))
    response.delete_cookie(CLAIM_COOKIE)
    return response


@blueprint.post("/<action>")
def act(action: str) -> Response:
    """One of the changes: then its step, with what came of it."""
    settings = _require_operator()
    if action not in _CHANGES:
        return _message("There is no such page.", 404)
    step, change = _CHANGES[action]
    if not _is_our_form():
        return _step(step, problem=FORM_EXPIRED, action=action, status=403)
    try:
        outcome = change(settings, request.form)
    except ProxyError as exc:
        g.record.error = exc.code or exc.type
        return _step(step, problem=exc.message, action=action, status=exc.status)
    _log(outcome)
    if outcome.secret:
        return _show_key(outcome)
    return _step(step, outcome=outcome, action=action)


def leads_there() -> bool:
    """Whether the visitor of the page at / is to be led through the first settings."""
    ctx = current_context()
    settings = ctx.settings
    if settings is None or not settings.is_first_run():
        return False
    # There the form for the code is the only way in.
    return ctx.access.requires_key or _may_guide()


def _may_guide() -> bool:
    """Whether the visitor is the operator; False for whoever may still type the code.

    Raises Refused and InvalidApiKey for others.
    """
    ctx = current_context()
    g.key, g.scope = None, EVERYTHING
    is_new = _needs_code(ctx)
    # With mode "keys" and no key, nobody can log in.
    if not (is_new and ctx.access.requires_key) and login.visitor_is_allowed() and is_operator():
        return True
    if ctx.live.page.first_run.holds(request.cookies.get(CLAIM_COOKIE, "")):
        return True
    if is_new:
        return False
    if ctx.access.requires_key and g.key is None:
        raise InvalidApiKey("You are not logged in.")
    raise Refused(_NOT_YOURS)


def _needs_code(ctx: AppContext) -> bool:
    return ctx.settings is not None and ctx.settings.is_first_run()


def _require_operator() -> SettingsAccess:
    """The settings, for their operator. Raises Refused and InvalidApiKey."""
    if not _may_guide():
        raise Refused(_NOT_YOURS)
    return _settings_of(current_context())


def _is_our_form() -> bool:
    """Whether the request comes from a form that was shown here (CSRF)."""
    return is_own_form(request.cookies.get(_TOKEN_COOKIE))


def _log(outcome: StepOutcome) -> None:
    if outcome.changed:
        actor = f"the key {g.key.name}" if g.key else "the first run"
        log.info("changed by %s: %s", actor, outcome.changed)


def _step(
    step: str,
    *,
    outcome: StepOutcome | None = None,
    problem: str = "",
    action: str = "",
    status: int = 200,
) -> Response:
    names = list(STEPS)
    following = names[names.index(step) + 1] if step != names[-1] else None
    return _page(
        f"first_run/{step}.html",
        status,
        steps=STEPS,
        step=step,
        following=following,
        outcome=outcome,
        problem=problem,
        action=action,
        sent={} if outcome and action == "add-server" else request.form,
        **_FACTS[step](current_context()),
    )


def _show_key(outcome: StepOutcome) -> Response:
    """The new key, once; its visitor is logged in with it."""
    response = _page("first_run/key.html", 200, steps=STEPS, step="access", outcome=outcome)
    login.begin_session(response, key_digest(outcome.secret))
    return response


def _code_form(problem: str, status: int) -> Response:
    ctx = current_context()
    if not _needs_code(ctx):
        raise Refused(_NOT_YOURS)
    ctx.live.page.first_run.announce()
    return _page("first_run/code.html", status, problem=problem)


def _message(problem: str, status: int) -> Response:
    return _page("first_run/message.html", status, problem=problem)


def _page(template: str, status: int, **facts: Any) -> Response:
    token = request.cookies.get(_TOKEN_COOKIE) or secrets.token_urlsafe(32)
    base = "../" if request.method == "GET" else "../../"
    ctx = current_context()
    html = render_template(template, token=token, base=base, version=ctx.serving.version, **facts)
    response = html_response(html, status)
    _set_cookie(response, _TOKEN_COOKIE, token)
    return response


def _set_cookie(response: Response, name: str, value: str) -> None:
    is_https = login.is_https(current_context())
    response.set_cookie(
        name, value, max_age=_FORM_SECONDS, secure=is_https, httponly=True, samesite="Strict"
    )


def _settings_of(ctx: AppContext) -> SettingsAccess:
    if ctx.settings is None:
        raise SettingsRefused("These settings come from no file.")
    return ctx.settings


def _access_facts(ctx: AppContext) -> dict[str, Any]:
    settings = _settings_of(ctx)
    mode, bind = settings.value("access.mode"), settings.value("server.bind")
    return {"mode": mode or "local", "bind": bind}


def _sources_facts(ctx: AppContext) -> dict[str, Any]:
    settings = _settings_of(ctx)
    endpoints = settings.value("endpoints")
    states = {state["name"]: state.get("models") for state in ctx.router.states(EVERYTHING)}
    return {
        "has_key": settings.value("horde.api_key") != "0000000000",
        "endpoints": [
            (number, entry.label(), _count(states.get(entry.label())))
            for number, entry in enumerate(endpoints)
        ],
        "private_horde": settings.value("private_horde.enabled"),
        "uses_horde": not endpoints and not settings.value("private_horde.enabled"),
        "register": changes.REGISTER_URL,
    }


def _count(models: Any) -> int | None:
    """The number of an endpoint's models; None where they are not known."""
    return len(models) if isinstance(models, list) else None


def _chat_facts(ctx: AppContext) -> dict[str, Any]:
    models, problem = _models(ctx)
    return {
        "models": tables.chat_models(models),
        "models_problem": problem,
        "mode": "keys" if ctx.access.requires_key else "open",
        "page_token": g.get("page_token", ""),
    }


def _clients_facts(ctx: AppContext) -> dict[str, Any]:
    models, problem = _models(ctx)
    root = (ctx.serving.public_url or request.host_url).rstrip("/")
    cards = [_card(client, models, root, ctx.access.requires_key) for client in CLIENTS.values()]
    return {"clients": cards, "root": root, "models_problem": problem}


def _usual_path(client: ConfiguredClient) -> str:
    """Where the client's file is if no variable says otherwise; "" for a client without one."""
    # The client may run on another machine than this proxy, so that this one's folders say nothing.
    return client.paths[-1].replace("{config}", "~/.config") if client.paths else ""


def _card(
    client: ConfiguredClient, models: list[dict[str, Any]], root: str, has_key: bool
) -> dict[str, Any]:
    """What is shown of one client: its command, its file and its steps."""
    card = {
        "name": client.name,
        "title": client.title,
        "command": f"horde-proxy setup {client.name} --url {root}",
        "path": _usual_path(client),
        "text": "",
        "steps": "",
    }
    suitable = opencode_models.capable(models, client.least_context)
    if suitable:
        model = dict(opencode_models.best(suitable))
        proxy = ProxyForClient(root=root, models=suitable, model=model, has_key=has_key)
        if client.configured is not None:
            card["text"] = client.configured("", proxy)
        card["steps"] = client.steps(proxy, card["path"])
    return card


def _models(ctx: AppContext) -> tuple[list[dict[str, Any]], str]:
    """(the models that there are, the reason if they cannot be listed)."""
    try:
        return [dict(model) for model in ctx.router.models(EVERYTHING)], ""
    except ProxyError as exc:
        return [], exc.message


_FACTS: Mapping[str, Callable[[AppContext], dict[str, Any]]] = {
    "access": _access_facts,
    "sources": _sources_facts,
    "chat": _chat_facts,
    "clients": _clients_facts,
}
"""What the template of each step is given."""


show_errors(blueprint, _message)

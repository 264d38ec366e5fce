"""The inspector's pages under /page/inspector: what one's own requests sent to models, and got.

They show what api/inspections.py keeps, to the visitor whose key sent it. They change nothing and
need no script. All links are relative.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, make_response, redirect, render_template

from horde_proxy.api.context import current_context
from horde_proxy.api.inspections import kept_request, kept_requests
from horde_proxy.web import form_filters, login
from horde_proxy.web.html_response import PLAIN_CSP, add_page_headers, html_response
from horde_proxy.web.page_errors import show_errors

blueprint = Blueprint("inspector", __name__, url_prefix="/page/inspector")
for _filter in form_filters.FILTERS:
    blueprint.add_app_template_filter(_filter)


@blueprint.after_request
def _add_headers(response: Response) -> Response:
    return add_page_headers(response, PLAIN_CSP)


@blueprint.get("")
def without_slash() -> Response:
    """Relative links need the slash at the end of the path."""
    login.require_visitor()
    return make_response(redirect("inspector/", 308))


@blueprint.get("/")
def requests() -> Response:
    """The visitor's last requests, the newest first."""
    login.require_visitor()
    kept = kept_requests(current_context())
    return html_response(render_template("inspector/requests.html", requests=kept), 200)


@blueprint.get("/<request_id>")
def request(request_id: str) -> Response:
    """One request: what was received, what was sent, and what came back."""
    login.require_visitor()
    kept = kept_request(current_context(), request_id)
    html = render_template("inspector/request.html", request=kept, written=_written)
    return html_response(html, 200)


def _message(message: str, status: int) -> Response:
    """Why there is nothing to see."""
    return html_response(render_template("inspector/message.html", message=message), status)


def _written(document: Any) -> str:
    """A document as indented JSON, with the letters of all scripts as they are."""
    return json.dumps(document, indent=2, ensure_ascii=False)


show_errors(blueprint, _message)

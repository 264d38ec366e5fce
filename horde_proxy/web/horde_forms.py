"""What the forms of the private horde's pages send, read into the bodies of its API.

Whether a value is allowed is decided by the horde.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horde_proxy.web.sent_forms import Form, filled, lines, number, text

ANY_TYPE = 10
"""The API needs a type of filter, which means nothing for texts."""

ROLES = ("trusted", "special", "service", "education", "flagged")
"""The roles of the form of a person, beside "moderator". The API has two more, without effect."""


def shared_key(form: Form) -> dict[str, Any]:
    """The body of PUT sharedkeys and PATCH sharedkeys/{id}."""
    names = ("kudos", "expiry", "max_text_tokens", "max_requests")
    return filled(name=text(form, "name"), **{name: number(form, name) for name in names})


def invitation(form: Form) -> dict[str, Any]:
    """The body of POST invitations."""
    numbers = {name: number(form, name) for name in ("uses", "days", "kudos")}
    return filled(note=text(form, "note"), **numbers)


def person(form: Form, before: Mapping[str, Any]) -> dict[str, Any]:
    """The body of PUT users/{id}: what the form of a person has changed.

    Only that, because some fields are for administrators, and an unchanged one is no attempt.
    """
    roles = (*ROLES, *(["moderator"] if "may-appoint" in form else []))
    wanted: dict[str, Any] = {role: role in form for role in roles}
    for name in ("concurrency", "worker_invited"):
        wanted[name] = number(form, name)
    wanted["admin_comment"] = text(form, "admin_comment")
    return {
        name: value
        for name, value in wanted.items()
        if value is not None and value != before.get(name, "" if name == "admin_comment" else None)
    }


def prompt_filter(form: Form) -> dict[str, Any]:
    """The body of PATCH filters/{id}."""
    # Spaces around an expression count: " ass " is another one than "ass".
    exact = {name: form.get(name, "") for name in ("regex", "replacement")}
    return {**exact, "description": text(form, "description")}


def news(form: Form) -> dict[str, Any]:
    """The body of POST status/news: tags are separated by commas, links by spaces or lines."""
    tags = [tag.strip() for tag in form.get("tags", "").split(",") if tag.strip()]
    return {
        "title": text(form, "title"),
        "newspiece": lines(form, "newspiece"),
        **filled(importance=text(form, "importance")),
        "tags": tags,
        "more_info_urls": form.get("more_info_urls", "").split(),
    }


def message(form: Form) -> dict[str, Any]:
    """The body of POST workers/messages. Without a worker, the message is for all."""
    optional = filled(worker_id=text(form, "worker_id"), expiry=number(form, "expiry"))
    return {"message": lines(form, "message"), **optional}


def team(form: Form) -> dict[str, Any]:
    """The body of POST teams and PATCH teams/{id}."""
    return {name: text(form, name) for name in ("name", "info")}

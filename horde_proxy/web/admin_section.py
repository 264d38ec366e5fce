"""What a section of the admin's pages is made of: what it shows, and what its buttons do.

A section is one module with an AdminSection, and one line in admin_pages.SECTIONS. It knows no
sessions and no HTTP: `load` and `act` get the context of the app, and what the visitor has sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.api.context import AppContext
from horde_proxy.api.settings_access import EditedSettings, SettingsAccess
from horde_proxy.errors import ProxyError
from horde_proxy.web.sent_forms import Form

SectionFacts = dict[str, Any]
"""What the template of a section gets."""


class NoSuchEntry(ProxyError):
    """The page of something that is not there, or not any more."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ChangeRefused(ProxyError):
    """A change that cannot be made. The message says why, and is shown beside the form."""

    status = 400
    type = "invalid_request_error"
    code = "change_refused"


def settings_of(ctx: AppContext) -> SettingsAccess:
    """The settings of the running proxy. Raises ChangeRefused without them."""
    if ctx.settings is None:
        raise ChangeRefused("The settings of this proxy cannot be changed here.")
    return ctx.settings


def file_facts(ctx: AppContext) -> SectionFacts:
    """The file that changes of settings are written to, or why there is none."""
    try:
        return {"file": str(settings_of(ctx).edit().path), "file_problem": ""}
    except ProxyError as exc:
        return {"file": "", "file_problem": str(exc)}


def change_settings(ctx: AppContext, edit: Callable[[EditedSettings], None]) -> str:
    """Change the settings' file, and use it. What needs a restart, as a sentence; or "".

    Raises SettingsRefused; then the file is as it was.
    """
    settings = settings_of(ctx)
    edited = settings.edit()
    edit(edited)
    names = settings.save(edited)
    return f"Applied by a restart: {', '.join(names)}." if names else ""


@dataclass(frozen=True)
class ShownOnce:
    """A secret that the proxy does not keep, and a line above it that says what it is."""

    title: str
    secret: str
    hint: str = ""


@dataclass(frozen=True)
class Change:
    """What a button has done.

    `line` is for the journal, without secrets; "" where nothing was changed. `note` is shown
    instead of the action's usual sentence, `facts` are for the section's template.
    """

    line: str = ""
    shown_once: ShownOnce | None = None
    note: str = ""
    facts: SectionFacts = field(default_factory=dict)


@dataclass(frozen=True)
class AdminAction:
    """A button: what it does, and the sentence that is shown then.

    `leads_to` is the section that is shown next; "" for the section that the button is in.
    """

    act: Callable[[AppContext, Form], Change]
    done: str = ""
    leads_to: str = ""


@dataclass(frozen=True)
class AdminSection:
    """A page: its title, what its template gets, and its buttons by the paths of their forms.

    A section that is `within` another one is not in the menu, and is reached from that one.
    `arguments` are those of its address, which its forms keep.
    """

    title: str
    load: Callable[[AppContext, Mapping[str, str]], SectionFacts]
    actions: Mapping[str, AdminAction] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    within: str = ""

"""The section of the horde accounts: who this proxy is there, its kudos, key and shared keys.

Each horde that is an endpoint has an account. Shared keys are made, changed and deleted by the
horde's own API. They are keys: one is shown when it is made, and never again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from horde_proxy.api.context import AppContext, HordeEndpoint
from horde_proxy.api.settings_access import SettingName
from horde_proxy.errors import ProxyError
from horde_proxy.web import horde_forms, sent_forms
from horde_proxy.web.admin_section import (
    AdminAction,
    AdminSection,
    Change,
    ChangeRefused,
    NoSuchEntry,
    SectionFacts,
    ShownOnce,
    change_settings,
    file_facts,
    settings_of,
)
from horde_proxy.web.sent_forms import Form

if TYPE_CHECKING:
    from horde_proxy.upstreams.horde.own_account import OwnAccount

_PRIVATE = "private"
"""The endpoint of the private horde, whose key the proxy makes itself."""


def _load(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """The account at the chosen horde, or at the first."""
    name = arguments.get("horde") or next(iter(ctx.hordes), "")
    if not name:
        return {"name": "", "hordes": []}
    chosen = _horde(ctx, name)
    return {
        "name": name,
        "hordes": list(ctx.hordes),
        "url": chosen.upstream.url,
        "penalties": chosen.upstream.penalties(),
        "can_replace": name != _PRIVATE,
        "has_pages": name == _PRIVATE and ctx.serving.has_horde_pages,
        **_account(chosen.upstream.own_account),
        **file_facts(ctx),
    }


def _account(own: OwnAccount) -> dict[str, Any]:
    """The account and its shared keys, or why they cannot be read."""
    facts: dict[str, Any] = {
        "is_anonymous": own.is_anonymous,
        "is_shared_key": own.is_shared_key,
        "account": None,
        "shared_keys": {},
        "account_problem": "",
    }
    try:
        facts["account"] = own.facts()
        if not (own.is_anonymous or own.is_shared_key):
            facts["shared_keys"] = own.shared_keys()
    except ProxyError as exc:
        facts["account_problem"] = str(exc)
    return facts


def _horde(ctx: AppContext, name: str) -> HordeEndpoint:
    """The horde of a name. Raises NoSuchEntry."""
    if name not in ctx.hordes:
        raise NoSuchEntry("No endpoint of this name is a horde.")
    return ctx.hordes[name]


def _own(ctx: AppContext, form: Form) -> tuple[str, OwnAccount]:
    name = sent_forms.text(form, "horde")
    return name, _horde(ctx, name).upstream.own_account


def _replace_key(ctx: AppContext, form: Form) -> Change:
    """Another key of the settings, after the horde has said whose it is."""
    name, own = _own(ctx, form)
    key = sent_forms.text(form, "api_key")
    if not key or not key.isascii() or not key.isprintable():
        raise ChangeRefused("Paste the key of an account of this horde.")
    try:
        account = own.with_key(key).facts()
    except ProxyError as exc:
        raise ChangeRefused(f"The key was not replaced: {exc}") from exc
    note = change_settings(ctx, lambda file: file.set(_setting_of(ctx, name), key))
    return Change(
        f"replaced the key for the horde {name}, which is of {account['name']}",
        note=f"The key is that of {account['name']} now. {note}".strip(),
    )


def _setting_of(ctx: AppContext, name: str) -> SettingName:
    """The setting that holds the key for a horde. Raises ChangeRefused."""
    if name == _PRIVATE:
        raise ChangeRefused("The proxy makes its key for its own private horde itself.")
    for number, entry in enumerate(settings_of(ctx).value("endpoints")):
        # A horde without a url is that of [horde], with the key there.
        if entry.label() == name and entry.url is not None:
            return "endpoints", number, "api_key"
    return "horde.api_key"


def _make_shared(ctx: AppContext, form: Form) -> Change:
    name, own = _own(ctx, form)
    body = _shared_key(form)
    made = own.make_shared_key(body)
    return Change(
        f"made a shared key at the horde {name}",
        ShownOnce(
            f"The shared key {body.get('name', '')}".strip(),
            made,
            "Whoever has it can send requests to the horde, for the kudos of your account.",
        ),
    )


def _change_shared(ctx: AppContext, form: Form) -> Change:
    name, own = _own(ctx, form)
    body, of = _shared_key(form), sent_forms.text(form, "fingerprint")
    if not body:
        raise ChangeRefused("Fill in what is to be changed.")
    if not own.change_shared_key(of, body):
        raise ChangeRefused("There is no such shared key. It may have been deleted meanwhile.")
    return Change(f"changed the shared key {of} at the horde {name}")


def _delete_shared(ctx: AppContext, form: Form) -> Change:
    name, own = _own(ctx, form)
    of = sent_forms.text(form, "fingerprint")
    if not own.delete_shared_key(of):
        raise ChangeRefused("There is no such shared key. It may have been deleted meanwhile.")
    return Change(f"deleted the shared key {of} at the horde {name}")


def _shared_key(form: Form) -> dict[str, Any]:
    """The body for the horde's API. Raises ChangeRefused for what is no number."""
    numbers = {
        name: sent_forms.number(form, name) for name in ("max_image_pixels", "max_image_steps")
    }
    body = horde_forms.shared_key(form) | sent_forms.filled(**numbers)
    wrong = [name for name, value in body.items() if name != "name" and isinstance(value, str)]
    if wrong:
        raise ChangeRefused(f"Please correct {wrong[0].replace('_', ' ')}: write a number.")
    return body


HORDE = AdminSection(
    "Horde",
    _load,
    {
        "replace-key": AdminAction(_replace_key),
        "make-shared-key": AdminAction(_make_shared),
        "change-shared-key": AdminAction(_change_shared, "The shared key was changed."),
        "delete-shared-key": AdminAction(_delete_shared, "The shared key was deleted."),
    },
    arguments=("horde",),
)

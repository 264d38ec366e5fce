"""The section of the keys: who may use the proxy, how much, and what they used.

Keys of the database are made, changed and revoked here. Those of the settings are shown, and are
changed in the settings' file.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flask import g

from horde_proxy.api.context import AppContext
from horde_proxy.key_digest import FINGERPRINT, key_digest
from horde_proxy.ledger import ClientKey, Usage, new_key
from horde_proxy.ledger.keys import LIMITS, check_key, limits_in_words
from horde_proxy.places import PLACES
from horde_proxy.web import sent_forms
from horde_proxy.web.admin_section import (
    AdminAction,
    AdminSection,
    Change,
    ChangeRefused,
    NoSuchEntry,
    SectionFacts,
    ShownOnce,
)
from horde_proxy.web.list_pages import PAGE, page_of
from horde_proxy.web.sent_forms import Form

if TYPE_CHECKING:
    from horde_proxy.ledger.database import LedgerDatabase

_PER_PAGE = 50
_WEEK = 7
"""Days, today included."""


@dataclass(frozen=True)
class UsageSums:
    """What a key used in some days."""

    requests: int = 0
    errors: int = 0
    tokens: int = 0
    kudos: float = 0.0
    images: int = 0

    def plus(self, row: Usage) -> UsageSums:
        """The sums with one more row."""
        return UsageSums(
            self.requests + row.requests,
            self.errors + row.errors,
            self.tokens + row.prompt_tokens + row.completion_tokens,
            self.kudos + row.kudos,
            self.images + row.images,
        )


@dataclass(frozen=True)
class ListedKey:
    """A key as the page shows it. `is_configured`: it is in the settings' file."""

    key: ClientKey
    fingerprint: str
    is_configured: bool = False
    is_admin: bool = False
    is_visitors: bool = False
    revoked: int | None = None
    today: UsageSums = UsageSums()
    week: UsageSums = UsageSums()
    last_day: str | None = None

    @property
    def limits(self) -> list[str]:
        """What it may do, limit by limit."""
        return list(limits_in_words(self.key))


def _list(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """The keys, those that still work first, and the form to make one."""
    wanted = arguments.get("q", "").strip()
    state = arguments.get("state", "")
    keys = [
        entry
        for entry in _all_keys(ctx)
        if wanted.casefold() in entry.key.name.casefold() and _has_state(entry, state)
    ]
    return {
        "page": page_of(keys, arguments, _PER_PAGE),
        "q": wanted,
        "state": state,
        "requires_key": ctx.access.requires_key,
        "can_make": ctx.access.requires_key and ctx.admin.keys is not None,
        **_choices(ctx),
    }


def _has_state(entry: ListedKey, state: str) -> bool:
    return {
        "": entry.revoked is None,
        "revoked": entry.revoked is not None,
        "unused": entry.revoked is None and entry.last_day is None,
        "admins": entry.revoked is None and entry.is_admin,
    }.get(state, True)


def _one(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """One key: its limits, usage by model and endpoint, and what may be changed."""
    entry = _listed(ctx, arguments.get("name", ""))
    first, last = _span(ctx)
    rows = ctx.access.usage.usage(first, last, entry.key.name)
    by_model: dict[tuple[str, str], UsageSums] = {}
    for row in rows:
        place = row.model, row.endpoint
        by_model[place] = by_model.get(place, UsageSums()).plus(row)
    used = sorted(by_model.items(), key=lambda item: (-item[1].requests, item[0]))
    return {"entry": entry, "used": used[:_PER_PAGE], **_choices(ctx)}


def _choices(ctx: AppContext) -> SectionFacts:
    """What a form of a key chooses from."""
    endpoints = [endpoint.name for endpoint in ctx.router.endpoints]
    return {"limit_fields": LIMITS, "places": PLACES, "endpoint_names": endpoints}


def _all_keys(ctx: AppContext) -> list[ListedKey]:
    """All keys, by name; revoked ones last."""
    first, last = _span(ctx)
    today: dict[str, UsageSums] = {}
    week: dict[str, UsageSums] = {}
    for row in ctx.access.usage.usage(first, last):
        week[row.name] = week.get(row.name, UsageSums()).plus(row)
        if row.day == last:
            today[row.name] = today.get(row.name, UsageSums()).plus(row)
    days = ctx.access.usage.last_days()
    return sorted(
        (
            replace(
                entry,
                is_admin=entry.key.admin or entry.key.name in ctx.access.admins,
                is_visitors=g.key is not None and g.key.name == entry.key.name,
                today=today.get(entry.key.name, UsageSums()),
                week=week.get(entry.key.name, UsageSums()),
                last_day=days.get(entry.key.name),
            )
            for entry in _known_keys(ctx)
        ),
        key=lambda entry: (entry.revoked is not None, entry.key.name.casefold()),
    )


def _known_keys(ctx: AppContext) -> Iterable[ListedKey]:
    for digest, key in ctx.access.keys.configured.items():
        yield ListedKey(key, digest[:FINGERPRINT], is_configured=True)
    if ctx.admin.keys is not None:
        for digest, key, revoked in ctx.admin.keys.all_keys():
            yield ListedKey(key, digest[:FINGERPRINT], revoked=revoked)


def _listed(ctx: AppContext, name: str) -> ListedKey:
    """The key of a name. Raises NoSuchEntry."""
    entry = next((entry for entry in _all_keys(ctx) if entry.key.name == name), None)
    if entry is None:
        raise NoSuchEntry("There is no key of this name.")
    return entry


def _span(ctx: AppContext) -> tuple[str, str]:
    """The first and the last day of the last week, which are UTC's."""
    last = datetime.fromtimestamp(ctx.now(), UTC).date()
    return (last - timedelta(days=_WEEK - 1)).isoformat(), last.isoformat()


def _make(ctx: AppContext, form: Form) -> Change:
    ledger, plain = _ledger(ctx), new_key()
    name = sent_forms.text(form, "name")
    if any(key.name == name for key in ctx.access.keys.configured.values()):
        raise ChangeRefused(f"The settings have a key {name!r}: choose another name.")
    key = _read(ctx, form, ClientKey(name, created=int(ctx.now() or time.time())))
    ledger.add_key(key_digest(plain), key)
    ctx.access.keys.reload()
    return Change(
        f"made the key {name} ({_in_words(key)})",
        ShownOnce(
            f"The key of {name}",
            plain,
            "Programs send it as their API key. Whoever logs in to this page with it sees its own "
            "requests" + (", and everything here." if key.admin else "."),
        ),
    )


def _change(ctx: AppContext, form: Form) -> Change:
    ledger, entry = _ledger(ctx), _listed(ctx, sent_forms.text(form, "name"))
    key = _read(ctx, form, entry.key)
    if entry.is_visitors and not key.admin and entry.key.admin:
        raise ChangeRefused("This is your own key: with it, nobody could undo this here.")
    if entry.is_configured or not ledger.change_key(key):
        raise ChangeRefused("This key cannot be changed here.")
    ctx.access.keys.reload()
    return Change(f"changed the key {key.name} ({_in_words(key)})")


def _revoke(ctx: AppContext, form: Form) -> Change:
    ledger, entry = _ledger(ctx), _listed(ctx, sent_forms.text(form, "name"))
    if entry.is_visitors:
        raise ChangeRefused("You are using this key. Revoke it with another administrator's key.")
    if entry.is_configured or not ledger.revoke_key(entry.key.name):
        raise ChangeRefused("This key cannot be revoked here.")
    ctx.access.keys.reload()
    return Change(f"revoked the key {entry.key.name}")


def _ledger(ctx: AppContext) -> LedgerDatabase:
    """The database of keys. Raises ChangeRefused without one."""
    if not ctx.access.requires_key or ctx.admin.keys is None:
        raise ChangeRefused('Keys are used with access.mode = "keys" only.')
    return ctx.admin.keys


def _read(ctx: AppContext, form: Form, key: ClientKey) -> ClientKey:
    """The key with the rights of a form. Raises ChangeRefused, which names the field."""
    rights: dict[str, Any] = {
        name: _number(form, name, label, whole=name != "kudos_per_day")
        for name, label in LIMITS.items()
    }
    weight = _number(form, "weight", "the weight", whole=False)
    endpoints = _names(form, "endpoints")
    known = {endpoint.name for endpoint in ctx.router.endpoints}
    if unknown := [name for name in endpoints if name not in known and name not in key.endpoints]:
        raise ChangeRefused(f"There is no endpoint {unknown[0]!r}.")
    changed = replace(
        key,
        **rights,
        weight=1.0 if weight is None else float(weight),
        models=_names(form, "models"),
        endpoints=endpoints,
        places=tuple(place for place in PLACES if f"place-{place}" in form),
        admin="admin" in form,
        horde_key=_horde_key(form, key),
    )
    try:
        check_key(changed)
    except ValueError as exc:
        raise ChangeRefused(f"Please correct: {exc}.") from exc
    return changed


def _number(form: Form, name: str, label: str, *, whole: bool) -> Any:
    value = sent_forms.number(form, name)
    if value is not None and not isinstance(value, int if whole else (int, float)):
        raise ChangeRefused(f"Please correct: {label}: write a {'whole ' if whole else ''}number.")
    return value


def _names(form: Form, name: str) -> tuple[str, ...]:
    """The names in a field, with commas or lines between them."""
    parts = form.get(name, "").replace("\n", ",").split(",")
    return tuple(part.strip() for part in parts if part.strip())


def _horde_key(form: Form, key: ClientKey) -> str | None:
    """The horde key that pays: a new one, none, or the one that there was."""
    if "no-horde-key" in form:
        return None
    return sent_forms.text(form, "horde_key") or key.horde_key


def _in_words(key: ClientKey) -> str:
    """The rights of a key for the journal."""
    admin = ["administrator"] if key.admin else []
    return "; ".join([*admin, *limits_in_words(key)]) or "no limits"


KEYS = AdminSection(
    "Keys",
    _list,
    {"make-key": AdminAction(_make)},
    arguments=("q", "state", PAGE),
)
KEY = AdminSection(
    "Key",
    _one,
    {
        "change-key": AdminAction(_change, "The key was changed."),
        "revoke-key": AdminAction(
            _revoke, "The key was revoked. It is refused within seconds.", leads_to="keys"
        ),
    },
    arguments=("name",),
    within="keys",
)

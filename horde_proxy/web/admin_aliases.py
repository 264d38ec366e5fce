"""The section of the aliases and fallbacks: other names for models, and what is tried instead.

They are in the settings' file. What an alias leads to now is what the router makes of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from horde_proxy.api.context import AppContext
from horde_proxy.errors import ProxyError
from horde_proxy.places import PLACES
from horde_proxy.web import sent_forms
from horde_proxy.web.admin_section import (
    AdminAction,
    AdminSection,
    Change,
    ChangeRefused,
    SectionFacts,
    change_settings,
    file_facts,
    settings_of,
)
from horde_proxy.web.list_pages import PAGE, page_of
from horde_proxy.web.sent_forms import Form

_PER_PAGE = 50
_MOST_SHOWN = 12
"""Models that a row shows."""
_LONGEST_NAME = 200


def _list(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """The aliases with the models that they lead to now, and the fallbacks."""
    aliases = page_of(sorted(settings_of(ctx).value("aliases").items()), arguments, _PER_PAGE)
    return {
        "page": aliases,
        "aliases": [
            {
                "name": name,
                "target": alias.model,
                "places": alias.places or (),
                **_matches(ctx, name),
            }
            for name, alias in aliases.items
        ],
        "fallbacks": sorted(settings_of(ctx).value("fallbacks").items()),
        "model_names": _model_names(ctx),
        "places": PLACES,
        **file_facts(ctx),
    }


def _matches(ctx: AppContext, name: str) -> dict[str, Any]:
    """The models that a name leads to now, in the order in which they are tried."""
    try:
        candidates = ctx.router.candidates(name)
    except ProxyError as exc:
        return {"models": [], "more": 0, "problem": str(exc)}
    names = candidates.model_names()
    return {"models": names[:_MOST_SHOWN], "more": max(len(names) - _MOST_SHOWN, 0), "problem": ""}


def _model_names(ctx: AppContext) -> Sequence[str]:
    """What a form suggests."""
    try:
        return ["auto", "fast", *(str(model["id"]) for model in ctx.router.models())]
    except ProxyError:
        return ["auto", "fast"]


def _set_alias(ctx: AppContext, form: Form) -> Change:
    name, target = _name(form, "name"), sent_forms.text(form, "model")
    if not target:
        raise ChangeRefused("Write the model that the alias leads to.")
    places = [place for place in PLACES if f"place-{place}" in form]
    value = {"model": target, "places": places} if places else target
    note = change_settings(ctx, lambda file: file.set(("aliases", name), value))
    return Change(f"set the alias {name} to {target}", note=f"{name} leads to {target}. {note}")


def _remove_alias(ctx: AppContext, form: Form) -> Change:
    name = sent_forms.text(form, "name")
    if name not in settings_of(ctx).value("aliases"):
        raise ChangeRefused("There is no such alias.")
    note = change_settings(ctx, lambda file: file.unset(("aliases", name)))
    return Change(f"removed the alias {name}", note=f"The alias {name} was removed. {note}")


def _set_fallbacks(ctx: AppContext, form: Form) -> Change:
    name = _name(form, "name")
    models = [part.strip() for part in form.get("models", "").replace("\n", ",").split(",")]
    models = [model for model in models if model]
    if not models:
        raise ChangeRefused("Write at least one model that is tried instead.")
    note = change_settings(ctx, lambda file: file.set(("fallbacks", name), models))
    return Change(
        f"set the fallbacks of {name} to {', '.join(models)}",
        note=f"Instead of {name}, {', '.join(models)} may answer. {note}",
    )


def _remove_fallbacks(ctx: AppContext, form: Form) -> Change:
    name = sent_forms.text(form, "name")
    if name not in settings_of(ctx).value("fallbacks"):
        raise ChangeRefused("There are no such fallbacks.")
    note = change_settings(ctx, lambda file: file.unset(("fallbacks", name)))
    return Change(
        f"removed the fallbacks of {name}", note=f"The fallbacks of {name} were removed. {note}"
    )


def _name(form: Form, field: str) -> str:
    name = sent_forms.text(form, field)
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ChangeRefused(f"A name has 1 to {_LONGEST_NAME} characters, without line breaks.")
    return name


ALIASES = AdminSection(
    "Aliases",
    _list,
    {
        "set-alias": AdminAction(_set_alias),
        "remove-alias": AdminAction(_remove_alias),
        "set-fallbacks": AdminAction(_set_fallbacks),
        "remove-fallbacks": AdminAction(_remove_fallbacks),
    },
    arguments=(PAGE,),
)

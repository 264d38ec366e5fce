"""The section of the settings: each with its source and what that overrides, as `config` shows.

What may be changed is written to the settings' file, whose comments stay. Secrets are "set" or
"not set", and can only be replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from horde_proxy.api.context import AppContext
from horde_proxy.api.endpoints import settings_problem
from horde_proxy.web import sent_forms
from horde_proxy.web.admin_section import (
    AdminAction,
    AdminSection,
    Change,
    ChangeRefused,
    NoSuchEntry,
    SectionFacts,
    change_settings,
    file_facts,
    settings_of,
)
from horde_proxy.web.admin_tools import SettingForm
from horde_proxy.web.sent_forms import Form

_DEFAULT, _HIDDEN = "default", "(hidden)"
"""What config.origins writes for the source of a default, and for secrets."""


@dataclass(frozen=True)
class ShownSetting:
    """A setting with its source. Secrets are "set" or "not set".

    `overridden` are the sources that give another value in vain, each with that value.
    """

    name: str
    value: str
    source: str
    overridden: Sequence[tuple[str, str]]
    form: SettingForm

    @property
    def is_default(self) -> bool:
        """Whether no source gives it."""
        return self.source == _DEFAULT


def _shown(ctx: AppContext) -> Iterator[ShownSetting]:
    """All settings as the files and the environment have them now. Raises SettingsRefused."""
    for origin in settings_of(ctx).origins():
        overridden = [(source, _in_words(value)) for source, value in origin.overridden]
        form = ctx.admin.descriptions.form(origin.name)
        yield ShownSetting(origin.name, _in_words(origin.value), origin.source, overridden, form)


def _in_words(value: str) -> str:
    return "set" if value == _HIDDEN else value


def _list(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """The settings by section: those that are set, or all."""
    wanted, is_all = arguments.get("q", "").strip(), arguments.get("all") == "1"
    shown = [
        setting
        for setting in _shown(ctx)
        if wanted.casefold() in f"{setting.name} {setting.form.meaning}".casefold()
        and (is_all or wanted or not setting.is_default)
    ]
    sections: dict[str, list[ShownSetting]] = {}
    for setting in shown:
        sections.setdefault(setting.name.partition(".")[0], []).append(setting)
    return {
        "sections": sections,
        "count": len(shown),
        "q": wanted,
        "is_all": is_all,
        "settings_problem": settings_problem(ctx),
        **file_facts(ctx),
    }


def _one(ctx: AppContext, arguments: Mapping[str, str]) -> SectionFacts:
    """One setting, and the form to change it."""
    setting = _setting(ctx, arguments.get("name", ""))
    return {"setting": setting, "written": _written(setting), **file_facts(ctx)}


def _setting(ctx: AppContext, name: str) -> ShownSetting:
    """The setting of a name. Raises NoSuchEntry."""
    for setting in _shown(ctx):
        if setting.name == name:
            return setting
    raise NoSuchEntry("There is no setting of this name.")


def _written(setting: ShownSetting) -> str:
    """The value as a form shows it; "" for a secret."""
    if setting.form.is_secret or setting.value == "not set":
        return ""
    if setting.form.is_list:
        return setting.value.strip("[]").replace('"', "")
    return setting.value.strip('"')


def _set(ctx: AppContext, form: Form) -> Change:
    setting = _setting(ctx, sent_forms.text(form, "name"))
    if not setting.form.is_editable:
        raise ChangeRefused("This setting cannot be changed here: write it into the file.")
    text = sent_forms.lines(form, "value")
    if not text:
        raise ChangeRefused("Write a value, or let the setting have its default.")
    try:
        value = ctx.admin.descriptions.parse(setting.name, text)
    except ValueError as exc:
        raise ChangeRefused(f"Please correct {setting.name}: {exc}.") from exc
    note = change_settings(ctx, lambda file: file.set(setting.name, value))
    shown = "" if setting.form.is_secret else f" to {text}"
    return Change(f"set {setting.name}{shown}", note=f"{setting.name} was changed. {note}".strip())


def _unset(ctx: AppContext, form: Form) -> Change:
    setting = _setting(ctx, sent_forms.text(form, "name"))
    if not setting.form.is_editable:
        raise ChangeRefused("This setting cannot be changed here: remove it from the file.")
    note = change_settings(ctx, lambda file: file.unset(setting.name))
    return Change(
        f"removed {setting.name} from the file",
        note=f"{setting.name} is not in the file any more. {note}".strip(),
    )


SETTINGS = AdminSection("Settings", _list, arguments=("q", "all"))
SETTING = AdminSection(
    "Setting",
    _one,
    {"set-setting": AdminAction(_set), "unset-setting": AdminAction(_unset)},
    arguments=("name",),
    within="settings",
)

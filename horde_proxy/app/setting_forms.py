"""What a form needs to know of each setting, for the admin's pages: type, meaning, choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from horde_proxy.app.editable_settings import EDITABLE
from horde_proxy.config.reference import plain_type, setting_fields
from horde_proxy.web.admin_tools import SettingForm

_SIMPLE = (str, int, float, bool)


class SettingForms:
    """See DescribesSettings. `at_start` says whether a setting is read at the start only."""

    def __init__(self, at_start: Callable[[str], bool]) -> None:
        self._at_start = at_start

    def form(self, name: str) -> SettingForm:
        """What a form needs to know of the setting of this name; see SettingForm."""
        field = setting_fields().get(name)
        if field is None:
            # An entry of a table with free names, such as aliases.gpt-4o.
            return SettingForm(needs_restart=self._at_start(name))
        return SettingForm(
            meaning=field.description or "",
            kind=plain_type(field.annotation),
            choices=_choices(field),
            is_secret=not field.repr,
            is_list=_is_list(field),
            is_editable=_is_editable(name, field),
            needs_restart=self._at_start(name),
        )

    def parse(self, name: str, text: str) -> Any:
        """The value of a setting that a form sends as text. Raises ValueError with the reason."""
        field = setting_fields().get(name)
        if field is None:
            raise ValueError("there is no such setting")
        value: Any = text
        if _is_list(field):
            parts = text.replace("\n", ",").split(",")
            value = [part.strip() for part in parts if part.strip()]
        try:
            # Text of a form: "8" is a number, and "true" a choice.
            return TypeAdapter(_with_conditions(field)).validate_python(value)
        except ValidationError as exc:
            # Its own message would show the value, which may be a key.
            raise ValueError(exc.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _with_conditions(field: FieldInfo) -> Any:
    """The type of a setting with the conditions that pydantic keeps beside it."""
    kind: Any = field.annotation
    for condition in field.metadata:
        kind = Annotated[kind, condition]
    return kind


def _is_editable(name: str, field: FieldInfo) -> bool:
    """Whether pages may change it, and a form can send it: simple values, or a list of these."""
    if name not in EDITABLE:
        return False
    kinds = _plain_kinds(field)
    return bool(kinds) and all(kind in _SIMPLE or get_origin(kind) is Literal for kind in kinds)


def _plain_kinds(field: FieldInfo) -> list[Any]:
    """The types of a setting, or of its entries, without None and conditions."""
    kinds: list[Any] = []
    pending = [field.annotation]
    while pending:
        kind = pending.pop()
        if get_origin(kind) is Literal or not get_args(kind):
            kinds.append(kind)
        elif get_origin(kind) is dict:
            return []
        elif hasattr(kind, "__metadata__"):
            pending.append(get_args(kind)[0])
        else:
            pending += get_args(kind)
    return [kind for kind in kinds if kind is not type(None)]


def _is_list(field: FieldInfo) -> bool:
    kind = field.annotation
    return get_origin(kind) is list or any(get_origin(part) is list for part in get_args(kind))


def _choices(field: FieldInfo) -> tuple[str, ...]:
    """All values of a setting that has few; empty for any other."""
    kinds = _plain_kinds(field)
    if _is_list(field):
        return ()
    if kinds == [bool]:
        return ("true", "false")
    if kinds and all(get_origin(kind) is Literal for kind in kinds):
        return tuple(str(value) for kind in kinds for value in get_args(kind))
    return ()

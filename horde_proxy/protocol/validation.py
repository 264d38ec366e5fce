"""A request body's first fault, told as OpenAI tells it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from horde_proxy.errors import InvalidRequest

_NAMES = {
    "string_type": "a string",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "int_from_float": "an integer",
    "model_attributes_type": "an object",
}
_JSON_TYPES = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)
_BOUNDS = {
    "greater_than": ("more than", "below_min_value", "gt"),
    "greater_than_equal": ("at least", "below_min_value", "ge"),
    "less_than_equal": ("at most", "above_max_value", "le"),
}


Body = TypeVar("Body", bound=BaseModel)


def parsed(model: type[Body], body: Any) -> Body:
    """A decoded JSON body as its model. Raises InvalidRequest for its first fault."""
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        raise first_problem(exc) from exc


def first_problem(exc: ValidationError) -> InvalidRequest:
    """The 400 for the most precise fault that pydantic found: message, param, OpenAI's code."""
    error: Any = max(exc.errors(include_url=False), key=lambda each: len(each["loc"]))
    param = param_name(error["loc"])
    kind = error["type"]
    if kind == "missing":
        return missing(param)
    if kind == "extra_forbidden":
        return _invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind in _BOUNDS:
        words, suffix, bound = _BOUNDS[kind]
        limit = error["ctx"][bound]
        number = "integer" if isinstance(limit, int) else "decimal"
        return _invalid(
            f"Invalid value for '{param}': must be {words} {limit}.", param, f"{number}_{suffix}"
        )
    if kind in ("too_short", "string_too_short"):
        return _invalid(
            f"Invalid '{param}': empty. Expected a minimum length of 1.", param, "empty_value"
        )
    if error["input"] is None and len(error["loc"]) == 1:
        return missing(param)
    if kind in ("literal_error", "too_long", "finite_number"):
        return _invalid(f"Invalid value for '{param}': {error['msg']}.", param, "invalid_value")
    expected = _NAMES.get(kind, "another type")
    return _invalid(
        f"Invalid type for '{param}': expected {expected}, but got {_json_type(error['input'])} "
        "instead.",
        param,
        "invalid_type",
    )


def missing(param: str) -> InvalidRequest:
    """The 400 for a field that is not there."""
    return _invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def param_name(location: Sequence[str | int]) -> str:
    """A field's place as OpenAI writes it: messages.[0].content.

    What pydantic adds for the members of a union is left out.
    """
    parts = [
        f"[{part}]" if isinstance(part, int) else part
        for part in location
        if isinstance(part, int) or (part.isidentifier() and part not in _UNION_MEMBERS)
    ]
    return ".".join(parts)


_UNION_MEMBERS = frozenset({"str", "int", "float", "bool", "dict", "list", "none"})


def _json_type(value: Any) -> str:
    return next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null")


def _invalid(message: str, param: str, code: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)

"""The first error in a request body, in the words of OpenAI's own API. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from horde_proxy.errors import InvalidRequest

# What was expected, in OpenAI's words, by pydantic's type of error.
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
    # Of texts in forms, where all values are texts.
    "int_parsing": "an integer",
    "float_parsing": "a number",
    "bool_parsing": "a boolean",
}
# bool before int: in Python True is an int.
_JSON_TYPES = (
    (bool, "a boolean"),
    (int, "an integer"),
    (float, "a decimal"),
    (str, "a string"),
    (list, "an array"),
    (dict, "an object"),
)
# (words, the end of OpenAI's code, the name of the bound in pydantic's context), by pydantic's type
# of error.
_BOUNDS = {
    "greater_than": ("more than", "below_min_value", "gt"),
    "greater_than_equal": ("at least", "below_min_value", "ge"),
    "less_than_equal": ("at most", "above_max_value", "le"),
}

_LONGEST_PARAM = 200
"""Characters of a field's path that an error repeats."""
Body = TypeVar("Body", bound=BaseModel)


def validated(model: type[Body], body: Any, at: Sequence[str | int] = ()) -> Body:
    """Decoded JSON as a pydantic model. Raises InvalidRequest for its first error.

    `at` is the path of an object inside of the body, e.g. ("tools", 0, "function").
    """
    if not isinstance(body, dict):
        if at:
            raise invalid_type(param_name(at), "an object", body)
        raise InvalidRequest("The request body must be a JSON object.")
    try:
        return model.model_validate(body)
    except ValidationError as exc:
        raise first_problem(exc, at) from exc


def first_problem(exc: ValidationError, at: Sequence[str | int] = ()) -> InvalidRequest:
    """The 400 for the deepest error: message, param and OpenAI's code.

    For a union, pydantic reports an error of each member. The client probably meant the member
    whose error is deepest.
    """
    error: Any = max(exc.errors(include_url=False), key=lambda error: len(error["loc"]))
    location = (*at, *error["loc"])
    param = param_name(location)
    kind = error["type"]
    if kind == "missing":
        return missing_parameter(param)
    if kind == "extra_forbidden":
        return invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if kind in _BOUNDS:
        words, suffix, bound = _BOUNDS[kind]
        limit = error["ctx"][bound]
        number = "integer" if isinstance(limit, int) else "decimal"
        return invalid(
            f"Invalid value for '{param}': must be {words} {limit}.", param, f"{number}_{suffix}"
        )
    if kind in ("too_short", "string_too_short"):
        return invalid(
            f"Invalid '{param}': empty. Expected a minimum length of 1.", param, "empty_value"
        )
    if kind == "string_too_long":
        most = error["ctx"]["max_length"]
        return invalid(
            f"Invalid '{param}': too long. Expected a maximum length of {most} characters.",
            param,
            "string_above_max_length",
        )
    if error["input"] is None and len(location) == 1:
        return missing_parameter(param)
    if kind in ("literal_error", "too_long", "finite_number"):
        return invalid(f"Invalid value for '{param}': {error['msg']}.", param, "invalid_value")
    return invalid_type(param, _NAMES.get(kind, "another type"), error["input"])


def invalid_type(param: str, expected: str, value: Any) -> InvalidRequest:
    """The 400 for a value of a wrong JSON type; `expected` as in "an integer"."""
    return invalid(
        f"Invalid type for '{param}': expected {expected}, but got {_json_type(value)} instead.",
        param,
        "invalid_type",
    )


def missing_parameter(param: str) -> InvalidRequest:
    """The 400 for a missing required field."""
    return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def param_name(location: Sequence[str | int]) -> str:
    """A field's path as OpenAI writes it: messages.[0].content.

    It leaves out the parts that pydantic adds for members of a union, such as "str" or
    "list[constrained-str]".
    """
    parts = [
        f"[{part}]" if isinstance(part, int) else part
        for part in location
        if isinstance(part, int) or (part.isidentifier() and part not in _UNION_MEMBERS)
    ]
    # An unknown field may have a name of megabytes.
    return ".".join(parts)[:_LONGEST_PARAM]


_UNION_MEMBERS = frozenset({"str", "int", "float", "bool", "dict", "list", "none"})


def _json_type(value: Any) -> str:
    return next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null")


def invalid(message: str, param: str, code: str) -> InvalidRequest:
    """The 400 for a field, in a sentence of the caller's."""
    return InvalidRequest(message, param=param, code=code)

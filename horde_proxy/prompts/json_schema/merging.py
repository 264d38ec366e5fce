"""Two schemas made one: what `allOf`, or keywords beside a `$ref`, ask for together.

Only simple cases are merged. Others raise Unfillable: then the model writes the whole value, and
the value is validated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from typing import Any

from horde_proxy.prompts.json_schema.validation import Schema, fits_part


class Unfillable(ValueError):
    """No value is sure to fit the schema when a model gives only the leaves."""


ANNOTATIONS = {
    "$anchor",
    "$comment",
    "$id",
    "$schema",
    "default",
    "deprecated",
    "description",
    "example",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
}
"""Keywords that no value can fail to meet."""


def merged(first: Schema, second: Schema) -> dict[str, Any]:
    """One schema for what satisfies both; the annotations are the first's. Raises Unfillable."""
    both = {**first, **{word: second[word] for word in second if word not in first}}
    for keyword in (first.keys() & second.keys()) - ANNOTATIONS - {"additionalProperties"}:
        merge = _MERGES.get(keyword, _same)
        both[keyword] = merge(first[keyword], second[keyword])
    return _closed(first, second, both)


def _closed(first: Schema, second: Schema, both: dict[str, Any]) -> dict[str, Any]:
    """`both`, without the properties that the other schema's additionalProperties forbid."""
    open_by_default: tuple[Any, ...] = (True, None, {})
    # What one schema does not list, its additionalProperties decides; absent, anything is allowed.
    for one, other in ((first, second), (second, first)):
        rest = one.get("additionalProperties")
        if rest in open_by_default or "properties" not in other:
            continue
        foreign = other["properties"].keys() - one.get("properties", {}).keys()
        if rest is not False and foreign:
            raise Unfillable("Properties of one part are restricted by another.")
        both["properties"] = {
            name: value for name, value in both["properties"].items() if name not in foreign
        }
    rests = [schema.get("additionalProperties") for schema in (first, second)]
    limits: list[Any] = [rest for rest in rests if rest not in open_by_default]
    if limits:
        both["additionalProperties"] = False if False in limits else reduce(merged, limits)
    return both


def _same(first: Any, second: Any) -> Any:
    if not fits_part(second, {"const": first}):
        raise Unfillable("Two parts of the schema contradict each other.")
    return first


def type_names(names: Any) -> list[Any]:
    """The names in the keyword `type`, which holds one or a list."""
    return names if isinstance(names, list) else [names]


def _common_types(first: Any, second: Any) -> list[Any]:
    """The types in both lists; integers are numbers."""
    mine, other = type_names(first), type_names(second)
    common = [name for name in mine if name in other]
    # ["integer"] and ["number"] have the integers in common, though no name.
    if "integer" not in common and any(
        "integer" in one and "number" in two for one, two in ((mine, other), (other, mine))
    ):
        common.append("integer")
    if not common:
        raise Unfillable("Parts of the schema ask for different types.")
    return common


def _common_values(first: Any, second: Any) -> list[Any]:
    # As text, since Python takes True for 1 and JSON does not.
    known = {json.dumps(value, sort_keys=True) for value in second}
    common = [value for value in first if json.dumps(value, sort_keys=True) in known]
    if not common:
        raise Unfillable("Parts of the schema have no value in common.")
    return common


def _merged_properties(first: Any, second: Any) -> dict[str, Any]:
    shared = {name: merged(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **shared}


def _all_names(first: Any, second: Any) -> list[Any]:
    return list(dict.fromkeys([*first, *second]))


# Of two lower bounds the greater holds, of two upper bounds the smaller.
_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "type": _common_types,
    "enum": _common_values,
    "required": _all_names,
    "properties": _merged_properties,
    "items": merged,
    "uniqueItems": lambda one, two: one or two,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}

"""What a JSON schema asks for: references inlined, a shape to fill, and what is wrong in a value.

Schemas come from clients: remote references are never followed, depth and size are bounded, and
patterns that could take for ever are left out. Pure.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any, TypeAlias
from urllib.parse import unquote

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import SchemaError, UnknownType, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

MOST_REFERENCES = 6
"""How many references may lie within each other: recursive schemas have no end."""
_MOST_DEPTH = 30
_MOST_NODES = 2_000
_MOST_VALUES = 10_000
_MOST_APPLIED = 200_000
_MOST_ACTIVE = 80
_LONGEST_PATTERN = 200
_MOST_STEPS = 10_000_000
_LONGEST_FORMATTED = 2_000
_LONGEST_PADDING = 2_000
_LARGEST_BOUND = 1e300
_LONGEST_PROBLEM = 160
_USUAL_ELEMENTS = 3

Schema: TypeAlias = Mapping[str, Any]


class Unfillable(ValueError):
    """No value is sure to fit the schema when a model gives only the leaves."""


# Formats.

_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_ZONE = r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


def _is_date(text: str) -> bool:
    year, month, day = (int(part) for part in text[:10].split("-"))
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if year == 0 or not 1 <= month <= 12:
        return False
    return 1 <= day <= _DAYS[month - 1] and (leap or (month, day) != (2, 29))


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class _Format:
    """How a format looks, a neutral value of it, and what the look alone cannot tell."""

    look: str
    neutral: str
    check: Callable[[str], bool] = lambda text: True


_EMAIL = _Format(
    rf"[A-Za-z0-9_%+-]+(?:\.[A-Za-z0-9_%+-]+)*@{_LABEL}(?:\.{_LABEL})+", "nobody@example.com"
)
FORMATS = {
    "date": _Format(_DATE, "1970-01-01", _is_date),
    "time": _Format(_TIME + _ZONE, "00:00:00Z"),
    "date-time": _Format(f"{_DATE}[Tt]{_TIME}{_ZONE}", "1970-01-01T00:00:00Z", _is_date),
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "uri": _Format(r"[A-Za-z][A-Za-z0-9+.-]*:[!#-;=?-Z_a-z~@&$\[\]]+", "https://example.com/"),
    "uuid": _Format(
        "-".join(f"[0-9A-Fa-f]{{{size}}}" for size in (8, 4, 4, 4, 12)),
        "00000000-0000-0000-0000-000000000000",
    ),
    "ipv4": _Format(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", "0.0.0.0", _is_ip),
    "ipv6": _Format(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", "::", _is_ip),
    "hostname": _Format(rf"{_LABEL}(?:\.{_LABEL})*", "example.com", lambda text: len(text) < 254),
}


def is_of_format(name: str, text: str) -> bool:
    """Whether a text has a format; formats unknown here say nothing of their texts."""
    format = FORMATS.get(name)
    if format is None or len(text) > _LONGEST_FORMATTED:
        return format is None
    return bool(re.fullmatch(format.look, text)) and format.check(text)


def formatted_in(name: str, text: str) -> Iterator[str]:
    """What of a text may have the format: its matches, and times with their missing parts."""
    text = text[:_LONGEST_FORMATTED]
    yield from re.findall(FORMATS[name].look, text)
    clock = re.search(r"([0-9]{2}:[0-9]{2})(:[0-9]{2})?", text)
    time = f"{clock[1]}{clock[2] or ':00'}Z" if clock else "00:00:00Z"
    if name == "time" and clock:
        yield time
    if name == "date-time":
        yield from (f"{date}T{time}" for date in re.findall(_DATE, text))


# Patterns.


def matches(pattern: str, text: str) -> bool | None:
    """Whether a pattern is found in a text; None where the search might take for ever."""
    quantifiers = _quantifiers(pattern)
    if quantifiers is None or max(len(text), 2) ** quantifiers > _MOST_STEPS:
        return None
    try:
        return re.search(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return None


def _quantifiers(pattern: str) -> int | None:
    """How many parts of a pattern may vary in length; None where they vary within each other."""
    if len(pattern) > _LONGEST_PATTERN or re.search(r"\(\?(?:P=|\()", pattern):
        return None
    bare = re.sub(r"\\[0-9]", "(*)*", pattern)
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "a", bare, flags=re.DOTALL)
    bare = re.sub(r"\(\?(?:[:=!]|<[=!]|P<\w*>)", "(", bare)
    bare = re.sub(r"(?<!\))\{[0-9]{1,3}\}", "", bare)
    while True:
        group = re.search(r"\(([^()]*)\)([*+{]?)", bare)
        if group is None:
            break
        if group[2] and re.search(r"[*+?{|]", group[1]):
            return None
        bare = bare[: group.start()] + group[1] + group[2] + bare[group.end() :]
    return len(re.findall(r"[*+?{|]", bare)) + (not pattern.startswith("^"))


# Validation.


def validator(schema: Schema) -> Any:
    """A jsonschema validator for one value; None for a schema that is broken or too large.

    It knows no remote references (Unresolvable) and gives up where references multiply
    (RecursionError).
    """
    if not _is_tame(schema):
        return None
    dialect = schema.get("$schema")
    known = {"$schema": dialect} if isinstance(dialect, str) else {}
    kind = validators.validator_for(known, default=Draft202012Validator)
    # A dialect that is named again, at a reference's target, would bring back the unguarded kind.
    own = {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
    try:
        kind.check_schema(own)
    except (SchemaError, RecursionError, ArithmeticError):
        return None
    return _counted(kind)(own, registry=Registry(), format_checker=_CHECKER)


def broken(schema: Schema) -> str | None:
    """Why a schema is none, in one sentence; None for one that is fine, or too large to tell."""
    try:
        Draft202012Validator.check_schema(
            {word: value for word, value in schema.items() if word != "$schema"}
        )
    except SchemaError as exc:
        return _sentence(exc)  # type: ignore[arg-type]
    except (RecursionError, ArithmeticError):
        return None
    return None


def problem(value: Any, schema: Schema) -> str | None:
    """What is wrong in a value, in one sentence; None when it fits or the schema is broken."""
    checker = validator(schema)
    if checker is None or _depth(value) > _MOST_DEPTH:
        return None
    try:
        error = best_match(checker.iter_errors(value))
    except (Unresolvable, RecursionError, ArithmeticError):
        return None
    return None if error is None else _sentence(error)


def fits(value: Any, schema: Schema) -> bool:
    """Whether a value is known to fit a schema: False for a broken schema too."""
    checker = validator(schema)
    try:
        return checker is not None and checker.is_valid(value)
    except (Unresolvable, RecursionError, ArithmeticError):
        return False


def _holds(value: Any, schema: Schema, formats: bool = True) -> bool:
    """As `fits`, for a part of a schema that was checked; its formats may be left aside."""
    kind = _guarded(Draft202012Validator)
    checker = kind(schema, registry=Registry(), format_checker=_CHECKER if formats else None)
    try:
        return bool(checker.is_valid(value))
    except (Unresolvable, UnknownType, RecursionError, ArithmeticError, TypeError):
        return False


def _sentence(error: ValidationError) -> str:
    message = " ".join(error.message.split())
    if len(message) > _LONGEST_PROBLEM:
        message = f"the value does not meet '{error.validator}'"
    place = ".".join(str(part) for part in error.absolute_path)
    sentence = f"At '{place[:_LONGEST_PROBLEM]}': {message}." if place else f"{message}."
    return sentence[:1].upper() + sentence[1:]


def _pattern(checker: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and matches(pattern, instance) is False:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


@cache
def _guarded(kind: Any) -> Any:
    extend: Any = validators.extend
    return extend(kind, {"pattern": _pattern})


def _counted(kind: Any) -> Any:
    """The guarded kind, with an end to how many keywords it applies, and within each other."""
    guarded, applied, active = _guarded(kind), itertools.count(), [0]

    def counting(apply: Any) -> Any:
        def keyword(*arguments: Any) -> Iterator[ValidationError]:
            # Python's own limit must not be met: the library below would panic, not raise.
            if next(applied) > _MOST_APPLIED or active[0] > _MOST_ACTIVE:
                raise RecursionError("The schema has no end.")
            active[0] += 1
            try:
                yield from apply(*arguments) or ()
            finally:
                active[0] -= 1

        return keyword

    extend: Any = validators.extend
    return extend(guarded, {word: counting(each) for word, each in guarded.VALIDATORS.items()})


def _checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name in FORMATS:
        checker.checks(name)(_formatted(name))
    return checker


def _formatted(name: str) -> Callable[[object], bool]:
    return lambda value: (
        not isinstance(value, str) or len(value) > _LONGEST_FORMATTED or is_of_format(name, value)
    )


_CHECKER = _checker()


def _depth(value: Any) -> int:
    """How deep a JSON value is, up to one more than what is too deep."""
    depth, level = 0, [value]
    while level and depth <= _MOST_DEPTH:
        depth += 1
        level = [part for each in level for part in _parts(each)]
    return depth


def _parts(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _is_tame(schema: Schema) -> bool:
    """Whether validating is sure to end: no great size, one dialect, no slow name patterns."""
    if _depth(schema) > _MOST_DEPTH:
        return False
    nodes, seen = _parts(schema), 0
    while nodes:
        node = nodes.pop()
        nodes += _parts(node)
        seen += 1
        foreign = isinstance(node, Mapping) and isinstance(node.get("$schema"), str)
        if foreign or seen > _MOST_VALUES:
            return False
    return _has_fast_names(schema)


def _has_fast_names(schema: Any) -> bool:
    nodes = [schema]
    while nodes:
        node = nodes.pop()
        nodes += _parts(node)
        named = node.get("patternProperties") if isinstance(node, Mapping) else None
        for pattern in named if isinstance(named, Mapping) else ():
            quantifiers = _quantifiers(pattern)
            if quantifiers is None or quantifiers > 1:
                return False
    return True


# References and unions.

_ANNOTATIONS = {
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
_ONE = ("items", "additionalProperties")
_NAMED = ("properties",)
_SEVERAL = ("anyOf", "oneOf")
_NEVER: dict[str, Any] = {"not": {}}


def resolved(schema: Schema) -> dict[str, Any]:
    """The schema without references and allOf; of types and unions, null comes last.

    Raises Unfillable for a remote or missing target, recursion, and parts that contradict.
    """
    return _Resolver(schema).resolve(schema)


class _Resolver:
    def __init__(self, root: Schema) -> None:
        self._root = root
        self._nodes = 0

    def resolve(self, schema: Any, references: int = 0, depth: int = 0) -> dict[str, Any]:
        self._nodes += 1
        if self._nodes > _MOST_NODES or depth > _MOST_DEPTH or references > MOST_REFERENCES:
            raise Unfillable("The schema is too deep or recursive.")
        if isinstance(schema, bool):
            return {} if schema else dict(_NEVER)
        if not isinstance(schema, Mapping):
            raise Unfillable("A schema must be an object.")
        parts = [self._inner(schema, references, depth + 1)]
        if "$ref" in schema:
            target = _target(self._root, schema["$ref"])
            parts.append(self.resolve(target, references + 1, depth + 1))
        for each in _list(schema.get("allOf")):
            parts.append(self.resolve(each, references, depth + 1))
        return reduce(_merged, parts)

    def _inner(self, schema: Schema, references: int, depth: int) -> dict[str, Any]:
        gone = ("$ref", "$defs", "definitions", "allOf")
        own = {keyword: value for keyword, value in schema.items() if keyword not in gone}
        for keyword in own.keys() & set(_ONE):
            if not isinstance(own[keyword], bool) and not isinstance(own[keyword], list):
                own[keyword] = self.resolve(own[keyword], references, depth)
        for keyword in own.keys() & set(_NAMED):
            if not isinstance(own[keyword], Mapping):
                raise Unfillable(f"'{keyword}' must be an object.")
            own[keyword] = {
                name: self.resolve(each, references, depth) for name, each in own[keyword].items()
            }
        for keyword in own.keys() & set(_SEVERAL):
            several = [self.resolve(each, references, depth) for each in _list(own[keyword])]
            own[keyword] = sorted(several, key=_is_null)
        if isinstance(own.get("type"), list):
            own["type"] = sorted(own["type"], key=lambda name: bool(name == "null"))
        return own


def _is_null(schema: Schema) -> bool:
    const_null = "const" in schema and schema["const"] is None
    return const_null or schema.get("type") in ("null", ["null"]) or schema.get("enum") == [None]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _target(root: Schema, reference: Any) -> Any:
    """What a local reference means: '#', or a JSON pointer after it."""
    if not isinstance(reference, str) or not re.match(r"#(/|\Z)", reference):
        raise Unfillable("Only references within the schema can be followed.")
    node: Any = root
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and name.isdecimal() and int(name[:9]) < len(node):
            node = node[int(name[:9])]
        elif isinstance(node, Mapping) and name in node:
            node = node[name]
        else:
            raise Unfillable("A reference leads nowhere.")
    return node


def _merged(first: Schema, second: Schema) -> dict[str, Any]:
    """One schema for what satisfies both. Raises Unfillable where that is not easily said."""
    both = {**first, **{word: second[word] for word in second if word not in first}}
    for keyword in (first.keys() & second.keys()) - _ANNOTATIONS - {"additionalProperties"}:
        merge = _MERGES.get(keyword, _same)
        both[keyword] = merge(first[keyword], second[keyword])
    return _closed(first, second, both)


def _closed(first: Schema, second: Schema, both: dict[str, Any]) -> dict[str, Any]:
    """`both`, without the properties that one of the two does not take."""
    open_by_default: tuple[Any, ...] = (True, None, {})
    for one, other in ((first, second), (second, first)):
        rest = one.get("additionalProperties")
        if rest in open_by_default or "properties" not in other:
            continue
        foreign = other["properties"].keys() - one.get("properties", {}).keys()
        if rest is not False and foreign:
            raise Unfillable("Properties of one part are restricted by another.")
        kept = {name: each for name, each in both["properties"].items() if name not in foreign}
        both["properties"] = kept
    rests = [each.get("additionalProperties") for each in (first, second)]
    limits: list[Any] = [rest for rest in rests if rest not in open_by_default]
    if limits:
        both["additionalProperties"] = False if False in limits else reduce(_merged, limits)
    return both


def _same(first: Any, second: Any) -> Any:
    if not _holds(second, {"const": first}):
        raise Unfillable("Parts of the schema cannot be brought together.")
    return first


def _types(names: Any) -> list[Any]:
    return names if isinstance(names, list) else [names]


def _common_types(first: Any, second: Any) -> list[Any]:
    """The types in both lists; integers are numbers."""
    mine, other = _types(first), _types(second)
    common = [name for name in mine if name in other]
    if "integer" not in common and any(
        "integer" in one and "number" in two for one, two in ((mine, other), (other, mine))
    ):
        common.append("integer")
    if not common:
        raise Unfillable("Parts of the schema ask for different types.")
    return common


def _common_values(first: Any, second: Any) -> list[Any]:
    known = {json.dumps(each, sort_keys=True) for each in second}
    common = [each for each in first if json.dumps(each, sort_keys=True) in known]
    if not common:
        raise Unfillable("Parts of the schema have no value in common.")
    return common


def _merged_properties(first: Any, second: Any) -> dict[str, Any]:
    shared = {name: _merged(first[name], second[name]) for name in first if name in second}
    return {**first, **second, **shared}


def _all_names(first: Any, second: Any) -> list[Any]:
    return list(dict.fromkeys([*first, *second]))


_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "type": _common_types,
    "enum": _common_values,
    "required": _all_names,
    "properties": _merged_properties,
    "items": _merged,
    "uniqueItems": lambda one, two: one or two,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}


# Shapes.


@dataclass(frozen=True)
class Fixed:
    """A value that is written without asking."""

    value: Any


@dataclass(frozen=True)
class Choice:
    """One of several values; `fallback` is one of them."""

    values: tuple[Any, ...]
    fallback: Any


@dataclass(frozen=True)
class Text:
    """A string of `least` to `most` characters; `fallback` is one that fits."""

    least: int
    most: int | None
    format: str | None
    pattern: str | None
    fallback: str = ""

    @property
    def plain(self) -> bool:
        """Whether any text of the right length will do."""
        return self.format is None and self.pattern is None

    def takes(self, text: str) -> bool:
        return (
            self.least <= len(text)
            and (self.most is None or len(text) <= self.most)
            and (self.format is None or is_of_format(self.format, text))
            and (self.pattern is None or matches(self.pattern, text) is True)
        )

    def shortened(self, text: str) -> str:
        """The text, cut after `most` characters, without spaces at the end if that may be."""
        cut = text[: self.most]
        return cut.rstrip() if len(cut.rstrip()) >= self.least else cut


@dataclass(frozen=True)
class Number:
    """A number within bounds, as the keywords in `rules` have it; `fallback` is one that fits."""

    rules: Schema
    fallback: float = 0

    def takes(self, number: float) -> bool:
        return math.isfinite(number) and _holds(number, self.rules)

    def nearest(self, number: float) -> float:
        """A number that fits and is near the given one."""
        return next((each for each in self.near(number) if self.takes(each)), self.fallback)

    def near(self, number: float) -> Iterator[float]:
        """Numbers that may fit, those first that change the least and are short to write."""
        low, high = _bounds(self.rules)
        held = min(max(number, low), high)
        for each in (
            number,
            held,
            *_multiples(held, self.rules.get("multipleOf")),
            *_beside(held),
            *([(low + high) / 2] if math.isfinite(low + high) else []),
        ):
            if self.rules["type"] == "integer" and math.isfinite(each):
                yield from (math.floor(each), math.ceil(each))
            else:
                yield each


@dataclass(frozen=True)
class Array:
    """`least` to `most` elements of one shape."""

    item: Shape
    least: int
    most: int | None
    unique: bool


@dataclass(frozen=True)
class Object:
    """Properties in order, each with its name, its shape and whether it is required."""

    properties: tuple[tuple[str, Shape, bool], ...]
    most: int | None


Shape: TypeAlias = Fixed | Choice | Text | Number | Array | Object


def shape(schema: Schema) -> Shape:
    """What there is to fill. Raises Unfillable where no value would be sure to fit the schema."""
    if not isinstance(schema, Mapping) or validator(schema) is None:
        raise Unfillable("The schema is broken or too deep.")
    plain = resolved(schema)
    if not plain.keys() & {"type", "enum", "const", "anyOf", "oneOf", *_TELLING}:
        raise Unfillable("The schema names no type.")
    found = _shape(plain)
    if _size(found) > _MOST_VALUES:
        raise Unfillable("A value would have to be too large.")
    if not fits(neutral(found), schema):
        raise Unfillable("The schema says more than can be promised.")
    return found


def leaves(schema: Schema) -> int | None:
    """How many leaves guided filling would ask for at most; None if the schema is unfillable.

    An array counts three elements, or as many as it must have, or may have if these are fewer.
    """
    try:
        return _leaves(shape(schema))
    except Unfillable:
        return None


def neutral(shape: Shape) -> Any:
    """A value that fits, with as little in it as may be."""
    match shape:
        case Fixed():
            return shape.value
        case Array():
            several = (
                alternatives(shape.item)
                if shape.unique
                else (itertools.repeat(neutral(shape.item)))
            )
            return list(itertools.islice(several, shape.least))
        case Object():
            return {name: neutral(each) for name, each, needed in shape.properties if needed}
        case _:
            return shape.fallback


def alternatives(shape: Shape) -> Iterator[Any]:
    """Different values that fit: those for an array whose elements must not be equal."""
    match shape:
        case Choice():
            yield from shape.values
        case Text():
            numbered = (str(number).rjust(shape.least, ".") for number in range(1, 101))
            yield shape.fallback
            yield from (each for each in numbered if each != shape.fallback and shape.takes(each))
        case Number():
            starts = (shape.fallback + sign * step for step in range(1, 101) for sign in (1, -1))
            yield shape.fallback
            yield from (each for each in starts if shape.takes(each))
        case _:
            yield neutral(shape)


def _leaves(shape: Shape) -> int:
    match shape:
        case Fixed():
            return 0
        case Array():
            counted = max(shape.least, _USUAL_ELEMENTS)
            return min(counted, shape.most or counted) * _leaves(shape.item)
        case Object():
            return sum(_leaves(each) for _, each, _ in shape.properties)
        case _:
            return 1


def _size(shape: Shape) -> int:
    """How many values the neutral one is made of."""
    match shape:
        case Array():
            return 1 + shape.least * _size(shape.item)
        case Object():
            return 1 + sum(_size(each) for _, each, needed in shape.properties if needed)
        case _:
            return 1


_NUMERIC = {"integer", "number"}
_REFUSED = {
    "not",
    "if",
    "then",
    "else",
    "contains",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "patternProperties",
    "propertyNames",
    "prefixItems",
    "additionalItems",
    "unevaluatedItems",
    "$dynamicRef",
    "$recursiveRef",
    "extends",
    "disallow",
    "divisibleBy",
}
_TELLING = {
    "properties": "object",
    "required": "object",
    "items": "array",
    "minItems": "array",
    "minimum": "number",
    "maximum": "number",
    "multipleOf": "number",
    "minLength": "string",
    "maxLength": "string",
    "pattern": "string",
    "format": "string",
}


def _shape(schema: Schema) -> Shape:
    refused = schema.keys() & _REFUSED
    if refused:
        raise Unfillable(f"'{min(refused)}' cannot be promised.")
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return _first_shape(_branches(schema, keyword))
    if "enum" in schema or "const" in schema:
        return _choice(schema)
    names = _types(schema["type"]) if "type" in schema else [_told(schema)]
    if len(names) > 1:
        return _first_shape([{**schema, "type": name} for name in names])
    make = _SHAPES.get(names[0] if names else None)
    if make is None:
        raise Unfillable("The schema names a type that JSON does not have.")
    return make(schema)


def _told(schema: Schema) -> str:
    """The type that other keywords tell of; anything may be a string."""
    return next((name for word, name in _TELLING.items() if word in schema), "string")


def _first_shape(schemas: Iterable[Schema]) -> Shape:
    reasons = []
    for each in schemas:
        try:
            return _shape(each)
        except Unfillable as exc:
            reasons.append(exc)
    raise reasons[0] if reasons else Unfillable("No branch of the schema can be promised.")


def _branches(schema: Schema, keyword: str) -> Iterator[dict[str, Any]]:
    """The schema with one branch merged in, for each branch that leaves no doubt."""
    rest = {word: value for word, value in schema.items() if word != keyword}
    branches = schema[keyword]
    named = [_named_values(each) for each in branches if not _is_null(each)]
    values = [value for each in named if each for value in each]
    alone = keyword == "anyOf" or all(values.count(value) == 1 for value in values)
    if values and all(named) and alone:
        branches = [{"enum": values}]
    for branch in branches:
        try:
            merged = _merged(rest, branch)
        except Unfillable:
            continue
        others = [each for each in branches if each is not branch]
        if keyword == "anyOf" or all(_apart(merged, each) for each in others):
            yield merged


def _named_values(schema: Schema) -> list[Any] | None:
    """The values of a branch that does nothing but name them."""
    if schema.keys() - _ANNOTATIONS <= {"type", "enum", "const"}:
        return _fitting_values(schema) or None
    return None


def _apart(first: Schema, second: Schema) -> bool:
    """Whether surely no value fits both: by type, by value, or by a property that both require."""
    for one, other in ((first, second), (second, first)):
        values = [one["const"]] if "const" in one else one.get("enum")
        # Whether a format counts is up to whoever validates.
        if values and not any(_holds(value, other, formats=False) for value in values):
            return True
    mine, theirs = set(_types(first.get("type"))), set(_types(second.get("type")))
    if None not in mine | theirs and not mine & theirs and len((mine | theirs) & _NUMERIC) < 2:
        return True
    shared = set(first.get("required", ())) & set(second.get("required", ()))
    known = shared & first.get("properties", {}).keys() & second.get("properties", {}).keys()
    return mine == {"object"} and any(
        _apart(first["properties"][name], second["properties"][name]) for name in known
    )


def _fitting_values(schema: Schema) -> list[Any]:
    """The values that const or enum name and the other keywords allow."""
    if "const" in schema:
        return [schema["const"]] if _holds(schema["const"], schema) else []
    rest = {word: value for word, value in schema.items() if word != "enum"}
    return [value for value in schema.get("enum", []) if _holds(value, rest)]


def _choice(schema: Schema) -> Shape:
    fitting = _fitting_values(schema)
    different = {json.dumps(value, sort_keys=True): value for value in fitting}
    if not different:
        raise Unfillable("None of the values that are named fits.")
    if len(different) == 1:
        return Fixed(next(iter(different.values())))
    return _choice_of(tuple(different.values()), schema)


def _choice_of(values: tuple[Any, ...], schema: Schema) -> Choice:
    wanted = {"const": schema.get("default", values[0])}
    return Choice(values, next((each for each in values if _holds(each, wanted)), values[0]))


def _boolean(schema: Schema) -> Shape:
    return _choice_of((True, False), {"default": False, **schema})


def _null(schema: Schema) -> Shape:
    return Fixed(None)


def _text(schema: Schema) -> Shape:
    least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
    format, pattern = schema.get("format"), schema.get("pattern")
    most = None if most is None else int(most)
    bare = Text(least, most, format if format in FORMATS else None, pattern)
    if least > _LONGEST_PADDING:
        raise Unfillable("A string would have to be too long.")
    if most == 0 and bare.takes(""):
        return Fixed("")
    given = [schema.get("default"), *_list(schema.get("examples"))]
    usual = FORMATS[bare.format].neutral if bare.format else "." * least
    for each in (*given, usual):
        if isinstance(each, str) and bare.takes(each):
            return Text(least, most, bare.format, pattern, each)
    raise Unfillable("A string has a pattern or a length that no known text fits.")


def _number(schema: Schema) -> Shape:
    rules = _rules(schema)
    bare = Number(rules)
    low, _ = _bounds(rules)
    given = [schema.get("default"), *_list(schema.get("examples"))]
    numbers = [each for each in given if isinstance(each, int | float) and bare.takes(each)]
    start = low if math.isfinite(low) else 0
    for number in (*numbers, *bare.near(start)):
        if bare.takes(number):
            return Number(rules, number)
    raise Unfillable("No number is known to lie within the bounds.")


def _rules(schema: Schema) -> dict[str, Any]:
    """The keywords of a number, with the flags of draft 4 made bounds."""
    words = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    rules = {word: schema[word] for word in words if word in schema}
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(rules.get(exclusive), bool):
            if rules.pop(exclusive) and bound in rules:
                rules[exclusive] = rules.pop(bound)
    if any(abs(each) > _LARGEST_BOUND for each in rules.values()):
        raise Unfillable("A bound is too large.")
    return {"type": "integer" if "integer" in _types(schema.get("type")) else "number", **rules}


def _bounds(rules: Schema) -> tuple[float, float]:
    low = max(rules.get("minimum", -math.inf), rules.get("exclusiveMinimum", -math.inf))
    high = min(rules.get("maximum", math.inf), rules.get("exclusiveMaximum", math.inf))
    return low, high


def _multiples(number: float, step: float | None) -> list[float]:
    """The multiples about a number, the nearest first."""
    if step is None or not math.isfinite(number // step):
        return []
    around = [(number // step + count) * step for count in range(-4, 6)]
    return sorted([*around, 0], key=lambda each: abs(each - number))


def _beside(number: float) -> list[float]:
    """Numbers a little more or less: for bounds that are not themselves allowed."""
    steps = [number + sign * step for step in (1, 0.1, 0.001) for sign in (1, -1)]
    return [*steps, math.nextafter(number, math.inf), math.nextafter(number, -math.inf)]


def _array(schema: Schema) -> Shape:
    least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
    most = None if most is None else int(most)
    if most is not None and most < max(least, 1):
        if most == least:
            return Fixed([])
        raise Unfillable("An array may have fewer elements than it must.")
    items = schema.get("items", {})
    if not isinstance(items, Mapping):
        raise Unfillable("Only arrays of one kind of element can be filled.")
    array = Array(_shape(items), least, most, bool(schema.get("uniqueItems")))
    if _size(array) > _MOST_VALUES:
        raise Unfillable("An array would have to be too large.")
    if array.unique and len(list(itertools.islice(alternatives(array.item), least))) < least:
        raise Unfillable("An array needs more different elements than are known.")
    return array


def _object(schema: Schema) -> Shape:
    rest, required = schema.get("additionalProperties", {}), schema.get("required", [])
    named = schema.get("properties", {})
    if "properties" not in schema and not required and rest is not False:
        raise Unfillable("An object names no properties.")
    if not isinstance(required, list):
        raise Unfillable("'required' must be a list.")
    unnamed = _NEVER if rest is False else {} if rest is True else rest
    every = {**named, **{name: unnamed for name in required if name not in named}}
    properties = []
    for name, each in every.items():
        try:
            properties.append((name, _shape(each), name in required))
        except Unfillable:
            if name in required:
                raise
    least, most = schema.get("minProperties", 0), schema.get("maxProperties")
    if least > len(set(required)) or (most is not None and most < len(set(required))):
        raise Unfillable("An object must have more or fewer properties than are required.")
    return Object(tuple(properties), most)


_SHAPES: dict[Any, Callable[[Schema], Shape]] = {
    "null": _null,
    "boolean": _boolean,
    "string": _text,
    "integer": _number,
    "number": _number,
    "array": _array,
    "object": _object,
}

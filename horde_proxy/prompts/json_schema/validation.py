"""Checks whether a value fits a client's schema, and tells what is wrong if not.

The library jsonschema does the work, with its own class for each dialect and with three guards: no
reference leaves the schema, no pattern is applied that could take very long, and all work counts
against one budget, see `work`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import SchemaError, UnknownType, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

from horde_proxy.prompts.json_schema.bounds import MOST_DEPTH, count_objects, depth, is_bounded
from horde_proxy.prompts.json_schema.patterns import pattern_matches, search_steps
from horde_proxy.prompts.json_schema.string_formats import (
    LONGEST_FORMATTED,
    STRING_FORMATS,
    has_format,
)
from horde_proxy.prompts.json_schema.work import (
    TooMuchWork,
    keep,
    limited_work,
    one_level_deeper,
    spend,
)

_UNITS_OF_CHECK = 20
"""Units of work for each object of a schema when the dialect's own schema is applied to it: 0.3 ms,
because the vocabularies of 2020-12 apply eight schemas to each."""
_UNITS_OF_PART = 3
"""Units of work for making a validator."""
_COMPARISONS = 50
"""Comparisons of values that are one unit."""
_SEARCH_STEPS = 1_000
"""Steps of a search by a regular expression that are one unit."""
_MOST_COMPARED = 100
"""Errors of a value among which the best is looked for: the first ones say enough."""
_MOST_REMEMBERED, _LONGEST_REMEMBERED = 128, 50_000
"""Schemas, and characters of each, of which is remembered whether they are valid: up to 6 MB. An
agent sends the same tools with each request."""
_LONGEST_PROBLEM = 160
"""Characters of a sentence in an error or a prompt."""

Schema: TypeAlias = Mapping[str, Any]

# Raised for valid schemas that cannot be applied: for a reference without a target, for endless or
# expensive schemas, and for multipleOf with numbers that are too large for a float.
_GIVEN_UP = (Unresolvable, RecursionError, ArithmeticError, TooMuchWork)


def validator(schema: Schema) -> Any:
    """A jsonschema validator for a schema; None for one that is invalid, too large or too deep.

    The validator raises Unresolvable for remote references, and TooMuchWork or RecursionError if
    references multiply.
    """
    if not is_bounded(schema):
        return None
    dialect = schema.get("$schema")
    known = {"$schema": dialect} if isinstance(dialect, str) else {}
    kind = validators.validator_for(known, default=Draft202012Validator)
    # If a reference leads to a `$schema`, jsonschema switches to a class without our guards.
    without_dialect = {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
    try:
        if _invalidity(kind, without_dialect) is not None:
            return None
    except (RecursionError, ArithmeticError, TooMuchWork):
        return None
    return _guarded(kind)(without_dialect, registry=Registry(), format_checker=_CHECKER)


def schema_problem(schema: Schema) -> str | None:
    """Why a JSON schema is invalid, in one sentence; None if it is valid, too large or too deep."""
    if depth(schema) > MOST_DEPTH:
        return None
    without_dialect = {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
    try:
        with limited_work():
            return _invalidity(Draft202012Validator, without_dialect)
    except (RecursionError, ArithmeticError, TooMuchWork):
        return None


def _invalidity(kind: Any, schema: Schema) -> str | None:
    """Why a schema is invalid in its dialect, in one sentence; None if it is valid."""
    text = json.dumps(schema)
    check = _checked if len(text) <= _LONGEST_REMEMBERED else _checked.__wrapped__
    return check(kind, text)


@lru_cache(_MOST_REMEMBERED)
def _checked(kind: Any, text: str) -> str | None:
    schema = json.loads(text)
    spend(_UNITS_OF_CHECK * count_objects(schema))
    try:
        kind.check_schema(schema)
    except SchemaError as exc:
        return _sentence(exc)  # type: ignore[arg-type]
    return None


def problem_with(value: Any, schema: Schema) -> str | None:
    """What is wrong with a value, in one sentence.

    None if it fits, or if that cannot be found out: for an invalid schema, or one that would cost
    too much.
    """
    if depth(value) > MOST_DEPTH:
        return None
    with limited_work():
        checker = validator(schema)
        if checker is None:
            return None
        try:
            error = best_match(itertools.islice(checker.iter_errors(value), _MOST_COMPARED))
        except _GIVEN_UP:
            return None
    return None if error is None else _sentence(error)


def count_problems(value: Any, schema: Schema) -> int:
    """The number of things that are wrong with a value; 0 also if that cannot be found out."""
    if depth(value) > MOST_DEPTH:
        return 0
    with limited_work():
        checker = validator(schema)
        try:
            errors = checker.iter_errors(value) if checker else ()
            return sum(1 for _ in itertools.islice(errors, _MOST_COMPARED))
        except _GIVEN_UP:
            return 0


def fits(value: Any, schema: Schema) -> bool:
    """Whether a value surely fits a schema; False for an invalid or too expensive one, too."""
    with limited_work():
        checker = validator(schema)
        try:
            return checker is not None and checker.is_valid(value)
        except _GIVEN_UP:
            return False


def fits_part(value: Any, schema: Schema, *, formats: bool = True) -> bool:
    """Like `fits`, for a part of a valid schema; without `formats`, this keyword is ignored."""
    return bool(fitting_values([value], schema, formats=formats))


def fitting_values(values: Iterable[Any], schema: Schema, *, formats: bool = True) -> list[Any]:
    """Those of the values that fit a part of a valid schema. Raises TooMuchWork."""
    spend(_UNITS_OF_PART)
    kind = _guarded(Draft202012Validator)
    checker = kind(schema, registry=Registry(), format_checker=_CHECKER if formats else None)
    return [value for value in values if _is_valid(checker, value)]


def _is_valid(checker: Any, value: Any) -> bool:
    spend()
    try:
        return bool(checker.is_valid(value))
    except (Unresolvable, RecursionError, ArithmeticError, UnknownType, TypeError):
        return False


def _sentence(error: ValidationError) -> str:
    """An error, such as "At 'y': '2' is not of type 'number'."; without the value if it is long."""
    message = " ".join(error.message.split())
    if len(message) > _LONGEST_PROBLEM:
        message = f"the value does not meet '{error.validator}'"
    place = ".".join(str(part) for part in error.absolute_path)
    sentence = f"At '{place[:_LONGEST_PROBLEM]}': {message}." if place else f"{message}."
    return sentence[:1].upper() + sentence[1:]


def _pattern(checker: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """The keyword `pattern` for jsonschema. Patterns that could take too long always match."""
    if not isinstance(instance, str):
        return
    spend((search_steps(pattern, instance) or 0) // _SEARCH_STEPS)
    if pattern_matches(pattern, instance) is False:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


@cache
def _guarded(kind: Any) -> Any:
    """The class of a dialect, with our `pattern`, and with every keyword counted."""
    extend: Any = validators.extend
    keywords = {**kind.VALIDATORS, "pattern": _pattern}
    return extend(kind, {word: _counted(word, apply) for word, apply in keywords.items()})


def _counted(word: str, apply: Any) -> Any:
    """A keyword that takes from the budget for each application, and for each error."""

    def keyword(checker: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        spend(1 + _comparisons(word, rule, instance) // _COMPARISONS)
        with one_level_deeper():
            for error in apply(checker, rule, instance, schema) or ():
                keep(error.message)
                yield error

    return keyword


def _comparisons(word: str, rule: Any, instance: Any) -> int:
    """About how many comparisons a keyword makes by itself."""
    size = len(instance) if isinstance(instance, list | dict) else 1
    # Elements that cannot be sorted are compared each with each.
    if word == "uniqueItems":
        return size * size
    rules = len(rule) if isinstance(rule, list | dict) else 1
    # Each pattern with one quantifier is searched for in the name of each property.
    if word == "patternProperties" and isinstance(instance, dict):
        return rules * sum(1 + len(name) ** 2 // _COMPARISONS for name in instance)
    return rules


def _checker() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name in STRING_FORMATS:
        checker.checks(name)(_format_check(name))
    return checker


def _format_check(name: str) -> Callable[[object], bool]:
    return lambda value: (
        not isinstance(value, str) or len(value) > LONGEST_FORMATTED or has_format(name, value)
    )


_CHECKER = _checker()

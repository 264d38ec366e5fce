"""Checks whether a value fits a client's schema, and tells what is wrong if not.

The library jsonschema does the work, with its own class for each dialect and with three guards: no
reference leaves the schema, no pattern is applied that could take very long, and the number of
applied keywords is limited.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import SchemaError, UnknownType, best_match
from referencing import Registry
from referencing.exceptions import Unresolvable

from horde_proxy.prompts.json_schema.bounds import MOST_DEPTH, depth, is_bounded
from horde_proxy.prompts.json_schema.patterns import pattern_matches
from horde_proxy.prompts.json_schema.string_formats import (
    LONGEST_FORMATTED,
    STRING_FORMATS,
    has_format,
)

_MOST_APPLIED = 200_000
"""Keywords applied in one validation: with two references in each definition, it doubles with each
level."""
_MOST_ACTIVE = 80
"""Keywords applied within each other. They must not reach Python's own recursion limit: there the
Rust library with the data of `referencing` would panic, and not raise."""
_LONGEST_PROBLEM = 160
"""Characters of a sentence in an error or a prompt."""

Schema: TypeAlias = Mapping[str, Any]

# Raised for valid schemas that cannot be applied: for a reference without a target, for endless
# references, and for multipleOf with numbers that are too large for a float.
_GIVEN_UP = (Unresolvable, RecursionError, ArithmeticError)


def validator(schema: Schema) -> Any:
    """A jsonschema validator for one value; None for a schema that is invalid or too large.

    The validator raises Unresolvable for remote references, and RecursionError if references
    multiply.
    """
    if not is_bounded(schema):
        return None
    dialect = schema.get("$schema")
    known = {"$schema": dialect} if isinstance(dialect, str) else {}
    kind = validators.validator_for(known, default=Draft202012Validator)
    # If a reference leads to a `$schema`, jsonschema switches to a class without our guards.
    without_dialect = {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
    try:
        kind.check_schema(without_dialect)
    except (SchemaError, RecursionError, ArithmeticError):
        return None
    return _counted(kind)(without_dialect, registry=Registry(), format_checker=_CHECKER)


def schema_problem(schema: Schema) -> str | None:
    """Why a JSON schema is invalid, in one sentence; None if it is valid or too deep."""
    try:
        Draft202012Validator.check_schema(
            {keyword: value for keyword, value in schema.items() if keyword != "$schema"}
        )
    except SchemaError as exc:
        return _sentence(exc)  # type: ignore[arg-type]
    except (RecursionError, ArithmeticError):
        return None
    return None


def problem_with(value: Any, schema: Schema) -> str | None:
    """What is wrong with a value, in one sentence; None if it fits or the schema is invalid."""
    checker = validator(schema)
    if checker is None or depth(value) > MOST_DEPTH:
        return None
    try:
        error = best_match(checker.iter_errors(value))
    except _GIVEN_UP:
        return None
    return None if error is None else _sentence(error)


def fits(value: Any, schema: Schema) -> bool:
    """Whether a value surely fits a schema; False for an invalid schema, too."""
    checker = validator(schema)
    try:
        return checker is not None and checker.is_valid(value)
    except _GIVEN_UP:
        return False


def fits_part(value: Any, schema: Schema, *, formats: bool = True) -> bool:
    """Like `fits`, for a part of a valid schema; without `formats`, this keyword is ignored."""
    kind = _guarded(Draft202012Validator)
    checker = kind(schema, registry=Registry(), format_checker=_CHECKER if formats else None)
    try:
        return bool(checker.is_valid(value))
    except (*_GIVEN_UP, UnknownType, TypeError):
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
    if isinstance(instance, str) and pattern_matches(pattern, instance) is False:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


@cache
def _guarded(kind: Any) -> Any:
    extend: Any = validators.extend
    return extend(kind, {"pattern": _pattern})


def _counted(kind: Any) -> Any:
    """The guarded class, with limits on applied keywords, in total and within each other."""
    guarded, applied, active = _guarded(kind), itertools.count(), [0]

    def counting(apply: Any) -> Any:
        def keyword(*arguments: Any) -> Iterator[ValidationError]:
            if next(applied) > _MOST_APPLIED or active[0] > _MOST_ACTIVE:
                raise RecursionError("The schema has no end.")
            active[0] += 1
            try:
                yield from apply(*arguments) or ()
            finally:
                active[0] -= 1

        return keyword

    extend: Any = validators.extend
    return extend(guarded, {word: counting(apply) for word, apply in guarded.VALIDATORS.items()})


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

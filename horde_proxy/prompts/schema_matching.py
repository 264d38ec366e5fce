"""Decides which of the values in an answer is the one that a schema describes.

Models wrap it, add a property, or write numbers as texts:

    {"final_result": {"city": "Oslo"}}   [{"city": "Oslo"}]   "{\\"city\\": \\"Oslo\\"}"
    {"name": "weather", "arguments": {"city": "Oslo", "country": "Norway"}}

One mechanism for the arguments of calls and for JSON answers. What does not fit is returned too,
with its problem: guided filling keeps the parts that do. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.prompts.json_schema.coercion import coerced, without_undeclared
from horde_proxy.prompts.json_schema.keywords import dereferenced, properties_of, type_of, types_of
from horde_proxy.prompts.json_schema.validation import count_problems, problem_with
from horde_proxy.prompts.json_schema.work import limited_work
from horde_proxy.prompts.lenient_json import loads
from horde_proxy.protocol.generation_request import Tool

_WRAPPERS = frozenset(
    {
        "args",
        "arguments",
        "final_result",
        "function",
        "function_call",
        "input",
        "kwargs",
        "parameters",
        "params",
        "properties",
        "tool_call",
        "tool_input",
    }
)
"""Keys of calls in all families, LangChain's and Anthropic's (tool_input, input), Pydantic AI's
(final_result), and of a schema that is copied (properties). They wrap even beside a name."""
_MOST_WRAPPERS = 4
"""Wrappers within each other: {"function": {"arguments": "{\\"input\\": ...}"}} has three."""
_MOST_PARTS = 20
"""Values within all wrappers of one level that are tried."""
_LONGEST_NAME = 60
"""Characters of a property's name in a sentence to the model."""
_OPEN_KEYWORDS = {"additionalProperties", "patternProperties", "if"}
"""With one of these, an object may have properties that are listed nowhere."""
_MOST_BRANCHES, _MOST_UNIONS = 20, 2
"""Branches of a union, and unions within unions, whose properties are looked at."""


@dataclass(frozen=True)
class Match:
    """A value beside a schema, after coercion.

    `problem` is a sentence, None if the value fits; `problem_count` is 0 then. `is_declared`: the
    value has something that the schema lists; else it may be another object. `is_exact`: it has
    nothing else.
    """

    value: Any
    problem: str | None
    problem_count: int
    is_declared: bool
    is_exact: bool


def best_match(values: Iterable[Any], schema: Mapping[str, Any]) -> Match | None:
    """The first value that fits, or else the one with the fewest problems; None without values.

    The values may be wrapped in others.
    """
    best: Match | None = None
    names = _listed_names(schema, schema, 0)
    # One budget for all: an expensive schema would cost it for each of them.
    with limited_work():
        for value in values:
            for candidate in _unwrapped(value, names):
                match = _match(candidate, schema, names)
                if match.problem is None and (match.is_declared or match.is_exact):
                    return match
                if best is None or _rank(match) > _rank(best):
                    best = match
    return best


def matching_tool(values: Iterable[Any], tools: Sequence[Tool]) -> tuple[Tool, Match] | None:
    """The tool that the values are arguments of, and these; None if several tools may be meant.

    With one tool, they may be arguments that do not fit.
    """
    if len(tools) == 1:
        match = best_match(values, tools[0].parameters)
        return (tools[0], match) if match else None
    values = [*values]
    with limited_work():
        matches = [(tool, best_match(values, tool.parameters)) for tool in tools]
    # An object that has nothing of a tool fits every tool without required arguments.
    fitting = [
        (tool, match)
        for tool, match in matches
        if match and match.problem is None and match.is_declared
    ]
    exact = [(tool, match) for tool, match in fitting if match.is_exact]
    return next((group[0] for group in (exact, fitting) if len(group) == 1), None)


def _rank(match: Match) -> tuple[bool, bool, int]:
    return match.problem is None, match.is_declared, -match.problem_count


def _match(value: Any, schema: Mapping[str, Any], names: frozenset[str]) -> Match:
    """A value as it is coerced, and without what the schema forbids if the rest of it fits."""
    value = coerced(value, schema)
    problem = problem_with(value, schema)
    if problem:
        declared = without_undeclared(value, schema)
        if declared != value and problem_with(declared, schema) is None:
            value, problem = declared, None
    unknown = [name for name in value if name not in names] if isinstance(value, dict) else []
    is_exact = not names or not unknown
    is_declared = (
        bool(names & value.keys()) if isinstance(value, dict) else _has_type(value, schema)
    )
    # A repair makes {"The weather": "is nice"} of prose, which "fits" where nothing is required.
    if problem is None and not (is_declared or is_exact or schema.keys() & _OPEN_KEYWORDS):
        problem = f"There is no property '{unknown[0][:_LONGEST_NAME]}'."
    count = max(1, count_problems(value, schema)) if problem else 0
    return Match(value, problem, count, is_declared, is_exact)


def _has_type(value: Any, schema: Mapping[str, Any]) -> bool:
    types = types_of(schema, schema)
    return not types or type_of(value) in types


def _listed_names(schema: Any, root: Mapping[str, Any], unions: int) -> frozenset[str]:
    """The properties that a schema lists, also in its parts; none if it lists no properties."""
    schema = dereferenced(schema, root)
    names = frozenset(properties_of(schema))
    for word in ("allOf", "anyOf", "oneOf"):
        parts = schema.get(word)
        if isinstance(parts, list) and unions < _MOST_UNIONS:
            for part in parts[:_MOST_BRANCHES]:
                names |= _listed_names(part, root, unions + 1)
    return names


def _unwrapped(value: Any, names: frozenset[str]) -> Iterator[Any]:
    """The value, and those that it may only wrap, the outer ones first."""
    level = [value]
    for _ in range(_MOST_WRAPPERS):
        yield from level
        level = [part for outer in level for part in _wrapped(outer, names)][:_MOST_PARTS]
    yield from level


def _wrapped(outer: Any, names: frozenset[str]) -> Sequence[Any]:
    """The values that a value may only wrap."""
    if isinstance(outer, str):
        return _decoded(outer)
    if isinstance(outer, list):
        return outer if len(outer) == 1 else []
    if not isinstance(outer, dict):
        return []
    # An object with a property of the schema is the answer itself, only that it does not fit.
    is_wrapper = not names & outer.keys()
    return [
        part
        for key, part in outer.items()
        if (is_wrapper or key in _WRAPPERS)
        and (isinstance(part, dict | list) or len(outer) == 1 or _decoded(part))
    ]


def _decoded(text: Any) -> list[Any]:
    """The value of a text that holds JSON, alone in a list; an empty list for any other value."""
    if not isinstance(text, str) or not text.lstrip().startswith(("{", "[", '"')):
        return []
    try:
        return [loads(text)]
    except ValueError:
        return []

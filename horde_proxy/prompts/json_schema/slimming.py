"""Shortens a schema for a prompt: removes everything that is of no use to a model.

opencode's ten tools have 5,200 tokens, more than many workers have room for. Where even less has to
do, a `Detail` says how much of the annotations and descriptions is kept. What a schema demands
(types, names, enums, bounds) stays at every detail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from horde_proxy.prompts.json_schema.string_formats import STRING_FORMATS


@dataclass(frozen=True)
class Detail:
    """How much of a tool is kept: its annotations, and characters of its descriptions.

    `longest_tool` limits the description of a tool, `longest_property` those in its schema; None
    keeps them whole.
    """

    annotations: bool = True
    longest_tool: int | None = None
    longest_property: int | None = None


FULL = Detail()
LESS_DETAIL = (
    Detail(annotations=False),
    # A rule or two stay beside the purpose; opencode's tools take 2,600 tokens.
    Detail(annotations=False, longest_tool=600, longest_property=160),
    # The purpose stays, in a sentence or two: 1,700 tokens.
    Detail(annotations=False, longest_tool=240, longest_property=80),
    # A model still knows what a name is for: 1,300 tokens.
    Detail(annotations=False, longest_tool=100, longest_property=60),
)
"""The details below FULL, each shorter than the one before. Few, so that a conversation that grows
seldom gets other tools at the beginning of its prompt, which a worker's cache would not know."""
_SAFE_INTEGER = 2**53 - 1
"""JavaScript's largest safe integer, which zod writes as a bound of every integer."""
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
# Keywords with schemas by names that clients choose, and keywords without schemas.
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("const", "enum", "default", "examples", "required")
_MOST_DEPTH = 64
"""Levels that are shortened; deeper ones stay unchanged."""
# Keywords that a validator ignores (JSON Schema 2020-12, Validation, section 9), and OpenAPI's
# "example".
_ANNOTATIONS = frozenset({"title", "default", "examples", "example", "$comment", "$id"})
_ANNOTATIONS |= {"deprecated", "readOnly", "writeOnly"}
# The end of a sentence, of a line or of an item in a list: "a file. If", "the path\n- The limit".
# Not the point of an abbreviation, as in opencode's "(e.g. npm run lint)" and "(eg. "*.js")".
_SENTENCE_END = re.compile(r"(?<!\be\.g)(?<!\bi\.e)(?<!\beg)(?<!\bie)[.!?](?=\s)|(?=\n)")
# A heading whose text was cut off: "\n\nUsage:" at the end of a shortened description.
_HEADING = re.compile(r"\s*\n[^\n]*:\s*\Z")


def slimmed(schema: Mapping[str, Any], detail: Detail = FULL) -> dict[str, Any]:
    """The schema without useless keywords. Properties stay, whatever their names are."""
    rule = _without_useless if detail == FULL else partial(_with_detail, detail)
    slim = _rewritten(schema, rule)
    return slim if isinstance(slim, dict) else {}


def shortened(text: str, longest: int | None) -> str:
    """The beginning of a description, of `longest` characters at most; None keeps the whole text.

    It ends with a sentence, or between words with "…" where the first sentence is longer.
    """
    text = text.strip()
    if longest is None or len(text) <= longest:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, longest + 1)]
    begin = text[: ends[-1]] if ends else text[:longest].rpartition(" ")[0] + "…"
    return _HEADING.sub("", begin).strip()


def _with_detail(detail: Detail, key: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    slim = _without_useless(key, schema)
    if not detail.annotations:
        slim = {word: value for word, value in slim.items() if not _is_annotation(word, value)}
    text = slim.get("description")
    if isinstance(text, str):
        slim["description"] = shortened(text, detail.longest_property)
    return slim


def _is_annotation(word: str, value: Any) -> bool:
    # A format that no validator knows, such as OpenAPI's "int64", says what the type says already.
    if word == "format":
        return not isinstance(value, str) or value not in STRING_FORMATS
    return word in _ANNOTATIONS


def _without_useless(key: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in schema.items() if not _useless(key, word, value)}


def _useless(key: str, word: str, value: Any) -> bool:
    """Whether a keyword is useless to a model; `key` is the property that the schema describes."""
    if word in _BOUNDS:
        return _is_number(value) and abs(value) >= _SAFE_INTEGER
    if word == "title":  # Pydantic repeats each name: "file_path" has the title "File Path"
        return isinstance(value, str) and bool(key) and _letters(value) == _letters(key)
    if word == "additionalProperties":
        return isinstance(value, bool)
    return word == "$schema" or (word == "description" and value == "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _rewritten(
    schema: Any,
    rule: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    key: str = "",
    depth: int = 0,
) -> Any:
    """The schema after `rule(key, schema)` was applied to it and to every schema in it.

    `key` is the name of the property that a schema describes, or "". Values, such as those of enum
    and default, are not schemas and stay unchanged.
    """
    if depth > _MOST_DEPTH:
        return schema
    if isinstance(schema, list | tuple):
        return [_rewritten(part, rule, "", depth + 1) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    result = {}
    for word, value in rule(key, schema).items():
        if word in _NAMED_SCHEMAS and isinstance(value, Mapping):
            result[word] = {
                name: _rewritten(part, rule, str(name), depth + 2) for name, part in value.items()
            }
        else:
            result[word] = value if word in _VALUES else _rewritten(value, rule, "", depth + 1)
    return result

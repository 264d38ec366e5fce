"""The models that one request names, the preferred one first. Pure.

    {"models": ["a", "b"]}                              OpenRouter: in this order
    {"model": "a", "models": ["b", "c"]}                OpenRouter: `model` goes first
    {"model": "a", "fallbacks": ["b", {"model": "c"}]}  LiteLLM

A server that gets the request knows one model: the body that is passed on names only that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.errors import InvalidRequest

MOST_MODELS = 20
"""Names of one request: as many as count in a name that is a list. OpenRouter takes three."""
LONGEST_NAME = 1000
"""Characters of a model's name: longer ones are no names, and would fill the log."""
LIST_FIELDS = ("models", "fallbacks")


@dataclass(frozen=True)
class NamedModels:
    """`document` is the body with its one model; `further` are the other models, in order."""

    document: dict[str, Any]
    further: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read_named_models(body: Any) -> NamedModels | None:
    """The models of a JSON body; None for a body without a list of them.

    Raises InvalidRequest with param.
    """
    if not isinstance(body, dict) or not any(name in body for name in LIST_FIELDS):
        return None
    document = {name: value for name, value in body.items() if name not in LIST_FIELDS}
    names = list(dict.fromkeys([*_names(body, "models"), *_names(body, "fallbacks")]))
    if len(names) > MOST_MODELS:
        raise _invalid("models", f"it must name {MOST_MODELS} models at most")
    model = document.get("model")
    # A `model` that is no name is left for the front, which says what is wrong with it.
    if names and (model is None or model == ""):
        document["model"] = model = names[0]
    further = tuple(name for name in names if name != model)
    return NamedModels(document, further, _warnings(body))


def _names(body: Mapping[str, Any], field: str) -> Iterator[str]:
    entries = body.get(field)
    if entries is None:
        return
    if not isinstance(entries, list):
        raise _invalid(field, "it must be a list of models' names")
    for entry in entries:
        # LiteLLM's objects may change more of the request than the model.
        name = entry.get("model") if isinstance(entry, dict) else entry
        if not isinstance(name, str) or not name:
            raise _invalid(field, 'each entry must be a model\'s name, or {"model": NAME}')
        if len(name) > LONGEST_NAME:
            raise _invalid(field, "the name of a model is too long")
        yield name


def _warnings(body: Mapping[str, Any]) -> tuple[str, ...]:
    """What cannot be used: all that an entry says besides the model."""
    entries = [entry for field in LIST_FIELDS for entry in body.get(field) or ()]
    has_more = any(isinstance(entry, dict) and len(entry) > 1 for entry in entries)
    return ("fallbacks: only `model` of each entry is used",) if has_more else ()


def _invalid(field: str, reason: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}` is wrong: {reason}.", param=field, code="invalid_value")

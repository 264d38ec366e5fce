"""A server's list of models, made safe where it enters: legal JSON, usable ids, bounded. Pure.

What a model can do is not read here: entries keep all fields that the server sent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from horde_proxy.errors import UpstreamFailed
from horde_proxy.json_reading import parse_json
from horde_proxy.numbers import finite

MOST_MODELS = 5_000
"""Models of one server. Hubs of more would hide all others, and every request of GET /v1/models
sends them all. OpenRouter has 400."""
_LONGEST_ID = 1000
"""Characters. Requests that name longer models are refused; see api/received_call.py."""
_DEEPEST = 16
"""Levels of lists and objects in an entry. Clients' parsers, and json's writer, recurse."""
# What breaks a header, a line of the log or a settings file: "llama\n3", "\x1b[2J", U+2028; and
# halves of surrogate pairs, which JSON can escape ("\ud800") and UTF-8 cannot encode.
_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_document(content: bytes) -> Any:
    """The JSON value, with null for NaN and Infinity, which are no JSON. Raises UpstreamFailed."""
    try:
        return parse_json(content, parse_constant=lambda name: None, parse_float=_finite_float)
    # A JSONDecodeError, no UTF-8, an integer of more than 4300 digits, too many values or brackets.
    except (ValueError, RecursionError) as exc:
        raise UpstreamFailed("its list of models is not JSON") from exc


def model_objects(document: Any) -> tuple[list[dict[str, Any]], int]:
    """(OpenAI's model objects; the number of entries that are left out, because of their ids).

    A few servers send the list without its wrapper. Raises UpstreamFailed for anything else.
    """
    entries = document.get("data", document) if isinstance(document, dict) else document
    # What Go writes for an empty list, as Ollama and LocalAI did: {"object": "list", "data": null}.
    if entries is None and isinstance(document, dict):
        entries = []
    if not isinstance(entries, list):
        raise UpstreamFailed("its list of models is not OpenAI's")
    models: dict[str, dict[str, Any]] = {}
    for entry in _usable(entries):
        if len(models) == MOST_MODELS:
            break
        # Of two entries with one id, the first counts.
        models.setdefault(entry["id"], entry)
    return list(models.values()), len(entries) - len(models)


def is_usable_id(value: object) -> bool:
    """Whether a model may have this id: a text that headers, logs and files can carry."""
    return (
        isinstance(value, str)
        and bool(value.strip())
        and len(value) <= _LONGEST_ID
        and not _UNUSABLE.search(value)
    )


def _usable(entries: list[Any]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        if isinstance(entry, dict) and is_usable_id(entry.get("id")):
            model = _tidy(entry, _DEEPEST)
            created, owner = finite(model.get("created")), model.get("owned_by")
            yield {
                **model,
                "object": "model",
                "created": int(created or 0),
                "owned_by": owner if isinstance(owner, str) else "unknown",
            }


def _tidy(value: Any, levels: int) -> Any:
    """The value without halves of surrogate pairs, and with null for what is nested too deep."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if not isinstance(value, list | dict):
        return value
    if not levels:
        return None
    if isinstance(value, list):
        return [_tidy(inner, levels - 1) for inner in value]
    return {_tidy(name, levels): _tidy(inner, levels - 1) for name, inner in value.items()}


def _finite_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None

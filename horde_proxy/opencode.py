"""opencode's configuration, kept up to date with the models that are on offer now.

Changes only its own provider and the defaults that point to it; everything else in the file,
comments included, is the user's.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from horde_proxy.jsonc import JsoncError, parse, set_value

PROVIDER = "horde"
SCHEMA = "https://opencode.ai/config.json"
COMFORTABLE_CONTEXT = 16_384
"""opencode's own prompt takes about 7,000 tokens."""
LONGEST_ANSWER = 8_192
"""Answers are chained, so a job's length is no limit; what is said here is kept free of history."""
_PATIENCE_MS = 900_000
_LONE_LINE_FEED = re.compile(r"(?<!\r)\n")

Model = Mapping[str, Any]


def updated(text: str, models: Sequence[Model], base_url: str, api_key: str) -> str:
    """The configuration's text with our provider for these models; raises JsoncError.

    `model` and `small_model` are set where they are missing, or point to a model of ours that is
    gone: a default that still works is not changed under the user's hands.
    """
    is_of_windows = "\r\n" in text and not _LONE_LINE_FEED.search(text)
    current = parse(text).value
    if not isinstance(current, dict):
        raise JsoncError("the whole is not an object")
    offered = {f"{PROVIDER}/{model['id']}" for model in models}
    text = set_value(text, ("$schema",), current.get("$schema", SCHEMA))
    text = set_value(text, ("provider", PROVIDER), provider(models, base_url, api_key))
    for name, model in (("model", best(models)), ("small_model", fastest(models))):
        chosen = str(current.get(name) or f"{PROVIDER}/")
        if chosen.startswith(f"{PROVIDER}/") and chosen not in offered:
            text = set_value(text, (name,), f"{PROVIDER}/{model['id']}")
    return _LONE_LINE_FEED.sub("\r\n", text) if is_of_windows else text


def provider(models: Sequence[Model], base_url: str, api_key: str) -> dict[str, Any]:
    """The provider object for opencode; times are in milliseconds, and fit a queue."""
    return {
        "npm": "@ai-sdk/openai-compatible",
        "name": "AI Horde",
        "options": {
            "baseURL": base_url,
            "apiKey": api_key,
            "timeout": False,
            "headerTimeout": _PATIENCE_MS,
            "chunkTimeout": _PATIENCE_MS,
        },
        "models": {model["id"]: _entry(model) for model in models},
    }


def fresh(models: Sequence[Model], base_url: str, api_key: str) -> dict[str, Any]:
    """A whole configuration for who has none; raises ValueError without models."""
    if not models:
        raise ValueError("no model has a context that is large enough")
    return {
        "$schema": SCHEMA,
        "model": f"{PROVIDER}/{best(models)['id']}",
        "small_model": f"{PROVIDER}/{fastest(models)['id']}",
        "provider": {PROVIDER: provider(models, base_url, api_key)},
    }


def capable(models: Sequence[Model], min_context: int) -> list[Model]:
    """The models whose context is large enough, by name."""
    found = [model for model in models if model.get("context_length", 0) >= min_context]
    return sorted(found, key=lambda model: str(model["id"]))


def best(models: Sequence[Model]) -> Model:
    """The most available one, those with a comfortable context first."""
    return max(
        models,
        key=lambda model: (
            model.get("context_length", 0) >= COMFORTABLE_CONTEXT,
            _told(model, "threads") / (1 + _told(model, "eta")),
            _told(model, "tokens_per_second"),
        ),
    )


def fastest(models: Sequence[Model]) -> Model:
    """The one that writes the most tokens a second while hardly anybody waits for it."""
    return max(
        models,
        key=lambda model: (
            _told(model, "tokens_per_second") / (1 + _told(model, "eta")),
            _told(model, "threads"),
        ),
    )


def write(path: Path, text: str) -> bool:
    """Put a text into a file, all at once or not at all; False when it is there already."""
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as file:
        try:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, target.stat().st_mode & 0o777 if target.exists() else 0o644)
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise
    return True


def _entry(model: Model) -> dict[str, Any]:
    context = int(model.get("context_length", 0))
    return {
        "name": model["id"],
        "tool_call": model.get("horde", {}).get("tools") != "none",
        "cost": {"input": 0, "output": 0},
        "limit": {"context": context, "output": min(LONGEST_ANSWER, context // 4)},
    }


def _told(model: Model, name: str) -> float:
    return float(model.get("horde", {}).get(name) or 0)

"""opencode's configuration with the models that are available now.

It must change nothing but its own provider and the defaults that point to it: everything else in
the file, comments included, is the user's. Source: https://opencode.ai/config.json
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
"""Tokens. opencode's own prompt takes about 7,000 of them."""
LONGEST_ANSWER = 8_192
"""Tokens that opencode keeps free for an answer. Answers are chained of several jobs, so that the
length of one job does not limit them."""
_PATIENCE_MS = 900_000
"""How long opencode waits for headers and between chunks: the queue of the horde may be long."""
_LONE_LINE_FEED = re.compile(r"(?<!\r)\n")
"""The end of a line as Unix writes it; a file without any comes from Windows."""

Model = Mapping[str, Any]


def updated(text: str, models: Sequence[Model], base_url: str, api_key: str) -> str:
    """The configuration's text with our provider for these models. Raises JsoncError.

    `model` and `small_model` are set where they are missing, or name a model of ours that is gone:
    a default that still works is the user's choice.
    """
    is_of_windows = "\r\n" in text and not _LONE_LINE_FEED.search(text)
    current = parse(text).value
    if not isinstance(current, dict):
        raise JsoncError("the configuration is not an object")
    offered = {f"{PROVIDER}/{model['id']}" for model in models}
    text = set_value(text, ("$schema",), current.get("$schema", SCHEMA))
    text = set_value(text, ("provider", PROVIDER), provider(models, base_url, api_key))
    for name, model in (("model", best(models)), ("small_model", fastest(models))):
        # A default that is missing counts as one of ours that is gone.
        chosen = str(current.get(name) or f"{PROVIDER}/")
        if chosen.startswith(f"{PROVIDER}/") and chosen not in offered:
            text = set_value(text, (name,), f"{PROVIDER}/{model['id']}")
    return _LONE_LINE_FEED.sub("\r\n", text) if is_of_windows else text


def provider(models: Sequence[Model], base_url: str, api_key: str) -> dict[str, Any]:
    """The provider object for opencode. Times are in milliseconds."""
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
    """A whole configuration, for users who have none. Raises ValueError without models."""
    if not models:
        raise ValueError("no model has a context that is large enough for opencode")
    return {
        "$schema": SCHEMA,
        "model": f"{PROVIDER}/{best(models)['id']}",
        "small_model": f"{PROVIDER}/{fastest(models)['id']}",
        "provider": {PROVIDER: provider(models, base_url, api_key)},
    }


def capable(models: Sequence[Model], min_context: int) -> list[Model]:
    """The models whose context is large enough, by name."""
    matches = [model for model in models if model.get("context_length", 0) >= min_context]
    return sorted(matches, key=lambda model: str(model["id"]))


def best(models: Sequence[Model]) -> Model:
    """The most available model, of those with a comfortable context where there are any."""
    return max(
        models,
        key=lambda model: (
            model.get("context_length", 0) >= COMFORTABLE_CONTEXT,
            _horde_number(model, "threads") / (1 + _horde_number(model, "eta")),
            _horde_number(model, "tokens_per_second"),
        ),
    )


def fastest(models: Sequence[Model]) -> Model:
    """The model that writes the most tokens a second for the length of its queue."""
    return max(
        models,
        key=lambda model: (
            _horde_number(model, "tokens_per_second") / (1 + _horde_number(model, "eta")),
            _horde_number(model, "threads"),
        ),
    )


def write(path: Path, text: str) -> bool:
    """Put a text into a file, whole or not at all. False where the file has that text already."""
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


def _horde_number(model: Model, name: str) -> float:
    """A number of the model's `horde` object; 0 where a server of another kind gives none."""
    return float(model.get("horde", {}).get(name) or 0)

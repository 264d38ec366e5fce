"""Qwen Code: a provider `horde` of its own in settings.json.

Qwen Code 0.24 reads a model's key from the variable that `envKey` names, and from nowhere else.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.client_setup.contract import (
    KEY_VARIABLE,
    NO_KEY,
    ConfiguredClient,
    ProxyForClient,
    answer_of,
    context_of,
)
from horde_proxy.client_setup.json_settings import value_at, with_values
from horde_proxy.opencode import Model
from horde_proxy.protocol.models import as_mapping

_MODELS = ("modelProviders", "horde")
_NAME = ("model", "name")
_AUTH_TYPE = ("security", "auth", "selectedType")
_NO_KEY_VARIABLE = "HORDE_PROXY_NO_KEY"
"""A variable that the settings themselves set, for a proxy without keys: it must not be empty."""
_PATIENCE_MS = 900_000
"""How long it waits (ms): the horde may have a queue."""


def _configured(text: str, proxy: ProxyForClient) -> str:
    variable = KEY_VARIABLE if proxy.has_key else _NO_KEY_VARIABLE
    entries = [_entry(model, proxy.base_url, variable) for model in proxy.suitable]
    values: dict[tuple[str, ...], Any] = {
        _MODELS: entries,
        ("providerProtocol", "horde"): "openai",
    }
    if not proxy.has_key:
        values[("env", variable)] = NO_KEY
    # A default that is the user's own choice stays.
    if value_at(text, _AUTH_TYPE) is None:
        values[_AUTH_TYPE] = "openai"
    name = value_at(text, _NAME)
    if name is None or name in _names(value_at(text, _MODELS)):
        values[_NAME] = proxy.model_id
    return with_values(text, values)


def _names(entries: Any) -> list[Any]:
    """The models that an earlier setup wrote."""
    return [as_mapping(entry).get("id") for entry in entries] if isinstance(entries, list) else []


def _entry(model: Model, base_url: str, variable: str) -> dict[str, Any]:
    limits: dict[str, Any] = {"timeout": _PATIENCE_MS}
    context, answer = context_of(model), answer_of(model)
    if context:
        limits["contextWindowSize"] = context
    if answer:
        limits["samplingParams"] = {"max_tokens": answer}
    return {
        "id": model["id"],
        "name": f"{model['id']} (horde-proxy)",
        "baseUrl": base_url,
        "envKey": variable,
        "generationConfig": limits,
    }


CLIENT = ConfiguredClient(
    name="qwen-code",
    title="Qwen Code, a coding agent",
    api="chat",
    paths=("$QWEN_HOME/settings.json", "~/.qwen/settings.json"),
    configured=_configured,
    steps=lambda proxy, path: (
        f"Start it in your project: qwen --auth-type openai --model {proxy.model_id}"
    ),
    # Its first request is about as long as opencode's.
    least_context=16_384,
)

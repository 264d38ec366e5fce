"""aider: a configuration file of its own, for `aider --config`."""

from __future__ import annotations

from horde_proxy.client_setup.contract import NO_KEY, ConfiguredClient, ProxyForClient
from horde_proxy.client_setup.marked_block import (
    FIRST,
    LAST,
    quoted,
    refuse_yaml_keys,
    with_block,
)

_KEYS = ("model", "weak-model", "openai-api-base", "openai-api-key", "show-model-warnings")


def _configured(text: str, proxy: ProxyForClient) -> str:
    refuse_yaml_keys(text, _KEYS)
    model = quoted(f"openai/{proxy.model_id}")
    lines = [
        f"model: {model}",
        # For commit messages: aider would take one of OpenAI's models.
        f"weak-model: {model}",
        f"openai-api-base: {quoted(proxy.base_url)}",
        # It would say at each start that it knows neither the context nor the price.
        "show-model-warnings: false",
    ]
    # aider reads OPENAI_API_KEY by itself, and ends where it has no key at all.
    if not proxy.has_key:
        lines.append(f"openai-api-key: {NO_KEY}")
    return with_block(text, [FIRST, *lines, LAST])


CLIENT = ConfiguredClient(
    name="aider",
    title="aider, pair programming in the terminal",
    api="chat",
    paths=("~/.aider.horde.conf.yml",),
    configured=_configured,
    steps=lambda proxy, path: f"Start it in your project: aider --config {path}",
    # Its instructions and a map of the repository take 4,000 tokens before the first file.
    least_context=8_192,
)

"""Continue: a configuration of its own, for `cn --config` and for the editors' list of agents.

Continue's command 1.5 takes `${{ secrets.NAME }}` from the environment, or from ~/.continue/.env.
"""

from __future__ import annotations

from horde_proxy.client_setup.contract import (
    KEY_VARIABLE,
    NO_KEY,
    ConfiguredClient,
    ProxyForClient,
    answer_of,
    calls_tools,
    context_of,
    sees_images,
)
from horde_proxy.client_setup.marked_block import (
    FIRST,
    LAST,
    quoted,
    refuse_yaml_keys,
    with_block,
)
from horde_proxy.opencode import Model

_KEYS = ("name", "version", "schema", "models")


def _configured(text: str, proxy: ProxyForClient) -> str:
    refuse_yaml_keys(text, _KEYS)
    key = f"${{{{ secrets.{KEY_VARIABLE} }}}}" if proxy.has_key else NO_KEY
    lines = ["name: horde-proxy", "version: 1.0.0", "schema: v1", "models:"]
    for model in proxy.suitable:
        lines += _entry(model, proxy.base_url, key)
    return with_block(text, [FIRST, *lines, LAST])


def _entry(model: Model, base_url: str, key: str) -> list[str]:
    """The lines of a model, as an item of the list `models`."""
    name = quoted(str(model["id"]))
    lines = [
        f"  - name: {name}",
        "    provider: openai",
        f"    model: {name}",
        f"    apiBase: {quoted(base_url)}",
        f"    apiKey: {key}",
        "    roles: [chat, edit, apply, summarize]",
    ]
    # Continue decides by the model's name what it can, and knows no name of a horde.
    abilities = (("tool_use", calls_tools(model)), ("image_input", sees_images(model)))
    lines.append(f"    capabilities: [{', '.join(word for word, has in abilities if has)}]")
    limits = (("contextLength", context_of(model)), ("maxTokens", answer_of(model)))
    known = [f"      {word}: {tokens}" for word, tokens in limits if tokens]
    return [*lines, "    defaultCompletionOptions:", *known] if known else lines


CLIENT = ConfiguredClient(
    name="continue",
    title="Continue, for VS Code, JetBrains and the terminal",
    api="chat",
    paths=("$CONTINUE_GLOBAL_DIR/agents/horde.yaml", "~/.continue/agents/horde.yaml"),
    configured=_configured,
    steps=lambda proxy, path: (
        f"In a terminal: cn --config {path}\nIn an editor: choose the agent horde-proxy; it reads "
        f"the key, if there is one, from {KEY_VARIABLE} in ~/.continue/.env."
    ),
    least_context=8_192,
)

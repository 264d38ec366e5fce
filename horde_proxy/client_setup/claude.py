"""Claude Code: a settings file of its own, which `claude --settings` lays over the user's.

So the user's subscription stays what `claude` alone uses.
"""

from __future__ import annotations

from horde_proxy.client_setup.contract import (
    KEY_VARIABLE,
    NO_KEY,
    ConfiguredClient,
    ProxyForClient,
    context_of,
)
from horde_proxy.client_setup.json_settings import with_values

_NAMES = ("OPUS", "SONNET", "HAIKU", "FABLE")
"""The models that Claude Code chooses among by itself: each has a variable."""
_SMALL_CONTEXT = 16_000
"""Tokens. Claude Code's first request has 48 kB or more; with CLAUDE_CODE_SIMPLE it has 4 kB."""
_LONGEST_ANSWER = "1024"
"""Tokens. Claude Code asks for 32,000 by default, which no context of a home would hold."""


def _configured(text: str, proxy: ProxyForClient) -> str:
    context = context_of(proxy.model)
    environ = {
        "ANTHROPIC_BASE_URL": proxy.root,
        "ANTHROPIC_MODEL": proxy.model_id,
        **{f"ANTHROPIC_DEFAULT_{name}_MODEL": proxy.model_id for name in _NAMES},
        # The line changes with each request, so that a worker could not use its cache.
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": _LONGEST_ANSWER,
    }
    if context:
        # It takes an unknown name for a model of a million tokens, and would never compact.
        environ["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] = str(context)
        environ["CLAUDE_CODE_SIMPLE"] = "1" if context < _SMALL_CONTEXT else "0"
    values: dict[tuple[str, ...], str] = {("env", name): value for name, value in environ.items()}
    # A program whose output is the key: settings cannot refer to a variable.
    helper = f"printenv {KEY_VARIABLE} || echo {NO_KEY}"
    return with_values(text, {("apiKeyHelper",): helper, **values})


CLIENT = ConfiguredClient(
    name="claude",
    title="Claude Code, Anthropic's coding agent",
    api="messages",
    paths=("$CLAUDE_CONFIG_DIR/horde.json", "~/.claude/horde.json"),
    configured=_configured,
    steps=lambda proxy, path: f"Start it in your project: claude --settings {path}",
    least_context=_SMALL_CONTEXT,
)

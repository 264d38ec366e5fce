"""Codex: a profile of its own, `horde.config.toml`, which Codex lays over the user's settings.

Codex 0.171 reads it with `--profile horde`, and only speaks Responses.
"""

from __future__ import annotations

import tomllib

from horde_proxy.client_setup.contract import (
    KEY_VARIABLE,
    ConfiguredClient,
    ProxyForClient,
    RefusedFile,
    context_of,
)
from horde_proxy.client_setup.marked_block import FIRST, LAST, quoted, with_block

_PROVIDER = "model_providers.horde"


def _configured(text: str, proxy: ProxyForClient) -> str:
    _check(text)
    # Keys with dots instead of a table, and at the top: a table would take in the user's lines.
    lines = [FIRST, f"model = {quoted(proxy.model_id)}", 'model_provider = "horde"']
    context = context_of(proxy.model)
    if context:
        lines.append(f"model_context_window = {context}")
    lines += [
        f'{_PROVIDER}.name = "horde-proxy"',
        f"{_PROVIDER}.base_url = {quoted(proxy.base_url)}",
        f'{_PROVIDER}.wire_api = "responses"',
    ]
    # Codex ends where the variable that it is to read is not set.
    if proxy.has_key:
        lines.append(f'{_PROVIDER}.env_key = "{KEY_VARIABLE}"')
    text = with_block(text, [*lines, LAST], at_top=True)
    _check(text)
    return text


def _check(text: str) -> None:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise RefusedFile(
            f"not valid TOML with the lines of setup in it: {exc}. Delete what your own lines set "
            "of model, model_provider, model_context_window and model_providers.horde, or correct "
            "the file"
        ) from exc


CLIENT = ConfiguredClient(
    name="codex",
    title="Codex, OpenAI's coding agent",
    api="responses",
    paths=("$CODEX_HOME/horde.config.toml", "~/.codex/horde.config.toml"),
    configured=_configured,
    steps=lambda proxy, path: "Start it in your project: codex --profile horde",
    # docs/clients.md: its instructions and tools leave no room in less.
    least_context=32_768,
)

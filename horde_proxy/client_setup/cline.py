"""Cline's command: a folder of data of its own, for `cline --data-dir`.

Cline 3.0 reads OPENAI_API_KEY where its file has no key. Its extension for VS Code keeps its
settings where only VS Code can write: there the same values belong on its page.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.client_setup.contract import (
    KEY_VARIABLE,
    NO_KEY,
    ConfiguredClient,
    ProxyForClient,
    RefusedFile,
    answer_of,
    context_of,
)
from horde_proxy.client_setup.json_settings import value_at, with_values

_PROVIDER = "openai-compatible"
_PLACE = ("providers", _PROVIDER)
_WRITTEN = "2026-01-01T00:00:00.000Z"
"""Cline refuses a file without a date of each provider; it only shows it."""


def _configured(text: str, proxy: ProxyForClient) -> str:
    if proxy.has_key and value_at(text, (*_PLACE, "settings", "apiKey")) is not None:
        raise RefusedFile(
            f"it has an apiKey, which Cline prefers to {KEY_VARIABLE}: delete that line first"
        )
    values: dict[tuple[str, ...], Any] = {
        ("version",): 1,
        ("lastUsedProvider",): _PROVIDER,
        ("modes",): {},
    }
    settings = {"provider": _PROVIDER, "model": proxy.model_id, "baseUrl": proxy.base_url}
    values |= {(*_PLACE, "settings", name): value for name, value in settings.items()}
    limits = {"maxTokens": answer_of(proxy.model), "contextWindow": context_of(proxy.model)}
    values |= {(*_PLACE, "settings", name): value for name, value in limits.items() if value}
    if not proxy.has_key:
        values[(*_PLACE, "settings", "apiKey")] = NO_KEY
    values |= {(*_PLACE, "updatedAt"): _WRITTEN, (*_PLACE, "tokenSource"): "manual"}
    return with_values(text, values)


def _steps(proxy: ProxyForClient, path: str) -> str:
    folder = path.replace("\\", "/").removesuffix("/settings/providers.json")
    key = "one of your keys" if proxy.has_key else f'the key "{NO_KEY}"'
    return (
        f"Start it in your project: cline --data-dir {folder}\n"
        "In VS Code, set in Cline's settings: API Provider OpenAI Compatible, Base URL "
        f"{proxy.base_url}, {key}, Model ID {proxy.model_id}."
    )


CLIENT = ConfiguredClient(
    name="cline",
    title="Cline, a coding agent",
    api="chat",
    paths=("~/.cline/horde/settings/providers.json",),
    configured=_configured,
    steps=_steps,
    # Its instructions and tools are about as long as opencode's.
    least_context=16_384,
)

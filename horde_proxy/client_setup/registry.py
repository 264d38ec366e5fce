"""The clients that `horde-proxy setup` knows. A new one is a module and a line here."""

from __future__ import annotations

from collections.abc import Mapping

from horde_proxy.client_setup import (
    aider,
    claude,
    cline,
    codex,
    continue_dev,
    home_assistant,
    llm,
    open_webui,
    opencode,
    qwen_code,
    sillytavern,
    vscode,
)
from horde_proxy.client_setup.contract import ConfiguredClient

CLIENTS: Mapping[str, ConfiguredClient] = {
    module.CLIENT.name: module.CLIENT
    for module in (
        opencode,
        codex,
        claude,
        aider,
        continue_dev,
        cline,
        qwen_code,
        llm,
        open_webui,
        sillytavern,
        home_assistant,
        vscode,
    )
}
"""The clients by name, in the order of the list."""

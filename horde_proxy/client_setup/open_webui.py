"""Open WebUI: the variables of its process. It keeps its settings in a database, with what people
change on its pages, so that nothing is written there.
"""

from __future__ import annotations

from horde_proxy.client_setup.contract import (
    KEY_VARIABLE,
    NO_KEY,
    ConfiguredClient,
    ProxyForClient,
)
from horde_proxy.client_setup.network_note import network_note


def _steps(proxy: ProxyForClient, path: str) -> str:
    del path
    key = f"${KEY_VARIABLE}" if proxy.has_key else NO_KEY
    return "\n".join(
        [
            "For a new Open WebUI, set these variables before its first start:",
            "",
            f'export OPENAI_API_BASE_URL="{proxy.base_url}"',
            f'export OPENAI_API_KEY="{key}"',
            "export ENABLE_OLLAMA_API=false",
            f'export DEFAULT_MODELS="{proxy.model_id}"',
            "open-webui serve",
            "",
            "One that was started before reads them no more. There: Admin Panel, Settings, "
            f"Connections, OpenAI API, +, URL {proxy.base_url}, and your key.",
            network_note(proxy, "Open WebUI"),
        ]
    )


CLIENT = ConfiguredClient(
    name="open-webui",
    title="Open WebUI, a page for chats",
    api="chat",
    steps=_steps,
)

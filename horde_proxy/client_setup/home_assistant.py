"""Home Assistant: steps for its integration "Ollama", which can only be added on its pages."""

from __future__ import annotations

from horde_proxy.client_setup.contract import ConfiguredClient, ProxyForClient
from horde_proxy.client_setup.network_note import network_note


def _steps(proxy: ProxyForClient, path: str) -> str:
    del path
    key = "one of your keys" if proxy.has_key else "leave it empty"
    return "\n".join(
        [
            "1. Settings, Devices & services, Add integration: Ollama.",
            # Ollama's API is at the root, and the integration adds /api.
            f"2. URL: {proxy.root}",
            f"3. API key: {key}",
            f"4. Add a conversation agent. Model: {proxy.model_id}",
            '5. "Control Home Assistant": Assist, so that it may switch what you have exposed.',
            "6. Settings, Voice assistants, your assistant, Conversation agent: the new one.",
            network_note(proxy, "Home Assistant"),
        ]
    )


CLIENT = ConfiguredClient(
    name="home-assistant",
    title="Home Assistant, its Ollama integration",
    api="ollama",
    steps=_steps,
    # It sends num_ctx 8192, and the description of the home with each request.
    least_context=8_192,
)

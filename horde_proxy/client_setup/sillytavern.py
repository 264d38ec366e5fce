"""SillyTavern: steps on its page. Its server writes its settings file whenever a page changes
something, and would write over what another program put there.
"""

from __future__ import annotations

from horde_proxy.client_setup.contract import (
    ConfiguredClient,
    ProxyForClient,
    answer_of,
    context_of,
)
from horde_proxy.client_setup.network_note import network_note


def _steps(proxy: ProxyForClient, path: str) -> str:
    del path
    key = "one of your keys" if proxy.has_key else "leave it empty"
    steps = [
        "1. Open API Connections (the plug). API: Chat Completion.",
        "2. Chat Completion Source: Custom (OpenAI-compatible).",
        # It adds no /v1 of its own.
        f"3. Custom Endpoint (Base URL): {proxy.base_url}",
        f"4. Custom API Key: {key}",
        f"5. Enter a Model ID: {proxy.model_id}",
        "6. Connect. The line below must be green. Save it as a connection profile named horde.",
    ]
    context, answer = context_of(proxy.model), answer_of(proxy.model)
    if context:
        steps.append(
            f"7. AI Response Configuration: Context Size {context} (unlocked, if that is more than "
            f"the slider has), Max Response Length {answer}, Streaming on."
        )
    return "\n".join([*steps, network_note(proxy, "SillyTavern")])


CLIENT = ConfiguredClient(
    name="sillytavern",
    title="SillyTavern, a page for role play",
    api="chat",
    steps=_steps,
)

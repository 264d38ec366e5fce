"""VS Code's Copilot Chat: the address of Ollama in the user's settings, or steps where keys count.

Its provider "Ollama" lists the models by Ollama's API and chats by OpenAI's. It sends no key, and
VS Code keeps those of its other providers where only VS Code can write.
"""

from __future__ import annotations

from horde_proxy.client_setup.contract import ConfiguredClient, ProxyForClient
from horde_proxy.client_setup.json_settings import with_values

_ENDPOINT = "github.copilot.chat.byok.ollamaEndpoint"
"""One key of VS Code's settings: the dots belong to its name."""


def _configured(text: str, proxy: ProxyForClient) -> str:
    return text if proxy.has_key else with_values(text, {(_ENDPOINT,): proxy.root})


def _steps(proxy: ProxyForClient, path: str) -> str:
    del path
    choose = f"Then choose {proxy.model_id} in the list of models below a chat."
    if proxy.has_key:
        return (
            "The provider Ollama sends no key. In VS Code, run the command Chat: Manage Language "
            f"Models, add one of OpenAI Compatible, with the URL {proxy.base_url}/chat/completions "
            f"and one of your keys, which VS Code keeps in its own safe. {choose}"
        )
    return f"In VS Code, run the command Chat: Manage Language Models, and add Ollama. {choose}"


CLIENT = ConfiguredClient(
    name="vscode",
    title="VS Code, the models of Copilot Chat",
    api="chat",
    paths=("{config}/Code/User/settings.json",),
    configured=_configured,
    steps=_steps,
    least_context=16_384,
)

"""opencode: the provider `horde` in its own file, as `horde-proxy opencode` writes it."""

from __future__ import annotations

from horde_proxy import opencode as configuration
from horde_proxy.client_setup.contract import KEY_VARIABLE, ConfiguredClient, ProxyForClient
from horde_proxy.client_setup.json_settings import with_values


def _configured(text: str, proxy: ProxyForClient) -> str:
    # A name that is not in the list, such as "auto", is a model as well once the user named it.
    models = proxy.suitable if proxy.is_chosen else proxy.models
    key = f"{{env:{KEY_VARIABLE}}}" if proxy.has_key else None
    text = configuration.updated(
        text if text.strip() else "{}\n", models, proxy.base_url, api_key=key
    )
    if not proxy.is_chosen:
        return text
    return with_values(text, {("model",): f"{configuration.PROVIDER}/{proxy.model_id}"})


def _steps(proxy: ProxyForClient, path: str) -> str:
    return (
        f"Start it in your project: opencode -m {configuration.PROVIDER}/{proxy.model_id}\n"
        f"To keep the list of models up to date: horde-proxy opencode --output {path}"
    )


CLIENT = ConfiguredClient(
    name="opencode",
    title="opencode, a coding agent",
    api="chat",
    # It takes XDG's folder on macOS, too.
    paths=(
        "$OPENCODE_CONFIG",
        "$XDG_CONFIG_HOME/opencode/opencode.json",
        "~/.config/opencode/opencode.json",
    ),
    configured=_configured,
    steps=_steps,
    least_context=None,
)

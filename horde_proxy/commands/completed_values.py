"""Values of options that a running proxy knows, for completion in a shell. Nothing here may fail.

Imports are inside: completion of other words must not wait for them.
"""

from __future__ import annotations

import click


def model_names(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The models that the proxy lists now and that begin with a text; none without a proxy."""
    from horde_proxy.commands import proxy_client

    try:
        base = proxy_client.base_url(context.params.get("url"), context.params.get("path"))
        listed = proxy_client.get(base, "/models", timeout=proxy_client.WHILE_TYPING)["data"]
        names = [str(model["id"]) for model in listed]
    except (click.ClickException, LookupError, TypeError):
        return []
    return [name for name in names if name.startswith(begun)]

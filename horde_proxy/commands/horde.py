"""`horde-proxy horde`: a horde of your own, alone; its subcommands change what it has.

It is `serve` with the private horde as the only endpoint. This process stays beside the server, so
what the subcommands need is imported by them alone.
"""

from __future__ import annotations

from functools import partial

import click

from horde_proxy import config
from horde_proxy.commands.horde_welcome import horde_lines, reachable_url
from horde_proxy.commands.lazy_group import LazyCommand, LazyGroup
from horde_proxy.commands.options import (
    bind_option,
    config_option,
    load_settings,
    log_format_option,
    server_flags,
    without_page_file,
)
from horde_proxy.commands.serve import run_server
from horde_proxy.config import Config
from horde_proxy.version import VERSION

_DEFAULTS = {"access": {"mode": "passthrough"}}
"""The members of a horde have keys of their own, which also pay at /v1. So it may listen on any
address without further settings: a client without a key gets no answers."""

_SUBCOMMANDS = {
    name: LazyCommand(f"horde_proxy.commands.horde_rules:{name}", line)
    for name, line in (
        ("filters", "The filters of prompts: words that are refused or replaced."),
        ("modes", "Show the modes of the horde, or switch them."),
        ("news", "The news that /api/v2/status/news lists."),
        ("timeouts", "The addresses from which submits and pops are refused."),
    )
}


@click.group("horde", cls=LazyGroup, lazy=_SUBCOMMANDS, invoke_without_command=True)
@config_option
@bind_option
@log_format_option
@click.pass_context
def horde(
    context: click.Context, path: str | None, bind: str | None, log_format: str | None
) -> None:
    """Serve a horde of your own, and nothing else; no configuration is needed.

    With a command, change what it has in its database, also while it runs.
    """
    if context.invoked_subcommand is not None:
        if bind or log_format:
            raise click.UsageError("--bind and --log-format go with no command")
        context.obj = path
        return
    flags = {**server_flags(bind=bind, log_format=log_format), "private_horde": {"enabled": True}}
    settings = load_settings(path, flags, _DEFAULTS, reads_page_file=False)
    read = partial(config.load, path, flags=flags, defaults=_DEFAULTS)
    run_server(
        _alone(settings),
        lambda environ: _alone(read(without_page_file(environ))),
        config.file_of(path),
        lambda: _welcome(settings),
    )


def _alone(settings: Config) -> Config:
    """The settings without other endpoints: a file may be that of `serve` as well."""
    return settings.model_copy(update={"endpoints": []})


def _welcome(settings: Config) -> str:
    bind, url = settings.server.bind, reachable_url(settings.server.bind)
    lines = [f"horde-proxy {VERSION} serves a horde of your own on {bind}"]
    if settings.endpoints:
        names = ", ".join(endpoint.label() for endpoint in settings.endpoints)
        lines.append(f"Not used here:    the endpoints {names}; `serve` uses them")
    if url is not None:
        lines += [
            f"Horde's URL:      {url}  (AI-Horde's API below /api/v2)",
            f"OpenAI base URL:  {url}/v1  (the API key is a member's key)",
            f"Members:          {url}/page/horde/",
        ]
    return "\n".join([*lines, *horde_lines(settings, url)])

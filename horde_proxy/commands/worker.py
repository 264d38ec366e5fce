"""`horde-proxy worker`: a worker for any horde, in this process."""

from __future__ import annotations

import os
import platform
import signal
import threading
from pathlib import Path
from typing import Any

import click

from horde_proxy.commands.console import say
from horde_proxy.upstreams.openai.described_models import is_at_home
from horde_proxy.upstreams.sessions import new_session, with_proxy
from horde_proxy.worker.backends import BackendError, BackendOptions, backend_choices, open_backend
from horde_proxy.worker.bridge import Bridge, WorkerIdentity, WorkerRejected
from horde_proxy.worker.model_file import ModelFileError

_LONGEST_NAME = 100
"""The longest name that AI-Horde takes for a worker."""


@click.command()
@click.option("--horde", metavar="URL", required=True, help="The horde to work for.")
@click.option(
    "--backend",
    required=True,
    metavar="NAME|PATH|URL",
    help=f"What completes the jobs: {backend_choices()}.",
)
@click.option(
    "--api-key",
    envvar="AI_HORDE_API_KEY",
    required=True,
    metavar="KEY",
    help="The worker's owner's key at the horde [AI_HORDE_API_KEY].",
)
@click.option("--name", metavar="NAME", help="The worker's name, unique on the horde.")
@click.option(
    "--model",
    metavar="NAME",
    help="Which of a server's models to offer [the loaded one]; or another name for its only one.",
)
@click.option(
    "--max-length",
    type=click.IntRange(16),
    metavar="TOKENS",
    help="The longest answer [what the server tells, else 512].",
)
@click.option(
    "--max-context-length",
    type=click.IntRange(80),
    metavar="TOKENS",
    help="The longest prompt with its answer [what the server tells, else 4096].",
)
@click.option(
    "--proxy-url",
    envvar="HORDE_PROXY_SERVER__PROXY_URL",
    metavar="URL",
    help="The HTTP proxy on the way to the horde [HORDE_PROXY_SERVER__PROXY_URL].",
)
@click.option("--threads", default=1, type=click.IntRange(1, 50), help="Jobs at a time.")
@click.option(
    "--idle",
    default=1.0,
    metavar="SECONDS",
    show_default=True,
    help="Pause while there is no job; after half a minute at least 0.5.",
)
@click.option("--delay", default=0.0, metavar="SECONDS", help="How long an echo takes.")
@click.option("--speed", default=0.0, metavar="TOKENS/S", help="How fast an echo writes.")
@click.option(
    "--scenario",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='What an echo says instead: JSON, [{"when": REGEX, "say": TEXT}, ...].',
)
def worker(
    horde: str,
    backend: str,
    api_key: str,
    name: str | None,
    proxy_url: str | None,
    threads: int,
    idle: float,
    **options: Any,
) -> None:
    """Work for a horde: pop its jobs and complete them with a model."""
    if not horde.startswith(("http://", "https://")):
        # Without a scheme every call would fail, and be tried again for ever.
        raise click.BadParameter("write it with http:// or https://", param_hint="--horde")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        engine = open_backend(backend, BackendOptions(**options, report=say))
        name = name or _default_name(engine.name)
        identity = WorkerIdentity(horde, name, api_key, threads=threads, idle=idle)
        say(f"{name} offers {engine.name} to {horde}")
        proxy_url = None if is_at_home(horde) else proxy_url
        Bridge(
            identity, engine, stop=stop, new_session=lambda: with_proxy(new_session(), proxy_url)
        ).run()
    except (BackendError, ModelFileError, WorkerRejected) as exc:
        raise click.ClickException(str(exc)) from exc


def _default_name(model: str) -> str:
    """A name that no other worker has: of this machine, the model and this process."""
    machine = platform.node() or "home"
    return f"{machine}-{model.rpartition('/')[2]}-{os.getpid()}"[:_LONGEST_NAME]

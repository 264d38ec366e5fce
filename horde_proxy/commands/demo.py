"""`horde-proxy demo`: the proxy with its private horde, and workers, each a process of its own.

One worker writes texts, one draws pictures: a painter that is no image model.

This process only starts the others, watches them and ends them; it serves nothing itself.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import click
import requests

from horde_proxy.aihorde.rest import KEY_BYTES
from horde_proxy.commands import console
from horde_proxy.commands.horde_welcome import own_command, reachable_url
from horde_proxy.commands.options import bind_option, config_option, load_settings, server_flags
from horde_proxy.config import Config
from horde_proxy.config.owner_key import keep_owner_key
from horde_proxy.config.settings_sources import PAGE_FILE_OFF, PAGE_FILE_VARIABLE
from horde_proxy.process_ties import hangup_is_ignored, tie_to_parent
from horde_proxy.serving import CannotListen, check_port_free
from horde_proxy.upstreams.sessions import new_session
from horde_proxy.worker import model_file
from horde_proxy.worker.backends.built_in import LOCAL_EXTRA, can_run_gguf

_START_SECONDS = 120.0
"""Loading a model takes a slow machine a minute."""
_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.1
_ANSWER_SECONDS = 5.0
_MAX_TOKENS = 512
"""A small model goes on and on, so that its answers are shorter than other models' here."""
_PAINTER = ["--backend", "painter"]
"""The worker for images. It draws the words of prompts, which needs no model."""
_IMAGE_MODELS = "/api/v2/status/models?type=image"
_IDLE_SECONDS = "0.1"
"""How long the demo's workers pause while there is no job: their horde is next door."""

Report = Callable[[str], Any]


class DemoError(Exception):
    """The demo cannot run; the message says why and what to do."""


class _Stop(Exception):
    """The user wants the demo to end."""


@click.command()
@config_option
@bind_option
@click.option(
    "--model", metavar="PATH|ngram", help="A GGUF file of a llama model, or the toy, instead."
)
@click.option(
    "--keep",
    metavar="DIR",
    help="Keep the horde and the stored answers in this folder.",
)
@click.option("--echo", is_flag=True, help="Also run horde-proxy/echo, which repeats the user.")
@click.option("--echo-delay", default=0.0, metavar="SECONDS", help="How long an echo takes.")
def demo(
    path: str | None,
    bind: str | None,
    model: str | None,
    keep: str | None,
    echo: bool,
    echo_delay: float,
) -> None:
    """Serve with a private horde, a small model and a painter: nothing else is needed."""
    # As for the processes that it starts: then a file need not say where chats go.
    flags = {**server_flags(bind=bind), "private_horde": {"enabled": True}}
    settings = load_settings(path, flags, reads_page_file=False)
    echoes = [["--backend", "echo", "--delay", str(echo_delay), "--threads", "50"]] if echo else []
    try:
        kept = keep_in(settings, keep) if keep else None
        workers = [["--backend", choose_backend(model, console.echo)], *echoes]
        run(settings, path, workers, console.echo, kept)
    except DemoError as exc:
        raise click.ClickException(str(exc)) from exc


@dataclass(frozen=True)
class KeptHorde:
    """Where a demo keeps its horde, and the answers and the history of its proxy.

    `key` is that of the horde's owner.
    """

    database: str
    answers: str
    history: str
    key: str


def keep_in(settings: Config, folder: str) -> KeptHorde:
    """The horde of a folder, which is made if need be. Raises DemoError."""
    directory = Path(folder).expanduser().absolute()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = settings.private_horde.api_key or keep_owner_key(directory / "owner.key")
    except OSError as exc:
        raise DemoError(f"the demo cannot keep its horde in {directory}: {exc.strerror}") from exc
    except ValueError as exc:
        raise DemoError(str(exc)) from exc
    answers = settings.store.database or f"sqlite:///{directory / 'store.db'}"
    history = settings.stats.history_database or f"sqlite:///{directory / 'history.db'}"
    return KeptHorde(f"sqlite:///{directory / 'horde.db'}", answers, history, key)


def kept_nowhere(settings: Config, folder: str) -> KeptHorde:
    """A horde in memory, and answers in a folder that goes at the end; but see the settings."""
    key = settings.private_horde.api_key or secrets.token_urlsafe(KEY_BYTES)
    answers = settings.store.database or f"sqlite:///{folder}/store.db"
    history = settings.stats.history_database or f"sqlite:///{folder}/history.db"
    return KeptHorde(settings.private_horde.database or "memory", answers, history, key)


def choose_backend(model: str | None, report: Report) -> str:
    """The backend's name: a given file, SmolLM2 (fetched if need be), or the n-gram toy.

    Raises DemoError.
    """
    if model:
        if model != "ngram" and not os.path.isfile(model):
            raise DemoError(f"there is no model file {model}")
        return model
    if not can_run_gguf():
        report(f"No runner for a real model here, so a toy answers. To get one: {LOCAL_EXTRA}")
        return "ngram"
    try:
        if model_file.installed() is None:
            model_file.install(report)
        return "smollm2"
    except model_file.ModelFileError as exc:
        report(f"{exc}\nSo a toy answers. For the real model: horde-proxy model install")
        return "ngram"


def run(
    settings: Config,
    path: str | None,
    workers: Sequence[Sequence[str]],
    report: Report,
    kept: KeptHorde | None = None,
) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP; then every process that was started is gone.

    `workers` holds the options of each worker that is started. Without `kept`, the horde is in
    memory. Raises DemoError when the port is
    taken or a process ends by itself.
    """
    bind = settings.server.bind
    _check_bind(bind)
    url = reachable_url(bind) or ""
    report("Starting the proxy and its workers ...")
    with (
        tempfile.TemporaryDirectory(prefix="horde-proxy-demo-") as folder,
        _interruptible(),
        _processes(report) as processes,
    ):
        kept = kept or kept_nowhere(settings, folder)
        key = kept.key
        environ = {**os.environ, **_variables(settings, kept)}
        processes.append(_start(["serve", *(["--config", path] if path else [])], environ))
        _wait_until(lambda: _get(url + "/health/live") is not None, processes)
        for options in [*workers, _PAINTER]:
            # Ctrl-C ends the whole demo: its chats need not be finished.
            arguments = [
                "worker",
                "--horde",
                url,
                "--drain",
                "0",
                "--idle",
                _IDLE_SECONDS,
                *options,
            ]
            # Only workers get this key: for the proxy, the variable is the public horde's.
            processes.append(_start(arguments, {**environ, "AI_HORDE_API_KEY": key}))
        _wait_until(lambda: _model_count(url) >= len(workers), processes)
        _wait_until(lambda: bool(_get(url + _IMAGE_MODELS)), processes)
        report(_welcome(url, bind, key))
        _watch(processes)


def _variables(settings: Config, kept: KeptHorde) -> dict[str, str]:
    """The settings of the processes that are started, as environment variables."""
    horde = settings.horde
    is_given = "default_max_tokens" in horde.model_fields_set
    return {
        "HORDE_PROXY_SERVER__BIND": settings.server.bind,
        # A demo neither has the settings of the proxy proper, nor changes them.
        PAGE_FILE_VARIABLE: PAGE_FILE_OFF,
        "HORDE_PROXY_HORDE__DEFAULT_MAX_TOKENS": str(
            horde.default_max_tokens if is_given else _MAX_TOKENS
        ),
        # Ctrl-C ends a demo at once.
        "HORDE_PROXY_SERVER__GRACE": "1",
        "HORDE_PROXY_PRIVATE_HORDE__ENABLED": "true",
        "HORDE_PROXY_PRIVATE_HORDE__API_KEY": kept.key,
        "HORDE_PROXY_PRIVATE_HORDE__DATABASE": kept.database,
        "HORDE_PROXY_STORE__DATABASE": kept.answers,
        "HORDE_PROXY_STATS__HISTORY_DATABASE": kept.history,
        # numpy's threads would compete with each other for the cores.
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
    }


def _start(arguments: Sequence[str], environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, so that Ctrl-C reaches it only through us.

    It ends when we are killed. A forked process runs Python code first for that, which is safe as
    long as we have no threads.
    """
    # A list for no shell: this Python, and options that the user gave or this module wrote.
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "horde_proxy", *arguments],
        env=environ,
        start_new_session=True,
        preexec_fn=tie_to_parent(),
    )


def _check_bind(bind: str) -> None:
    if not bind.rpartition(":")[2].isdigit():
        raise DemoError(f"the demo can only listen on HOST:PORT, not on {bind}")
    try:
        check_port_free(bind)
    except CannotListen as exc:
        raise DemoError(str(exc)) from exc


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP end the body quietly; SIGHUP does not after nohup."""

    def stop(number: int, frame: Any) -> None:
        raise _Stop()

    numbers = [signal.SIGINT, signal.SIGTERM, *([] if hangup_is_ignored() else [signal.SIGHUP])]
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    except _Stop:
        return
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _processes(report: Report) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A list of processes, of which none runs any more afterwards."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield processes
    finally:
        # An impatient second Ctrl-C must not leave processes behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        # `demo | head` reads no more: nobody sees this line, and what runs must end all the same.
        with suppress(OSError):
            report("Stopping ...")
        # Workers first, so that the proxy still takes the jobs that they give back.
        for process in reversed(processes):
            process.terminate()
        deadline = time.monotonic() + _STOP_SECONDS
        for process in reversed(processes):
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until(is_ready: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not is_ready():
        _raise_if_ended(processes)
        if time.monotonic() > deadline:
            raise DemoError(f"the processes were not ready within {_START_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)


def _model_count(url: str) -> int:
    """How many models are available, from a route whose requests are not logged."""
    return int((_get(url + "/health/ready") or {}).get("models", 0))


def _get(url: str) -> Any:
    """The JSON of a URL of our own; None while nothing answers there."""
    try:
        response = new_session().get(url, timeout=_ANSWER_SECONDS)
        return response.json() if response.ok else None
    except requests.RequestException:
        return None


def _watch(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    while True:
        _raise_if_ended(processes)
        time.sleep(_POLL_SECONDS * 5)


def _raise_if_ended(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is not None:
            arguments = process.args if isinstance(process.args, list) else []
            command = arguments[3] if len(arguments) > 3 else "?"
            raise DemoError(f"the {command} process ended by itself (status {process.returncode})")


def _welcome(url: str, bind: str, key: str) -> str:
    listed = (_get(url + "/v1/models") or {"data": []})["data"]
    models = [model["id"] for model in listed if model.get("type") != "image"]
    images = [model["id"] for model in listed if model.get("type") == "image"]
    lines = [
        "",
        f"OpenAI base URL:  {url}/v1",
        f"Models:           {', '.join(models) or 'shown to those who have a key'}",
        *([f"For images:       {', '.join(images)} (a placeholder)"] if images else []),
        *_first_chat(url, models),
        *_first_image(url, images),
        f"In a browser:     {url}/",
        f"Horde's members:  {url}/page/horde/ (sign in with the key below)",
        "Another worker (echo, or the URL of your own KoboldCpp, Ollama or llama.cpp):",
        f"  {own_command()} worker --horde {url} --api-key {key} --backend echo",
        "Ctrl-C stops everything.",
    ]
    if not bind.startswith(("127.", "localhost:", "[::1]:")):
        lines.insert(1, f"Anyone who can reach {bind} may use this without a key.")
    return "\n".join(lines)


def _first_chat(url: str, models: Sequence[str]) -> list[str]:
    """A command to paste; nothing without a model."""
    if not models:
        return []
    body = json.dumps(
        {
            "model": _main_model(models),
            "messages": [{"role": "user", "content": "What is the capital of France?"}],
        }
    )
    return [
        "Try:",
        # Quoted, for a model's name may hold a quotation mark and a command after it.
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d {quote(body)}",
    ]


def _first_image(url: str, models: Sequence[str]) -> list[str]:
    """A command to paste for a picture; nothing without a model."""
    if not models:
        return []
    return [f'  {own_command()} image "a fox in snow" -o fox.png --url {url}/v1']


def _main_model(models: Sequence[str]) -> str:
    return next((name for name in models if not name.endswith("/echo")), models[0])

"""`horde-proxy batch`: many requests in a file, answered while nobody waits.

A batch runs in the proxy. These commands upload its input, look at it, and write its results: any
of them may be ended and begun again.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from horde_proxy.commands import proxy_client
from horde_proxy.commands.console import echo, say, show_line
from horde_proxy.commands.options import config_option, url_option
from horde_proxy.commands.proxy_client import ProxyUnreachable
from horde_proxy.commands.table import aligned

_LOOK_SECONDS = 2.0
"""Seconds between two looks at a batch."""
_MOST_MISSED = 300
"""Looks in vain, about ten minutes, before a proxy counts as gone: it may be restarting."""
_ENDED = ("completed", "failed", "expired", "cancelled")
_MOST_FAULTS = 10
"""Faults of an input file that are shown."""

key_option = click.option(
    "--key-env",
    "key_name",
    metavar="NAME",
    default=proxy_client.KEY_NAME,
    help=f"The environment variable that holds the key [{proxy_client.KEY_NAME}].",
)
output_option = click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where to write the results; what failed is written beside it, as FILE.errors.jsonl.",
)
force_option = click.option("--force", is_flag=True, help="Overwrite files.")


@click.group()
def batch() -> None:
    """Many requests in a file, answered by a running proxy within a day."""


@batch.command("run")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option
@click.option("--endpoint", metavar="PATH", help="What the lines call [the first line's `url`].")
@force_option
@key_option
@url_option
@config_option
def run_batch(
    file: Path,
    output: Path | None,
    endpoint: str | None,
    force: bool,
    key_name: str,
    url: str | None,
    path: str | None,
) -> None:
    """Run the requests of FILE (JSONL, as OpenAI's batches), and write the answers to a file."""
    base = proxy_client.base_url(url, path)
    target = output or file.with_name(f"{file.stem}.output.jsonl")
    _check_free(target, force=force)
    endpoint = endpoint or _endpoint_of(file)
    with file.open("rb") as content:
        uploaded = proxy_client.post(
            base, "/files", key_name, data={"purpose": "batch"}, files={"file": content}
        )
    body = {
        "input_file_id": uploaded["id"],
        "endpoint": endpoint,
        "completion_window": "24h",
    }
    batch_id = proxy_client.post(base, "/batches", key_name, json=body)["id"]
    say(f"{batch_id} goes on when this command ends: horde-proxy batch wait {batch_id}")
    _wait(base, batch_id, target, key_name)


@batch.command("wait")
@click.argument("batch_id")
@output_option
@force_option
@key_option
@url_option
@config_option
def wait_for_batch(
    batch_id: str,
    output: Path | None,
    force: bool,
    key_name: str,
    url: str | None,
    path: str | None,
) -> None:
    """Wait for a batch that was begun before, and write its answers to a file."""
    target = output or Path(f"{batch_id}.output.jsonl")
    _check_free(target, force=force)
    _wait(proxy_client.base_url(url, path), batch_id, target, key_name)


@batch.command("list")
@click.option("--limit", type=click.IntRange(1, 100), default=20, help="How many [20].")
@key_option
@url_option
@config_option
def list_batches(limit: int, key_name: str, url: str | None, path: str | None) -> None:
    """List the batches, the newest first."""
    base = proxy_client.base_url(url, path)
    batches = proxy_client.get(base, f"/batches?limit={limit}", key_name)["data"]
    heading = ["BATCH", "BEGUN", "STATUS", "ANSWERED", "FAILED", "OF"]
    echo("\n".join(aligned([heading, *map(_row, batches)])))


@batch.command("cancel")
@click.argument("batch_id")
@key_option
@url_option
@config_option
def cancel_batch(batch_id: str, key_name: str, url: str | None, path: str | None) -> None:
    """Let no further request of a batch run. Answers that are there are kept."""
    base = proxy_client.base_url(url, path)
    cancelled = proxy_client.post(base, f"/batches/{batch_id}/cancel", key_name)
    echo(f"{batch_id} is {cancelled['status']}")


def _endpoint_of(file: Path) -> str:
    """The `url` of the first line. Raises ClickException."""
    with file.open("rb") as lines:
        first = next((line for line in lines if line.strip()), b"")
    try:
        url = json.loads(first)["url"]
    except (ValueError, KeyError, TypeError):
        url = None
    if not isinstance(url, str):
        raise click.ClickException(
            f"the first line of {file} has no `url`: write one request in each line, or give "
            "--endpoint"
        )
    return url


def _check_free(target: Path, *, force: bool) -> None:
    """Raises ClickException for a file that exists, before anything is begun."""
    for file in (target, _errors_beside(target)):
        if file.exists() and not force:
            raise click.ClickException(f"{file} exists: name another file, or use --force")


def _errors_beside(target: Path) -> Path:
    """The file of what failed: "in.output.jsonl.errors.jsonl" beside "in.output.jsonl"."""
    return target.with_name(f"{target.name}.errors.jsonl")


def _wait(base: str, batch_id: str, target: Path, key_name: str) -> None:
    """Show how a batch goes, and write its results. Raises ClickException if any failed."""
    state = _ended(base, batch_id, key_name)
    counts = state["request_counts"]
    for name, file in (("output_file_id", target), ("error_file_id", _errors_beside(target))):
        if state[name]:
            proxy_client.download(base, f"/files/{state[name]}/content", file, key_name)
            echo(str(file))
    if state["status"] == "failed":
        raise click.ClickException(f"the input is wrong, and nothing ran:\n{_faults(state)}")
    if state["status"] != "completed" or counts["failed"]:
        raise click.ClickException(
            f"{batch_id} is {state['status']}: {counts['completed']} of {counts['total']} requests "
            f"were answered, {counts['failed']} failed"
        )


def _ended(base: str, batch_id: str, key_name: str) -> Any:
    """The batch object once it has ended. Raises ClickException."""
    shown, missed = "", 0
    while True:
        try:
            state = proxy_client.get(base, f"/batches/{batch_id}", key_name)
        except ProxyUnreachable:
            missed += 1
            if missed > _MOST_MISSED:
                raise
        else:
            missed = 0
            progress = _progress(state)
            if progress != shown:
                _show(progress)
            shown = progress
            if state["status"] in _ENDED:
                return state
        time.sleep(_LOOK_SECONDS)


def _progress(state: Any) -> str:
    counts = state["request_counts"]
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{state['status']}: {counts['completed']} of {counts['total']} answered{failed}"


def _show(progress: str) -> None:
    if sys.stderr.isatty():
        show_line(progress)
    else:
        say(progress)


def _faults(state: Any) -> str:
    faults = (state.get("errors") or {}).get("data", [])
    lines = [
        f"line {fault['line']}: {fault['message']}" if fault["line"] else fault["message"]
        for fault in faults[:_MOST_FAULTS]
    ]
    more = len(faults) - len(lines)
    return "\n".join([*lines, f"... and {more} more"] if more > 0 else lines)


def _row(state: Any) -> list[str]:
    counts = state["request_counts"]
    begun = datetime.fromtimestamp(state["created_at"]).astimezone()
    return [
        state["id"],
        begun.strftime("%Y-%m-%d %H:%M"),
        state["status"],
        *(str(counts[name]) for name in ("completed", "failed", "total")),
    ]

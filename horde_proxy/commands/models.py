"""`horde-proxy models`: the models of a running proxy, or their history, as a table or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from horde_proxy.aihorde.names import canonical
from horde_proxy.commands import model_history, proxy_client
from horde_proxy.commands.console import echo
from horde_proxy.commands.options import config_option, url_option
from horde_proxy.commands.table import aligned
from horde_proxy.printable import ascii_json

Row = dict[str, Any]

COLUMNS: Mapping[str, str] = {
    "model": "MODEL",
    "workers": "WORKERS",
    "context": "CONTEXT",
    "queued": "QUEUED",
    "speed": "TOKENS/S",
    "wait": "WAIT/S",
    "used": "USED/MONTH",
}
"""The keys of a row and their headings."""
_ALWAYS_SHOWN = ("model", "workers", "context", "queued", "speed")
_DECIMALS = {"queued": 0, "speed": 1, "wait": 0}


@click.command("models")
@url_option
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--sort", type=click.Choice(list(COLUMNS)), help="What comes first or most.")
@click.option("--filter", "words", metavar="TEXT", help="Only models with this in their names.")
@click.option(
    "--history",
    metavar="[MODEL]",
    is_flag=False,
    flag_value=model_history.EVERY_MODEL,
    help="What the horde had of late: of all models, or of one.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 366),
    default=1,
    show_default=True,
    help="How far back --history goes.",
)
@click.option(
    "--type",
    "kind",
    type=click.Choice(["text", "image"]),
    default="text",
    show_default=True,
    help="The models of --history.",
)
def list_models(
    url: str | None,
    path: str | None,
    as_json: bool,
    sort: str | None,
    words: str | None,
    history: str | None,
    days: int,
    kind: str,
) -> None:
    """List the models of a running proxy."""
    _refuse_unused(("days", "kind") if history is None else ("sort",), history is not None)
    base = proxy_client.base_url(url, path)
    if history is not None:
        answer = model_history.load(base, history, days, kind, words or "")
        echo(ascii_json(answer, indent=2) if as_json else "\n".join(model_history.lines(answer)))
        return
    echo(f"Loading the models of {base} ...", err=True)
    models = proxy_client.get(base, "/models")["data"]
    horde = proxy_client.get_list_if_there(base, "/horde/models")
    if horde and horde.get("degraded"):
        echo("The horde cannot be reached now: these values are the last known.", err=True)
    elif not models:
        echo(proxy_client.no_models(base), err=True)
    rows = _selected(_rows(models, horde["data"] if horde else ()), sort, words or "")
    echo(ascii_json(rows, indent=2) if as_json else "\n".join(_lines(rows)))


def _refuse_unused(names: Sequence[str], is_history: bool) -> None:
    """Raises UsageError for an option that would be ignored: --days without --history."""
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source is ParameterSource.COMMANDLINE:
            where = "without" if is_history else "with"
            raise click.UsageError(f"{option.opts[0]} is only of use {where} --history.")


def _rows(models: Iterable[Mapping[str, Any]], merged: Iterable[Mapping[str, Any]]) -> list[Row]:
    """A row for each model of /v1/models, with its usage from /v1/horde/models. None: unknown."""
    usage = {canonical(model["name"]).key: model.get("usage_stats") for model in merged}
    return [_row(model, usage) for model in models]


def _row(model: Mapping[str, Any], usage: Mapping[str, Any]) -> Row:
    horde = model.get("horde") or {}
    # A short id such as "org--Foo-8B" does not tell where the model's own name begins.
    full = str(model.get("full_id") or model["id"])
    used = usage.get(canonical(full).key) if horde else None
    return {
        "model": model["id"],
        "workers": horde.get("workers"),
        "context": model.get("context_length"),
        "queued": horde.get("queued_tokens"),
        "speed": horde.get("tokens_per_second"),
        "wait": horde.get("expected_seconds"),
        "used": used["month"] if used else None,
    }


def _selected(rows: Iterable[Row], sort: str | None, words: str) -> list[Row]:
    """The rows whose names contain the words, sorted: names from A, numbers from the largest.

    The shortest wait comes first, and what is unknown last.
    """
    matches = [row for row in rows if words.casefold() in row["model"].casefold()]
    if sort is None:
        return matches
    if sort == "model":
        return sorted(matches, key=lambda row: str(row["model"]).casefold())
    sign = 1 if sort == "wait" else -1
    known = [row for row in matches if row[sort] is not None]
    unknown = [row for row in matches if row[sort] is None]
    return sorted(known, key=lambda row: float(sign * row[sort])) + unknown


def _lines(rows: Sequence[Row]) -> list[str]:
    """The heading and the rows; a column in which nothing is known is left out."""
    columns = [
        key for key in COLUMNS if key in _ALWAYS_SHOWN or any(row[key] is not None for row in rows)
    ]
    heading = [COLUMNS[key] for key in columns]
    return aligned([heading, *([_cell(key, row[key]) for key in columns] for row in rows)])


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.{_DECIMALS[key]}f}" if key in _DECIMALS else str(value)

"""What the page shows, as tables: columns, and rows of cells with a text and what to sort by. Pure.

Each cell is told in words here, once; the template and the script put the words in their places.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from horde_proxy.ledger import ClientKey, DayUsage
from horde_proxy.numbers import finite
from horde_proxy.web.history import Bucket, Failure, add, sum_from

if TYPE_CHECKING:
    from horde_proxy.upstreams.horde.accounts import Account

Table = dict[str, Any]
Cell = dict[str, Any]
NOTHING = "–"
_TONES = {"up": "good", "probing": "warn", "cooling": "bad", "down": "bad"}


def number(value: float | None) -> str:
    """1,234 for what is whole, 1.2 for what is small, 1.2 M for millions."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.1f} M"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"


def seconds(value: float | None) -> str:
    """450 ms, 2.5 s, 42 s, 3 min 20 s or 2 h 5 min."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if 0 < value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 10:
        return f"{value:.1f} s".replace(".0 s", " s")
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".replace(" 0 s", "")
    return f"{whole // 3600} h {whole % 3600 // 60} min".replace(" 0 min", "")


def running(requests: Iterable[Mapping[str, Any]], now: float) -> Table:
    """What runs and waits, oldest first."""
    found = sorted(requests, key=lambda each: float(each["began"]))
    return _table(
        "running",
        ("Model", "State", "#Position", "#Expected", "#Since", "Request"),
        [
            _row(
                each["id"],
                [
                    cell(each["model"]),
                    _running_state(each),
                    amount(each["queue_position"]),
                    span(each["expected_seconds"]),
                    span(max(0, int(now) - each["began"])),
                    cell(each["id"][:8]),
                ],
            )
            for each in found
        ],
        "Nothing runs or waits now.",
    )


def models(found: Iterable[Mapping[str, Any]]) -> Table:
    """The models on offer, by name."""
    ordered = sorted(found, key=lambda each: str(each["id"]).casefold())
    return _table(
        "models",
        ("Model", "#Workers", "#Tokens/s", "#Queue (tokens)", "#Context", "#Expected", "Endpoints"),
        [_model(each, each.get("horde")) for each in ordered],
        "No models are available right now.",
    )


def endpoints(states: Iterable[Mapping[str, Any]]) -> Table:
    """The endpoints and how they fare."""
    return _table(
        "endpoints",
        ("Endpoint", "Type", "State", "#Models", "#Running", "#p50", "#p95", "Last error"),
        [
            _row(
                each["name"],
                [
                    cell(each["name"]),
                    cell(each["type"]),
                    _endpoint_state(each),
                    amount(len(each["models"])),
                    amount(each["running"]),
                    span(each["latency"]["p50"]),
                    span(each["latency"]["p95"]),
                    cell(each["last_error"] or NOTHING),
                ],
            )
            for each in states
        ],
        "No endpoint may be used with this key.",
    )


def errors(found: Iterable[Failure]) -> Table:
    """The latest errors."""
    return _table(
        "errors",
        ("Time", "Route", "Model", "Endpoint", "#Status", "Code", "Key"),
        [
            _row(
                f"{each.at}-{number}",
                [
                    {
                        "text": _clock_time(each.at, "%d %b %H:%M:%S UTC"),
                        "value": each.at,
                        "iso": _clock_time(each.at, "%Y-%m-%dT%H:%M:%SZ"),
                    },
                    cell(each.route),
                    cell(each.model or NOTHING),
                    cell(each.endpoint or NOTHING),
                    cell(str(each.status), each.status),
                    cell(each.code),
                    cell(each.key or NOTHING),
                ],
            )
            for number, each in enumerate(found)
        ],
        "No errors in the last 24 hours.",
    )


def hours(buckets: Sequence[Bucket]) -> Table:
    """The last day by the hour, newest first: what the charts show, in numbers."""
    found: dict[int, Bucket] = {}
    for each in buckets:
        start = each.start // 3600 * 3600
        add(found.setdefault(start, sum_from(start)), each)
    return _table(
        "hours",
        (
            "Hour from",
            "#Requests",
            "#Failed",
            "#Tokens read",
            "#Tokens written",
            "#Kudos",
            "#p50",
            "#p95",
        ),
        [
            _row(
                str(each.start),
                [
                    cell(_clock_time(each.start, "%d %b %H:%M UTC"), each.start),
                    amount(each.requests),
                    amount(each.errors),
                    amount(each.prompt_tokens),
                    amount(each.completion_tokens),
                    amount(each.kudos),
                    span(each.percentile(0.5)),
                    span(each.percentile(0.95)),
                ],
            )
            for each in reversed(found.values())
        ],
        "Nothing yet.",
    )


def account(found: Account | None) -> list[list[str]]:
    """Pairs of a label and a text; one that says so while the horde does not tell."""
    if found is None:
        return [["Account", "The horde does not tell now."]]
    return [
        ["Account", found.name],
        ["Kudos", f"{found.kudos:,.0f}"],
        ["Jobs at once", number(found.concurrency)],
        ["Workers", number(found.workers)],
        ["Trusted", "yes" if found.trusted else "no"],
    ]


def allowance(key: ClientKey, spent: DayUsage) -> list[list[str]]:
    """What a key with daily limits has used today, as further rows of the account."""
    found = []
    if key.tokens_per_day:
        found.append(["Tokens today", f"{number(spent.tokens)} of {number(key.tokens_per_day)}"])
    if key.kudos_per_day:
        found.append(["Kudos today", f"{number(spent.kudos)} of {number(key.kudos_per_day)}"])
    return found


def cell(text: str, value: float | str | None = None) -> Cell:
    """A text, and what it is sorted by."""
    return {"text": text, "value": text.casefold() if value is None else value}


def amount(value: float | None) -> Cell:
    """A number that may be unknown, which sorts before all others."""
    return {"text": number(value), "value": -1 if value is None else value}


def span(value: float | None) -> Cell:
    """Seconds that may be unknown."""
    return {"text": seconds(value), "value": -1 if value is None else value}


def _model(model: Mapping[str, Any], told: Any) -> dict[str, Any]:
    horde = told if isinstance(told, Mapping) else {}
    return _row(
        str(model["id"]),
        [
            cell(str(model["id"])),
            amount(_plain(horde, "workers")),
            amount(_plain(horde, "tokens_per_second") or None),
            amount(_plain(horde, "queued_tokens")),
            amount(_plain(model, "context_length")),
            span(_plain(horde, "expected_seconds")),
            cell(", ".join(model["endpoints"])),
        ],
    )


def _plain(values: Mapping[str, Any], name: str) -> float | None:
    """A number, whatever else a server may have put there."""
    return finite(values.get(name))


def _running_state(each: Mapping[str, Any]) -> Cell:
    state = "writing" if each["has_text"] else str(each["state"])
    if not each["connected"]:
        return {**cell(f"{state}, client left"), "tone": "warn"}
    return {**cell(state), "tone": "good" if state in ("writing", "generating") else "calm"}


def _endpoint_state(each: Mapping[str, Any]) -> Cell:
    state, pause = str(each["state"]), each["retry_in"]
    text = f"cooling, {seconds(pause)} left" if pause else state
    return {**cell(text), "tone": _TONES.get(state, "calm")}


def _clock_time(at: float, pattern: str) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(pattern)


def _row(key: str, cells: list[Cell]) -> dict[str, Any]:
    return {"key": key, "cells": cells}


def _table(name: str, columns: Sequence[str], rows: list[dict[str, Any]], empty: str) -> Table:
    """A "#" before a column's name says that it holds numbers."""
    return {
        "id": name,
        "rows": rows,
        "empty": empty,
        "columns": [
            {"label": each.removeprefix("#"), "numeric": each.startswith("#")} for each in columns
        ],
    }

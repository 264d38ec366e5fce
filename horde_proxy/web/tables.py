"""The page's tables: columns, and rows of cells with a text and a value to sort by.

Pure. All texts are made here; the templates only insert them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from horde_proxy.ledger import ClientKey, DayUsage
from horde_proxy.numbers import finite
from horde_proxy.protocol.models import is_available, writes_text
from horde_proxy.web.history import ErrorRecord, TimeBucket, summing_bucket

if TYPE_CHECKING:
    from horde_proxy.upstreams.horde.accounts import Account
    from horde_proxy.upstreams.horde.shared_keys import SharedKey

Table = dict[str, Any]
Cell = dict[str, Any]
NOTHING = "–"
# Classes in page.css, by the state of a circuit breaker.
_TONES = {
    "up": "good",
    "probing": "warn",
    "waking": "warn",
    "paused": "warn",
    "cooling": "bad",
    "down": "bad",
}


def number(value: float | None) -> str:
    """A number with separated thousands: 1,234 or 1.2 or 1.2 M; a dash for None."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.1f} M"
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"


def seconds(value: float | None) -> str:
    """A duration: 450 ms, 2.5 s, 42 s, 3 min 20 s or 2 h 5 min; a dash for None."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if 0 < value < 1:
        return f"{value * 1000:.0f} ms"
    # Below ten seconds, tenths still matter for comparing endpoints.
    if value < 10:
        return f"{value:.1f} s".replace(".0 s", " s")
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".replace(" 0 s", "")
    return f"{whole // 3600} h {whole % 3600 // 60} min".replace(" 0 min", "")


def running(requests: Iterable[Mapping[str, Any]], now: float) -> Table:
    """The requests that run or wait, oldest first."""
    ordered = sorted(requests, key=lambda request: float(request["began"]))
    return table(
        "running",
        ("Model", "State", "#Position", "#Expected", "#Running for", "Request"),
        [
            row(
                request["id"],
                [
                    text_cell(request["model"]),
                    _running_state(request),
                    number_cell(request["queue_position"]),
                    seconds_cell(request["expected_seconds"]),
                    _elapsed_cell(max(0, int(now) - request["began"])),
                    # Enough of the id to find it in the log.
                    text_cell(request["id"][:8]),
                ],
            )
            for request in ordered
        ],
        "No requests are running or waiting.",
    )


def models(offered: Iterable[Mapping[str, Any]]) -> Table:
    """The available models, by name. `is_chat` of a row: the model may answer a chat."""
    return table(
        "models",
        ("Model", "#Workers", "#Tokens/s", "#Queue (tokens)", "#Context", "#Expected", "Endpoints"),
        [_model_row(model, model.get("horde")) for model in _usable(offered)],
        "No models are available right now.",
    )


def chat_models(offered: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of the available models that may answer a chat."""
    return [str(model["id"]) for model in _usable(offered) if writes_text(model)]


def image_models(offered: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The models that make pictures, by name, each with a label that tells its wait.

    `is_of_horde`: a horde makes the pictures; False: an endpoint that takes requests as they come.
    """
    return [_image_model(model, model.get("horde")) for model in _usable(offered)]


def no_image_endpoint() -> dict[str, str]:
    """What to say where no endpoint makes pictures: a text and a command, which may be ""."""
    text = "No endpoint makes pictures. Add a horde, whose image workers do, to the settings:"
    return {"text": text, "command": '[[endpoints]] type = "horde"'}


def no_image_model_for_key() -> dict[str, str]:
    """What to say to a key that is limited to other models."""
    return {"text": "This key may use none of the models that make pictures.", "command": ""}


def no_image_worker(horde_url: str) -> dict[str, str]:
    """What to say where no image worker is online at any horde."""
    return {
        "text": (
            "No model makes pictures right now, because no image worker is online. Start one with "
            "the command below. It draws the words of a prompt. For real pictures, give it the "
            "address of an image server (AUTOMATIC1111, ComfyUI) in place of painter."
        ),
        "command": (
            f"horde-proxy worker --horde {horde_url.rstrip('/')} --api-key KEY --backend painter"
        ),
    }


def endpoints(states: Iterable[Mapping[str, Any]]) -> Table:
    """The endpoints and their states."""
    return table(
        "endpoints",
        (
            "Endpoint",
            "Type",
            "State",
            "#Models",
            "#Running",
            "#In line",
            "#p50",
            "#p95",
            "Last error",
            "Place",
        ),
        [
            row(
                endpoint["name"],
                [
                    text_cell(endpoint["name"]),
                    text_cell(endpoint["type"]),
                    _endpoint_state(endpoint),
                    number_cell(len(endpoint["models"])),
                    _running_cell(endpoint),
                    number_cell(endpoint["waiting"]),
                    seconds_cell(endpoint["latency"]["p50"]),
                    seconds_cell(endpoint["latency"]["p95"]),
                    text_cell(_endpoint_error(endpoint)),
                    text_cell(endpoint["place"] or NOTHING),
                ],
            )
            for endpoint in states
        ],
        "This key may use no endpoint.",
    )


def _running_cell(endpoint: Mapping[str, Any]) -> Cell:
    """The running requests, and how many may run where that is limited: "2 of 4"."""
    running, most = endpoint["running"], endpoint["max_concurrent"]
    if most is None:
        return number_cell(running)
    return text_cell(f"{number(running)} of {number(most)}", running)


def errors(records: Iterable[ErrorRecord]) -> Table:
    """The latest errors."""
    return table(
        "errors",
        ("Time", "Route", "Model", "Endpoint", "#Status", "Code", "Key"),
        [
            row(
                f"{record.at}-{place}",
                [
                    _time_cell(record.at),
                    text_cell(record.route),
                    text_cell(record.model or NOTHING),
                    text_cell(record.endpoint or NOTHING),
                    text_cell(str(record.status), record.status),
                    text_cell(record.code),
                    text_cell(record.key or NOTHING),
                ],
            )
            for place, record in enumerate(records)
        ],
        "No errors in the last 24 hours.",
    )


def hours(buckets: Sequence[TimeBucket]) -> Table:
    """The last day by the hour, newest first: the numbers of the charts."""
    sums: dict[int, TimeBucket] = {}
    for bucket in buckets:
        start = bucket.start // 3600 * 3600
        sums.setdefault(start, summing_bucket(start)).add(bucket)
    return table(
        "hours",
        (
            "Hour from",
            "#Requests",
            "#Failed",
            "#Tokens read",
            "#In the cache",
            "#Tokens written",
            "#Pictures",
            "#Kudos",
            "#p50",
            "#p95",
        ),
        [_hour_row(hour) for hour in reversed(sums.values())],
        "No requests yet.",
    )


def account(horde_account: Account) -> list[list[str]]:
    """The horde account as pairs of a label and a text. Without a name, it is not known yet."""
    if not horde_account.name:
        return [["Account", "Not available right now."]]
    return [
        ["Account", horde_account.name],
        ["Kudos", f"{horde_account.kudos:,.0f}"],
        *(_shared_key(horde_account.shared_key) if horde_account.shared_key else []),
        ["Concurrent jobs", number(horde_account.concurrency)],
        ["Workers", number(horde_account.workers)],
        ["Trusted", "yes" if horde_account.trusted else "no"],
    ]


def _shared_key(key: SharedKey) -> list[list[str]]:
    """Further pairs for an account that is used through a shared key."""
    pairs = [["Kudos of the shared key", "unlimited" if key.kudos is None else number(key.kudos)]]
    if key.max_text_tokens is not None:
        pairs.append(["Tokens a request", f"at most {number(key.max_text_tokens)}"])
    if key.requests_left is not None:
        pairs.append(["Requests of the shared key", f"{number(key.requests_left)} left"])
    if key.end is not None:
        pairs.append(["Shared key ends", key.end])
    return pairs


def has_daily_limits(key: ClientKey) -> bool:
    """Whether something of a key is limited by the day."""
    return any((key.tokens_per_day, key.kudos_per_day, key.images_per_day))


def daily_limits(key: ClientKey, used: DayUsage) -> list[list[str]]:
    """Today's usage of a key with daily limits, as further pairs for the account."""
    pairs = []
    if key.tokens_per_day:
        pairs.append(["Tokens today", f"{number(used.tokens)} of {number(key.tokens_per_day)}"])
    if key.kudos_per_day:
        pairs.append(["Kudos today", f"{number(used.kudos)} of {number(key.kudos_per_day)}"])
    if key.images_per_day:
        pairs.append(["Images today", f"{number(used.images)} of {number(key.images_per_day)}"])
    return pairs


def text_cell(text: str, value: float | str | None = None) -> Cell:
    """A text, and the value by which it is sorted."""
    return {"text": text, "value": text.casefold() if value is None else value}


def number_cell(value: float | None) -> Cell:
    """A number. None, shown as a dash, sorts before all others."""
    # No number in these tables is negative.
    return {"text": number(value), "value": -1 if value is None else value}


def share_cell(part: int, whole: int) -> Cell:
    """A share in per cent. One of nothing, shown as a dash, sorts before all others."""
    return (
        {"text": f"{100 * part / whole:.0f} %", "value": part / whole}
        if whole
        else number_cell(None)
    )


def seconds_cell(value: float | None) -> Cell:
    """A duration (s). None, shown as a dash, sorts before all others."""
    return {"text": seconds(value), "value": -1 if value is None else value}


def _elapsed_cell(value: float) -> Cell:
    """A duration (s) that goes on: the script counts on from `elapsed`."""
    return {**seconds_cell(value), "elapsed": value}


def _time_cell(at: float) -> Cell:
    """A time (unix s). The script shows `iso` in the reader's time zone."""
    return {
        "text": clock_time(at, "%d %b %H:%M:%S UTC"),
        "value": at,
        "iso": clock_time(at, "%Y-%m-%dT%H:%M:%SZ"),
    }


def _usable(offered: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The available models, by name."""
    available = filter(is_available, offered)
    return sorted(available, key=lambda model: str(model["id"]).casefold())


def _model_row(model: Mapping[str, Any], horde: Any) -> dict[str, Any]:
    """The row of a model. Other servers list models too: any field may be missing or invalid."""
    stats = horde if isinstance(horde, Mapping) else {}
    drawn = row(
        str(model["id"]),
        [
            text_cell(str(model["id"])),
            number_cell(finite(stats.get("workers"))),
            number_cell(finite(stats.get("tokens_per_second")) or None),
            number_cell(finite(stats.get("queued_tokens"))),
            number_cell(finite(model.get("context_length"))),
            seconds_cell(finite(stats.get("expected_seconds"))),
            text_cell(", ".join(model["endpoints"])),
        ],
    )
    return {**drawn, "is_chat": writes_text(model)}


def _image_model(model: Mapping[str, Any], horde: Any) -> dict[str, Any]:
    name, stats = str(model["id"]), horde if isinstance(horde, Mapping) else {}
    expected = finite(stats.get("expected_seconds"))
    label = name if expected is None else f"{name}, about {seconds(expected)}"
    is_of_horde = model.get("type") == "image"
    return {
        "id": name,
        "label": label,
        "expected_seconds": expected,
        "is_of_horde": is_of_horde,
    }


def _hour_row(hour: TimeBucket) -> dict[str, Any]:
    return row(
        str(hour.start),
        [
            text_cell(clock_time(hour.start, "%d %b %H:%M UTC"), hour.start),
            number_cell(hour.requests),
            number_cell(hour.errors),
            number_cell(hour.prompt_tokens),
            share_cell(hour.warm_tokens, hour.known_tokens),
            number_cell(hour.completion_tokens),
            number_cell(hour.images),
            number_cell(hour.kudos),
            seconds_cell(hour.percentile(0.5)),
            seconds_cell(hour.percentile(0.95)),
        ],
    )


def _running_state(request: Mapping[str, Any]) -> Cell:
    state = "writing" if request["has_text"] else str(request["state"])
    if not request["connected"]:
        return {**text_cell(f"{state}, client left"), "tone": "warn"}
    return {**text_cell(state), "tone": "good" if state in ("writing", "generating") else "calm"}


def _endpoint_state(endpoint: Mapping[str, Any]) -> Cell:
    state, cooldown = str(endpoint["state"]), endpoint["retry_in"]
    text = f"cooling, {seconds(cooldown)} left" if cooldown else state
    if penalties := endpoint.get("penalties"):
        longest = penalties[0]
        state, text = "down", f"{longest['code']}, {seconds(longest['seconds_left'])} left"
    return {**text_cell(text), "tone": _TONES.get(state, "calm")}


def _endpoint_error(endpoint: Mapping[str, Any]) -> str:
    """What the server has forbidden this proxy for a time, or else its last error."""
    penalties = endpoint.get("penalties")
    return str(penalties[0]["message"] if penalties else endpoint["last_error"] or NOTHING)


def clock_time(at: float, pattern: str) -> str:
    """A Unix time in UTC, by a pattern of strftime."""
    return datetime.fromtimestamp(at, UTC).strftime(pattern)


def row(key: str, cells: list[Cell]) -> dict[str, Any]:
    """A row of a table; `key` names it."""
    return {"key": key, "cells": cells}


def table(name: str, columns: Sequence[str], rows: list[dict[str, Any]], empty: str) -> Table:
    """A table. A "#" before a column's label marks a column of numbers."""
    return {
        "id": name,
        "rows": rows,
        "empty": empty,
        "columns": [
            {"label": label.removeprefix("#"), "numeric": label.startswith("#")}
            for label in columns
        ],
    }

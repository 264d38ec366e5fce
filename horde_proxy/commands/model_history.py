"""`horde-proxy models --history`: what the models of a horde had, in the last day or days."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from horde_proxy.commands import proxy_client
from horde_proxy.commands.table import aligned

EVERY_MODEL = "*"
"""The value of --history without a name."""
_BLOCKS = "▁▂▃▄▅▆▇█"
_NO_SAMPLES = " "
_MOST_MODELS = 200
"""Models of one page, as many as the proxy gives at once."""
_MOST_SPARKS = 31
"""Steps in a sparkline of days; a day's has its 24 hours."""

Answer = dict[str, Any]


def load(base: str, name: str, days: int, kind: str, words: str) -> Answer:
    """The history of one model, or of all with these words in their names. Raises ClickException.

    It is in steps of hours for a day, and of days for more.
    """
    query = {"days": days, "step": "hour" if days == 1 else "day", "type": kind}
    if name != EVERY_MODEL:
        return _got(base, "/horde/history", {**query, "model": name})
    answer = _got(base, "/horde/history/models", {**query, "limit": _MOST_MODELS})
    while answer["has_more"]:
        offset = len(answer["data"])
        page = _got(
            base, "/horde/history/models", {**query, "limit": _MOST_MODELS, "offset": offset}
        )
        answer["data"] += page["data"]
        # A page without models would be read for ever.
        answer["has_more"] = page["has_more"] and bool(page["data"])
    matches = [row for row in answer["data"] if words.casefold() in str(row["name"]).casefold()]
    return {**answer, "data": matches, "total_count": len(matches), "returned_count": len(matches)}


def lines(answer: Answer) -> list[str]:
    """The table of a history: of all models, or of one by hour or day."""
    if not answer["data"]:
        return ["No samples of that time: the proxy has not run, or the horde was down."]
    return _of_steps(answer) if "model" in answer else _of_models(answer["data"])


def sparkline(values: Sequence[float | None]) -> str:
    """A block for each value, the highest full; a blank where nothing is known."""
    top = max((value for value in values if value is not None), default=0)
    return "".join(_block(value, top) for value in values)


def _block(value: float | None, top: float) -> str:
    if value is None:
        return _NO_SAMPLES
    # A value above 0 is never drawn as 0.
    step = max(round(value / top * (len(_BLOCKS) - 1)), 1) if value and top else 0
    return _BLOCKS[step]


def _of_models(models: Sequence[Mapping[str, Any]]) -> list[str]:
    heading = ["MODEL", "WORKERS", "QUEUED", "SPEED", "LAST SEEN", "WORKERS OVER TIME"]
    rows = [
        [
            str(model["name"]),
            _number(model["worker_count"], 1),
            _number(model["queued"], 0),
            _number(model["performance"], 1),
            _time(model["last_seen_at"]),
            sparkline(model["worker_counts"][-_MOST_SPARKS:]),
        ]
        for model in models
    ]
    return aligned([heading, *rows])


def _of_steps(answer: Answer) -> list[str]:
    is_daily = answer["step"] == "day"
    heading = ["DAY" if is_daily else "HOUR", "WORKERS", "THREADS", "QUEUED", "SPEED", ""]
    rows = answer["data"]
    sparks = sparkline([row["worker_count"] for row in rows])
    table = [
        [
            _time(row["at"], is_daily=is_daily),
            _number(row["worker_count"], 1),
            _number(row["threads"], 1),
            _number(row["queued"], 0),
            _number(row["performance"], 1),
            spark,
        ]
        for row, spark in zip(rows, sparks, strict=True)
    ]
    return aligned([heading, *table])


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _time(at: float | None, *, is_daily: bool = False) -> str:
    """The UTC day, or hour, of a Unix time, as in "01-31 12 h"."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d" if is_daily else "%m-%d %H h")


def _got(base: str, path: str, query: Mapping[str, Any]) -> Answer:
    answer: Answer = proxy_client.get(base, f"{path}?{urlencode(query)}")
    return answer

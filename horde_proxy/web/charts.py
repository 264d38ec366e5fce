"""The last day as charts: titles, descriptions and the paths to draw. Pure.

The template and the script draw the same paths; neither computes anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from horde_proxy.web.history import BUCKET_SECONDS, BUCKETS, Bucket
from horde_proxy.web.tables import number, seconds

WIDTH, HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 6, 10, 22
_ROUND = (1, 2, 4, 6, 10)
_HOURS = (24, 18, 12, 6, 0)
_GAP = 0.4

Series = Sequence[float | None]


def charts(buckets: Sequence[Bucket]) -> list[dict[str, Any]]:
    """Requests, latency and tokens, each as JSON: id, title, desc, legend, lines, ticks, marks."""
    good: Series = [each.requests - each.errors for each in buckets]
    bad: Series = [each.errors for each in buckets]
    median = [each.percentile(0.5) for each in buckets]
    slow = [each.percentile(0.95) for each in buckets]
    read: Series = [each.prompt_tokens for each in buckets]
    written: Series = [each.completion_tokens for each in buckets]
    total, failed = sum(each.requests for each in buckets), sum(each.errors for each in buckets)
    return [
        _bars(
            "requests",
            "Requests",
            [("good", "answered", good), ("bad", "failed", bad)],
            f"{number(total)} request{'s' * (total != 1)} in the last 24 hours, "
            f"{number(failed)} of them failed.",
            _short,
        ),
        _lines(
            "latency",
            "Seconds to the end",
            [
                ("good", "half within", median),
                ("warn", "95 % within", slow),
            ],
            _told_latency(buckets),
        ),
        _bars(
            "tokens",
            "Tokens",
            [("good", "read", read), ("warn", "written", written)],
            f"{number(sum(each.prompt_tokens for each in buckets))} tokens read and "
            f"{number(sum(each.completion_tokens for each in buckets))} written in the last 24 "
            "hours.",
            _short,
        ),
    ]


def _short(value: float) -> str:
    """A number beside an axis, where there is little room: 950, 2.5, 40 k or 1.2 M."""
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e4 else number(value)


def _told_latency(buckets: Sequence[Bucket]) -> str:
    median = [value for each in buckets if (value := each.percentile(0.5)) is not None]
    if not median:
        return "No request ended well in the last 24 hours."
    return (
        f"Half of the requests of ten minutes took from {seconds(min(median))} to "
        f"{seconds(max(median))} in the last 24 hours."
    )


def _bars(
    name: str,
    title: str,
    series: list[tuple[str, str, Series]],
    desc: str,
    told: Callable[[float], str],
) -> dict[str, Any]:
    sums = [
        sum(value or 0 for value in values) for values in zip(*(s[2] for s in series), strict=True)
    ]
    top = _ceiling(max(sums))
    below: list[float] = [0.0] * len(sums)
    marks = []
    for tone, _, values in series:
        marks.append({"tone": tone, "kind": "bar", "d": _stacked(values, below, top)})
        below = [start + (value or 0) for start, value in zip(below, values, strict=True)]
    return _chart(name, title, desc, series, marks, top, told)


def _lines(
    name: str, title: str, series: list[tuple[str, str, Series]], desc: str
) -> dict[str, Any]:
    top = _ceiling(max((value for each in series for value in each[2] if value), default=0))
    marks = [
        {"tone": tone, "kind": "line", "d": _joined(values, top)} for tone, _, values in series
    ]
    return _chart(name, title, desc, series, marks, top, seconds)


def _chart(
    name: str,
    title: str,
    desc: str,
    series: list[tuple[str, str, Series]],
    marks: list[dict[str, Any]],
    top: float,
    told: Callable[[float], str],
) -> dict[str, Any]:
    right = WIDTH - _RIGHT
    ticks = [
        {
            "x": _LEFT - 5,
            "y": round(_y(part * top, top) + 4, 1),
            "anchor": "end",
            "text": told(part * top),
        }
        for part in (0, 0.5, 1)
    ]
    for hours in _HOURS:
        x = _x(BUCKETS - hours * 3600 / BUCKET_SECONDS)
        anchor = "start" if hours == _HOURS[0] else "end" if hours == 0 else "middle"
        text = f"−{hours} h" if hours else "now"
        ticks.append({"x": round(x, 1), "y": HEIGHT - 5, "anchor": anchor, "text": text})
    return {
        "id": name,
        "title": title,
        "desc": desc,
        "width": WIDTH,
        "height": HEIGHT,
        "legend": [{"tone": tone, "label": label} for tone, label, _ in series],
        "lines": "".join(f"M{_LEFT} {_y(part * top, top):.1f}H{right}" for part in (0, 0.5, 1)),
        "ticks": ticks,
        "marks": marks,
    }


def _stacked(values: Series, below: Sequence[float], top: float) -> str:
    """One bar for each value, on top of what is below it."""
    width = max(_x(1) - _x(0) - _GAP, 0.5)
    return "".join(
        f"M{_x(place):.1f} {_y(start, top):.1f}V{_y(start + value, top):.1f}h{width:.1f}"
        f"V{_y(start, top):.1f}z"
        for place, (value, start) in enumerate(zip(values, below, strict=True))
        if value
    )


def _joined(values: Series, top: float) -> str:
    """A line through the values, broken where there is none; one alone becomes a dot."""
    found, is_drawn = [], False
    for place, value in enumerate(values):
        if value is not None:
            x, y = _x(place + 0.5), _y(value, top)
            found.append(f"L{x:.1f} {y:.1f}" if is_drawn else f"M{x:.1f} {y:.1f}h0.1")
        is_drawn = value is not None
    return "".join(found)


def _x(place: float) -> float:
    return _LEFT + place * (WIDTH - _LEFT - _RIGHT) / BUCKETS


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - value / top * (HEIGHT - _TOP - _BOTTOM)


def _ceiling(value: float) -> float:
    """A round number that is not less, and whose half is round too; at least 2."""
    if value <= 2:
        return 2
    power = 10.0 ** math.floor(math.log10(value))
    return next(each * power for each in (*_ROUND, 20) if each * power >= value)

"""Charts of values over time: titles, descriptions, and the SVG paths to draw. Pure.

`charts` are those of the last day; `bars` and `lines` draw others. All lengths are in units of the
SVG's viewBox. The template only inserts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from horde_proxy.web.history import BUCKET_SECONDS, BUCKETS, TimeBucket
from horde_proxy.web.tables import number, seconds

WIDTH, HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 6, 10, 22
"""The margins, with room for the labels of the axes."""
_ROUND = (1, 2, 4, 6, 10, 20)
"""The top of an axis is one of these times a power of ten. Half of it is a round number, too."""
_GAP = 0.4
"""The gap between two bars."""


class TimeAxis(NamedTuple):
    """An axis with room for so many values; each label is a place among them, and its text."""

    places: int
    labels: Sequence[tuple[float, str]]

    @classmethod
    def back(cls, places: int, ago: Sequence[int], per_label: float, unit: str) -> TimeAxis:
        """The axis up to now, with labels so many units ago, `per_label` values each."""
        # A true minus sign, which is as wide as a digit.
        texts = [f"−{count} {unit}" if count else "now" for count in ago]
        places_ago = [places - count * per_label for count in ago]
        return cls(places, list(zip(places_ago, texts, strict=True)))


_LAST_DAY = TimeAxis.back(BUCKETS, (24, 18, 12, 6, 0), 3600 / BUCKET_SECONDS, "h")


class Series(NamedTuple):
    """A value for each bucket; None if nothing was measured in it. `tone` is the colour."""

    tone: str
    label: str
    values: Sequence[float | None]


def charts(buckets: Sequence[TimeBucket]) -> list[dict[str, Any]]:
    """Requests, latency, tokens and pictures, each as JSON.

    Fields: id, title, desc, legend, lines, ticks, marks.
    """
    return [_requests(buckets), _latency(buckets), _tokens(buckets), _pictures(buckets)]


def _requests(buckets: Sequence[TimeBucket]) -> dict[str, Any]:
    total = sum(bucket.requests for bucket in buckets)
    failed = sum(bucket.errors for bucket in buckets)
    return bars(
        _LAST_DAY,
        "requests",
        "Requests",
        [
            Series("good", "answered", [bucket.requests - bucket.errors for bucket in buckets]),
            Series("bad", "failed", [bucket.errors for bucket in buckets]),
        ],
        f"{number(total)} request{'s' * (total != 1)} in the last 24 hours, "
        f"{number(failed)} of them failed.",
    )


def _latency(buckets: Sequence[TimeBucket]) -> dict[str, Any]:
    medians = [bucket.percentile(0.5) for bucket in buckets]
    measured = [value for value in medians if value is not None]
    desc = "No request succeeded in the last 24 hours."
    if measured:
        desc = (
            f"The median of ten minutes was between {seconds(min(measured))} and "
            f"{seconds(max(measured))} in the last 24 hours."
        )
    return lines(
        _LAST_DAY,
        "latency",
        "Latency",
        [
            Series("good", "median", medians),
            Series("warn", "95th percentile", [bucket.percentile(0.95) for bucket in buckets]),
        ],
        desc,
    )


def _tokens(buckets: Sequence[TimeBucket]) -> dict[str, Any]:
    read = [bucket.prompt_tokens for bucket in buckets]
    written = [bucket.completion_tokens for bucket in buckets]
    return bars(
        _LAST_DAY,
        "tokens",
        "Tokens",
        [Series("good", "read", read), Series("warn", "written", written)],
        f"{number(sum(read))} tokens read and {number(sum(written))} written in the last 24 hours."
        f"{_warm(buckets)}",
    )


def _warm(buckets: Sequence[TimeBucket]) -> str:
    """A sentence on what servers had in their caches; "" where none of them says it."""
    warm = sum(bucket.warm_tokens for bucket in buckets)
    known = sum(bucket.known_tokens for bucket in buckets)
    if not known:
        return ""
    share = 100 * warm / known
    return f" Of the tokens read, {share:.0f} % were in a server's cache, where servers say so."


def _pictures(buckets: Sequence[TimeBucket]) -> dict[str, Any]:
    total = sum(bucket.images for bucket in buckets)
    return bars(
        _LAST_DAY,
        "pictures",
        "Pictures",
        [Series("good", "made", [bucket.images for bucket in buckets])],
        f"{number(total)} picture{'s' * (total != 1)} made in the last 24 hours.",
    )


def bars(
    axis: TimeAxis, name: str, title: str, series: Sequence[Series], desc: str
) -> dict[str, Any]:
    """A chart of stacked bars, as JSON."""
    columns = zip(*(line.values for line in series), strict=True)
    top = _axis_top(max(sum(value or 0 for value in column) for column in columns))
    below: list[float] = [0.0] * len(series[0].values)
    marks = []
    for tone, _, values in series:
        marks.append({"tone": tone, "kind": "bar", "d": _bar_path(axis, values, below, top)})
        below = [start + (value or 0) for start, value in zip(below, values, strict=True)]
    return _chart(name, title, desc, series, marks, _ticks(axis, top, short))


def lines(
    axis: TimeAxis,
    name: str,
    title: str,
    series: Sequence[Series],
    desc: str,
    label: Callable[[float], str] = seconds,
) -> dict[str, Any]:
    """A chart with a line for each series, as JSON; `label` writes a value at the axis."""
    top = _axis_top(max((value for line in series for value in line.values if value), default=0))
    marks = [
        {"tone": tone, "kind": "line", "d": _line_path(axis, values, top)}
        for tone, _, values in series
    ]
    return _chart(name, title, desc, series, marks, _ticks(axis, top, label))


def _chart(
    name: str,
    title: str,
    desc: str,
    series: Sequence[Series],
    marks: list[dict[str, Any]],
    ticks: list[dict[str, Any]],
) -> dict[str, Any]:
    right = WIDTH - _RIGHT
    return {
        "id": name,
        "title": title,
        "desc": desc,
        "width": WIDTH,
        "height": HEIGHT,
        "legend": [{"tone": tone, "label": label} for tone, label, _ in series],
        "lines": "".join(f"M{_LEFT} {_y(part, 1):.1f}H{right}" for part in (0, 0.5, 1)),
        "ticks": ticks,
        "marks": marks,
    }


def _ticks(axis: TimeAxis, top: float, label: Callable[[float], str]) -> list[dict[str, Any]]:
    """The labels of both axes."""
    ticks = [
        {
            "x": _LEFT - 5,
            "y": round(_y(part, 1) + 4, 1),
            "anchor": "end",
            "text": label(part * top),
        }
        for part in (0, 0.5, 1)
    ]
    for place, text in axis.labels:
        anchor = "start" if place == 0 else "end" if place == axis.places else "middle"
        x = round(_x(axis, place), 1)
        ticks.append({"x": x, "y": HEIGHT - 5, "anchor": anchor, "text": text})
    return ticks


def short(value: float) -> str:
    """A short number for the label of an axis: 950, 2.5, 40 k or 1.2 M."""
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e4 else number(value)


def _bar_path(
    axis: TimeAxis, values: Sequence[float | None], below: Sequence[float], top: float
) -> str:
    """A bar for each value, which starts at the height in `below`."""
    # Bars thinner than half a unit vanish on small screens.
    width = max(_x(axis, 1) - _x(axis, 0) - _GAP, 0.5)
    return "".join(
        f"M{_x(axis, place):.1f} {_y(start, top):.1f}V{_y(start + value, top):.1f}h{width:.1f}"
        f"V{_y(start, top):.1f}z"
        for place, (value, start) in enumerate(zip(values, below, strict=True))
        if value
    )


def _line_path(axis: TimeAxis, values: Sequence[float | None], top: float) -> str:
    """A line through the values, with a gap for each None. A single value becomes a dot."""
    parts, is_drawing = [], False
    for place, value in enumerate(values):
        if value is not None:
            x, y = _x(axis, place + 0.5), _y(value, top)
            # A path without length would not be drawn: 0.1 with round caps makes a dot.
            parts.append(f"L{x:.1f} {y:.1f}" if is_drawing else f"M{x:.1f} {y:.1f}h0.1")
        is_drawing = value is not None
    return "".join(parts)


def _x(axis: TimeAxis, place: float) -> float:
    """The left edge of the value with this index."""
    return _LEFT + place * (WIDTH - _LEFT - _RIGHT) / axis.places


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - value / top * (HEIGHT - _TOP - _BOTTOM)


def _axis_top(value: float) -> float:
    """The next number in `_ROUND` times a power of ten; at least 2."""
    if value <= 2:
        return 2
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in _ROUND if factor * power >= value)

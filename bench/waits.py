"""Polls and lateness of jobs that take 1 to 60 s, of models that were measured and that were not.

Each length has a model of its own, so that its speed is steady: its jobs take up to a tenth more
or less, and in a last wave up to a half. A model was not measured until its first job has ended.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bench.lab import Answer, Lab, at, crowd, get, row, streamed, until_offered

LENGTHS = (1, 3, 7, 15, 60)
CHATS = 24
"""Of each length."""
STEADY, VARIED = 0.1, 0.5
"""How much more or less than their length jobs take, as a share of it."""
JITTER = 0.5
"""Seconds by which chats of a length begin apart: all of them before the first one ends."""
MEDIAN_GOAL, P95_GOAL = 0.4, 1.0
"""Seconds of lateness, over all lengths."""


def unmeasured_polls(seconds: float) -> float:
    """Most polls of a model that was not measured: one a second after the first five."""
    return 5 + seconds


def measured_polls(seconds: float) -> float:
    return seconds / 2 + 3


def model(length: int) -> str:
    return f"bench/{length}-seconds"


def measure(lab: Lab) -> None:
    with crowd(lab.horde, "lengths", *map(model, LENGTHS)):
        until_offered(lab.proxy.url, *map(model, LENGTHS))
        before = _wave(lab, "not measured", STEADY, unmeasured_polls)
        after = _wave(lab, "measured", STEADY, measured_polls)
        varied = _wave(lab, "measured, varied", VARIED, measured_polls)
    _show_lateness("not measured", before)
    _show_lateness("measured", after, P95_GOAL)
    _show_lateness("both", before + after, P95_GOAL, MEDIAN_GOAL)
    _show_lateness("measured, varied", varied)


def _wave(lab: Lab, known: str, spread: float, most: Callable[[float], float]) -> list[float]:
    """The lateness of all chats of a wave."""

    def chat(number: int) -> tuple[Answer, int]:
        place, step = divmod(number, CHATS)
        longest = LENGTHS[place] * (1 + spread)
        seconds = longest - 2 * spread * LENGTHS[place] * step / (CHATS - 1)
        # The longest begins first, so that they end in no order: what was measured last counts
        # most. The lengths begin one after the other, for the sake of the machine.
        time.sleep(place + longest - seconds + step * 7 % CHATS / CHATS * JITTER)
        answer = streamed(lab.proxy.url, seconds, model(LENGTHS[place]))
        return answer, int(get(f"{lab.horde}/calls/{answer.request_id}"))

    numbers = range(len(LENGTHS) * CHATS)
    with ThreadPoolExecutor(len(numbers)) as pool:
        answers = list(pool.map(chat, numbers))
    for place, length in enumerate(LENGTHS):
        own = answers[place * CHATS : (place + 1) * CHATS]
        late = [answer.late for answer, _ in own]
        polls = [count for _, count in own]
        row(
            f"jobs of {length} s, {known}: polls, most; lateness p50, p95",
            f"{statistics.mean(polls):.1f}, {max(polls)}; "
            f"{statistics.median(late):.2f} s, {at(late, 0.95):.2f} s",
            f"{most(length):g} polls",
            is_met=all(count <= most(answer.total) for answer, count in own),
        )
    return [answer.late for answer, _ in answers]


def _show_lateness(
    known: str, late: list[float], p95_goal: float = 0.0, median_goal: float = 0.0
) -> None:
    median, p95 = statistics.median(late), at(late, 0.95)
    goals = [f"{goal} s" for goal in (median_goal, p95_goal) if goal]
    row(
        f"jobs of all lengths, {known}: lateness p50, p95",
        f"{median:.2f} s, {p95:.2f} s",
        ", ".join(goals),
        is_met=not (0 < median_goal < median) and not (0 < p95_goal < p95),
    )

"""The history with whole processes: one PostgreSQL that two of them write to, and a browser."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from horde_proxy.stats.history.database import open_history
from horde_proxy.stats.history.records import (
    HOUR,
    EndpointFacts,
    EndpointKey,
    HordeFacts,
    HordeKey,
    Period,
    duration_step,
    hour_of,
)
from tests.live.chromium import PROGRAM, Chromium
from tests.live.postgresql import needs_postgresql
from tests.live.processes import Processes
from tests.live.test_page import axe, looked_at, serving
from tests.support import Scripted, World
from tests.test_stats_history import NOON, ONE_DAY, HistoryBehaviour

__all__ = ["axe"]

WRITER = """
import sys
from horde_proxy.api.access_log import RequestLog
from horde_proxy.stats.history.database import open_history
from horde_proxy.stats.history.hourly_facts import HourlyFacts
from horde_proxy.stats.history.sampling import facts_of

url, noon = sys.argv[1], int(sys.argv[2])
facts = HourlyFacts(now=lambda: noon + 60.0)
facts.configure(open_history(url), 90)
status = [{"name": f"Model-{number}-8B", "count": 1, "performance": 5.0} for number in range(40)]
for round in range(25):
    facts._add_sample("horde", "text", facts_of(status, []))
    for number in range(40):
        # The two processes meet the models in opposite orders.
        model = str(number if sys.argv[3] == "up" else 39 - number)
        facts.add(
            RequestLog(
                "id", "POST", "/v1/chat/completions", "127.0.0.1", 200, 4.0, model, None, "box",
                first_text=0.5, account="anybody", prompt_tokens=10, completion_tokens=1,
            )
        )
    facts.write(everything=True)
"""


@needs_postgresql
class TestPostgreSQLHistory(HistoryBehaviour):
    """All that the history does, here as well."""


@needs_postgresql
def test_two_processes_that_write_one_hour_add_up(url: str) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, str(NOON), order])
        for order in ("up", "down")
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    database = open_history(url)
    counts = database.endpoints(ONE_DAY)
    assert counts == {
        EndpointKey(NOON, "box", str(number), ""): EndpointFacts(
            50, 0, 500, 50, first=Counter({-8: 50}), whole=Counter({16: 50})
        )
        for number in range(40)
    }
    sums = database.horde("horde", "text", ONE_DAY)
    assert len(sums) == 41
    assert sums[HordeKey(NOON, "horde", "text", "model-7-8b")] == HordeFacts(
        "Model-7-8B", 50, 0, 50, 0.0, 0.0, 250.0, 50
    )
    database.close()


def test_a_proxy_that_ends_has_written_its_hour(processes: Processes, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/history.db"
    url = processes.serve_horde(stats__history_database=database)
    processes.work(url)
    body = {"model": "horde-proxy/echo", "messages": [{"role": "user", "content": "Hi"}]}
    assert requests.post(f"{url}/v1/chat/completions", json=body, timeout=60).ok
    processes.end()
    history = open_history(database)
    hour = hour_of(time.time())
    [(key, counts)] = history.endpoints(Period(hour - HOUR, hour + 2 * HOUR, HOUR)).items()
    assert (key.endpoint, key.model) == ("private", "horde-proxy/echo")
    assert (counts.requests, counts.failures, counts.whole.total()) == (1, 0, 1)
    history.close()


def waves(now: float) -> tuple[dict[HordeKey, HordeFacts], dict[EndpointKey, EndpointFacts]]:
    """A week of a horde with two models, and of an endpoint; nothing is known of two days ago."""
    hordes, endpoints = {}, {}
    for ago in range(168):
        if 40 <= ago < 52:
            continue
        hour, wave = hour_of(now) - ago * HOUR, 1 + math.sin(ago / 24 * 2 * math.pi)
        for kind, speed in (("text", 18.0), ("image", 4e6)):
            workers = round(12 * (8 + 6 * wave))
            whole = HordeFacts("", 12, workers, 2 * workers, 0.0, 40 * wave)
            big = HordeFacts(
                "Big-8B", 12, workers // 3, workers // 2, 0.0, 9 * wave, speed * 12, 12
            )
            hordes[HordeKey(hour, "horde", kind, "")] = whole
            hordes[HordeKey(hour, "horde", kind, "big-8b")] = replace(big)
            hordes[HordeKey(hour, "horde", kind, "small-1b")] = replace(big, name="Small-1B")
        count = round(40 * wave)
        endpoints[EndpointKey(hour, "box", "m", "")] = EndpointFacts(
            count,
            min(ago % 5, count),
            4000 * count,
            300 * count,
            4000 * count,
            2500 * count,
            Counter({duration_step(0.4 + wave): 20, duration_step(3 + wave): 2}),
            Counter({duration_step(8 + wave): 20, duration_step(30 + 9 * wave): 2}),
        )
    return hordes, endpoints


@pytest.mark.skipif(not PROGRAM, reason="chromium is not installed")
def test_the_week_is_readable_on_a_phone_and_in_the_dark(
    browser: Chromium, axe: str, artefacts: Path
) -> None:
    world = World()
    world.clock.seconds = NOON + 30 * 60
    world.employ(Scripted("Hello."))
    app = world.app()
    facts: Any = app.extensions["horde_proxy"].live.hourly
    facts.database.add(*waves(world.clock()))
    with serving(app) as url:
        browser.size(1280)
        browser.open(url)
        browser.until("document.querySelectorAll('#week svg').length === 8")
        browser.evaluate("document.querySelectorAll('#week details').forEach((d) => d.open = true)")
        assert looked_at(browser, axe, artefacts, "week") == []
        browser.evaluate("document.getElementById('week-model').value = 'text Big-8B'")
        browser.evaluate("document.querySelector('#week form').requestSubmit()")
        browser.until("document.getElementById('chart-week-model-speed') !== null")
        assert browser.evaluate("location.search + location.hash") == "?model=text+Big-8B#week"
        assert looked_at(browser, axe, artefacts, "week-model") == []
        assert browser.console == []

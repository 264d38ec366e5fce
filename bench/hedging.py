"""One of two workers stalls for a minute: 50 chats with `routing.hedge`, and as many without."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from bench.lab import (
    CLIENT_KEY,
    Answer,
    Lab,
    at,
    crowd,
    get,
    proxy,
    row,
    session,
    streamed,
    until_offered,
)

CHATS, CLIENTS = 50, 10
SECONDS, SPREAD = 3.0, 0.5
"""Of each job, and so much more or less."""
STALL_AFTER, STALL = 1.0, 60.0
"""Seconds from the first chat, and for which the worker stands still with the jobs that it has."""
_SETTLED = 5.0
"""Seconds until the horde has charged everything: see horde.SETTLE_EVERY."""


def measure(lab: Lab) -> None:
    """A proxy with each setting, one after the other, before two workers of their own."""
    slow, quick = (_p95(lab, is_on) for is_on in (False, True))
    row("one of two workers stalls, hedge: p95 less", f"{slow - quick:.1f} s", is_met=quick < slow)


def _p95(lab: Lab, is_on: bool) -> float:
    """The p95 of the chats (s); its rows are added to the table."""
    name = "on" if is_on else "off"
    model = f"bench/hedge-{name}"
    settings = {"AI_HORDE_API_KEY": CLIENT_KEY, "HORDE_PROXY_ROUTING__HEDGE": str(is_on).lower()}
    with (
        crowd(lab.horde, f"steady-{name}", model),
        crowd(lab.horde, f"stalling-{name}", model) as stalling,
        proxy(lab.horde, **settings) as served,
    ):
        until_offered(served.url, model)
        # What is usual is known before.
        usual = _chats(served.url, model)
        time.sleep(_SETTLED)
        before, submits = _balance(lab.horde), _submits(lab.horde)
        resumed = threading.Event()

        def stall() -> None:
            time.sleep(STALL_AFTER)
            stalling.send_signal(signal.SIGSTOP)
            time.sleep(STALL)
            stalling.send_signal(signal.SIGCONT)
            resumed.set()

        threading.Thread(target=stall).start()
        total = _chats(served.url, model)
        submits = _submits(lab.horde) - submits
        # What it had is handed in, and charged, when it goes on.
        resumed.wait()
        time.sleep(_SETTLED)
        spent = before - _balance(lab.horde)
    row(
        f"one of two workers stalls {STALL:.0f} s, hedge {name}: p50, p95, longest; usual p95",
        f"{statistics.median(total):.1f} s, {at(total, 0.95):.1f} s, {max(total):.1f} s; "
        f"{at(usual, 0.95):.1f} s",
    )
    row(f"the same: kudos spent, requests of {CHATS} chats", f"{spent:.1f}, {submits}")
    return at(total, 0.95)


def _chats(url: str, model: str) -> list[float]:
    """The seconds of each of the chats, of so many clients who send one after the other."""

    def chat(number: int) -> Answer:
        seconds = SECONDS - SPREAD + 2 * SPREAD * (number * 7 % CHATS) / CHATS
        return streamed(url, seconds, model)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [answer.total for answer in pool.map(chat, range(CHATS))]


def _balance(horde: str) -> float:
    headers = {"apikey": CLIENT_KEY}
    user = session().get(f"{horde}/api/v2/find_user", headers=headers, timeout=30).json()
    return float(user["kudos"])


def _submits(horde: str) -> int:
    return int(get(f"{horde}/calls").get("POST", 0))

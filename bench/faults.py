"""What a horde does to clients: kudos that come late, an outage, a worker that vanishes."""

from __future__ import annotations

import re
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from urllib.parse import urlsplit

from bench.crowd import pop_body, post
from bench.lab import (
    CLIENT_KEY,
    HOST,
    OWNER_KEY,
    Answer,
    Lab,
    at,
    crowd,
    free_port,
    get,
    proxy,
    row,
    running,
    session,
    streamed,
    until,
    until_answering,
    until_offered,
    whole,
)

# Kudos.

ANSWERS = 100
TOLD_AFTER = 5.0
"""Seconds after the last answer at which what was told and what was charged must agree."""
MOST_DIFFERENCE = 0.01
_ECHO = "--backend echo --threads 20 --speed 200 --idle 0.1"
_SETTLED = 3.5
"""Seconds until the horde has charged everything: see horde.SETTLE_EVERY."""


def measure_kudos(lab: Lab) -> None:
    """Answers of 30 to 600 tokens, half of them streams, of which the long ones are chains."""
    worker = ["-m", "horde_proxy", "worker", "--horde", lab.horde, *_ECHO.split()]
    with (
        running(*worker, AI_HORDE_API_KEY=OWNER_KEY),
        proxy(lab.horde, AI_HORDE_API_KEY=CLIENT_KEY) as served,
    ):
        until_offered(served.url, "horde-proxy/echo")
        before = _balance(lab.horde)
        with ThreadPoolExecutor(20) as pool:
            in_answers = list(pool.map(lambda n: _kudos_of_answer(served.url, n), range(ANSWERS)))
        time.sleep(TOLD_AFTER)
        told = _kudos_of_metrics(served.url)
        time.sleep(_SETTLED)
        charged = before - _balance(lab.horde)
    difference = abs(told - charged) / charged
    row(
        f"kudos of {ANSWERS} answers: charged, told in the answers, told {TOLD_AFTER:.0f} s later",
        f"{charged:.2f}, {sum(in_answers):.2f}, {told:.2f}",
    )
    row(
        f"kudos told {TOLD_AFTER:.0f} s later: difference to those charged",
        f"{difference:.2%}",
        f"{MOST_DIFFERENCE:.0%}",
        is_met=difference <= MOST_DIFFERENCE,
    )


def _balance(horde: str) -> float:
    headers = {"apikey": CLIENT_KEY}
    user = session().get(f"{horde}/api/v2/find_user", headers=headers, timeout=30).json()
    return float(user["kudos"])


def _kudos_of_answer(url: str, number: int) -> float:
    tokens = 30 + number * 37 % 570
    text = " ".join(f"word{number + place}" for place in range(tokens // 3))
    chat = {
        "model": "horde-proxy/echo",
        "messages": [{"role": "user", "content": text}],
        "stream": number % 2 == 1,
        "stream_options": {"include_usage": True},
    }
    answer = session().post(f"{url}/v1/chat/completions", json=chat, timeout=400)
    assert answer.ok and '"error"' not in answer.text, answer.text
    return float(re.findall(r'"kudos": ?([\d.]+)', answer.text)[-1])


def _kudos_of_metrics(url: str) -> float:
    text = session().get(f"{url}/metrics", timeout=30).text
    return sum(map(float, re.findall(r"^horde_proxy_kudos_total\{.*\} (\S+)$", text, re.M)))


# An outage.

OUTAGE = 150.0
"""Seconds."""
WAITING, NEW = 50, 10
"""Chats that wait when it begins, and that come in the midst of it; every fifth in one piece."""
_OUTAGE_MODEL = "bench/outage"


def measure_outage(lab: Lab) -> None:
    """Nobody reaches the horde, neither the proxy nor the worker; the horde keeps its requests.

    It takes the jobs from the worker after 150 s, so that they have to be done twice.
    """
    port, target = str(free_port()), str(urlsplit(lab.horde).port)
    url = f"http://{HOST}:{port}"

    def chat(number: int) -> Answer:
        ask = whole if number % 5 == 4 else streamed
        return ask(served.url, 10 + number % 50, _OUTAGE_MODEL)

    with ExitStack() as link, ThreadPoolExecutor(WAITING + NEW) as pool:
        link.enter_context(running("-m", "bench.link", port, target))
        until_answering(f"{url}/api/v2/status/heartbeat")
        with crowd(url, "outage", _OUTAGE_MODEL), proxy(url) as served:
            until_offered(served.url, _OUTAGE_MODEL)
            submitted = _submits(lab.horde)
            chats = [pool.submit(chat, number) for number in range(WAITING)]
            until(lambda: _submits(lab.horde) >= submitted + WAITING)
            # The last answers to submits are still under way. One that is lost is a lost chat: to
            # submit again may cost twice.
            time.sleep(1)
            link.close()
            time.sleep(OUTAGE / 2)
            chats += [pool.submit(chat, number) for number in range(NEW)]
            time.sleep(OUTAGE / 2)
            link.enter_context(running("-m", "bench.link", port, target))
            ended = time.perf_counter()
            wait(chats)
            seconds = time.perf_counter() - ended
    _show_answered(f"outage of {OUTAGE:.0f} s: answered of the chats that waited", chats[:WAITING])
    _show_answered("outage: answered of those that came meanwhile", chats[WAITING:])
    row("outage: seconds from its end to the last answer", f"{seconds:.0f} s")
    streams = [future.result() for future in chats if not future.exception()]
    silence = max(answer.silence for answer in streams if answer.silence < answer.total)
    row("outage: longest silence on a stream", f"{silence:.1f} s")


def _submits(horde: str) -> int:
    return int(get(f"{horde}/calls").get("POST", 0))


def _show_answered(what: str, chats: Sequence[Future[Answer]], goal: str = "all") -> None:
    failures = [str(exception) for future in chats if (exception := future.exception())]
    answered = len(chats) - len(failures)
    row(what, f"{answered} of {len(chats)}", goal, is_met=not failures)
    for failure in sorted(set(failures)):
        print(f"  {failure[:300]}", file=sys.stderr)


# A worker that vanishes.

VANISHED = 20
"""Chats whose worker vanishes."""
VANISHED_P95 = 60.0
"""Seconds."""
_VANISHING_MODEL = "bench/vanishing"
_USUAL_SECONDS = 5.0


def measure_vanishing(lab: Lab) -> None:
    """A worker pops all jobs and is not seen again; another one, whose jobs take 5 s, is idle."""

    def chat(number: int) -> Answer:
        time.sleep(number / VANISHED * 2)
        return streamed(lab.proxy.url, _USUAL_SECONDS, _VANISHING_MODEL)

    with (
        crowd(lab.horde, "reliable", _VANISHING_MODEL) as reliable,
        ThreadPoolExecutor(VANISHED) as pool,
    ):
        # Known to the proxy, like the other one, before it gets a job.
        _pop_all(lab.horde)
        until_offered(lab.proxy.url, _VANISHING_MODEL)
        usual = [answer.total for answer in pool.map(chat, range(VANISHED))]
        reliable.send_signal(signal.SIGSTOP)
        submitted = _submits(lab.horde)
        chats = [pool.submit(chat, number) for number in range(VANISHED)]
        until(lambda: _submits(lab.horde) == submitted + VANISHED)
        taken = _pop_all(lab.horde)
        reliable.send_signal(signal.SIGCONT)
        wait(chats)
        submits = _submits(lab.horde) - submitted
    _show_answered(f"vanished worker of {taken} chats: answered", chats)
    total = [future.result().total for future in chats if not future.exception()]
    row(
        "vanished worker: answer after, p50, p95; usual p50",
        f"{statistics.median(total):.1f} s, {at(total, 0.95):.1f} s; "
        f"{statistics.median(usual):.1f} s",
        f"p95 {VANISHED_P95:.0f} s",
        is_met=at(total, 0.95) < VANISHED_P95,
    )
    row("vanished worker: requests for each chat", f"{submits / VANISHED:.1f}")


def _pop_all(horde: str) -> int:
    """Pop jobs as a worker that never submits, until there is none; how many there were."""
    count = 0
    while post(session(), horde, "pop", pop_body("vanishing", [_VANISHING_MODEL])).get("id"):
        count += 1
    return count

"""Several proxies keep the horde's pace together, over a real Redis."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from horde_proxy.caching.redis import redis_client
from horde_proxy.upstreams.horde.shared_pace import SharedPace
from horde_proxy.upstreams.horde.submit_queue import Limits, SubmitQueue
from tests.live.processes import free_port, until

redis = pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed"
)


class RedisServer(NamedTuple):
    url: str
    process: subprocess.Popen[bytes]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    port = free_port()
    process = subprocess.Popen(
        [
            "redis-server",
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(tmp_path),
        ],
        stdout=subprocess.DEVNULL,
    )

    def is_up() -> bool:
        try:
            return bool(redis.Redis(port=port).ping())
        except redis.ConnectionError:
            return False

    until(is_up)
    yield RedisServer(f"redis://127.0.0.1:{port}/0", process)
    process.send_signal(signal.SIGCONT)
    process.terminate()
    process.wait()


def queue(url: str) -> SubmitQueue:
    from limits.storage import RedisStorage

    pool = redis_client(url).connection_pool
    return SubmitQueue(
        Limits(),
        sleep=time.sleep,
        concurrency=lambda key: 30,
        shared=SharedPace(
            lambda: RedisStorage(url, connection_pool=pool, wrap_exceptions=True, key_prefix="test")
        ),
    )


def submit(own: SubmitQueue) -> float:
    """The time of a submit, made at its turn."""
    ticket = own.new_ticket("key", "client")
    for _ in own.wait_turn(ticket, "key", 1):
        pass
    with own.sending(ticket):
        return time.monotonic()


def test_two_queues_on_one_redis_keep_one_pace(server: RedisServer) -> None:
    queues = [queue(server.url), queue(server.url)]

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        times = pool.map(lambda number: submit(queues[number % 2]), range(8))
        at = sorted(submitted - began for submitted in times)
    assert at[-1] > 2.5
    assert all(later - earlier > 0.9 for earlier, later in zip(at, at[4:], strict=False))


def test_a_redis_that_hangs_holds_no_chat_and_is_found_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    own = queue(server.url)
    submit(own)
    server.process.send_signal(signal.SIGSTOP)
    submit(own)
    submit(own)
    [warning] = [record.message for record in caplog.records]
    assert warning.startswith("Redis fails, so submits are counted in this process only")
    server.process.send_signal(signal.SIGCONT)

    def is_back() -> bool:
        submit(own)
        return len(caplog.records) > 1

    until(is_back)
    assert caplog.messages[1] == "Redis works again, so submits are counted for all processes"


def test_a_proxy_with_redis_serves(server: RedisServer, tmp_path: Path) -> None:
    from horde_proxy import create_app
    from horde_proxy.config import load

    settings = load(
        environ={"HORDE_PROXY_CACHE__REDIS_URL": server.url},
        flags={
            "private_horde": {"enabled": True, "strict": True},
        },
    )
    assert create_app(settings).test_client().get("/health/live").status_code == 200


def test_several_processes_count_calls_together_also_after_an_outage(server: RedisServer) -> None:
    from dataclasses import replace

    from horde_proxy.app.runtime import Runtime
    from horde_proxy.app.windows import shared_windows
    from horde_proxy.caching.background import inline
    from horde_proxy.config import load
    from horde_proxy.private_horde.rate_limits import ApiCall, RateLimits
    from horde_proxy.wrong_keys import WrongKeys

    cache = load(environ={}, flags={"cache": {"redis_url": server.url}}).cache
    runtime = replace(Runtime(), run=inline)
    windows = [shared_windows(cache, runtime) for _ in range(2)]
    limits = [RateLimits(time.time, one) for one in windows]
    call = ApiCall("203.0.113.9", "GET", "/modes")
    states = [limits[number % 2].hit("modes", call) for number in range(32)]
    assert [state is not None and state.exceeded for state in states] == [False] * 30 + [True] * 2
    assert 0 < min(state.retry_after for state in states if state) <= 60
    wrong = [WrongKeys(time.time, lambda seconds: None, one) for one in windows]
    waits = [wrong[number % 2].count("203.0.113.9", str(number)) for number in range(12)]
    assert waits[:10] == [0] * 10
    assert all(0 < wait <= 60 for wait in waits[10:])

    server.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    hanging = [limits[0].hit("modes", call) for _ in range(20)]
    # A Redis that hangs costs one wait of half a second.
    assert time.monotonic() - began < 3
    assert not any(state is None or state.exceeded for state in hanging)
    server.process.send_signal(signal.SIGCONT)

    def is_shared_again() -> bool:
        state = limits[0].hit("modes", call)
        return state is not None and state.exceeded

    until(is_shared_again, seconds=60)

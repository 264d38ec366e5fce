"""Several proxies keep the horde's pace together, over a real Redis."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from horde_proxy.caching.redis import redis_client
from horde_proxy.upstreams.horde.shared_pace import SharedPace
from horde_proxy.upstreams.horde.submit_queue import Limits, SubmitQueue
from tests.live.processes import free_port, until

redis = pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed"
)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
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
    yield f"redis://127.0.0.1:{port}/0"
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


def test_two_queues_on_one_redis_keep_one_pace(redis_url: str) -> None:
    queues = [queue(redis_url), queue(redis_url)]

    def submit(number: int) -> float:
        own = queues[number % 2]
        place = own.new_ticket("key", "client")
        for _ in own.wait_turn(place, "key", 1):
            pass
        with own.sending(place):
            return time.monotonic()

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        at = sorted(found - began for found in pool.map(submit, range(8)))
    assert at[-1] > 2.5
    assert all(later - earlier > 0.9 for earlier, later in zip(at, at[4:], strict=False))


def test_a_proxy_with_redis_serves(redis_url: str, tmp_path: Path) -> None:
    from horde_proxy import create_app
    from horde_proxy.config import load

    settings = load(
        environ={"HORDE_PROXY_CACHE__REDIS_URL": redis_url},
        flags={
            "private_horde": {"enabled": True, "strict": True},
        },
    )
    assert create_app(settings).test_client().get("/health/live").status_code == 200

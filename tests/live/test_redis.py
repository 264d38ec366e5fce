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

from horde_proxy.caching.notes import RedisNotes
from horde_proxy.caching.redis import redis_client
from horde_proxy.upstreams.horde.penalties import Penalized, Penalties
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
    hanging = [limits[0].hit("modes", call) for _ in range(28)]
    # A Redis that hangs costs one wait of half a second; 28 of them would be 14 seconds.
    assert time.monotonic() - began < 10
    assert not any(state is None or state.exceeded for state in hanging)
    server.process.send_signal(signal.SIGCONT)

    def is_shared_again() -> bool:
        state = limits[0].hit("modes", call)
        return state is not None and state.exceeded

    until(is_shared_again, seconds=60)


def test_hosts_count_the_requests_of_a_key_together(server: RedisServer) -> None:
    from dataclasses import replace

    from horde_proxy.app.ledger import SharedCounts, build_ledger
    from horde_proxy.app.runtime import Runtime
    from horde_proxy.app.windows import shared_places, shared_windows
    from horde_proxy.caching.background import inline
    from horde_proxy.config import load
    from horde_proxy.errors import RateLimited
    from horde_proxy.ledger import ClientKey

    runtime = replace(Runtime(), run=inline, open_ledger=lambda url: None)
    settings = load(environ={}, flags={"cache": {"redis_url": server.url}})
    cache = settings.cache
    counts = [
        SharedCounts(shared_windows(cache, runtime), shared_places(cache, runtime))
        for _ in range(2)
    ]
    hosts = [build_ledger(settings.access, runtime, None, shared).limits for shared in counts]
    ann = ClientKey("ann", requests_per_minute=5)
    for number in range(5):
        hosts[number % 2].admit(ann)
    for host in hosts:
        with pytest.raises(RateLimited) as caught:
            host.admit(ann)
        assert 0 < caught.value.retry_after <= 60
    bob = ClientKey("bob", concurrent=2)
    releases = [host.admit(bob) for host in hosts]
    for host in hosts:
        with pytest.raises(RateLimited, match="2 requests at once"):
            host.admit(bob)
    releases[0]()
    releases[0]()
    releases.append(hosts[1].admit(bob))
    with pytest.raises(RateLimited):
        hosts[0].admit(bob)
    client = redis.Redis.from_url(server.url)
    [key] = client.keys("horde-proxy:running:bob")
    # A host that was killed renews nothing: its places are free after a minute.
    client.zadd(key, dict.fromkeys(client.zrange(key, 0, -1), 1))
    hosts[0].admit(bob)
    server.process.send_signal(signal.SIGSTOP)
    # Without Redis, each host counts for itself.
    hosts[0].admit(bob)
    with pytest.raises(RateLimited):
        hosts[0].admit(bob)


def test_hosts_share_when_an_endpoint_was_used(server: RedisServer) -> None:
    from dataclasses import replace

    from horde_proxy.app.runtime import Runtime
    from horde_proxy.app.sticky import shared_use
    from horde_proxy.config import load

    now = [time.time()]
    cache = load(environ={}, flags={"cache": {"redis_url": server.url}}).cache
    one, two = (shared_use(cache, replace(Runtime(), now=lambda: now[0])) for _ in range(2))
    assert one is not None
    assert two is not None
    one.note("desktop", 600)
    assert [use.is_used_elsewhere("desktop") for use in (one, two)] == [False, True]
    assert two.is_used_elsewhere("laptop") is False
    now[0] += 601
    assert two.is_used_elsewhere("desktop") is False
    assert [use.claim("desktop", 300) for use in (one, two, one)] == [True, False, False]
    server.process.send_signal(signal.SIGSTOP)
    # Without Redis each proxy knows its own use only.
    assert (two.is_used_elsewhere("desktop"), two.claim("desktop", 300)) == (False, True)


def test_hosts_share_what_the_horde_forbids(server: RedisServer) -> None:
    connection = redis_client(server.url)
    first, second = (Penalties(RedisNotes(lambda: connection, "test")) for _ in range(2))
    assert second.current() == []
    first.note_timeout(60)
    until(lambda: bool(second.current()))
    with pytest.raises(Penalized):
        second.check("text", "any")
    # Without Redis, whoever was told remembers it.
    server.process.send_signal(signal.SIGSTOP)
    with pytest.raises(Penalized):
        first.check("text", "any")


def test_processes_share_which_endpoint_has_a_conversation_also_after_an_outage(
    server: RedisServer,
) -> None:
    from dataclasses import replace

    from horde_proxy.app.runtime import Runtime
    from horde_proxy.app.sticky import sticky_sessions
    from horde_proxy.caching.background import inline
    from horde_proxy.config import load

    cache = load(environ={}, flags={"cache": {"redis_url": server.url}}).cache
    runtime = replace(Runtime(), run=inline)
    one, two = (sticky_sessions(cache, runtime) for _ in range(2))
    one.session("m", "conversation").move_to("home")
    assert two.session("m", "conversation").endpoint == "home"
    assert two.session("m", "another one").endpoint is None
    client = redis.Redis.from_url(server.url)
    [key] = client.keys("horde-proxy:sessions:*")
    assert 3590 < client.ttl(key) <= 3600
    client.expire(key, 10)
    assert one.session("m", "conversation").endpoint == "home"
    assert client.ttl(key) > 3590

    server.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    places = [one.session("m", "conversation").endpoint for _ in range(20)]
    # A Redis that hangs costs one wait of half a second; 20 of them would be 10 seconds.
    assert time.monotonic() - began < 5
    assert places == ["home"] * 20
    server.process.send_signal(signal.SIGCONT)
    two.session("m", "conversation").move_to("cloud")
    until(lambda: one.session("m", "conversation").endpoint == "cloud", seconds=60)

"""Several proxies on one real Redis fetch each of the horde's documents once."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.caching.redis import Document, SharedDocuments, redis_client
from horde_proxy.errors import Unreachable
from horde_proxy.stats.live import LiveHorde
from horde_proxy.upstreams.horde.documents import HordeDocuments
from tests.live.processes import free_port, until

redis = pytest.importorskip("redis")
pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed"
)
ALL = {"models text": 1, "workers text": 1, "stats text": 1}


class Server:
    """A Redis on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.clients: list[Any] = []
        self.threads: list[threading.Thread] = []
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(self.folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        until(self.is_up)

    def is_up(self) -> bool:
        with redis.Redis(port=self.port) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def run(self, load: Callable[[], None]) -> None:
        """Run it in the background; whoever uses this Redis is waited for at the end."""
        thread = threading.Thread(target=load, daemon=True)
        self.threads.append(thread)
        thread.start()

    def end(self) -> None:
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive()
        for client in self.clients:
            client.close()
        self.kill()


class HordeContext:
    """A slow horde that counts what is fetched."""

    base = "http://horde.invalid/api/v2"

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.is_gone = False
        self._lock = threading.Lock()

    def _get(self, name: str, value: Any) -> Any:
        with self._lock:
            self.calls[name] += 1
        time.sleep(0.2)
        if self.is_gone:
            raise Unreachable("gone")
        return value

    def models(self, kind: str) -> Any:
        return self._get(f"models {kind}", [{"name": "m-8B", "count": 1}])

    def workers(self, kind: str) -> Any:
        return self._get(f"workers {kind}", [{"id": "w", "models": ["m-8B"]}])

    def model_stats(self, kind: str) -> Any:
        return self._get(f"stats {kind}", {"day": {}, "month": {"m-8B": 3}, "total": {}})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    yield found
    found.end()


def shared(server: Server) -> SharedDocuments:
    client = redis_client(server.url)
    server.clients.append(client)
    return SharedDocuments(lambda: client, "test")


def proxy(server: Server, horde: Any, ttl: float = 60) -> LiveHorde:
    return LiveHorde(HordeDocuments(horde, ttl=ttl, shared=shared(server), lease=5, run=server.run))


def test_a_hundred_requests_of_two_proxies_make_one_fetch_of_each_endpoint(server: Server) -> None:
    horde = HordeContext()
    proxies = [proxy(server, horde), proxy(server, horde)]
    with ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda number: proxies[number % 2].snapshot("text"), range(100)))
    assert horde.calls == ALL
    assert not any(each.degraded for each in found)
    assert {each.status.names() for each in found if each.status} == {("m-8B",)}
    assert len({each.observed_at for each in found}) == 1


def test_two_proxies_make_one_fetch_for_each_time_to_live(server: Server) -> None:
    horde = HordeContext()
    proxies = [proxy(server, horde, ttl=1.5), proxy(server, horde, ttl=1.5)]
    began = time.monotonic()
    while time.monotonic() - began < 4:
        for each in proxies:
            each.snapshot("text")
        time.sleep(0.05)
    most = 1 + (time.monotonic() - began) / 1.5
    assert all(2 <= calls <= most for calls in horde.calls.values()), horde.calls


def test_a_new_proxy_has_the_last_data_of_others_when_the_horde_is_gone(server: Server) -> None:
    horde = HordeContext()
    proxy(server, horde, ttl=0.3).snapshot("text")
    time.sleep(0.5)
    horde.is_gone = True
    found = proxy(server, horde, ttl=0.3).snapshot("text")
    assert found.degraded
    assert found.status is not None and found.status.names() == ("m-8B",)


def test_the_keys_tell_endpoint_and_parameters_and_expire(server: Server) -> None:
    proxy(server, HordeContext()).snapshot("text")
    with redis.Redis(port=server.port) as client:
        keys = sorted(key.decode() for key in client.scan_iter())
        assert [key.rpartition(":")[0] for key in keys] == [
            "test:horde_api:stats/text/models:model_state=all",
            "test:horde_api:status/models:type=text&model_state=all",
            "test:horde_api:workers:type=text",
        ]
        assert all(3000 < client.ttl(key) <= 3600 for key in keys)


def test_who_holds_the_lock_and_dies_keeps_nobody_from_fetching(server: Server) -> None:
    with redis.Redis(port=server.port) as client:
        client.set("test:horde_api:name:lock", "of the dead", ex=3600)
        found = shared(server).load(
            "name", lambda: Document([1], 7.0), max_age=30, lease=60, is_known=False
        )
        assert found.value == [1]
        # It did not wait until the lock expired.
        assert client.get("test:horde_api:name:lock") == b"of the dead"


def test_one_of_several_proxies_leads_until_its_lease_ends(server: Server) -> None:
    first, second = shared(server), shared(server)
    assert (first.try_lead(5), second.try_lead(5), first.try_lead(5)) == (True, False, True)
    until(lambda: second.try_lead(5))


def test_what_is_no_document_in_redis_is_fetched_anew(server: Server) -> None:
    with redis.Redis(port=server.port) as client:
        client.set("test:horde_api:name", "{not json", ex=3600)
    found = shared(server).load(
        "name", lambda: Document([1], 7.0), max_age=30, lease=5, is_known=False
    )
    assert found.value == [1]


def test_nothing_fails_while_redis_is_killed_and_restarted(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    horde, over = HordeContext(), threading.Event()
    proxies = [proxy(server, horde, ttl=0.2), proxy(server, horde, ttl=0.2)]

    def ask(number: int) -> list[bool]:
        found = []
        while not over.is_set():
            snapshot = proxies[number % 2].snapshot("text")
            found.append(snapshot.status is not None and not snapshot.degraded)
            time.sleep(0.02)
        return found

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, number) for number in range(8)]
        try:
            time.sleep(1)
            server.kill()
            time.sleep(1)
            server.start()
            until(lambda: has_keys(server))
        finally:
            over.set()
        answers = [answer for each in asking for answer in each.result()]
    assert len(answers) > 100
    assert all(answers)
    warnings = [each for each in caplog.records if "in this process only" in each.message]
    assert len(warnings) == 2


def has_keys(server: Server) -> bool:
    with redis.Redis(port=server.port) as client:
        return bool(client.dbsize())

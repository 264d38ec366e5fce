"""Webhooks of the private horde's requests: when they are called, with what, and how often."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import NewConnectionError

from horde_proxy.key_digest import key_digest
from horde_proxy.networks import is_public
from horde_proxy.private_horde import PrivateHorde
from horde_proxy.private_horde.records import NEW, WebhookCall
from horde_proxy.private_horde.store.opening import open_store
from horde_proxy.private_horde.webhook_sender import WebhookRunner
from horde_proxy.upstreams.horde.webhook import Webhook
from horde_proxy.upstreams.public_addresses import PublicTlsConnection, public_address
from tests.test_private_horde import ALICE, ASYNC, World, refused

URL = "https://receiver.example/hook"


class Receiver:
    """Takes the calls of a horde; threads and timers run when a test says so."""

    def __init__(self, world: World, *, plain: bool = False, inline: bool = True) -> None:
        self.world = world
        self.calls: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.failures: dict[str, str] = {}
        self.threads: list[Callable[[], None]] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.inline = inline
        world.horde.call_webhooks(WebhookRunner(self.send, self.run, self.run_later), plain=plain)

    def send(self, url: str, content: bytes, headers: Mapping[str, str]) -> str | None:
        self.calls.append((url, content, headers))
        return self.failures.get(url)

    def run(self, call: Callable[[], None]) -> None:
        if self.inline:
            call()
        else:
            self.threads.append(call)

    def run_later(self, seconds: float, call: Callable[[], None]) -> None:
        self.timers.append((self.world.now + seconds, call))

    def wait(self, seconds: float) -> None:
        end = self.world.now + seconds
        while due := sorted((t for t in self.timers if t[0] <= end), key=lambda timer: timer[0]):
            self.timers.remove(due[0])
            self.world.now = max(self.world.now, due[0][0])
            due[0][1]()
        self.world.now = end

    def urls(self) -> list[str]:
        return [url for url, _, _ in self.calls]


@pytest.fixture
def world() -> World:
    return World()


def calls_kept(world: World) -> list[WebhookCall]:
    with world.horde.store.snapshot() as tx:
        return tx.page(WebhookCall, "id", descending=False, offset=0, limit=100)


def deliver(world: World, url: str = URL, text: str = "Hi!") -> str:
    request_id = world.submit(webhook=url)
    [job] = world.pop()
    world.deliver(job, text)
    return request_id


def test_a_delivered_result_is_sent_with_its_ids_and_kudos(world: World) -> None:
    receiver = Receiver(world)
    request_id = world.submit(webhook=URL)
    [job] = world.pop()
    assert receiver.calls == []
    reward = world.deliver(job, "Hi!")
    [(url, content, _)] = receiver.calls
    assert url == URL
    assert json.loads(content) == {
        "text": "Hi!",
        "seed": 0,
        "gen_metadata": [],
        "worker_id": world.worker()["id"],
        "worker_name": "manual-text-1",
        "model": "koboldcpp/Llama-3.1-SuperNova-Lite",
        "state": "ok",
        "id": job,
        "request": request_id,
        "kudos": reward,
    }
    assert calls_kept(world) == []


def test_a_call_is_signed_with_the_digest_of_the_clients_key(world: World) -> None:
    receiver = Receiver(world)
    deliver(world)
    [(_, content, headers)] = receiver.calls
    signed = headers["X-Horde-Timestamp"].encode() + b"." + content
    key = key_digest(ALICE).encode()
    expected = hmac.new(key, signed, hashlib.sha256).hexdigest()
    assert headers["X-Horde-Signature"] == f"sha256={expected}"
    assert headers["X-Horde-Timestamp"] == "1000"


def test_each_result_of_a_request_is_sent(world: World) -> None:
    receiver = Receiver(world)
    world.submit(webhook=URL, n=3)
    for job in world.pop(amount=3):
        world.deliver(job)
    assert len(receiver.calls) == 3


def test_a_receiver_that_fails_is_called_four_times_in_all(world: World) -> None:
    receiver = Receiver(world)
    receiver.failures[URL] = "it answered 503"
    deliver(world)
    times = [world.now]
    for _ in range(400):
        before = len(receiver.calls)
        receiver.wait(1)
        times += [world.now] * (len(receiver.calls) - before)
    assert [round(time - times[0]) for time in times] == [0, 5, 35, 155]
    assert calls_kept(world) == []


def test_a_receiver_that_comes_back_gets_its_call_once(world: World) -> None:
    receiver = Receiver(world)
    receiver.failures[URL] = "it answered 503"
    deliver(world)
    receiver.failures.clear()
    receiver.wait(300)
    assert len(receiver.calls) == 2


def test_a_receiver_that_hangs_does_not_delay_the_others(world: World) -> None:
    dead = "https://dead.example/hook"
    the_end, arrived = threading.Event(), threading.Event()
    hanging: list[str] = []

    def send(url: str, content: bytes, headers: Mapping[str, str]) -> str | None:
        if url == dead:
            hanging.append(url)
            the_end.wait(60)
        else:
            arrived.set()
        return None

    def run(call: Callable[[], None]) -> None:
        threading.Thread(target=call, daemon=True).start()

    world.horde.call_webhooks(WebhookRunner(send, run, lambda seconds, call: None))
    try:
        for _ in range(60):
            deliver(world, dead)
        deliver(world)
        assert arrived.wait(30)
        assert len(hanging) <= 2
    finally:
        the_end.set()


def test_a_cancelled_request_is_not_announced(world: World) -> None:
    receiver = Receiver(world)
    request_id = world.submit(webhook=URL)
    [job] = world.pop()
    world.cancel(request_id)
    world.deliver(job)
    assert receiver.calls == []


def test_calls_that_were_not_made_before_a_restart_are_made_after_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/horde.db"
    first = World(store=open_store(url))
    Receiver(first, inline=False)
    deliver(first)
    first.horde.store.close()
    second = World.__new__(World)
    second.now = first.now
    second.horde = PrivateHorde(store=open_store(url), clock=lambda: second.now)
    receiver = Receiver(second)
    assert receiver.urls() == [URL]
    assert calls_kept(second) == []
    second.horde.store.close()


def test_no_further_calls_are_kept_while_too_many_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horde_proxy.private_horde.webhook_sender._MOST_WAITING", 2)
    receiver = Receiver(world, inline=False)
    for _ in range(3):
        deliver(world)
    assert len(calls_kept(world)) == 2
    # Calls that another process made count no more.
    with world.horde.store.transaction() as tx:
        for call in tx.page(WebhookCall, "id", descending=False, offset=0, limit=2):
            tx.delete(call)
    deliver(world)
    assert len(calls_kept(world)) == 1
    assert receiver.calls == []


def test_http_is_accepted_only_where_the_settings_allow_it(world: World) -> None:
    body = {"prompt": "x", "webhook": "http://10.0.0.5/hook"}
    Receiver(world)
    assert refused(world.post(ASYNC, ALICE, body)) == (400, "BadRequest")
    Receiver(world, plain=True)
    assert world.post(ASYNC, ALICE, body).status_code == 202
    assert refused(world.post(ASYNC, ALICE, {**body, "webhook": "ftp://x"}))[0] == 400


@pytest.mark.parametrize("url", ["https://[x", "https://", "https:///hook", "https://host:99999"])
def test_a_url_without_a_host_is_refused(world: World, url: str) -> None:
    Receiver(world)
    body = {"prompt": "x", "webhook": url}
    assert refused(world.post(ASYNC, ALICE, body)) == (400, "BadRequest")


def test_a_call_without_a_host_that_an_older_version_stored_holds_up_no_others(
    world: World,
) -> None:
    receiver = Receiver(world)
    with world.horde.store.transaction() as tx:
        tx.add(WebhookCall(NEW, world.now, "a-request", "a-job", "https://[x", "a-key", 1.0))
    deliver(world)
    assert receiver.urls() == [URL]
    assert calls_kept(world) == []


def test_the_proxys_own_receiver_takes_a_call(world: World) -> None:
    receiver = Receiver(world)
    hook = Webhook("https://proxy.example", lambda: "secret")
    mailbox = hook.mailbox(lambda: None)
    mailbox.expect(deliver(world, mailbox.url))
    [(_, content, _)] = receiver.calls
    assert hook.deliver("secret", json.loads(content)) is True
    assert mailbox.take_news() is True


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::1", False),
        ("name", False),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_name_with_one_private_address_is_refused() -> None:
    def resolve(name: str, port: int, **_: Any) -> Any:
        found = {"public": ["8.8.8.8"], "mixed": ["8.8.8.8", "127.0.0.1"]}[name]
        return [(0, 0, 0, "", (address, port)) for address in found]

    assert public_address("public", 443, resolve) == "8.8.8.8"
    with pytest.raises(OSError, match="not public"):
        public_address("mixed", 443, resolve)


def test_a_connection_goes_to_the_checked_address_and_keeps_the_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[Any] = []

    def connect(address: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(address)
        raise OSError("no network here")

    found = [(0, 0, 0, "", ("8.8.8.8", 443))]
    monkeypatch.setattr(
        "horde_proxy.upstreams.public_addresses.public_address.__defaults__",
        (lambda *args, **kwargs: found,),
    )
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    connection = PublicTlsConnection("receiver.example", 443)
    with pytest.raises(NewConnectionError):
        connection.connect()
    assert called == [("8.8.8.8", 443)]
    assert connection.host == "receiver.example"

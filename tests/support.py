"""A whole world in one thread: a proxy, its private horde and workers, under one clock.

Whoever sleeps moves the clock and lets the workers do a step, so no test waits for anything.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import fields
from threading import Event
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from requests import Session

from horde_proxy.api import routes
from horde_proxy.api.routes import (
    Access,
    AppContext,
    InFlight,
    LiveState,
    LoopGuard,
    ServingOptions,
    Slots,
)
from horde_proxy.caching.background import inline
from horde_proxy.key_digest import digest_of_setting
from horde_proxy.ledger import ClientKey, KeyLimits, KeyRing, UsageRecorder
from horde_proxy.metrics import Metrics
from horde_proxy.private_horde import PrivateHorde, blueprint
from horde_proxy.router import Router
from horde_proxy.router.circuit_breaker import CircuitBreaker
from horde_proxy.router.endpoint import Endpoint
from horde_proxy.shutdown import Shutdown
from horde_proxy.stats.hydration import Hydrator
from horde_proxy.stats.live import LiveHorde
from horde_proxy.stats.reference_loading import References
from horde_proxy.stats.service import StatsService
from horde_proxy.upstreams.base import Sleeper
from horde_proxy.upstreams.horde.accounts import Accounts
from horde_proxy.upstreams.horde.catalog import Catalog
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.documents import HordeDocuments
from horde_proxy.upstreams.horde.submit_queue import Limits, SubmitQueue
from horde_proxy.upstreams.horde.upstream import Filters, HordeOptions, HordeUpstream
from horde_proxy.upstreams.horde.webhook import Webhook
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.worker.backends import Backend
from horde_proxy.worker.bridge import Bridge, WorkerIdentity

HORDE_URL = "http://horde.invalid"

OWNER_KEY = "owner-key-of-the-tests"
CLIENT_KEY = "client-key-of-the-tests"


class Clock:
    """Seconds that pass only when somebody sleeps. `every_sleep` are called after each sleep."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.every_sleep: list[Callable[[], Any]] = []

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        for call in self.every_sleep:
            call()


def growth(work: Callable[[int], object], largest: int) -> float:
    """How the cost of `work(size)` grows: 1 in proportion to the size, 2 with its square.

    The processor time of this thread for `largest` is compared with that for a sixteenth of it, so
    neither the speed of the machine nor what else it does matters. Of a few measurements the
    smallest counts, because whatever disturbs one only adds to it.
    """
    small = min(_cost(work, largest // 16) for _ in range(3))
    exponents = []
    for _ in range(5):
        exponents.append(math.log(_cost(work, largest) / small, 16))
        if exponents[-1] < 1.3:
            break
    return min(exponents)


def _cost(work: Callable[[int], object], size: int) -> float:
    begin = time.thread_time()
    work(size)
    return max(time.thread_time() - begin, 1e-6)


class Scripted:
    """A backend that gives the same text to each job and keeps what it was asked."""

    tags = None

    def __init__(
        self, text: str, name: str = "test/model", max_length: int = 512, context: int = 8192
    ) -> None:
        self.text, self.name = text, name
        self.max_length, self.max_context_length = max_length, context
        self.payloads: list[dict[str, Any]] = []

    def generate(self, payload: Any, cancelled: Callable[[], bool]) -> str:
        self.payloads.append(dict(payload))
        return self.text


def known(**keys: str | ClientKey) -> dict[str, Any]:
    """The part of a front that knows these keys by name; what a ClientKey has is its name's key."""
    ring = {}
    for name, key in keys.items():
        plain = key if isinstance(key, str) else f"key-of-{name}-long"
        ring[digest_of_setting(plain)] = ClientKey(name) if isinstance(key, str) else key
    return {"requires_key": True, "keys": KeyRing(ring)}


def _part(kind: Any, settings: dict[str, Any]) -> Any:
    """One part of the AppContext, from those settings that are its fields."""
    names = [field.name for field in fields(kind) if field.name in settings]
    return kind(**{name: settings.pop(name) for name in names})


class World:
    """The parts, and `chat` to use them."""

    def __init__(self, **front: Any) -> None:
        self.clock = Clock()
        self.horde = PrivateHorde(clock=self.clock)
        self.horde.add_account(OWNER_KEY, "owner", trusted=True)
        self.horde.add_account(CLIENT_KEY, "client", kudos=10_000)
        private = Flask("private_horde")
        private.register_blueprint(blueprint(self.horde))
        self.session = Session()
        self.session.mount(HORDE_URL, WSGIAdapter(private))
        self.metrics = Metrics(self.clock)
        self.client = HordeClient(
            HORDE_URL, self.session, contact="test", timeout=(1, 1), observer=self.metrics
        )
        self.feeds = HordeDocuments(
            self.client,
            ttl=1,
            timer=self.clock,
            now=self.clock,
            run=inline,
            observer=self.metrics,
        )
        self.catalog = Catalog(self.feeds, now=self.clock)
        self.options = HordeOptions(CLIENT_KEY, filters=Filters(validated=False))
        self.limits = Limits()
        self.sleep: Callable[[float], None] = self.clock.sleep
        self.aliases: dict[str, str] = {}
        self.webhook: Webhook | None = None
        self.front = front

    def upstream(self) -> HordeUpstream:
        ids = (f"chatcmpl-{number}" for number in itertools.count())
        accounts = Accounts(self.client, timer=self.clock, run=inline)
        gate = SubmitQueue(
            self.limits,
            sleep=self.sleep,
            now=self.clock,
            concurrency=lambda key: accounts.of(key).concurrency,
            observer=self.metrics,
        )
        return HordeUpstream(
            self.client,
            self.catalog,
            self.options,
            accounts,
            gate,
            webhook=self.webhook,
            clock=self.clock,
            sleep=self.sleep,
            now=self.clock,
            new_id=lambda: next(ids),
            observer=self.metrics,
        )

    def app(self) -> Flask:
        app = Flask("horde_proxy", static_folder=None)
        app.config["MAX_CONTENT_LENGTH"] = 1_000_000
        book = UsageRecorder(None, now=self.clock)
        settings: dict[str, Any] = {
            "timeout": 280,
            "stream_timeout": 1200,
            "keepalive": "chunk",
            "keepalive_interval": 10,
            "max_n": 4,
            "strict": False,
            "passthrough": False,
            "requires_key": False,
            "keys": KeyRing({}),
            "slots": Slots(100),
            "usage": book,
            "limits": KeyLimits(book, clock=self.clock, now=self.clock),
            "loop_guard": LoopGuard(30, self.clock),
            "in_flight": InFlight(grace=10, window=60, clock=self.clock),
            "new_sleeper": lambda longest, time_left: Sleeper(sleep=lambda s: self.sleep(s)),
            "metrics": self.metrics,
            **self.front,
        }
        halt, upstream = Shutdown(), self.upstream()
        halt.sleep = self.clock.sleep  # type: ignore[method-assign]
        router = Router([Endpoint(upstream, CircuitBreaker(0))], self.aliases)
        settings.setdefault("shutdown", halt)
        statistics = settings.pop("statistics", self.statistics())
        context = AppContext(
            router,
            _part(ServingOptions, settings),
            _part(Access, settings),
            _part(LiveState, settings),
            horde=upstream,
            statistics=statistics,
            clock=self.clock,
        )
        assert not settings, f"no part of the context has {settings.keys()}"
        routes.register(app, context)
        return app

    def statistics(self, **references: Any) -> StatsService:
        """The horde's statistics; `references` are documents by kind. Nothing keeps them warm."""
        documents = {kind: (lambda found=found: (found, 0.0)) for kind, found in references.items()}
        return StatsService(
            LiveHorde(self.feeds),
            References(documents, clock=self.clock, run=inline),
            Hydrator(lambda: None, None),
            now=self.clock,
        )

    def http(self) -> FlaskClient:
        return self.app().test_client()

    def bridge(self, backend: Backend, name: str = "worker-1") -> Bridge:
        identity = WorkerIdentity(HORDE_URL, name, OWNER_KEY)
        return Bridge(identity, backend, stop=Event(), pause=lambda seconds: None)

    def employ(self, backend: Any, name: str = "worker-1") -> Any:
        """A worker that checks in now and does a job at each sleep; returns the backend."""
        bridge = self.bridge(backend, name)
        bridge.step(self.session)
        self.clock.every_sleep.append(lambda: bridge.step(self.session))
        return backend

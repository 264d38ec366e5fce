"""A whole world in one thread: a proxy, its private horde and workers, under one clock.

Whoever sleeps moves the clock and lets the workers do a step, so no test waits for anything.
"""

from __future__ import annotations

import io
import itertools
import math
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from threading import Event
from typing import IO, Any, cast

from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings
from requests import ConnectionError, PreparedRequest, ReadTimeout, Response, Session
from requests.adapters import BaseAdapter
from urllib3.connection import HTTPConnection
from urllib3.exceptions import MaxRetryError, NewConnectionError
from werkzeug.test import TestResponse

from horde_proxy import create_app
from horde_proxy.app.assembly import Assembly
from horde_proxy.app.lean_flask import LeanFlask
from horde_proxy.app.runtime import Runtime
from horde_proxy.caching.background import inline
from horde_proxy.config import Config, load
from horde_proxy.database.engine import Database
from horde_proxy.ledger import ClientKey
from horde_proxy.private_horde import PrivateHorde, blueprint
from horde_proxy.private_horde.streams import StreamRules
from horde_proxy.shutdown import Shutdown
from horde_proxy.stats.history.database import open_history
from horde_proxy.upstreams.horde.client import HordeClient
from horde_proxy.upstreams.horde.upstream import HordeUpstream
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.web.page_state import PageState
from horde_proxy.worker.backends import Backend
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.growing_job import in_thread
from horde_proxy.worker.horde import WorkerIdentity
from horde_proxy.worker.job_rules import JobRules
from horde_proxy.worker.scribe import Scribe

HORDE_URL = "http://horde.invalid"

OWNER_KEY = "owner-key-of-the-tests"
CLIENT_KEY = "client-key-of-the-tests"


class Clock:
    """Seconds that pass only when somebody sleeps. `every_sleep` are called after each sleep."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.every_sleep: list[Callable[[], Any]] = []
        self._later: list[tuple[float, Callable[[], None]]] = []

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        for call in self.every_sleep:
            call()
        while due := [timer for timer in self._later if timer[0] <= self.seconds]:
            self._later.remove(due[0])
            due[0][1]()

    def run_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Run the call in the first sleep that ends after so many seconds."""
        self._later.append((self.seconds + seconds, call))


def full_disk(**_: Any) -> IO[bytes]:
    """A temporary file on a full disk: what is written fails once Python's buffer is full."""
    return io.BufferedRandom(io.FileIO("/dev/full", "r+"))


def is_thorough() -> bool:
    """Whether this is the run of all cases and of many random examples: see conftest.py."""
    return settings().max_examples >= 200


def growth(work: Callable[[int], object], largest: int) -> float:
    """How the cost of `work(size)` grows: 1 in proportion to the size, 2 with its square.

    The processor time of this thread for `largest` is compared with that for a sixteenth of it,
    just before, so neither the speed of the machine nor what else it does matters. Of a few
    measurements the smallest counts, because whatever disturbs one only adds to it. The quick run
    has a quarter of the largest size.
    """
    largest = largest if is_thorough() else largest // 4
    exponents = []
    for _ in range(5):
        # For seconds, other programs may take the processor's caches from both sizes.
        small = min(_cost(work, largest // 16) for _ in range(3))
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


def text_bridge(
    identities: Sequence[WorkerIdentity],
    backends: Sequence[Backend],
    *,
    rules: JobRules | None = None,
    clock: Callable[[], float] = time.monotonic,
    start: Callable[[Callable[[], None]], None] = in_thread,
    **options: Any,
) -> Bridge:
    """A bridge of a scribe with these backends."""
    scribe = Scribe(backends, rules=rules, clock=clock, start=start)
    return Bridge(identities, scribe, clock=clock, **options)


class PieceByPiece:
    """A worker that does one call at each sleep: it pops, sends a piece of its text, or submits.

    `text` gives the text for a payload. With `lost_after`, it vanishes after so many pieces of its
    first job: it gives the job back, as when it is stopped. With `is_chat` it takes chats, and
    `text` gives the transcript.
    """

    def __init__(
        self,
        session: Session,
        text: Callable[[Mapping[str, Any]], str],
        size: int,
        *,
        model: str = "test/model",
        lost_after: int | None = None,
        name: str = "pieces",
        max_length: int = 1024,
        is_chat: bool = False,
    ) -> None:
        self.payloads: list[Mapping[str, Any]] = []
        self.cancelled = 0
        self._session, self._text, self._size, self._model = session, text, size, model
        self._job, self._whole, self._sent, self._lost_after = "", "", 0, lost_after
        self._pieces = 0
        self._offer: dict[str, Any] = {
            "name": name,
            "max_length": max_length,
            "max_context_length": 8192,
        }
        self._is_chat = is_chat

    def step(self) -> None:
        """One call."""
        if not self._job:
            self._pop()
        elif self._lost_after is not None and self._pieces >= self._lost_after:
            self._lost_after = None
            self._submit(state="faulted", generation="")
        elif self._sent < len(self._whole):
            self._progress()
        else:
            self._submit(generation=self._whole)

    def _pop(self) -> None:
        extensions = {"extensions": ["chat"]} if self._is_chat else {}
        job = self._post("pop", {**self._offer, "models": [self._model], **extensions})
        if job.get("id"):
            self._job, self._sent, self._pieces = job["id"], 0, 0
            self.payloads.append(job["payload"])
            self._whole = self._text(job["payload"])

    def _progress(self) -> None:
        size = self._size
        # A transcript is sent in whole lines.
        if self._is_chat:
            size = len(self._whole[self._sent :].partition("\n")[0]) + 1
        piece = self._whole[self._sent : self._sent + size]
        self._pieces += 1
        answer = self._post("progress", {"id": self._job, "offset": self._sent, "text": piece})
        self._sent += len(piece)
        if answer["cancelled"]:
            self.cancelled += 1
            self._submit(generation=self._whole[: self._sent])

    def _submit(self, **result: Any) -> None:
        self._post("submit", {"id": self._job, **result})
        self._job = ""

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        url = f"{HORDE_URL}/api/v2/generate/text/{path}"
        response = self._session.post(url, json=body, headers={"apikey": OWNER_KEY})
        assert response.status_code == 200, response.text
        return dict(response.json())


class Cable(BaseAdapter):
    """Passes calls on, and notes them; while `is_cut`, no connection can be made.

    While `is_mute`, calls arrive but no answer comes back.
    """

    def __init__(self, adapter: BaseAdapter) -> None:
        super().__init__()
        self._adapter = adapter
        self.is_cut = self.is_mute = False
        self.calls: list[str] = []

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Response:
        self.calls.append(f"{request.method} {request.path_url.rpartition('/api/v2/')[2]}")
        if self.is_cut:
            connection = HTTPConnection("horde.invalid")
            refused = NewConnectionError(connection, "Connection refused")
            raise ConnectionError(MaxRetryError(cast(Any, connection), "/", refused))
        response = self._adapter.send(request, *args, **options)
        if self.is_mute:
            raise ReadTimeout()
        return response

    def close(self) -> None:
        self._adapter.close()


def known(**keys: str | ClientKey) -> dict[str, Any]:
    """Settings with these keys by name; a ClientKey's own key is key-of-NAME-long."""
    tables = {
        name: key if isinstance(key, str) else {"key": f"key-of-{name}-longer", **_limits(key)}
        for name, key in keys.items()
    }
    return {"access": {"mode": "keys", "keys": tables}}


def _limits(key: ClientKey) -> dict[str, Any]:
    """What differs from a key that may do everything."""
    values = {field.name: getattr(key, field.name) for field in fields(key)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if name != "name" and value != getattr(ClientKey(""), name)
    }


def with_page(app: Flask, page: PageState) -> Flask:
    """The app, with another state of its page."""
    context = app.extensions["horde_proxy"]
    app.extensions["horde_proxy"] = replace(context, live=replace(context.live, page=page))
    return app


class HordeCalls:
    """Calls of a private horde behind a test client."""

    client: FlaskClient

    def call(
        self, method: str, path: str, key: str | None = None, body: Any = None, **headers: str
    ) -> TestResponse:
        if key is not None:
            headers["apikey"] = key
        return self.client.open(f"/api/v2/{path}", method=method, json=body, headers=headers)

    def must(self, method: str, path: str, key: str | None = None, body: Any = None) -> Any:
        """The JSON of an answer that is no error."""
        response = self.call(method, path, key, body)
        assert response.status_code < 300, response.json
        return response.json


SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "server": {"places": 100, "max_body": 1_000_000},
    "horde": {
        "url": HORDE_URL,
        "api_key": CLIENT_KEY,
        "contact": "test",
        "validated_backends": False,
        "cache_ttl": 1,
    },
    "stats": {"horde_api_cache_ttl": 1, "hydrate": False},
}


class World:
    """A horde, workers, and a proxy that create_app makes from settings, as users have it.

    `World(server={"places": 1})` and `configure` take the sections of a settings file. The horde
    has AI-Horde's API only, or with `streams` also what a private horde adds to it for texts, with
    `chats` all of that.
    """

    def __init__(self, *, streams: bool = False, chats: bool = False, **sections: Any) -> None:
        self.clock = Clock()
        self.horde = PrivateHorde(
            clock=self.clock,
            # A worker that writes letter by letter makes many calls.
            rate_limits=not (streams or chats),
            streaming=StreamRules(
                ("stream", "wait", "chat") if chats else ("stream", "wait") if streams else (),
                self.clock.sleep,
            ),
        )
        self.horde.add_account(OWNER_KEY, "owner", trusted=True)
        self.horde.add_account(CLIENT_KEY, "client", kudos=10_000)
        private = LeanFlask("private_horde", static_folder=None)
        private.register_blueprint(blueprint(self.horde))
        self.session = Session()
        # Else each call looks for proxies in the environment.
        self.session.trust_env = False
        self.session.mount(HORDE_URL, WSGIAdapter(private))
        self.client = HordeClient(HORDE_URL, self.session, contact="test", timeout=(1, 1))
        ids = itertools.count()
        # The folder is made when something is stored.
        folder = f"{tempfile.gettempdir()}/horde-proxy-{uuid.uuid4().hex}"
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.store_url = f"sqlite:///{folder}/store.db"
        self.runtime = Runtime(
            clock=self.clock,
            now=self.clock,
            sleep=self.clock.sleep,
            horde_sleep=self.clock.sleep,
            new_id=lambda: str(next(ids)),
            new_session=lambda adapter: self.session,
            run=inline,
            run_later=self.clock.run_later,
            run_loop=lambda loop: None,
            open_ledger=lambda url: None,
            open_horde_store=lambda url: None,
            open_history=lambda url: open_history(f"sqlite:///{folder}/history.db"),
            open_store=lambda url: Database(
                self.store_url, setting="store.database", waits_for_disk=False
            ),
            penalties_folder=lambda: Path(folder) / "penalties",
        )
        self.settings: dict[str, Any] = {name: dict(of) for name, of in SETTINGS.items()}
        self.configure(**sections)

    def configure(self, **sections: Any) -> World:
        """Put settings over those that there are; itself."""
        for name, values in sections.items():
            is_table = isinstance(values, Mapping)
            self.settings[name] = {**self.settings.get(name, {}), **values} if is_table else values
        return self

    def config(self) -> Config:
        """The settings, checked as those of a file are."""
        return load(environ={}, flags=self.settings)

    def app(self) -> Flask:
        return create_app(self.config(), self.runtime)

    def http(self) -> FlaskClient:
        return self.app().test_client()

    def upstream(self) -> HordeUpstream:
        """The horde as a new app has it, without the app's routes."""
        assembly = Assembly(self.runtime, Shutdown(self.runtime.sleep))
        [endpoint] = assembly.endpoints(self.config())
        return cast(HordeUpstream, endpoint.upstream)

    def cable(self) -> Cable:
        """A cable between the proxy with its workers and the horde, from now on."""
        cable = Cable(self.session.get_adapter(HORDE_URL))
        self.session.mount(HORDE_URL, cable)
        return cable

    def cut_between(self, begin: float, end: float) -> Cable:
        """A cable that is cut between so many seconds from now."""
        cable, now = self.cable(), self.clock()
        self.clock.every_sleep.insert(
            0, lambda: setattr(cable, "is_cut", begin <= self.clock() - now < end)
        )
        cable.is_cut = begin <= 0
        return cable

    def bridge(self, backend: Backend, name: str = "worker-1") -> Bridge:
        # A worker that waited would let time pass, within which it would do its next step.
        identity = WorkerIdentity(HORDE_URL, name, OWNER_KEY, wait=0.0)
        return text_bridge(
            [identity],
            [backend],
            stop=Event(),
            pause=lambda seconds: None,
            start=lambda work: work(),
        )

    def employ_faulty(self, model: str = "test/model", name: str = "worker-1") -> None:
        """A worker that checks in now and faults a job at each sleep."""
        self.bridge(Scripted("x", name=model), name).step(self.session)
        offer = {
            "name": name,
            "models": [model],
            "bridge_agent": "AI Horde Worker:1:x",
            "max_length": 512,
            "max_context_length": 8192,
            "threads": 1,
        }

        def fault() -> None:
            job = self.horde.pop(OWNER_KEY, offer)
            if job["id"]:
                faulted = {"id": job["id"], "generation": "", "state": "faulted"}
                self.horde.submit_generation(OWNER_KEY, faulted)

        self.clock.every_sleep.append(fault)

    def employ(self, backend: Any, name: str = "worker-1") -> Any:
        """A worker that checks in now and does a job at each sleep; returns the backend."""
        bridge = self.bridge(backend, name)
        bridge.step(self.session)
        self.clock.every_sleep.append(lambda: bridge.step(self.session))
        return backend

"""Sessions of the page: signed, shared through a database, and ended by logging out."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from horde_proxy import create_app
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.database.engine import Database
from horde_proxy.database.errors import DatabaseError
from horde_proxy.errors import Unavailable
from horde_proxy.web.session_database import SCHEMA, SessionDatabase
from horde_proxy.web.sessions import SESSION_SECONDS, Sessions, SessionState
from tests.support import Clock

DIGEST = "d" * 64


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Processes:
    """Proxies that share one database; `sessions()` is those of one more process."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.url, self.clock = url, clock
        self.databases: list[Database] = []

    def sessions(self) -> Sessions:
        database = Database(self.url, setting="access.database")
        self.databases.append(database)
        store = SessionDatabase(database, now=self.clock)
        return Sessions(store, now=self.clock, clock=self.clock, run=inline)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture
def processes(url: str, clock: Clock) -> Iterator[Processes]:
    processes = Processes(url, clock)
    yield processes
    for database in processes.databases:
        database.close()


def test_a_session_knows_its_key_and_has_a_token(clock: Clock) -> None:
    sessions = Sessions(now=clock, clock=clock)
    one, two = (sessions.find(sessions.begin(DIGEST)) for _ in range(2))
    assert one and two
    assert one.digest == two.digest == DIGEST
    assert len(one.token) > 20
    assert one.token != two.token


@pytest.mark.parametrize("cookie", ["", "a.b", "IkEi.x", "\ud800"])
def test_a_cookie_that_was_not_signed_here_is_no_session(clock: Clock, cookie: str) -> None:
    assert Sessions(now=clock, clock=clock).find(cookie) is None


def test_a_changed_cookie_is_no_session(clock: Clock) -> None:
    sessions = Sessions(now=clock, clock=clock)
    payload, _, signature = sessions.begin(DIGEST).rpartition(".")
    text = base64.urlsafe_b64decode(payload + "==")
    other = base64.urlsafe_b64encode(text.replace(b"d", b"e")).decode().rstrip("=")
    assert sessions.find(f"{payload}.{signature}") is not None
    assert sessions.find(f"{other}.{signature}") is None


def test_the_token_cannot_be_read_from_the_cookie(clock: Clock) -> None:
    sessions = Sessions(now=clock, clock=clock)
    cookie = sessions.begin(DIGEST)
    session = sessions.find(cookie)
    assert session
    assert session.token not in cookie
    assert session.token.encode() not in base64.urlsafe_b64decode(cookie.split(".")[0] + "==")


def test_a_process_without_a_database_has_a_secret_of_its_own(clock: Clock) -> None:
    cookie = Sessions(now=clock, clock=clock).begin(DIGEST)
    assert Sessions(now=clock, clock=clock).find(cookie) is None


class SharedSessions:
    """Needs the fixtures `processes` and `clock`."""

    def test_a_session_survives_a_restart_and_holds_in_other_processes(
        self, processes: Processes
    ) -> None:
        cookie = processes.sessions().begin(DIGEST)
        session = processes.sessions().find(cookie)
        assert session
        assert session.digest == DIGEST

    def test_a_session_ends_everywhere_after_twelve_hours(
        self, processes: Processes, clock: Clock
    ) -> None:
        one, two = processes.sessions(), processes.sessions()
        cookie = one.begin(DIGEST)
        clock.seconds += SESSION_SECONDS - 1
        assert two.find(cookie)
        clock.seconds += 1
        assert one.find(cookie) is two.find(cookie) is None

    def test_logging_out_ends_it_here_at_once_and_elsewhere_within_five_seconds(
        self, processes: Processes, clock: Clock
    ) -> None:
        one, two = processes.sessions(), processes.sessions()
        cookie, other = one.begin(DIGEST), one.begin(DIGEST)
        assert two.find(cookie)
        one.end(cookie)
        assert one.find(cookie) is None
        clock.seconds += 5
        assert two.find(cookie) is None
        assert processes.sessions().find(cookie) is None
        assert two.find(other)

    def test_ended_sessions_are_forgotten_when_their_cookies_have_expired(
        self, processes: Processes, clock: Clock
    ) -> None:
        sessions = processes.sessions()
        sessions.end(sessions.begin(DIGEST))
        clock.seconds += SESSION_SECONDS
        sessions.end(sessions.begin(DIGEST))
        with processes.databases[0].begin(SCHEMA) as connection:
            count = connection.exec_driver_sql("SELECT count(*) FROM page_ended_sessions").scalar()
        assert count == 1
        assert len(sessions._ended_here) == 1

    def test_a_session_that_has_ended_may_be_ended_again(self, processes: Processes) -> None:
        sessions = processes.sessions()
        cookie = sessions.begin(DIGEST)
        sessions.end(cookie)
        sessions.end(cookie)
        sessions.end("nonsense")


class TestSQLite(SharedSessions):
    """Real here; PostgreSQL is in tests/live."""


def test_a_login_at_the_page_survives_a_restart_of_the_proxy(tmp_path: Path) -> None:
    key = "guest-key-0123456789"
    access = {"mode": "keys", "keys": {"guest": key}, "database": f"sqlite:///{tmp_path}/ledger.db"}
    settings = load(environ={}, flags={"private_horde": {"enabled": True}, "access": access})
    browser = create_app(settings).test_client()
    form = browser.get("/", headers={"Accept": "text/html"}).text
    token = form.partition('name="token" value="')[2].partition('"')[0]
    browser.post("/page/login", data={"key": key, "token": token})
    cookie = browser.get_cookie("horde_proxy_page")
    assert cookie
    restarted = create_app(settings).test_client()
    assert restarted.get("/page/state.json").status_code == 401
    restarted.set_cookie("horde_proxy_page", cookie.value)
    state = restarted.get("/page/state.json")
    assert state.json and state.json["name"] == "guest"
    restarted.post("/page/logout", data={"token": state.json["token"]})
    restarted.set_cookie("horde_proxy_page", cookie.value)
    assert restarted.get("/page/state.json").status_code == 401


class FailingStore:
    """A database that can be stopped."""

    def __init__(self) -> None:
        self.fails = False

    def state(self) -> SessionState:
        self.check()
        return SessionState("secret", frozenset())

    def end(self, session_id: str, until: int) -> None:
        self.check()

    def check(self) -> None:
        if self.fails:
            raise DatabaseError("gone")


def test_sessions_last_while_the_database_fails(clock: Clock) -> None:
    store = FailingStore()
    sessions = Sessions(store, now=clock, clock=clock, run=inline)
    cookie = sessions.begin(DIGEST)
    store.fails = True
    clock.seconds += 60
    assert sessions.find(cookie)
    with pytest.raises(Unavailable, match="ended in this process only"):
        sessions.end(cookie)
    assert sessions.find(cookie) is None


def test_a_secret_that_could_never_be_read_is_an_error(clock: Clock) -> None:
    store = FailingStore()
    store.fails = True
    sessions = Sessions(store, now=clock, clock=clock, run=inline)
    with pytest.raises(Unavailable) as caught:
        sessions.find("a.b")
    assert caught.value.code == "sessions_unavailable"
    assert sessions.find("") is None

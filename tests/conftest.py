"""Fixtures and settings of all tests. What tests import is in support.py."""

from __future__ import annotations

import gc
import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from flask import Flask
from jinja2.bccache import Bucket, BytecodeCache
from werkzeug.routing import Rule
from xdist.remote import Producer
from xdist.scheduler import Scheduling, WorkStealingScheduling

from horde_proxy.caching.background import later_in_background
from horde_proxy.database.engine import _disable_implicit_transactions
from horde_proxy.folders import state_folder_of
from horde_proxy.shutdown import Shutdown
from horde_proxy.store.generation_log import GenerationLog

if TYPE_CHECKING:
    from horde_proxy.store.generations import GenerationStore
    from tests.support import World

# The modules of the tests are hundreds of thousands of objects that stay. Python's collector of
# garbage would look through them again and again, so it does not run until they are all there.
gc.disable()

# A few examples while one works, and many in CI: pytest --hypothesis-profile thorough. Neither
# depends on the speed of the machine, so there is no deadline and no check of how long data take.
# support.is_thorough() tells other tests of very many cases which run this is.
for profile, examples in {"quick": 15, "thorough": 200}.items():
    hypothesis.settings.register_profile(
        profile,
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
hypothesis.settings.load_profile("quick")

LIVE = Path(__file__).parent / "live"


@pytest.fixture(autouse=True, scope="session")
def _keep_private_hordes_in_memory() -> Iterator[None]:
    """Private hordes of tests must not be kept in the file of the one who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("horde_proxy.config.hordes.horde_file", lambda: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _keep_state_in_a_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Apps of tests must not store keys or answers in the files of the one who runs them."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("horde_proxy.config.store.state_folder", lambda: folder)
        patch.setattr("horde_proxy.config.access.state_folder", lambda: folder)
        patch.setattr("horde_proxy.config.hordes.state_folder", lambda: folder)
        patch.setattr("horde_proxy.app.runtime.state_folder", lambda: folder)
        # Nor read the settings that a page of theirs has written there.
        patch.setattr(
            "horde_proxy.config.settings_sources.state_folder_of",
            lambda environ: None if environ is os.environ else state_folder_of(environ),
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def _write_no_records_behind_a_test() -> Iterator[None]:
    """Records of answers are written two seconds later, in a thread: while another test runs.

    A test whose runtime has a `run_later` of its own decides that itself.
    """

    def new_log(store: GenerationStore, run_later: Callable[..., None]) -> GenerationLog:
        never = run_later is later_in_background
        return GenerationLog(store, (lambda seconds, call: None) if never else run_later)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("horde_proxy.app.store.GenerationLog", new_log)
        yield


@pytest.fixture(autouse=True, scope="session")
def _check_answers_against_the_openapi_document() -> Iterator[None]:
    """A test fails whose app answers what the document does not say: see openapi_check.py."""
    from tests import openapi_check

    with pytest.MonkeyPatch.context() as patch:
        openapi_check.install(patch)
        yield


# Python's audit events of what only the tests in tests/live may do: https://peps.python.org/pep-0578/
_LIVE_EVENTS = {
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.system",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.sendto",
    "subprocess.Popen",
}


_guarded = threading.Event()
"""Set while a test runs that may do none of this."""


def _refuse_live_events(event: str, arguments: object) -> None:
    """Let no process start and no socket connect while `_guarded`.

    A thread may outlive its test: to one of those, the network is just down.
    """
    # Python calls this at each id() too, so most calls must end here.
    if event not in _LIVE_EVENTS:
        return
    if _guarded.is_set():
        is_test = threading.current_thread() is threading.main_thread()
        error = RuntimeError if is_test else OSError
        raise error(f"{event}{arguments}: a test that does this belongs to tests/live")


# An audit hook stays for the life of the process, so there is one, switched on by each test.
sys.addaudithook(_refuse_live_events)


_compile = Rule.compile
_compiled: dict[object, tuple[Any, ...]] = {}
_COMPILED = ("_parts", "_trace", "_converters", "arguments", "_build", "_build_unknown")
"""What werkzeug's Rule.compile sets."""


def _compile_once(rule: Rule) -> None:
    """Werkzeug's Rule.compile, which does its work once for all rules like this one.

    It is most of what it takes to make an app, and tests make thousands of apps with the same
    routes.
    """
    key = rule.rule, rule.subdomain, rule.merge_slashes, repr(rule.defaults)
    if key not in _compiled:
        _compile(rule)
        built = [getattr(rule, name) for name in _COMPILED]
        # The two that make URLs are methods, each bound to its rule.
        _compiled[key] = tuple(getattr(value, "__func__", value) for value in built)
    for name, value in zip(_COMPILED, _compiled[key], strict=True):
        is_method = name.startswith("_build")
        setattr(rule, name, value.__get__(rule, None) if is_method else value)


Rule.compile = _compile_once  # type: ignore[assignment,method-assign]


class _CompiledTemplates(BytecodeCache):
    """The templates of all apps, compiled once for them all, as the routes are."""

    def __init__(self) -> None:
        self._bytecode: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._bytecode:
            bucket.bytecode_from_string(self._bytecode[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._bytecode[bucket.key] = bucket.bytecode_to_string()


Flask.jinja_options = {"bytecode_cache": _CompiledTemplates()}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/live out where its marker is: to import it takes as long as all other tests."""
    return True if _leaves_live_out(config) and collection_path == LIVE else None


def _leaves_live_out(config: pytest.Config) -> bool:
    return "not live" in (config.getoption("markexpr") or "")


def pytest_collection_finish() -> None:
    """Let the collector run again, for what comes after the collection only."""
    gc.collect()
    gc.freeze()
    # As often as from Python 3.14 on or less: its 700 of before are for much smaller programs.
    gc.set_threshold(10_000)
    gc.enable()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Whole files only for tests/live, where the tests of a file share servers.

    The quick tests of one file share nothing, and some files have many of them.
    """
    if _leaves_live_out(config) and config.getoption("dist") == "loadfile":
        return WorkStealingScheduling(config, log)
    return None


@pytest.fixture
def waits_for_disk() -> None:
    """For tests of what SQLite waits for."""


@pytest.fixture(autouse=True)
def _never_wait_for_the_disk(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test's databases need not outlive a power failure, and a busy disk takes 0.1 s a commit."""
    if "waits_for_disk" in request.fixturenames:
        return

    def connected(connection: sqlite3.Connection, record: object) -> None:
        _disable_implicit_transactions(connection, record)
        connection.execute("PRAGMA synchronous=OFF").close()

    module = "horde_proxy.database.engine"
    monkeypatch.setattr(f"{module}._disable_implicit_transactions", connected)
    monkeypatch.setattr(f"{module}._let_disk_write_later", lambda connection, record: None)


@pytest.fixture(autouse=True)
def only_this_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails what starts a process or opens a connection outside tests/live."""
    if request.node.get_closest_marker("live") is None:
        _guarded.set()
    yield
    _guarded.clear()


_begun: list[Shutdown | threading.Timer] = []
"""What a test has made, or started, that has threads wait."""


def _note_when_made(patch: pytest.MonkeyPatch, kind: type[Shutdown | threading.Timer]) -> None:
    make = kind.__init__

    def made(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        _begun.append(self)

    patch.setattr(kind, "__init__", made)


@pytest.fixture(autouse=True, scope="session")
def _note_what_waits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        _note_when_made(patch, Shutdown)
        _note_when_made(patch, threading.Timer)
        yield


@pytest.fixture(autouse=True)
def _end_what_waits(request: pytest.FixtureRequest) -> Iterator[None]:
    """The loops and timers of a test's apps end with it.

    Otherwise hundreds of threads wake each second while the tests that follow run, and the slower
    a machine is, the more often they do.
    """
    # Fixtures of a whole file come first, so that their apps go on.
    _begun.clear()
    yield
    if request.node.get_closest_marker("live") is None:
        for waiting in _begun:
            waiting.cancel() if isinstance(waiting, threading.Timer) else waiting.set()
    _begun.clear()


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Without the records of threads that have outlived their tests."""
    older = set(threading.enumerate()) - {threading.main_thread()}

    def is_of_this_test(record: logging.LogRecord) -> bool:
        return threading.current_thread() not in older

    caplog.handler.addFilter(is_of_this_test)
    yield caplog
    caplog.handler.removeFilter(is_of_this_test)


@pytest.fixture
def world() -> World:
    # Imported here, because xdist's first process imports this file too and runs no test.
    from tests.support import World

    return World()

"""Fixtures and settings of all tests. What tests import is in support.py."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from werkzeug.routing import Rule

from tests.support import World

# A few examples while one works, and many in CI: pytest --hypothesis-profile thorough. Neither
# depends on the speed of the machine, so there is no deadline and no check of how long data take.
for profile, examples in {"quick": 25, "thorough": 200}.items():
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


class _Guard:
    """Lets no process start and no socket connect while `active`.

    A thread may outlive its test: to one of those, the network is just down.
    """

    active = False

    def __call__(self, event: str, arguments: object) -> None:
        if self.active and event in _LIVE_EVENTS:
            is_test = threading.current_thread() is threading.main_thread()
            error = RuntimeError if is_test else OSError
            raise error(f"{event}{arguments}: a test that does this belongs to tests/live")


# An audit hook stays for the life of the process, so there is one, switched on by each test.
_guard = _Guard()
sys.addaudithook(_guard)


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


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave tests/live out where its marker is: to import it takes as long as all other tests."""
    is_excluded = "not live" in (config.getoption("markexpr") or "")
    return True if is_excluded and collection_path == LIVE else None


@pytest.fixture(autouse=True)
def only_this_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails what starts a process or opens a connection outside tests/live."""
    _guard.active = request.node.get_closest_marker("live") is None
    yield
    _guard.active = False


@pytest.fixture
def world() -> World:
    return World()

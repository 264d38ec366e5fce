"""Fixtures of the tests with real processes, and the marker that all of them carry."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.chromium import Chromium
from tests.live.postgresql import Postgresql
from tests.live.processes import Processes

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test of this folder `live`, and keep each file in one process of pytest-xdist.

    The tests of a file share servers, which would be started once for each process otherwise.
    """
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("live")
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(autouse=True, scope="session")
def _keep_state_out_of_the_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers of tests must not keep keys and usage in the files of the one who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.end()


@pytest.fixture
def llama(processes: Processes) -> str:
    """The URL of a real llama.cpp that has SmolLM2 under the name smol."""
    return processes.llama_cpp()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path / "profile")
    yield chromium
    chromium.close()


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    """The folder for screenshots: the one that HORDE_PROXY_ARTEFACTS names is kept."""
    folder = Path(os.environ.get("HORDE_PROXY_ARTEFACTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Postgresql]:
    # Not in tmp_path, which only its owner may enter: the server may run as another user.
    with tempfile.TemporaryDirectory() as directory:
        server = Postgresql(Path(directory))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def url(postgresql: Postgresql) -> str:
    """The URL of a new database in PostgreSQL."""
    return postgresql.new_database()

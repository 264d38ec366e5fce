"""Fixtures of the tests with real processes, and the marker that all of them carry."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import client_programs
from tests.live.chromium import Chromium
from tests.live.postgresql import Postgresql
from tests.live.processes import Processes
from tests.live.request_tap import RequestTap
from tests.live.scripted_proxy import serve_script

HERE = Path(__file__).parent


LONGEST = (
    *("test_structured_smollm2", "test_llama_cpp", "test_long", "test_chaos", "test_batches"),
    *("test_bare_debian", "test_debian_package"),
)
"""Files that take minutes. They begin first, so that no process has one of them left at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test of this folder `live`, and let the longest files begin."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("live")
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True, scope="session")
def _keep_state_out_of_the_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Servers of tests must not keep keys and usage in the files of the one who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("STATE_DIRECTORY", raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _heed_hangups() -> None:
    """Programs of tests heed SIGHUP, which they ignore where pytest was started with nohup."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The URL of a proxy whose model follows the script, and the folder of its tasks."""
    yield from serve_script(tmp_path_factory)


@pytest.fixture
def tap(
    served: tuple[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[RequestTap]:
    """What a client of `served` sends; it becomes a recording where those are wanted."""
    opened = RequestTap(served[0])
    yield opened
    opened.close()
    folders = {
        opened.url: "http://proxy.invalid",
        str(served[1]): "/project",
        str(tmp_path): "/home",
    }
    name = request.node.name.removeprefix("test_")
    opened.record(re.sub(r"\W+", "_", name).strip("_"), folders)


@pytest.fixture(scope="session")
def chat_packages() -> Path:
    return client_programs.npm_packages("node-chats", client_programs.CHAT_PACKAGES)


@pytest.fixture(scope="session")
def answer_packages() -> Path:
    return client_programs.npm_packages("node-answers", client_programs.ANSWER_PACKAGES)


@pytest.fixture
def chat_scripts(chat_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for scripts of Node with the libraries for chat completions."""
    return client_programs.script_folder(chat_packages, tmp_path_factory.mktemp("scripts"))


@pytest.fixture
def answer_scripts(answer_packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the libraries for Responses, Messages and Ollama's API."""
    return client_programs.script_folder(answer_packages, tmp_path_factory.mktemp("scripts"))


@pytest.fixture(scope="session")
def python() -> Path:
    """The programs of a virtual environment with the Python clients."""
    return client_programs.python_packages("python", client_programs.PYTHON_PACKAGES)


@pytest.fixture(scope="session")
def image_python() -> Path:
    """The programs of a virtual environment with the Python clients that make pictures."""
    return client_programs.python_packages("images", client_programs.IMAGE_PACKAGES)

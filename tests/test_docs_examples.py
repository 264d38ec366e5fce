"""What a newcomer copies from the README and the docs works: requests, models, Python."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.commands.keys import add_key
from horde_proxy.config import load
from tests.support import Scripted, World

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MODEL = "horde-proxy/SmolLM2-135M-Instruct"
"""The model of the demo, which the README names."""

# curl http://127.0.0.1:8080/v1/responses -H '...' \
#   -d '{"model": ...}'
_CURL = re.compile(
    r"^curl http://127\.0\.0\.1:8080(\S+)[^\n']*(?:'[^']*'[^\n']*)?\\\n *-d '([^']*)'", re.M
)
# {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
_BATCH_LINE = re.compile(r'^\{"custom_id".*\}$', re.M)
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
_TOML = re.compile(r"^```toml\n(.*?)^```", re.M | re.S)
_OTHER_PROGRAMS = {"hordes", "model_providers"}
"""Tables of the worker's file, which test_worker_settings.py reads, and of Codex' file."""
_ELISIONS = {
    '"whsec_..."': '"whsec_' + "QUJD" * 8 + '"',
    '"sha256:..."': '"sha256:' + "0a" * 32 + '"',
}
"""What the owner of a proxy has to make, as the docs shorten it, and a value of that form."""


def requests_of_the_docs() -> Iterator[tuple[str, str, Any]]:
    """(page, path, body) of each request that they show, but for pictures."""
    for page in PAGES:
        text = page.read_text()
        for path, body in _CURL.findall(text):
            if "/images/" not in path:
                yield page.name, path, json.loads(body)
        for line in _BATCH_LINE.findall(text):
            request = json.loads(line)
            yield page.name, request["url"], request["body"]


REQUESTS = list(requests_of_the_docs())


def test_the_docs_have_examples_of_each_front() -> None:
    paths = {path for _, path, _ in REQUESTS}
    assert paths >= {"/v1/chat/completions", "/v1/responses", "/v1/messages"}


@pytest.mark.parametrize(("page", "path", "body"), REQUESTS)
def test_a_request_of_the_docs_is_answered(page: str, path: str, body: Any) -> None:
    world = World()
    world.employ(Scripted("Paris.", name=MODEL))
    response = world.http().post(path, json=body)
    assert response.status_code == 200, (page, response.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_the_docs_imports_what_it_uses(page: Path) -> None:
    for source in _PYTHON.findall(page.read_text()):
        compile(source, page.name, "exec")
        for name in ("openai", "anthropic", "time"):
            if re.search(rf"\b{name}\.", source):
                assert re.search(rf"^import {name}$", source, re.M), source


def settings_of_the_docs() -> Iterator[tuple[str, str, str]]:
    """(page, name of the file, text) of each settings file of the proxy that they show."""
    for page in PAGES:
        for text in _TOML.findall(page.read_text()):
            for shown, value in _ELISIONS.items():
                text = text.replace(shown, value)
            if not _OTHER_PROGRAMS & set(tomllib.loads(text)):
                yield page.name, "config.toml", text
        for text in _PYTHON.findall(page.read_text()):
            if text.startswith("# config.py\n"):
                yield page.name, "config.py", text


SETTINGS = list(settings_of_the_docs())


@pytest.mark.parametrize(("page", "name", "text"), SETTINGS)
def test_a_settings_file_of_the_docs_starts_the_proxy(
    tmp_path: Path, page: str, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    # It has keys, and a command of `idle_hook` runs: a file that others may write is refused.
    path.chmod(0o600)
    if "postgresql" in text:
        pytest.importorskip("psycopg")
    if "redis://" in text:
        pytest.importorskip("redis")
    load(str(path), {})


def test_the_docs_show_settings_of_servers_at_home_and_of_notices() -> None:
    pages = [page for page, _, _ in SETTINGS]
    # The line, places, a machine that sleeps, and the whole file, beside the Python file.
    assert pages.count("endpoints.md") >= 5
    assert {"operations.md", "background.md", "clients.md", "private-horde.md"} <= set(pages)


def test_the_docs_name_every_option_of_keys_add() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    options = {name for parameter in add_key.params for name in parameter.opts if "--" in name}
    assert {name for name in options if f"`{name}" not in text} == set()

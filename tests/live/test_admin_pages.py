"""The admin's pages in a real browser with 300 of everything, and the inspector's.

Screenshots go to the folder in HORDE_PROXY_ARTEFACTS, at 390 and 1280 px, light and dark. Each page
is looked at by axe-core.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from flask import Flask, jsonify
from werkzeug.serving import make_server

from horde_proxy.key_digest import key_digest
from horde_proxy.ledger import ClientKey
from horde_proxy.ledger.database import open_ledger
from tests.live.chromium import PROGRAM, Chromium
from tests.live.processes import KEY, Processes
from tests.live.test_horde_pages import SMALL
from tests.live.test_page import axe as axe
from tests.live.test_page import chat, looked_at

ADMIN = "key-of-the-admin-longer"
MANY = 300
HOSTILE = "<script>alert(1)</script>'\"& \u202eמרחבא"
NAVIGATION = (
    "[...document.querySelectorAll('header nav a')].map((link) => link.getAttribute('href'))"
    ".filter((address) => !address.startsWith('#'))"
)
"""The links of the page that lead to other pages."""
SECTIONS = (
    "keys",
    "key?name=phone-007",
    "endpoints",
    "endpoint?name=cellar",
    "aliases",
    "horde",
    "log",
    "settings?all=1",
    "setting?name=server.timeout",
)

pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="chromium is not installed"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def server() -> Iterator[str]:
    """A server with 300 models, one of which has a hostile name. Its URL."""
    app = Flask("cellar")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app.add_url_rule(
        "/<int:number>/models", "one", lambda number: jsonify(data=[{"id": f"small-{number}"}])
    )
    models = [{"id": f"org/Model-{number:03}-24B-Instruct-GGUF"} for number in range(MANY)]
    app.add_url_rule("/v1/models", "models", lambda: jsonify(data=[*models, {"id": HOSTILE}]))
    listening = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()


def settings_of(folder: Path, server: str) -> Path:
    """A settings file with an administrator and 300 endpoints, and a ledger with 300 keys."""
    ledger = open_ledger(f"sqlite:///{folder}/ledger.db")
    for number in range(MANY):
        key = ClientKey(f"phone-{number:03}", requests_per_minute=20, created=1, places=("home",))
        ledger.add_key(key_digest(f"phone-{number}"), key)
    ledger.close()
    path = folder / "settings.toml"
    endpoints = "".join(
        f'[[endpoints]]\nname = "server-{number:03}"\nurl = "{server}/{number}"\n\n'
        for number in range(MANY)
    )
    path.write_text(
        f'[access]\nmode = "keys"\ndatabase = "sqlite:///{folder}/ledger.db"\n'
        f'keys.admin = {{ key = "{ADMIN}", admin = true }}\n\n'
        f'[store]\ndatabase = "sqlite:///{folder}/store.db"\n\n[stats]\nhistory_days = 0\n\n'
        f"{endpoints}"
    )
    return path


def look(browser: Chromium, axe: str, folder: Path, name: str) -> list[str]:
    """Save the page in two widths and two schemes. What is wrong with any of them."""
    faults = looked_at(browser, axe, folder, f"admin-{name}")
    browser.size(390)
    small = browser.evaluate(SMALL)
    return [f"{name}: {fault}" for fault in [*faults, *small]]


def send(browser: Chromium, action: str, **fields: str) -> None:
    """Fill a form in and press its button, as people do."""
    form = f"""document.querySelector('form[action="{action}"]')"""
    for name, value in fields.items():
        browser.evaluate(f"{form}.elements[{name!r}].value = {value!r}")
    here = browser.evaluate("performance.timeOrigin")
    browser.evaluate(f"{form}.querySelector('button.main, button').click()")
    browser.until(f"performance.timeOrigin !== {here} && document.readyState === 'complete'", 60)


def text_of(browser: Chromium) -> str:
    return str(browser.evaluate("document.querySelector('main').innerText"))


def test_the_operator_makes_a_key_adds_an_endpoint_and_pauses_it(
    processes: Processes,
    browser: Chromium,
    artefacts: Path,
    tmp_path: Path,
    server: str,
    axe: str,
) -> None:
    path = settings_of(tmp_path, server)
    url, _ = processes.serve(
        config=str(path), private_horde__enabled="true", private_horde__api_key=KEY
    )
    admin = f"{url}/page/admin"
    browser.open(f"{url}/")
    send(browser, "page/login", key=ADMIN)
    browser.open(f"{admin}/keys")
    send(browser, "make-key", name="ann")
    faults = look(browser, axe, artefacts, "made-key")
    key = str(browser.evaluate("document.getElementById('secret').textContent"))
    headers = {"Authorization": f"Bearer {key}"}
    assert requests.get(f"{url}/v1/models", headers=headers, timeout=60).status_code == 200

    browser.open(f"{admin}/endpoints")
    send(browser, "add-endpoint", url=server, name="cellar")
    assert "cellar was added: openai, 301 models." in text_of(browser)
    entry = f'[[endpoints]]\nurl = "{server}"\nname = "cellar"\ntype = "openai"'
    assert path.read_text().rstrip().endswith(entry)
    browser.open(f"{admin}/endpoint?name=cellar")
    send(browser, "pause-endpoint")
    assert "It is paused: it gets no new requests." in text_of(browser)
    states = requests.get(f"{url}/v1/endpoints", headers=headers, timeout=60).json()["data"]
    assert {state["name"]: state["state"] for state in states}["cellar"] == "paused"
    refused = requests.post(
        f"{url}/v1/chat/completions",
        json={"model": "org/Model-007-24B-Instruct-GGUF", "messages": []},
        headers=headers,
        timeout=60,
    )
    assert "the operator has paused it" in refused.text

    for section in SECTIONS:
        browser.open(f"{admin}/{section}")
        faults += look(browser, axe, artefacts, section.partition("?")[0])
    assert faults == []
    assert browser.console == []


def test_the_inspector_is_reached_from_the_page_and_shows_what_was_sent(
    processes: Processes, browser: Chromium, artefacts: Path, axe: str
) -> None:
    url = processes.serve_horde(server__inspect="20")
    processes.work(url)
    for text in (HOSTILE, "word " * 400, "x" * 2000):
        chat(url, text).raise_for_status()
    browser.open(f"{url}/")
    assert browser.evaluate(NAVIGATION) == [
        "page/horde/",
        "page/inspector/",
        "page/admin/",
        "page/first-run",
    ]
    browser.open(f"{url}/page/inspector/")
    faults = look(browser, axe, artefacts, "inspector")
    assert "My last requests" in text_of(browser)
    links = browser.evaluate("[...document.querySelectorAll('.rows a')].map((link) => link.href)")
    assert len(links) == 3
    for number, link in enumerate(links):
        browser.open(link)
        browser.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
        faults += look(browser, axe, artefacts, f"inspector-{number}")
    assert "<script>alert(1)</script>" in text_of(browser)
    assert faults == []
    assert browser.console == []

"""The page in a real browser, with a private horde and an echo worker behind it.

Screenshots are kept in the folder that HORDE_PROXY_ARTEFACTS names.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask, request
from werkzeug.serving import make_server

from horde_proxy import create_app
from horde_proxy.api.access_log import RequestLog
from horde_proxy.config import load
from horde_proxy.web.history import BUCKET_SECONDS, BUCKETS, History
from horde_proxy.web.page_state import PageState
from tests.live.chromium import PROGRAM, Chromium
from tests.live.processes import Processes, until
from tests.support import Clock, Scripted, World, with_page

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "horde-proxy-tests"
MODEL, OTHER = "horde-proxy/echo", "other/Nova-8B"
ADMIN, GUEST = "admin-key-0123456789", "guest-key-0123456789"
HOSTILE = "<img src=x onerror=hacked=1>'\"</td>"
AXE = "axe-core@4"
TOKEN = "document.querySelector('#visitor [name=token]').value"
AGAIN = """async (key) => {
  const send = (path, fields) =>
    fetch(path, { method: "POST", body: new URLSearchParams(fields) });
  await send("page/logout", { token: document.querySelector("#visitor [name=token]").value });
  const form = await (await fetch("/", { headers: { Accept: "text/html" } })).text();
  await send("page/login", { key, token: form.match(/name="token" value="([^"]+)"/)[1] });
}"""
"""Another tab of the browser logs out, and in again."""
NAMES = (
    "[...document.querySelectorAll('#table-models tbody tr:not([hidden]) th')]"
    ".map((each) => each.textContent)"
)

pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="chromium is not installed"),
]


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    folder = CACHE / "axe"
    source = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not source.is_file():
        if shutil.which("npm") is None:
            pytest.skip("npm is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        done = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", AXE],
            cwd=folder,
            capture_output=True,
            timeout=120,
        )
        if done.returncode:
            pytest.skip("the npm registry cannot be reached")
    return source.read_text()


def chat(url: str, text: str = "Hello you", key: str | None = None, **fields: Any) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}
    return requests.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)


def offer(url: str, model: str) -> None:
    """A worker for another model, which pops once and does nothing."""
    requests.post(
        f"{url}/api/v2/generate/text/pop",
        timeout=60,
        headers={"apikey": "live-tests-owner-key"},
        json={
            "name": "idle",
            "models": [model],
            "max_length": 512,
            "max_context_length": 16384,
            "bridge_agent": "Test:1:none",
            "threads": 2,
        },
    ).raise_for_status()
    until(lambda: model in requests.get(f"{url}/v1/models", timeout=60).text)


def complaints(browser: Chromium, axe: str) -> list[str]:
    """What axe-core finds wrong with the page as it is."""
    browser.evaluate(axe + "; true")
    found = json.loads(
        browser.evaluate("axe.run(document).then((found) => JSON.stringify(found.violations))")
    )
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found
        for node in each["nodes"]
    ]


def looked_at(browser: Chromium, axe: str, folder: Path, name: str) -> list[str]:
    """Saves the page in two widths and two schemes, and tells what is wrong with any of them."""
    found = []
    for width, device in ((390, "phone"), (1280, "desktop")):
        for scheme in ("light", "dark"):
            browser.look(width, scheme, folder / f"{name}-{device}-{scheme}.png")
            found += complaints(browser, axe)
            if browser.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.append(f"wider than a screen of {width}")
    return found


def write(browser: Chromium, field: str, text: str) -> None:
    browser.evaluate(f"document.getElementById({field!r}).focus()")
    browser.call("Input.insertText", text=text)


def click(browser: Chromium, selector: str) -> None:
    browser.evaluate(f"document.querySelector({selector!r}).click()")


def text_of(browser: Chromium, selector: str) -> str:
    return str(browser.evaluate(f"document.querySelector({selector!r}).textContent"))


def is_from(browser: Chromium, url: str) -> bool:
    return {
        each.split("/page")[0].split("/v1")[0].rstrip("/")
        for each in browser.requests
        if not each.startswith(("data:", "about:", "blob:"))
    } == {url}


def test_the_page_lives(processes: Processes, browser: Chromium, axe: str, artefacts: Path) -> None:
    """Sorts, searches, copies, shows what runs as it runs, and chats."""
    url = processes.serve_horde()
    processes.work(url, "--delay", "2", "--threads", "3")
    offer(url, OTHER)
    browser.size(1280)
    browser.open(url)
    browser.until("document.getElementById('live').textContent === 'live'")
    check_sorting(browser)
    check_search(browser)
    check_copying(browser, url)
    check_live_update(browser, url)
    check_chat(browser, url)
    assert browser.console == []
    assert is_from(browser, url)
    chat(url, model="nope")
    browser.open(url)
    browser.until("document.querySelectorAll('#table-errors tbody tr').length")
    assert "model_not_found" in text_of(browser, "#table-errors")
    threads = [threading.Thread(target=chat, args=(url, f"Hello {n}")) for n in range(2)]
    for thread in threads:
        thread.start()
    browser.until("document.querySelectorAll('#table-running tbody tr').length === 2")
    assert looked_at(browser, axe, artefacts, "page") == []
    for thread in threads:
        thread.join()


def check_sorting(browser: Chromium) -> None:
    header = "#table-models thead th:nth-child(5)"
    assert browser.evaluate(NAMES) == [MODEL, OTHER]
    browser.evaluate(f"document.querySelector('{header} button').focus()")
    browser.press("Enter", "\r")
    assert browser.evaluate(f"document.querySelector('{header}').ariaSort") == "descending"
    assert browser.evaluate(NAMES) == [MODEL, OTHER]
    browser.press(" ", " ")
    assert browser.evaluate(f"document.querySelector('{header}').ariaSort") == "ascending"
    assert browser.evaluate(NAMES) == [OTHER, MODEL]


def check_search(browser: Chromium) -> None:
    write(browser, "search", "nova")
    assert browser.evaluate(NAMES) == [OTHER]
    assert text_of(browser, "#found") == "1 of 2"
    browser.evaluate("document.getElementById('search').value = ''")
    browser.evaluate("document.getElementById('search').dispatchEvent(new Event('input'))")
    assert text_of(browser, "#found") == "2 models"
    assert browser.evaluate(NAMES) == [OTHER, MODEL]


def check_copying(browser: Chromium, url: str) -> None:
    click(browser, "#table-models tbody tr:last-child button")
    line = browser.until("document.getElementById('copied').textContent")
    command = line.partition(": ")[2]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"] == "Say hello."


def check_live_update(browser: Chromium, url: str) -> None:
    rows = "document.querySelectorAll('#table-running tbody tr').length"
    browser.until(f"{rows} === 0")
    thread = threading.Thread(target=chat, args=(url,))
    thread.start()
    browser.until(f"{rows} === 1")
    assert MODEL in text_of(browser, "#table-running tbody")
    thread.join()
    browser.until(f"{rows} === 0")


def check_chat(browser: Chromium, url: str) -> None:
    # The worker of the other model only pops, and "auto" may choose it.
    write(browser, "chat-model", MODEL)
    browser.press("Enter", "\r")
    write(browser, "chat-text", "Tell me <b>more</b>")
    click(browser, "#chat-send")
    browser.until("!document.getElementById('chat-stop').hidden")
    browser.until("document.getElementById('chat-status').textContent === 'Done.'")
    assert text_of(browser, ".turn.assistant .text") == "Tell me <b>more</b>"
    click(browser, "#chat-new")
    long = " ".join(f"word{number}" for number in range(120))
    write(browser, "chat-text", long)
    click(browser, "#chat-send")
    part = browser.until("document.querySelector('.turn.assistant .text')?.textContent")
    assert 0 < len(part) < len(long)
    browser.until("document.getElementById('chat-status').textContent === 'Done.'")
    assert text_of(browser, ".turn.assistant .text") == long
    write(browser, "chat-text", "Never mind")
    click(browser, "#chat-send")
    browser.until("document.querySelectorAll('#table-running tbody tr').length === 1")
    click(browser, "#chat-stop")
    browser.until("document.getElementById('chat-status').textContent === 'Stopped.'")
    browser.until("document.querySelectorAll('#table-running tbody tr').length === 0")


def test_those_who_watch_are_few_and_noticed_when_they_go(processes: Processes) -> None:
    url, _ = processes.serve()
    streams = [requests.get(f"{url}/page/events", stream=True, timeout=60) for _ in range(16)]
    assert [each.status_code for each in streams] == [200] * 16
    one_more = requests.get(f"{url}/page/events", timeout=60)
    assert (one_more.status_code, one_more.headers["Retry-After"]) == (503, "10")
    assert requests.get(f"{url}/page/state.json", timeout=60).ok
    for each in streams:
        each.close()

    def is_free() -> bool:
        with requests.get(f"{url}/page/events", stream=True, timeout=60) as response:
            return response.ok

    until(is_free)


def test_who_watches_does_not_delay_the_end(processes: Processes) -> None:
    url, process = processes.serve()
    with requests.get(f"{url}/page/events", stream=True, timeout=60) as response:
        assert response.ok
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0


@pytest.fixture
def upstream() -> Iterator[tuple[str, list[tuple[str, str, str | None]]]]:
    """The URL of a server, and the (method, path, cookie) of each call that came to it."""
    app, calls = Flask("upstream"), []

    @app.before_request
    def note() -> None:
        calls.append((request.method, request.path, request.headers.get("Cookie")))

    @app.get("/v1/models")
    def models() -> Any:
        return {"object": "list", "data": [{"id": "m", "object": "model"}]}

    @app.post("/v1/chat/completions")
    def chat() -> Any:
        return {"choices": [{"message": {"role": "assistant", "content": "relayed"}}]}

    with serving(app) as url:
        yield url, calls


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_chat_by_cookie_is_relayed_where_a_chat_belongs(upstream: Any, tmp_path: Path) -> None:
    url, calls = upstream
    app = create_app(
        load(
            environ={},
            flags={
                "endpoints": [{"url": url, "name": "other"}],
                "access": {
                    "mode": "keys",
                    "keys": {"guest": GUEST},
                    "database": f"sqlite:///{tmp_path}/ledger.db",
                },
            },
        )
    )
    with serving(app) as proxy, requests.Session() as session:
        form = session.get(proxy, headers={"Accept": "text/html"}, timeout=60).text
        token = form.partition('name="token" value="')[2].partition('"')[0]
        session.post(f"{proxy}/page/login", data={"key": GUEST, "token": token}, timeout=60)
        state = session.get(f"{proxy}/page/state.json", timeout=60).json()
        answer = session.post(
            f"{proxy}/page/chat",
            json={"model": "m", "messages": []},
            timeout=60,
            headers={"X-Page-Token": state["token"]},
        )
        assert answer.json()["choices"][0]["message"]["content"] == "relayed"
        assert calls[-1] == ("POST", "/v1/chat/completions", None)
        until(lambda: not running_rows(session, proxy))


def running_rows(session: requests.Session, proxy: str) -> Any:
    return session.get(f"{proxy}/page/state.json", timeout=60).json()["running"]["rows"]


def a_full_day(clock: Clock) -> History:
    """A day that ends now, with more to do in its afternoon and trouble in its evening."""
    history, end = History(clock), time.time()
    for place in range(BUCKETS):
        clock.seconds = end - (BUCKETS - 1 - place) * BUCKET_SECONDS
        for number in range(int(8 + 7 * math.sin(place / 18)) * (place % 29 > 2)):
            is_bad = 90 < place < 110 and number % 3 == 0
            history.add(
                RequestLog(
                    "id",
                    "POST",
                    "/v1/chat/completions",
                    "127.0.0.1",
                    status=504 if is_bad else 200,
                    seconds=2 + number % 5 + place % 7,
                    model=OTHER,
                    upstream="horde",
                    prompt_tokens=900 + 10 * place,
                    completion_tokens=200 + number * 20,
                    kudos=12.5,
                    account="anybody",
                    error="timeout" if is_bad else None,
                )
            )
    return history


@pytest.fixture
def full(world: World) -> Iterator[str]:
    """The URL of a page with much on it."""
    for name in (HOSTILE, *(f"koboldcpp/Model-{size}B-Instruct-Q4_K_M" for size in range(3, 40))):
        world.employ(Scripted("Hello.", name=name, context=4096 + len(name) * 256), name)
    app = with_page(world.app(), PageState(history=a_full_day(Clock())))
    with serving(app) as url:
        yield url


def test_a_full_day_is_drawn(full: str, browser: Chromium, axe: str, artefacts: Path) -> None:
    """Hostile names of models stay texts, by the template and by the script."""
    browser.open(full)
    browser.until(f"{NAMES}.length === 38")
    browser.until("document.getElementById('found').textContent === '38 models'")
    assert HOSTILE in browser.evaluate(NAMES)
    assert "timeout" in text_of(browser, "#table-errors")
    assert len(browser.evaluate("document.querySelector('.bar.bad').getAttribute('d')")) > 100
    click(browser, "summary")
    assert looked_at(browser, axe, artefacts, "full") == []
    assert browser.evaluate("typeof hacked") == "undefined"
    assert browser.console == []


def test_one_logs_in_with_a_key(
    processes: Processes, browser: Chromium, axe: str, artefacts: Path, tmp_path: Path
) -> None:
    keys = {"admin": {"key": ADMIN, "admin": True}, "guest": {"key": GUEST}}
    url = processes.serve_horde(
        access__mode="keys",
        access__keys=json.dumps(keys),
        access__database=f"sqlite:///{tmp_path}/ledger.db",
    )
    processes.start("worker", "--horde", url, "--backend", "echo", "--idle", "0.05")
    until(
        lambda: (
            "echo"
            in requests.get(
                f"{url}/v1/models", headers={"Authorization": f"Bearer {GUEST}"}, timeout=5
            ).text
        )
    )
    assert chat(url, key=ADMIN).status_code == 200
    browser.open(url)
    browser.until("document.getElementById('key') !== null")
    assert looked_at(browser, axe, artefacts, "login") == []
    log_in(browser, "wrong-key-0123456789")
    browser.until("document.querySelector('[role=alert]')?.textContent.includes('not known')")
    assert browser.console.pop().startswith("Failed to load resource")
    assert browser.console == []
    log_in(browser, GUEST)
    browser.until("document.getElementById('live')?.textContent === 'live'")
    assert text_of(browser, ".who span") == "guest"
    assert GUEST not in browser.evaluate("document.documentElement.outerHTML + document.cookie")
    assert "0 requests" in text_of(browser, "#chart-requests-desc")
    write(browser, "chat-text", "By cookie")
    click(browser, "#chat-send")
    browser.until("document.getElementById('chat-status').textContent === 'Done.'")
    assert text_of(browser, ".turn.assistant .text") == "By cookie"
    token = browser.evaluate(TOKEN)
    browser.evaluate(f"({AGAIN})({GUEST!r})")
    browser.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    browser.until(f"{TOKEN} !== {token!r}")
    write(browser, "chat-text", "After another login")
    click(browser, "#chat-send")
    browser.until("document.querySelectorAll('.turn.assistant').length === 2")
    browser.until("document.getElementById('chat-status').textContent === 'Done.'")
    browser.evaluate("window.fetch = async () => new Response('<html>', { status: 502 }); true")
    write(browser, "chat-text", "Through a broken server in between")
    click(browser, "#chat-send")
    browser.until("document.getElementById('chat-status').textContent === 'It failed.'")
    assert text_of(browser, ".turn.failed .error") == "The answer was 502"
    click(browser, ".who button")
    browser.until("document.getElementById('key') !== null")
    log_in(browser, ADMIN)
    browser.until("document.getElementById('live')?.textContent === 'live'")
    assert "3 requests" in text_of(browser, "#chart-requests-desc")
    assert looked_at(browser, axe, artefacts, "admin") == []
    assert browser.console == []
    assert is_from(browser, url)


def log_in(browser: Chromium, key: str) -> None:
    write(browser, "key", key)
    browser.press("Enter", "\r")


def test_where_each_brings_a_horde_key_only_what_is_public_is_shown(
    processes: Processes, browser: Chromium, axe: str, artefacts: Path
) -> None:
    url = processes.serve_horde(access__mode="passthrough")
    processes.work(url)
    browser.open(url)
    browser.until(f"{NAMES}.length")
    assert browser.evaluate("document.getElementById('running')") is None
    write(browser, "chat-key", "live-tests-owner-key")
    write(browser, "chat-text", "With my own key")
    click(browser, "#chat-send")
    browser.until("document.getElementById('chat-status').textContent === 'Done.'")
    assert text_of(browser, ".turn.assistant .text") == "With my own key"
    assert looked_at(browser, axe, artefacts, "passthrough") == []
    assert browser.console == []


def test_the_inbox_lives_and_fits_a_phone(
    processes: Processes, browser: Chromium, axe: str, artefacts: Path, tmp_path: Path
) -> None:
    """Answers of background responses come by themselves; a running one is cancelled by a click."""
    url = processes.serve_horde(store__database=f"sqlite:///{tmp_path}/store.db")
    processes.work(url, "--delay", "6")
    browser.size(390)
    browser.open(url)
    assert "background: true" in text_of(browser, "#inbox-list")

    def begin(text: str) -> None:
        body = {"model": MODEL, "input": text, "background": True}
        requests.post(f"{url}/v1/responses", json=body, timeout=60).raise_for_status()

    begin("Hello " + "x" * 300)
    begin("Never mind")
    browser.open(url)
    assert text_of(browser, "#inbox-list").count("Cancel") == 2
    click(browser, "#inbox-list li:first-child button")
    browser.until("document.querySelector('#inbox-list')?.textContent.includes('cancelled')")
    browser.until("document.querySelector('#inbox-list').textContent.includes('completed')", 60)
    assert browser.console == []
    assert looked_at(browser, axe, artefacts, "inbox") == []


@pytest.mark.parametrize("mode", [None, "open"])
def test_forms_pass_the_guard_of_a_proxy_without_keys(browser: Chromium, mode: str | None) -> None:
    """A browser says which page a form is of, as the policy for referrers allows it."""
    horde = {"enabled": True, "api_key": ADMIN}
    made = World(private_horde=horde, access={"mode": mode} if mode else {})
    server = make_server("127.0.0.1", 0, made.app(), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        browser.open(f"http://127.0.0.1:{server.port}/page/horde/")
        browser.until("!!document.querySelector('form [type=password]')")
        browser.evaluate("document.querySelector('form [type=password]').value = 'no key at all'")
        browser.evaluate("document.querySelector('form').requestSubmit()")
        browser.until("document.body && document.body.innerText.includes('This is not the key')")
    finally:
        server.shutdown()
        server.server_close()

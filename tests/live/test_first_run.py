"""The first run in a real browser: from no settings to a chat, with the keyboard alone.

Screenshots go to the folder in HORDE_PROXY_ARTEFACTS, at 390 and 1280 px, light and dark.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import requests

from tests.live.chromium import PROGRAM, Chromium
from tests.live.processes import Processes, answers, free_port, until
from tests.live.test_page import axe, looked_at

__all__ = ["axe"]

pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="chromium is not installed"),
    pytest.mark.timeout(400),
]


class FreshProxy:
    """A proxy that nobody has configured, as a service starts it, and what it logs."""

    def __init__(self, processes: Processes, folder: Path, **variables: str) -> None:
        self.state, self.log = folder / "state", folder / "log"
        self.url = f"http://127.0.0.1:{free_port()}"
        self._processes, self._variables = processes, variables
        self._bind = self.url.removeprefix("http://")
        self.start()

    def start(self) -> None:
        environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HORDE_PROXY_", "AI_HORDE", "XDG_", "HOME"))
        }
        environ |= {
            "STATE_DIRECTORY": str(self.state),
            "CACHE_DIRECTORY": str(self.state / "cache"),
            "PORT": self._bind.rpartition(":")[2],
            "HORDE_PROXY_HORDE__CONNECT_TIMEOUT": "1",
            **self._variables,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "horde_proxy", "serve"],
                env=environ,
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        self._processes.started.append(self.process)
        until(lambda: answers(f"{self.url}/health/live"))

    @property
    def settings(self) -> dict[str, object]:
        return tomllib.loads((self.state / "settings.toml").read_text())


def go_to(browser: Chromium, selector: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(80):
        if browser.evaluate(f"document.activeElement.matches({selector!r})"):
            return
        browser.press("Tab")
    raise AssertionError(f"Tab does not reach {selector}")


def enter(browser: Chromium, selector: str) -> None:
    """Press Enter at an element, and wait for the next page."""
    go_to(browser, selector)
    here = browser.evaluate("performance.timeOrigin")
    browser.press("Enter", "\r")
    browser.until(f"performance.timeOrigin !== {here} && document.readyState === 'complete'")


def write(browser: Chromium, selector: str, text: str) -> None:
    go_to(browser, selector)
    browser.call("Input.insertText", text=text)


def title(browser: Chromium) -> str:
    return str(browser.evaluate("document.querySelector('h2').innerText"))


def message(browser: Chromium) -> str:
    return str(browser.evaluate("document.querySelector('main > .message')?.innerText || ''"))


def test_an_operator_is_led_from_nothing_to_a_chat(
    processes: Processes, browser: Chromium, axe: str, artefacts: Path, tmp_path: Path
) -> None:
    own = processes.serve_horde()
    processes.work(own)
    fresh = FreshProxy(processes, tmp_path)
    browser.open(f"{fresh.url}/")
    assert title(browser) == "Who may use this proxy?"
    found = looked_at(browser, axe, artefacts, "first-run-access")
    go_to(browser, "[name=access]")
    browser.press("ArrowDown")
    found += looked_at(browser, axe, artefacts, "first-run-access-keys")
    enter(browser, "form.choice > button")
    assert title(browser) == "Keep this key now"
    key = browser.evaluate("document.getElementById('new-key').textContent")
    assert "Where it listens is not changed: server.bind comes from" in message(browser)
    found += looked_at(browser, axe, artefacts, "first-run-key")
    assert requests.get(f"{fresh.url}/v1/models", timeout=60).status_code == 401

    enter(browser, ".onward a")
    assert title(browser) == "The AI Horde"
    found += looked_at(browser, axe, artefacts, "first-run-sources")
    go_to(browser, "[name=account]")
    browser.press("ArrowDown")
    write(browser, "#horde-key", "a-key-that-is-not-tried")
    enter(browser, "form.choice > button")
    assert message(browser).startswith("The key could not be tried: ")
    found += looked_at(browser, axe, artefacts, "first-run-problem")
    write(browser, "#server-url", f"{own}/v1")
    write(browser, "#server-name", "home")
    enter(browser, "form.fields button.main")
    assert "It is a server with OpenAI's API with one model: " in message(browser)
    found += looked_at(browser, axe, artefacts, "first-run-server")

    enter(browser, ".onward a")
    assert title(browser) == "Try it: a first chat"
    go_to(browser, "#chat-send")
    browser.press("Enter", "\r")
    browser.until("document.getElementById('chat-status').textContent === 'It works.'")
    assert "Say hello" in browser.evaluate("document.getElementById('chat-answer').textContent")
    found += looked_at(browser, axe, artefacts, "first-run-chat")

    enter(browser, ".onward a")
    assert title(browser) == "Your programs"
    browser.evaluate("document.querySelector('details').open = true")
    found += looked_at(browser, axe, artefacts, "first-run-clients")
    enter(browser, ".end button")
    browser.until("location.pathname === '/'")
    assert found == []
    # The browser itself complains about the key that could not be tried, which is a 400.
    assert [line for line in browser.console if "horde-key" not in line] == []
    endpoints = fresh.settings["endpoints"]
    assert [entry["name"] for entry in endpoints] == ["home", "horde"]  # type: ignore[attr-defined]
    assert key not in fresh.log.read_text() + (fresh.state / "settings.toml").read_text()
    bearer = {"Authorization": f"Bearer {key}"}
    assert "echo" in requests.get(f"{fresh.url}/v1/models", headers=bearer, timeout=60).text


def test_a_stranger_needs_the_code_from_the_log(
    processes: Processes, browser: Chromium, axe: str, artefacts: Path, tmp_path: Path
) -> None:
    fresh = FreshProxy(processes, tmp_path, HORDE_PROXY_ACCESS__MODE="keys")
    match = re.search(r"enter the code (\S+)", until(lambda: fresh.log.read_text()))
    assert match
    browser.open(f"{fresh.url}/")
    assert title(browser) == "Is this your proxy?"
    write(browser, "#code", "AAAA-AAAA")
    enter(browser, "form.choice > button")
    assert message(browser).startswith("This is not the code.")
    found = looked_at(browser, axe, artefacts, "first-run-code")
    write(browser, "#code", match[1])
    enter(browser, "form.choice > button")
    assert title(browser) == "Who may use this proxy?"
    assert found == []
    code = requests.get(f"{fresh.url}/page/first-run", timeout=60).text
    assert "Is this your proxy?" in code
    # After a restart, there is another code.
    fresh.process.terminate()
    fresh.process.wait(60)
    fresh.start()
    codes = re.findall(r"enter the code (\S+)", fresh.log.read_text())
    assert len(set(codes)) == len(codes) >= 2

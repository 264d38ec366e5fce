"""The private horde's pages in a real browser: joined by a link, and used with a thumb.

Screenshots go to the folder in HORDE_PROXY_ARTEFACTS, at 390 and 1280 px, light and dark.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from horde_proxy.web.horde_pages import PAGES
from tests.live.chromium import PROGRAM, Chromium
from tests.live.processes import KEY, Processes

LONG = "koboldcpp/A-model-with-a-name-that-is-longer-than-any-phone-is-wide-24B-Instruct-GGUF"
SMALL = """[...document.querySelectorAll('button, summary, nav a')]
  .filter((part) => part.checkVisibility() && part.getBoundingClientRect().height < 40)
  .map((part) => part.outerHTML)"""
"""What a thumb would miss: parts to press that are lower than 40 px."""

pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="chromium is not installed"),
    pytest.mark.timeout(180),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chromium]:
    chromium = Chromium(tmp_path / "profile")
    yield chromium
    chromium.close()


@pytest.fixture
def artefacts(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("HORDE_PROXY_ARTEFACTS") or tmp_path / "screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def call(url: str, method: str, path: str, key: str | None = KEY, **body: Any) -> Any:
    headers = {"apikey": key} if key else {}
    response = requests.request(
        method, f"{url}/api/v2/{path}", json=body, headers=headers, timeout=60
    )
    response.raise_for_status()
    return response.json()


def send(browser: Chromium, action: str, **fields: str) -> None:
    """Fill a form in and press its button, as people do."""
    form = f"""document.querySelector('form[action="{action}"]')"""
    for name, value in fields.items():
        browser.evaluate(f"{form}.elements[{name!r}].value = {value!r}")
    here = browser.evaluate("performance.timeOrigin")
    browser.evaluate(f"{form}.querySelector('button').click()")
    browser.until(f"performance.timeOrigin !== {here} && document.readyState === 'complete'")


def text_of(browser: Chromium, selector: str = "main") -> str:
    return str(browser.evaluate(f"document.querySelector({selector!r}).innerText"))


def faults(browser: Chromium, folder: Path, name: str) -> list[str]:
    """Save the page in two widths and two schemes. What is wrong with any of them."""
    found = []
    for width, device in ((390, "phone"), (1280, "desktop")):
        for scheme in ("light", "dark"):
            browser.look(width, scheme, folder / f"horde-{name}-{device}-{scheme}.png")
        if browser.evaluate("document.documentElement.scrollWidth > innerWidth"):
            found.append(f"{name} is wider than a screen of {width}")
        found += [f"{name}, {device}: {part}" for part in browser.evaluate(SMALL)]
    return found


def test_a_family_joins_and_is_administered(
    processes: Processes, browser: Chromium, artefacts: Path
) -> None:
    url = processes.serve_horde()
    processes.work(url)
    browser.open(f"{url}/page/horde/")
    found = faults(browser, artefacts, "sign-in")
    send(browser, "sign-in", key=KEY)
    browser.open(f"{url}/page/horde/invitations")
    send(browser, "invite", note="Family", uses="3")
    found += faults(browser, artefacts, "invitation")
    link = text_of(browser, "#secret")
    browser.open(f"{url}/page/horde/")
    send(browser, "sign-out")

    browser.open(link)
    found += faults(browser, artefacts, "join")
    send(browser, "join", username="Ann")
    found += faults(browser, artefacts, "welcome")
    key = text_of(browser, "#secret")
    fill(url, key)
    for name in ("account", "queue", "workers"):
        browser.open(f"{url}/page/horde/{name}")
        found += faults(browser, artefacts, f"member-{name}")
    browser.open(f"{url}/page/horde/queue")
    assert f"{LONG} serves none of its models." in text_of(browser)
    browser.open(f"{url}/page/horde/")
    send(browser, "sign-out")

    send(browser, "sign-in", key=KEY)
    for name in PAGES:
        browser.open(f"{url}/page/horde/{name}?id=2")
        browser.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
        found += faults(browser, artefacts, f"admin-{name}")
    browser.open(f"{url}/page/horde/people")
    assert "Ann#2" in text_of(browser)
    assert found == []
    assert browser.console == []


def fill(url: str, key: str) -> None:
    """Make what a page of a used account has: keys, kudos, workers, requests that wait."""
    number = call(url, "GET", "find_user", key)["id"]
    call(url, "POST", f"users/{number}/keys", key, name="phone")
    call(url, "PUT", "sharedkeys", key, name="for the school's newspaper", kudos=500, expiry=30)
    call(url, "POST", "kudos/award", KEY, username=f"Ann#{number}", amount=1234)
    pop = {"name": LONG, "models": [LONG], "max_length": 80, "threads": 2}
    call(url, "POST", "generate/text/pop", key, **pop)
    for model in ("another/model", LONG):
        body = {"prompt": "Hi", "models": [model], "params": {"max_length": 100}}
        call(url, "POST", "generate/text/async", key, **body)

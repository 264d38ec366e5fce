"""The private horde's pages in a real browser: joined by a link, used with a thumb or with keys.

Screenshots go to the folder in HORDE_PROXY_ARTEFACTS, at 390 and 1280 px, light and dark.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import requests

from horde_proxy.web.horde_pages import PAGES
from tests.live.chromium import PROGRAM, Chromium
from tests.live.processes import KEY, Processes, until

LONG = "koboldcpp/A-model-with-a-name-that-is-longer-than-any-phone-is-wide-24B-Instruct-GGUF"
HOSTILE = "<script>alert(1)</script>'\"& \u202eמרחבا بالعالم"
SMALL = """[...document.querySelectorAll('button, summary, nav a')]
  .filter((part) => part.checkVisibility() && part.getBoundingClientRect().height < 40)
  .map((part) => part.outerHTML)"""
"""What a thumb would miss: parts to press that are lower than 40 px."""

pytestmark = [
    pytest.mark.skipif(not PROGRAM, reason="chromium is not installed"),
    pytest.mark.timeout(400),
]


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


def visit(browser: Chromium, url: str, page: str) -> str:
    """Open a page. Its text."""
    browser.open(f"{url}/page/horde/{page}")
    return text_of(browser)


def sign_in(browser: Chromium, url: str, key: str) -> None:
    """Sign out, if somebody has signed in, and sign in."""
    visit(browser, url, "")
    if browser.evaluate("!!document.querySelector('form[action=\"sign-out\"]')"):
        send(browser, "sign-out")
    send(browser, "sign-in", key=key)


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
    for name in ("account", "queue", "workers", "teams", "messages", "news"):
        browser.open(f"{url}/page/horde/{name}")
        found += faults(browser, artefacts, f"member-{name}")
    browser.open(f"{url}/page/horde/queue")
    browser.evaluate("document.querySelectorAll('details').forEach((part) => part.open = true)")
    assert f"{LONG} serves none of its `models`." in text_of(browser)
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


def test_a_stranger_becomes_a_member_with_a_worker_and_a_team(
    processes: Processes, browser: Chromium
) -> None:
    url = processes.serve_horde()
    sign_in(browser, url, KEY)
    visit(browser, url, "invitations")
    send(browser, "invite", note="For Ann")
    link = text_of(browser, "#secret")
    assert "For Ann" in visit(browser, url, "invitations")
    visit(browser, url, "")
    send(browser, "sign-out")

    browser.open(link)
    send(browser, "join", username="Ann")
    key = text_of(browser, "#secret")
    command = text_of(browser, "#worker-command")
    sign_in(browser, url, key)
    visit(browser, url, "account")
    send(browser, "make-shared-key", name="newspaper", kudos="20", expiry="3")
    shared = text_of(browser, "#secret")
    assert "20 kudos left" in visit(browser, url, "account")
    assert call(url, "GET", f"sharedkeys/{shared}", None)["name"] == "newspaper"

    # As pasted, but for the backend: there is no model server here.
    program, *arguments = shlex.split(command)
    assert (program, arguments[-2]) == ("horde-proxy", "--backend")
    processes.start(*arguments[:-1], "echo", "--name", "the den", "--drain", "0")
    until(lambda: "the den" in visit(browser, url, "workers"))

    assert "Trusted members found teams." in visit(browser, url, "teams")
    sign_in(browser, url, KEY)
    visit(browser, url, "person?id=Ann%232")
    browser.evaluate("document.querySelector('[name=trusted]').checked = true")
    send(browser, "change-person")
    assert "The account was changed." in text_of(browser)
    sign_in(browser, url, key)
    visit(browser, url, "teams")
    send(browser, "found-team", name="Owls", info="At night.")
    send(browser, "join-team")
    assert "Owls with my worker" in text_of(browser)

    sign_in(browser, url, KEY)
    visit(browser, url, "filters")
    send(browser, "add-filter", regex="bomb", description="weapons")
    assert "bomb refuses" in text_of(browser)
    send(browser, "try-prompt", prompt="a bomb")
    assert "This prompt is refused." in text_of(browser)
    visit(browser, url, "news")
    send(browser, "publish-news", title="We have a den", newspiece="It echoes.")
    sign_in(browser, url, key)
    assert "We have a den" in visit(browser, url, "news")
    visit(browser, url, "")
    send(browser, "sign-out")
    assert "It echoes." in visit(browser, url, "news")
    refused = requests.post(
        f"{url}/api/v2/generate/text/async",
        json={"prompt": "a bomb"},
        headers={"apikey": key},
        timeout=60,
    )
    assert refused.json()["rc"] == "CorruptPrompt"
    assert browser.console == []


def test_keys_alone_sign_in_and_send_a_form_and_find_what_is_wrong(
    processes: Processes, browser: Chromium
) -> None:
    url = processes.serve_horde()
    visit(browser, url, "")
    write(browser, KEY)
    press_and_load(browser)
    assert browser.evaluate("document.title") == "My account · horde"
    browser.press("Tab")
    assert browser.evaluate("document.activeElement.className") == "skip"
    browser.press("Enter", "\r")
    browser.until("location.hash === '#main'")

    reach(browser, "document.activeElement.innerText === 'Send kudos'")
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    browser.press("Enter", "\r")
    for text in ("nobody#99", "5"):
        reach(browser, "document.activeElement.tagName === 'INPUT'")
        write(browser, text)
    press_and_load(browser)
    assert browser.until("document.activeElement.id") == "refused"
    sentence = "There is no such account. Write its whole name, such as ann#3."
    assert text_of(browser, "#refused") == sentence
    assert browser.evaluate("document.querySelector('#send-to').value") == "nobody#99"


def write(browser: Chromium, text: str) -> None:
    """Type into what has the focus."""
    browser.call("Input.insertText", text=text)


def press_and_load(browser: Chromium) -> None:
    """Press Enter, and wait for the page that comes."""
    here = browser.evaluate("performance.timeOrigin")
    browser.press("Enter", "\r")
    browser.until(f"performance.timeOrigin !== {here} && document.readyState === 'complete'")


def reach(browser: Chromium, expression: str) -> None:
    """Press Tab, until what has the focus is what was meant."""
    for _ in range(50):
        browser.press("Tab")
        if browser.evaluate(expression):
            return
    raise AssertionError(f"no Tab reaches it: {expression}")


def fill(url: str, key: str) -> None:
    """Make what a page of a used account has: keys, kudos, workers, requests that wait."""
    number = call(url, "GET", "find_user", key)["id"]
    call(url, "POST", f"users/{number}/keys", key, name="phone")
    call(url, "PUT", "sharedkeys", key, name="for the school's newspaper", kudos=500, expiry=30)
    call(url, "POST", "kudos/award", KEY, username=f"Ann#{number}", amount=1234)
    pop = {"name": LONG, "models": [LONG], "max_length": 80, "threads": 2}
    call(url, "POST", "generate/text/pop", key, **pop)
    [worker] = call(url, "GET", "find_user", key)["worker_ids"]
    team = call(url, "POST", "teams", KEY, name=HOSTILE, info=LONG * 3)["id"]
    call(url, "PUT", f"workers/{worker}", key, team=team, info=HOSTILE)
    call(url, "POST", "workers/messages", KEY, worker_id=worker, message=LONG * 3)
    call(url, "POST", "workers/messages", key, worker_id=worker, message=HOSTILE)
    call(url, "PUT", "filters", KEY, regex=LONG, filter_type=10, description=HOSTILE)
    links = [f"https://example.invalid/{LONG}"]
    call(url, "POST", "status/news", KEY, title=HOSTILE, newspiece=LONG * 3, more_info_urls=links)
    for model in ("another/model", LONG):
        body = {"prompt": "Hi", "models": [model], "params": {"max_length": 100}}
        call(url, "POST", "generate/text/async", key, **body)

"""The page's inbox: who sees which background responses, and what of them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask.testing import FlaskClient

from horde_proxy.app.factory import composition_of
from tests.support import CLIENT_KEY, Scripted, World, known

HTML = {"Accept": "text/html"}
BODY = {"model": "test/model", "input": "What <is> this?", "background": True}
LAPTOP, PHONE = "laptop-key-0123456789", "phone-key-0123456789"


class Page:
    """A proxy with background responses, and browsers that look at its page."""

    def __init__(self, world: World) -> None:
        world.employ(Scripted("It <b>is</b> a test."))
        self.app = world.app()
        self.http = self.app.test_client()

    def begin(self, key: str | None = None) -> str:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        response = self.http.post("/v1/responses", json=BODY, headers=headers)
        assert response.json is not None
        return str(response.json["id"])

    def step(self) -> None:
        composition_of(self.app).jobs.step()

    def logged_in(self, key: str) -> tuple[FlaskClient, str]:
        """(a browser with a session, its token)"""
        browser = self.app.test_client()
        form = browser.get("/", headers=HTML).text
        token = re.search(r'name="token" value="([^"]+)"', form)
        assert token
        browser.post("/page/login", data={"key": key, "token": token[1]})
        page = browser.get("/", headers=HTML).text
        token = re.search(r'name="token" value="([^"]+)"', page)
        assert token
        return browser, token[1]


def entries(client: FlaskClient, **options: Any) -> Any:
    response = client.get("/page/state.json", **options)
    assert response.json is not None
    return response.json["inbox"]


def test_the_inbox_shows_the_state_and_then_the_answer(world: World) -> None:
    page = Page(world)
    assert entries(page.http) == []
    response_id = page.begin()
    [entry] = entries(page.http)
    assert entry["id"] == response_id
    assert (entry["state"], entry["is_running"]) == ("queued, position 1", True)
    assert (entry["question"], entry["answer"]) == ("What <is> this?", "")
    page.step()
    [entry] = entries(page.http)
    assert (entry["state"], entry["tone"], entry["is_running"]) == ("completed", "good", False)
    assert entry["answer"] == "It <b>is</b> a test."


def test_the_page_shows_texts_as_texts(world: World) -> None:
    page = Page(world)
    page.begin()
    page.step()
    html = page.http.get("/", headers=HTML).text
    assert "It &lt;b&gt;is&lt;/b&gt; a test." in html
    assert "What &lt;is&gt; this?" in html
    assert "<b>is</b>" not in html


def test_an_empty_inbox_says_what_comes_there(world: World) -> None:
    html = Page(world).http.get("/", headers=HTML).text
    assert "wait for you here" in html


def test_each_key_sees_its_own(world: World) -> None:
    world.configure(**known(laptop=LAPTOP, phone=PHONE))
    world.configure(access={"admins": ["phone"]})
    page = Page(world)
    response_id = page.begin(LAPTOP)
    laptop, _ = page.logged_in(LAPTOP)
    phone, _ = page.logged_in(PHONE)
    assert [entry["id"] for entry in entries(laptop)] == [response_id]
    assert entries(phone) == []


def test_without_keys_only_this_machine_sees_answers(world: World) -> None:
    world.configure(access={"mode": "open"})
    page = Page(world)
    page.begin()
    elsewhere = {"REMOTE_ADDR": "192.0.2.7"}
    assert len(entries(page.http)) == 1
    assert entries(page.http, environ_overrides=elsewhere) is None


def test_with_keys_of_the_horde_there_is_no_inbox(world: World) -> None:
    world.configure(access={"mode": "passthrough"})
    page = Page(world)
    page.begin(CLIENT_KEY)
    assert entries(page.http) is None
    assert 'id="inbox"' not in page.http.get("/", headers=HTML).text


def test_a_visitor_cancels_a_response_with_its_sessions_token(world: World) -> None:
    world.configure(**known(laptop=LAPTOP, phone=PHONE))
    page = Page(world)
    response_id = page.begin(LAPTOP)
    laptop, token = page.logged_in(LAPTOP)
    phone, other_token = page.logged_in(PHONE)
    path = f"/page/background/{response_id}/cancel"
    assert laptop.post(path).status_code == 403
    assert phone.post(path, data={"token": other_token}).status_code == 404
    assert [entry["is_running"] for entry in entries(laptop)] == [True]
    answer = laptop.post(path, data={"token": token})
    assert (answer.status_code, answer.headers["Location"]) == (303, "../../../#inbox")
    [entry] = entries(laptop)
    assert (entry["state"], entry["is_running"]) == ("cancelled", False)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_cannot_cancel(world: World, site: str) -> None:
    page = Page(world)
    response_id = page.begin()
    headers = {"Sec-Fetch-Site": site, "Origin": "https://evil.invalid"}
    refused = page.http.post(f"/page/background/{response_id}/cancel", headers=headers)
    assert refused.status_code == 403
    assert [entry["is_running"] for entry in entries(page.http)] == [True]

"""The first run: who is led through it, what each step writes, and what nobody else may do."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from requests import ConnectionError
from requests.adapters import BaseAdapter
from werkzeug.test import TestResponse

from horde_proxy import create_app
from horde_proxy.app.factory import composition_of
from horde_proxy.config import load
from horde_proxy.web.first_run_claim import MOST_WRONG, FirstRunClaim
from tests.support import CLIENT_KEY, HORDE_URL, Scripted, World

HTML = {"Accept": "text/html"}
OPEN = {"HORDE_PROXY_ACCESS__MODE": "open", "HORDE_PROXY_SERVER__BIND": "0.0.0.0:8080"}
KEYS = {"HORDE_PROXY_ACCESS__MODE": "keys", "HORDE_PROXY_SERVER__BIND": "0.0.0.0:8080"}
ELSEWHERE = {"REMOTE_ADDR": "192.168.1.7"}
GUIDE = "/page/first-run"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# What no test of this file is about: nothing runs in the background, any worker will do.
QUIET = {
    "HORDE_PROXY_STATS__HYDRATE": "false",
    "HORDE_PROXY_HORDE__VALIDATED_BACKENDS": "false",
}


class Gone(BaseAdapter):
    """A network without servers."""

    def send(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to host")

    def close(self) -> None:
        pass


class Fresh:
    """A proxy without settings, and a browser. Its public horde is the world's."""

    def __init__(self, tmp_path: Path, **environ: str) -> None:
        self.world = World()
        self.world.session.mount("https://aihorde.net", self.world.session.get_adapter(HORDE_URL))
        self.world.employ(Scripted("Hello."))
        self.state = tmp_path / "state"
        self.environ = {"STATE_DIRECTORY": str(self.state), **QUIET, **environ}
        self.app: Flask = create_app(load(None, self.environ), self.world.runtime)
        self.client = self.app.test_client()

    @property
    def file(self) -> str:
        """What the page has written, without its heading."""
        path = self.state / "settings.toml"
        lines = path.read_text().splitlines() if path.exists() else []
        return "\n".join(line for line in lines if line and not line.startswith("#"))

    def get(self, step: str = "", **environ: str) -> TestResponse:
        path = f"{GUIDE}?step={step}" if step else GUIDE
        return self.client.get(path, headers=HTML, environ_overrides=environ)

    def post(self, action: str, **fields: Any) -> TestResponse:
        """Send a form of the guide, as the browser that was shown it."""
        token = token_in(self.get())
        return self.client.post(f"{GUIDE}/{action}", data={"token": token, **fields})

    def code(self) -> str:
        return str(composition_of(self.app).live.page.first_run._code)


def token_in(response: TestResponse) -> str:
    match = re.search(r'name="token" value="([^"]+)"', response.text)
    assert match, response.text
    return match[1]


def message(response: TestResponse) -> str:
    match = re.search(r'<p class="message (?:good|bad)"[^>]*>(.*?)</p>', response.text)
    return re.sub("<[^>]+>|&#39;", "", match[1]) if match else ""


# Who is led there.


def test_the_page_of_a_new_proxy_leads_to_its_first_settings(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    response = fresh.client.get("/", headers=HTML)
    assert (response.status_code, response.headers["Location"]) == (303, "page/first-run")
    assert "Who may use this proxy?" in fresh.get().text
    # Programs get what they always get.
    assert fresh.client.get("/").text == "Ollama is running"
    assert fresh.client.get("/v1/models").status_code == 200


def test_the_first_run_ends_as_soon_as_there_are_settings(tmp_path: Path) -> None:
    for name, value in {
        "AI_HORDE_API_KEY": "a-key-of-my-own",
        "HORDE_PROXY_SERVER__FIRST_RUN": "false",
        "HORDE_PROXY_ALIASES": '{"gpt-4o": "auto"}',
    }.items():
        fresh = Fresh(tmp_path, **{name: value})
        assert fresh.client.get("/", headers=HTML).status_code == 200
        # For later, the operator finds it there.
        assert fresh.get().status_code == 200


def test_a_form_that_is_too_large_is_refused_with_a_page(tmp_path: Path) -> None:
    response = Fresh(tmp_path).post("access", access="keys", name="x" * 20_000)
    assert response.status_code == 413
    assert message(response) == "Request Entity Too Large."


def test_every_page_of_the_first_run_has_security_headers(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    for step in ("access", "sources", "chat", "clients", "nothing"):
        response = fresh.get(step)
        assert response.status_code == 200
        assert (
            "default-src 'none'; script-src 'self'" in response.headers["Content-Security-Policy"]
        )
        assert response.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", response.text)
    cookie = fresh.get().headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


# Who may not.


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "192.168.1.5:8080"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1"},
        {"Via": "1.1 nginx"},
        {"Origin": "https://evil.example"},
    ],
)
def test_in_the_default_mode_only_this_machine_is_led(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    fresh = Fresh(tmp_path)
    token = token_in(fresh.get())
    form = {"token": token, "access": "open"}
    assert fresh.client.get(GUIDE, headers=headers).status_code == 403
    assert fresh.client.post(f"{GUIDE}/access", data=form, headers=headers).status_code == 403
    assert fresh.file == ""


def test_a_form_of_another_site_changes_nothing(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    token = token_in(fresh.get())
    for form, headers in (
        ({"access": "open"}, {}),
        ({"access": "open", "token": "guessed"}, {}),
        ({"access": "open", "token": token}, {"Sec-Fetch-Site": "cross-site"}),
        ({"access": "open", "token": token}, {"Sec-Fetch-Site": "same-site"}),
    ):
        response = fresh.client.post(f"{GUIDE}/access", data=form, headers=headers)
        assert response.status_code == 403
        assert message(response).startswith("This form has expired")
    assert fresh.client.post(f"{GUIDE}/finish", data={}).status_code == 403
    other = fresh.app.test_client()
    assert other.post(f"{GUIDE}/access", data={"access": "open", "token": token}).status_code == 403
    assert fresh.file == ""


@pytest.mark.parametrize("environ", [OPEN, KEYS], ids=["open", "keys"])
def test_a_stranger_cannot_claim_a_new_proxy(tmp_path: Path, environ: dict[str, str]) -> None:
    fresh = Fresh(tmp_path, **environ)
    response = fresh.get(**ELSEWHERE)
    assert "Is this your proxy?" in response.text
    assert fresh.code() not in response.text
    form = {"token": token_in(response), "access": "open", "name": "mine"}
    response = fresh.client.post(f"{GUIDE}/access", data=form, environ_overrides=ELSEWHERE)
    assert response.status_code == 403
    for action in ("horde-key", "add-server", "test-server", "private-horde", "finish"):
        path = f"{GUIDE}/{action}"
        assert fresh.client.post(path, data=form, environ_overrides=ELSEWHERE).status_code == 403
    assert fresh.file == ""


def test_the_code_from_the_log_opens_the_first_run_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fresh = Fresh(tmp_path, **OPEN)
    code = fresh.code()
    assert re.fullmatch("[2-9A-HJKMNP-Z]{4}-[2-9A-HJKMNP-Z]{4}", code)
    assert f"first start: open /page/first-run and enter the code {code}" in caplog.text

    def enter(client: FlaskClient, typed: str) -> TestResponse:
        token = token_in(client.get(GUIDE, environ_overrides=ELSEWHERE))
        form = {"token": token, "code": typed}
        return client.post(f"{GUIDE}/code", data=form, environ_overrides=ELSEWHERE)

    assert message(enter(fresh.client, "AAAA-AAAA")).startswith("This is not the code.")
    response = enter(fresh.client, f" {code.lower().replace('-', ' ')} ")
    assert (response.status_code, response.headers["Location"]) == (303, "../first-run")
    assert "HttpOnly" in response.headers["Set-Cookie"]
    assert "Who may use this proxy?" in fresh.get(**ELSEWHERE).text
    # It is used up.
    assert enter(fresh.app.test_client(), code).status_code == 401
    assert fresh.code() != code


def test_the_code_needs_a_form_of_this_proxy(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path, **OPEN)
    form = {"code": fresh.code()}
    response = fresh.client.post(f"{GUIDE}/code", data=form, environ_overrides=ELSEWHERE)
    assert response.status_code == 403
    assert "Is this your proxy?" in fresh.get(**ELSEWHERE).text


def test_many_wrong_codes_have_to_wait(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path, **OPEN)
    token = token_in(fresh.get(**ELSEWHERE))
    statuses = [
        fresh.client.post(
            f"{GUIDE}/code",
            data={"token": token, "code": f"AAAA-AA{number:02}"},
            environ_overrides=ELSEWHERE,
        ).status_code
        for number in range(22, 34)
    ]
    assert statuses == [401] * 10 + [429] * 2
    # Those that had to wait do not count towards another code.
    assert composition_of(fresh.app).live.page.first_run._wrong == 10


def test_after_too_many_wrong_codes_there_is_another_one(caplog: pytest.LogCaptureFixture) -> None:
    letters = iter("ABCDEFGH" + "JKMNPQRS")
    claim = FirstRunClaim(lambda: 0.0, lambda choices: next(letters))
    claim.announce()
    claim.announce()
    assert claim.claim("22222222") is None
    for _ in range(MOST_WRONG):
        claim.count_wrong()
    assert claim.claim("ABCDEFGH") is None
    assert claim.claim("JKMN-PQRS") is not None
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == [
        "ABCD-EFGH",
        "JKMN-PQRS",
    ]


def test_a_claim_ends_after_two_hours() -> None:
    time, letters = [0.0], iter("ABCDEFGH")
    claim = FirstRunClaim(lambda: time[0], lambda choices: next(letters))
    claim.announce()
    cookie = claim.claim("ABCDEFGH")
    assert cookie is not None
    assert (claim.holds(cookie), claim.holds(""), claim.holds("other")) == (True, False, False)
    time[0] = 7200.0
    assert not claim.holds(cookie)


def test_with_settings_only_the_operator_comes_back(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path, AI_HORDE_API_KEY="a-key-of-my-own", **OPEN)
    assert fresh.get().status_code == 200
    response = fresh.get(**ELSEWHERE)
    assert response.status_code == 403
    assert "Only the operator of this proxy may change its settings" in response.text
    form = {"code": "AAAA-AAAA", "token": token_in(fresh.get())}
    response = fresh.client.post(f"{GUIDE}/code", data=form, environ_overrides=ELSEWHERE)
    assert response.status_code == 403


# The steps.


def test_only_this_machine_is_what_a_new_proxy_has(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    response = fresh.post("access", access="local")
    assert message(response) == "Only programs on this machine may use this proxy."
    assert fresh.file == ""
    assert message(fresh.post("access")) == "Choose who may use this proxy."


def test_the_first_key_is_shown_once_and_lets_its_maker_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fresh = Fresh(tmp_path)
    response = fresh.post("access", access="keys", name="laptop", network="yes")
    assert response.status_code == 200
    match = re.search(r'id="new-key"[^>]*>(hp-[\w-]+)<', response.text)
    assert match
    key = match[1]
    assert "server.bind" in response.text
    assert re.sub("sha256:[0-9a-f]{64}", "DIGEST", fresh.file) == (
        '[access]\nmode = "keys"\n[access.keys]\nlaptop = {key = "DIGEST", admin = true}\n'
        '[server]\nbind = "0.0.0.0:8080"'
    )
    assert key not in fresh.file
    assert key not in caplog.text
    assert "changed by the first run: access.mode, access.keys.laptop" in caplog.text
    stranger = fresh.app.test_client()
    assert stranger.get("/v1/models").status_code == 401
    assert stranger.get(GUIDE).status_code == 401
    bearer = {"Authorization": f"Bearer {key}"}
    assert stranger.get("/v1/models", headers=bearer).status_code == 200
    # This browser is logged in, as the key's admin.
    assert fresh.get("sources").status_code == 200
    assert 'data-route="../page/chat"' in fresh.get("chat").text
    assert key not in fresh.get("access").text


def test_with_keys_of_the_environment_the_code_makes_the_first_one(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path, **KEYS)
    response = fresh.client.get("/", headers=HTML)
    assert response.headers["Location"] == "page/first-run"
    assert "Is this your proxy?" in fresh.get().text
    response = fresh.post("code", code=fresh.code())
    assert response.status_code == 303
    assert "Make the first key" in fresh.get("chat").text
    response = fresh.post("access", access="keys", name="phone")
    assert "hp-" in response.text
    assert fresh.file.startswith("[access.keys]\nphone = {")


def test_what_the_environment_says_is_not_changed_here(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path, HORDE_PROXY_ACCESS__MODE="open")
    response = fresh.post("access", access="keys", name="laptop")
    assert response.status_code == 400
    assert message(response) == (
        "access.mode comes from environment variable HORDE_PROXY_ACCESS__MODE, which goes before "
        "the file."
    )
    assert fresh.file == ""


def test_this_machine_alone_is_refused_where_the_environment_says_otherwise(
    tmp_path: Path,
) -> None:
    fresh = Fresh(tmp_path, HORDE_PROXY_ACCESS__MODE="open")
    response = fresh.post("access", access="local")
    assert response.status_code == 400
    assert message(response) == (
        "access.mode comes from environment variable HORDE_PROXY_ACCESS__MODE, which goes before "
        "the file."
    )
    assert fresh.app.extensions["horde_proxy"].access.requires_key is False
    assert fresh.file == ""


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "Give the key a name, such as that of the device that uses it."),
        ("my laptop", "up to 64 letters"),
        ("anybody", "choose another name"),
    ],
)
def test_a_key_needs_a_usable_name(tmp_path: Path, name: str, problem: str) -> None:
    fresh = Fresh(tmp_path)
    response = fresh.post("access", access="keys", name=name)
    assert response.status_code == 400
    assert problem in message(response)
    assert fresh.file == ""


def test_everybody_in_the_home_network(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    response = fresh.post("access", access="open")
    assert message(response).startswith("Everybody in your network may use this proxy. Restart the")
    assert fresh.file == '[access]\nmode = "open"\n[server]\nbind = "0.0.0.0:8080"'


def test_where_the_environment_says_where_it_listens_the_rest_is_done(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path, PORT="9000")
    assert message(fresh.post("access", access="open")) == (
        "Everybody in your network may use this proxy. Where it listens is not changed: "
        "server.bind comes from environment variable PORT, which goes before the file."
    )
    assert fresh.file == '[access]\nmode = "open"'


def test_an_own_horde_key_is_tried_and_saved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fresh = Fresh(tmp_path)
    assert message(fresh.post("horde-key", account="own", key="")) == (
        "Paste your key, or choose to stay anonymous."
    )
    response = fresh.post("horde-key", account="own", key="a-wrong-key-of-somebody")
    assert response.status_code == 400
    assert message(response).startswith("The horde does not know this key.")
    assert fresh.file == ""
    response = fresh.post("horde-key", account="own", key=f" {CLIENT_KEY} ")
    assert message(response) == (
        "The horde knows this key: it is that of client#2, who has 10,000 kudos."
    )
    assert fresh.file == f'[horde]\napi_key = "{CLIENT_KEY}"'
    assert CLIENT_KEY not in response.text + fresh.get("sources").text + caplog.text
    assert "changed by the first run: horde.api_key" in caplog.text
    assert message(fresh.post("horde-key", account="anonymous")) == (
        "The horde serves you anonymously."
    )
    assert fresh.file == '[horde]\napi_key = "0000000000"'


def test_a_server_of_ones_own_is_tried_and_added_beside_the_horde(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    assert message(fresh.post("test-server", url=HORDE_URL)) == (
        "It answers. It is a horde with one model: test/model."
    )
    assert fresh.file == ""
    response = fresh.post("add-server", url=HORDE_URL, name="friends", horde="yes")
    assert message(response) == f"{HORDE_URL} is added. It is a horde with one model: test/model."
    assert fresh.file == (
        f'[[endpoints]]\nurl = "{HORDE_URL}"\ntype = "horde"\nname = "friends"\n'
        '[[endpoints]]\ntype = "horde"\nname = "horde"\npriority = 10'
    )
    assert '<bdi>friends</bdi></b> <span class="quiet">1 model</span>' in response.text
    assert message(fresh.post("add-server", url=HORDE_URL)) == "This server is in the list already."
    response = fresh.post("remove-server", number="0", label="horde")
    assert message(response) == "This server is not in the list any more."
    response = fresh.post("remove-server", number="0", label="friends")
    assert message(response) == "friends is removed."
    assert fresh.file == '[[endpoints]]\ntype = "horde"\nname = "horde"\npriority = 10'


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "Write the URL of your server"),
        ("10.0.0.5:11434", "Write it with http:// or https:// and a host"),
        ("http://a b", "characters not allowed in a URL"),
    ],
)
def test_a_url_that_cannot_be_called_is_refused(tmp_path: Path, url: str, problem: str) -> None:
    fresh = Fresh(tmp_path)
    for action in ("test-server", "add-server"):
        response = fresh.post(action, url=url)
        assert response.status_code == 400
        assert problem in message(response)
    assert fresh.file == ""


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("add-server", {}),
        ("test-server", {}),
        ("horde-key", {"account": "own", "key": ""}),
        ("private-horde", {"enabled": "yes"}),
    ],
)
def test_a_url_that_was_typed_stays_until_its_server_is_added(
    tmp_path: Path, action: str, fields: dict[str, str]
) -> None:
    fresh = Fresh(tmp_path)
    fresh.world.session.mount("http://10.0.0.5", Gone())
    # The page's script sends the typed URL and name with every form of the step.
    response = fresh.post(action, url="http://10.0.0.5:1", name="cellar", **fields)
    assert 'value="http://10.0.0.5:1"' in response.text
    assert 'value="cellar"' in response.text
    added = fresh.post("add-server", url="http://10.0.0.5:1", name="cellar", untested="yes")
    assert message(added).startswith("http://10.0.0.5:1 is added.")
    assert 'value="http://10.0.0.5:1"' not in added.text


def test_a_server_that_was_only_tried_can_still_be_added(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    response = fresh.post("test-server", url=HORDE_URL, type="horde")
    assert message(response).startswith("It answers. It is a horde")
    assert f'value="{HORDE_URL}"' in response.text
    assert '<option value="horde" selected>' in response.text


def test_a_server_that_does_not_answer_now_can_be_added_untested(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    fresh.world.session.mount("http://", Gone())
    response = fresh.post(
        "add-server", url="http://ann:secret@10.0.0.5:1", untested="yes", horde="yes"
    )
    assert message(response) == "http://10.0.0.5:1 is added. It was not tried."
    assert "secret" not in response.text
    assert 'type = "openai"' in fresh.file


def test_a_private_horde_needs_a_restart(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    assert message(fresh.post("private-horde")) == "The private horde is off."
    response = fresh.post("private-horde", enabled="yes")
    assert message(response).startswith("The private horde will be on. Restart the proxy to apply")
    assert fresh.file == "[private_horde]\nenabled = true"


def test_the_first_chat_goes_the_way_of_all_chats(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    page = fresh.get("chat").text
    assert 'data-route="../v1/chat/completions"' in page
    assert "<option>test/model</option>" in page
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
    answer = fresh.client.post("/v1/chat/completions", json=body).get_json()
    assert answer["choices"][0]["message"]["content"] == "Hello."


def test_every_client_is_shown_with_its_command_and_its_file(tmp_path: Path) -> None:
    page = Fresh(tmp_path).get("clients").text
    assert '<code id="base-url">http://localhost/v1</code>' in page
    for name in ("opencode", "codex", "claude", "aider", "llm", "home-assistant", "vscode"):
        assert f"horde-proxy setup {name} --url http://localhost" in page
    assert "<code>~/.config/io.datasette.llm/extra-openai-models.yaml</code>" in page
    assert "{config}" not in page


def test_the_first_run_is_finished_without_any_setting(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    response = fresh.post("finish")
    assert (response.status_code, response.headers["Location"]) == (303, "../../")
    assert fresh.file == "[server]\nfirst_run = false"
    assert fresh.client.get("/", headers=HTML).status_code == 200


def test_finishing_after_a_change_adds_nothing(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path)
    fresh.post("access", access="open")
    before = fresh.file
    fresh.post("finish")
    assert fresh.file == before


def test_an_action_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    assert Fresh(tmp_path).post("nothing").status_code == 404


def test_a_file_that_nobody_can_write_is_said(tmp_path: Path) -> None:
    fresh = Fresh(tmp_path, HORDE_PROXY_PAGE_FILE="off")
    response = fresh.post("access", access="open")
    assert response.status_code == 400
    assert message(response) == (
        "There is no folder for a settings file: name one with --config, or set STATE_DIRECTORY."
    )

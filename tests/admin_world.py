"""A proxy that keeps keys, answers and pauses in files, and its operator at the admin's pages."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from horde_proxy import create_app
from horde_proxy.config import load
from horde_proxy.database.engine import Database
from horde_proxy.ledger import ClientKey
from horde_proxy.ledger.database import LedgerDatabase, open_ledger
from tests.support import CLIENT_KEY, HORDE_URL, World, known

BASE = "/page/admin"
ADMIN, GUEST = "key-of-admin-longer", "key-of-guest-longer"
HTML = {"Accept": "text/html"}
SETTINGS_TEXT = f"""\
# The settings of a home.
[access]
mode = "keys"
keys.admin = {{ key = "{ADMIN}", admin = true }}  # mine
keys.guest = "{GUEST}"

[horde]
url = "{HORDE_URL}"
api_key = "{CLIENT_KEY}"
contact = "test"
validated_backends = false

[stats]
hydrate = false
history_days = 0
"""


class AdminWorld:
    """A proxy with an administrator and a guest, in a folder. `app` opens it as a new process."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.world = World(**sections)
        self.ledger_url = f"sqlite:///{folder}/ledger.db"
        self.world.runtime = replace(
            self.world.runtime,
            open_ledger=self.open_ledger,
            open_store=lambda url: Database(
                f"sqlite:///{folder}/store.db", setting="store.database"
            ),
        )
        keys = known(admin=ClientKey("admin", admin=True), guest=ClientKey("guest"))
        self.world.configure(**keys)

    def open_ledger(self, url: str = "") -> LedgerDatabase:
        return open_ledger(self.ledger_url, now=self.world.clock)

    def app(self) -> Flask:
        return create_app(self.world.config(), self.world.runtime)


class FiledWorld(AdminWorld):
    """The same, whose settings are in a file that its pages may change."""

    def __init__(self, folder: Path, text: str = "") -> None:
        super().__init__(folder)
        self.path = folder / "settings.toml"
        self.path.write_text(f"{SETTINGS_TEXT}{text}")

    def app(self) -> Flask:
        settings = load(str(self.path), {})
        return create_app(settings, self.world.runtime)

    def added(self) -> str:
        """What stands in the file after what every test begins with."""
        return self.path.read_text().removeprefix(SETTINGS_TEXT)


class Operator:
    """Somebody who has logged in to the page with a key, or comes without one."""

    def __init__(self, app: Flask, key: str | None = ADMIN) -> None:
        self.http: FlaskClient = app.test_client()
        if key is not None:
            form = self.http.get("/", headers=HTML)
            self.http.post("/page/login", data={"key": key, "token": _token(form)})

    def get(self, path: str) -> TestResponse:
        return self.http.get(f"{BASE}/{path}")

    def text(self, path: str) -> str:
        """The words of a section, without tags and line breaks."""
        response = self.get(path)
        assert response.status_code == 200, response.text
        return words(response)

    def send(self, action: str, **fields: Any) -> TestResponse:
        """Send a form of the pages, with its token."""
        page = self.get("keys")
        cookie = self.http.get_cookie("horde_proxy_form")
        token = cookie.value if cookie else _token(page)
        return self.http.post(f"{BASE}/{action}", data={"token": token, **fields})


def words(response: TestResponse) -> str:
    """The words of a page's content, with single spaces."""
    main = response.text.partition("<main")[2].partition(">")[2].partition("</main>")[0]
    text = " ".join(unescape(re.sub(r"<[^>]+>", " ", main)).split())
    return re.sub(r" (?=[.,](?:\s|$))", "", text)


def shown_once(response: TestResponse) -> str:
    """The secret of a page that shows one."""
    match = re.search(r'id="secret"[^>]*>([^<]+)<', response.text)
    assert match, response.text
    return unescape(match[1])


def _token(response: TestResponse) -> str:
    match = re.search(r'name="token" value="([^"]+)"', response.text)
    assert match, response.text
    return match[1]

"""The admin's pages: endpoints are added, tested, paused and removed; aliases and fallbacks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from requests.adapters import HTTPAdapter

from tests.admin_world import BASE, GUEST, FiledWorld, Operator, words
from tests.support import Scripted

HOME, CLOUD = "http://home.invalid:1", "http://cloud.invalid:2"
HORDE_ENTRY = '\n[[endpoints]]\ntype = "horde"\nname = "horde"\n'
HOME_ENTRY = f'\n[[endpoints]]\n# The machine in the cellar.\nurl = "{HOME}"\nname = "home"\n'
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
CHANGES = (
    "add-endpoint try-endpoint test-endpoint pause-endpoint resume-endpoint remove-endpoint "
    "set-alias remove-alias set-fallbacks remove-fallbacks"
)


@pytest.fixture
def servers() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        models = [{"id": "m", "owned_by": "library"}, {"id": "home-only", "owned_by": "library"}]
        mock.get(f"{HOME}/v1/models", json={"data": models})
        mock.get(f"{CLOUD}/v1/models", status=401, json={"error": {"message": "Wrong key"}})
        yield mock


def house_with(folder: Path, text: str = "") -> FiledWorld:
    house = FiledWorld(folder, text)
    for url in (HOME, CLOUD):
        house.world.session.mount(url, HTTPAdapter())
    return house


def endpoints_of(operator: Operator) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {GUEST}"}
    answer: Any = operator.http.get("/v1/endpoints", headers=headers)
    return {state["name"]: state["state"] for state in answer.json["data"]}


@pytest.mark.parametrize("action", CHANGES.split())
@pytest.mark.parametrize(("key", "status"), [(GUEST, 403), (None, 401)])
def test_only_an_administrator_changes_endpoints_and_aliases(
    tmp_path: Path, action: str, key: str | None, status: int
) -> None:
    house = house_with(tmp_path, HOME_ENTRY)
    visitor = Operator(house.app(), key)
    before = house.path.read_text()
    fields = {"name": "home", "url": CLOUD, "model": "m", "models": "m"}
    response = visitor.http.post(f"{BASE}/{action}", data=fields)
    assert (response.status_code, house.path.read_text()) == (status, before)


def test_an_endpoint_is_tested_added_and_used_at_once(
    tmp_path: Path, servers: responses.RequestsMock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "horde_proxy.web.admin_pages")
    house = house_with(tmp_path)
    admin = Operator(house.app())
    secret = "sk-of-the-cellar"
    added = admin.send("add-endpoint", url=HOME, name="home", api_key=secret, priority="2")
    assert words(added).startswith("home was added: openai, 2 models. Endpoints")
    assert house.added() == HORDE_ENTRY + (
        f'\n[[endpoints]]\nurl = "{HOME}"\nname = "home"\napi_key = "{secret}"\npriority = 2\n'
        'type = "openai"\n'
    )
    assert endpoints_of(admin) == {"horde": "up", "home": "up"}
    assert secret not in added.text + admin.get("endpoint?name=home").text
    assert [record.message for record in caplog.records] == [
        "changed by the key admin: added the endpoint home (openai, 2 models)"
    ]


def test_a_server_can_be_tested_without_being_added(
    tmp_path: Path, servers: responses.RequestsMock
) -> None:
    house = house_with(tmp_path)
    tested = Operator(house.app()).send("try-endpoint", form="add-endpoint", url=HOME)
    text = re.sub(r"in [\d.]+ (m?s)", "in TIME", words(tested))
    assert "openai: it answered in TIME with 2 models." in text
    assert "Its models home-only m" in text
    assert f'value="{HOME}"' in tested.text
    assert house.added() == ""


def test_a_server_that_lists_nothing_is_added_only_where_that_is_wanted(
    tmp_path: Path, servers: responses.RequestsMock
) -> None:
    house = house_with(tmp_path)
    admin = Operator(house.app())
    form = {"form": "add-endpoint", "url": CLOUD, "type": "openai"}
    refused = admin.send("add-endpoint", **form)
    assert (refused.status_code, house.added()) == (400, "")
    assert "It was not added, because it lists no models:" in words(refused)
    assert ". Correct it, or add it all the same." in words(refused)
    assert ".. Correct" not in words(refused)
    assert "Add it all the same" in words(refused)
    added = admin.send("add-endpoint", **form, anyway="on")
    assert added.status_code == 200
    assert f'url = "{CLOUD}"' in house.added()


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"url": "ftp://x"}, "Write it with http:// or https:// and a host."),
        ({}, "Write it with http:// or https:// and a host."),
        ({"url": HOME, "name": "a b"}, "a name has up to 64 letters"),
        ({"url": HOME, "type": "parrot"}, "Use one of: openai, ocf, horde."),
        ({"url": HOME, "weight": "0"}, "Input should be greater than 0"),
    ],
)
def test_a_wrong_field_of_an_endpoint_is_named(
    tmp_path: Path, servers: responses.RequestsMock, fields: dict[str, str], problem: str
) -> None:
    house = house_with(tmp_path)
    refused = Operator(house.app()).send("add-endpoint", form="add-endpoint", **fields)
    assert refused.status_code == 400
    assert problem in words(refused)
    assert house.added() == ""


def test_a_second_endpoint_of_the_same_name_is_refused(
    tmp_path: Path, servers: responses.RequestsMock
) -> None:
    house = house_with(tmp_path, HOME_ENTRY)
    refused = Operator(house.app()).send("add-endpoint", url=HOME, name="home")
    assert refused.status_code == 400
    assert "Two endpoints are called 'home': rename one of them." in words(refused)
    assert house.added() == HOME_ENTRY


def test_a_paused_endpoint_gets_no_calls_until_it_is_resumed(
    tmp_path: Path, servers: responses.RequestsMock
) -> None:
    house = house_with(tmp_path, HOME_ENTRY)
    servers.post(f"{HOME}/v1/chat/completions", json={"choices": [], "id": "x"})
    one, two = house.app(), house.app()
    admin, other = Operator(one), Operator(two)
    paused = admin.send("pause-endpoint", name="home")
    assert paused.headers["Location"] == "endpoint?done=pause-endpoint&name=home"
    text = admin.text("endpoint?name=home")
    assert "Paused since 1970-01-01" in text
    assert "it gets no new requests, and those that run end as usual." in text
    house.world.clock.sleep(6)
    assert (endpoints_of(admin), endpoints_of(other)) == ({"home": "paused"}, {"home": "paused"})
    headers = {"Authorization": f"Bearer {GUEST}"}
    refused: Any = other.http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert (refused.status_code, refused.json["error"]["message"]) == (
        503,
        "No endpoint answers for `m` now. home: the operator has paused it.",
    )
    assert endpoints_of(Operator(house.app())) == {"home": "paused"}
    admin.send("resume-endpoint", name="home")
    assert endpoints_of(admin) == {"home": "up"}
    house.world.clock.sleep(6)
    answer = other.http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200


def test_an_endpoint_is_tested_now(tmp_path: Path, servers: responses.RequestsMock) -> None:
    house = house_with(tmp_path, HOME_ENTRY)
    admin = Operator(house.app())
    house.world.clock.sleep(10)
    text = words(admin.send("test-endpoint", name="home"))
    assert "openai: it answered in" in text
    servers.replace("GET", f"{HOME}/v1/models", status=500)
    house.world.clock.sleep(10)
    text = words(admin.send("test-endpoint", name="home"))
    assert "It lists no models:" in text


def test_an_endpoint_is_removed_with_its_pause_and_comments_stay(
    tmp_path: Path, servers: responses.RequestsMock
) -> None:
    house = house_with(tmp_path, HORDE_ENTRY + HOME_ENTRY)
    admin = Operator(house.app())
    admin.send("pause-endpoint", name="home")
    removed = admin.send("remove-endpoint", name="home")
    assert words(removed).startswith("home was removed.")
    assert house.added() == HORDE_ENTRY
    assert endpoints_of(admin) == {"horde": "up"}
    refused = admin.send("remove-endpoint", name="horde")
    assert "It is the only endpoint: add another one first." in words(refused)
    assert admin.get("endpoint?name=home").status_code == 404


def test_a_file_that_cannot_be_written_is_explained_and_nothing_is_changed(
    tmp_path: Path, servers: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = house_with(tmp_path, HOME_ENTRY)
    admin = Operator(house.app())
    monkeypatch.setattr("os.access", lambda *_: False)
    reason = f"{house.path} is read-only for this process: change it as its owner."
    assert reason in admin.text("endpoint?name=home")
    refused = admin.send("set-alias", name="x", model="m")
    assert (refused.status_code, reason in words(refused)) == (400, True)


def test_three_hundred_endpoints_are_paged_and_searched(
    tmp_path: Path, servers: responses.RequestsMock
) -> None:
    entries = "".join(
        f'\n[[endpoints]]\nurl = "{HOME}/{number}"\nname = "server-{number:03}"\n'
        for number in range(300)
    )
    servers.get(re.compile(f"{HOME}/\\d+/v1/models"), json={"data": [{"id": "m"}]})
    admin = Operator(house_with(tmp_path, entries).app())
    assert admin.get("endpoints").text.count('href="endpoint?name=') == 50
    assert "server-299" in admin.text("endpoints?page=6")
    assert admin.get("endpoints?q=SERVER-12").text.count('href="endpoint?name=') == 10


# Aliases and fallbacks.


def test_an_alias_is_set_shown_with_what_matches_now_and_removed(tmp_path: Path) -> None:
    house = house_with(tmp_path)
    house.world.employ(Scripted("Hello."))
    admin = Operator(house.app())
    made = admin.send("set-alias", name="gpt-4.1", model="*model*")
    assert words(made).startswith("gpt-4.1 leads to *model*.")
    assert "gpt-4.1 → *model* now test/model Remove" in words(made)
    assert house.added() == '\n[aliases]\n"gpt-4.1" = "*model*"\n'
    headers = {"Authorization": f"Bearer {GUEST}"}
    chat = {**CHAT, "model": "gpt-4.1", "max_tokens": 16}
    answer = admin.http.post("/v1/chat/completions", json=chat, headers=headers)
    assert answer.status_code == 200
    removed = admin.send("remove-alias", name="gpt-4.1")
    assert "There is no alias." in words(removed)
    assert '"gpt-4.1"' not in house.added()


def test_an_alias_may_be_bound_to_places_and_says_where_it_leads_nowhere(tmp_path: Path) -> None:
    house = house_with(tmp_path)
    admin = Operator(house.app())
    fields = {"place-home": "on", "place-private": "on"}
    made = words(admin.send("set-alias", name="mine", model="nothing", **fields))
    assert house.added() == (
        '\n[aliases]\nmine = {model = "nothing", places = ["home", "private"]}\n'
    )
    assert "mine → nothing only home only private leads nowhere now" in made


def test_fallbacks_are_set_and_removed(tmp_path: Path) -> None:
    house = house_with(tmp_path)
    admin = Operator(house.app())
    made = words(admin.send("set-fallbacks", name="*", models="a, b"))
    assert made.startswith("Instead of *, a, b may answer.")
    assert house.added() == '\n[fallbacks]\n"*" = ["a", "b"]\n'
    removed = words(admin.send("remove-fallbacks", name="*"))
    assert "There are no fallbacks." in removed


@pytest.mark.parametrize(
    ("action", "fields", "problem"),
    [
        ("set-alias", {"name": "", "model": "m"}, "A name has 1 to 200 characters"),
        ("set-alias", {"name": "x", "model": ""}, "Write the model that the alias leads to."),
        ("remove-alias", {"name": "x"}, "There is no such alias."),
        ("set-fallbacks", {"name": "x", "models": " , "}, "Write at least one model"),
        ("remove-fallbacks", {"name": "x"}, "There are no such fallbacks."),
        ("pause-endpoint", {"name": "x"}, "There is no endpoint of this name."),
        ("remove-endpoint", {"name": "x"}, "There is no endpoint of this name."),
    ],
)
def test_what_is_not_there_or_empty_is_refused(
    tmp_path: Path, action: str, fields: dict[str, str], problem: str
) -> None:
    house = house_with(tmp_path, HORDE_ENTRY)
    refused = Operator(house.app()).send(action, **fields)
    assert refused.status_code in (400, 404)
    assert problem in words(refused)
    assert house.added() == HORDE_ENTRY

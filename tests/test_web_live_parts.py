"""What an open page is sent: the parts that changed, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from horde_proxy.api.shared_answer import RequestInfo
from horde_proxy.web import page
from horde_proxy.web.live_parts import LiveParts, Versions
from tests.support import OWNER_KEY, Scripted, World
from tests.test_web_page import CSP, HTML, events

PAGE = """<p class="message" id="problem" data-live>All is well.</p>
<p id="still">Never sent.</p>
<tbody id="rows-models" data-live>
<tr data-name="a&amp;b"><td>1</td></tr>
<tr data-name="c"><td>2</td></tr>
</tbody>"""
ALL = {
    "version": "3ee73e1a7b2b1f4b3fc1ec13",
    "elements": ['<p class="message" id="problem" data-live>All is well.</p>'],
    "rows": {
        "rows-models": {
            "keys": ["a&b", "c"],
            "changed": [
                '<tr data-name="a&amp;b"><td>1</td></tr>',
                '<tr data-name="c"><td>2</td></tr>',
            ],
        }
    },
}


def without_version(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if name != "version"}


def test_an_unknown_version_gets_all_parts() -> None:
    assert without_version(Versions().changes(LiveParts.of(PAGE), "unknown")) == without_version(
        ALL
    )


def test_the_same_version_gets_nothing() -> None:
    versions = Versions()
    since = versions.remember(LiveParts.of(PAGE))
    assert versions.changes(LiveParts.of(PAGE), since) == {
        "version": since,
        "elements": [],
        "rows": {},
    }


def test_one_changed_row_goes_alone() -> None:
    versions = Versions()
    since = versions.remember(LiveParts.of(PAGE))
    changes = versions.changes(LiveParts.of(PAGE.replace("<td>2", "<td>3")), since)
    assert changes["version"] != since
    assert without_version(changes) == {
        "elements": [],
        "rows": {
            "rows-models": {
                "keys": ["a&b", "c"],
                "changed": ['<tr data-name="c"><td>3</td></tr>'],
            }
        },
    }


def test_a_row_that_is_gone_needs_no_markup() -> None:
    versions = Versions()
    since = versions.remember(LiveParts.of(PAGE))
    fewer = PAGE.replace('<tr data-name="c"><td>2</td></tr>\n', "")
    assert versions.changes(LiveParts.of(fewer), since)["rows"] == {
        "rows-models": {"keys": ["a&b"], "changed": []}
    }
    empty = fewer.replace('<tr data-name="a&amp;b"><td>1</td></tr>\n', "")
    assert versions.changes(LiveParts.of(empty), since)["rows"] == {
        "rows-models": {"keys": [], "changed": []}
    }


def test_rows_in_another_order_are_told_by_their_keys() -> None:
    versions = Versions()
    since = versions.remember(LiveParts.of(PAGE))
    first, second = ALL["rows"]["rows-models"]["changed"]  # type: ignore[index]
    other = PAGE.replace(f"{first}\n{second}", f"{second}\n{first}")
    assert versions.changes(LiveParts.of(other), since)["rows"] == {
        "rows-models": {"keys": ["c", "a&b"], "changed": []}
    }


def test_two_rows_of_one_key_are_sent_with_their_whole_table() -> None:
    doubled = LiveParts.of(PAGE.replace('data-name="c"', 'data-name="a&amp;b"'))
    assert doubled.tables == {}
    assert list(doubled.elements) == ["problem", "rows-models"]


def test_a_running_time_that_goes_on_is_no_change() -> None:
    versions = Versions()
    row = '<tbody id="r" data-live><tr data-name="a"><td>%s</td></tr></tbody>'
    since = versions.remember(LiveParts.of(row % '<span data-elapsed="1">1 s</span>'))
    later = LiveParts.of(row % '<span data-elapsed="65">1 min 5 s</span>')
    assert versions.changes(later, since) == {"version": since, "elements": [], "rows": {}}


def test_the_oldest_versions_are_forgotten() -> None:
    versions = Versions(most=1)
    since = versions.remember(LiveParts.of(PAGE))
    versions.remember(LiveParts.of(""))
    assert without_version(versions.changes(LiveParts.of(PAGE), since)) == without_version(ALL)


def shown_version(client: FlaskClient) -> str:
    return client.get("/", headers=HTML).text.partition('data-version="')[2].partition('"')[0]


def test_an_idle_page_with_300_models_is_sent_less_than_a_kilobyte(world: World) -> None:
    for first in range(0, 300, 50):
        offer = {
            "name": f"worker-{first}",
            "models": [f"koboldcpp/Model-{first + number}-Q4_K_M" for number in range(50)],
            "bridge_agent": "AI Horde Worker:1:x",
            "max_length": 512,
            "max_context_length": 8192,
            "threads": 1,
        }
        world.horde.pop(OWNER_KEY, offer)
    client = world.http()
    whole = client.get("/", headers=HTML)
    since = shown_version(client)
    response = client.get(f"/page/live?since={since}")
    assert response.headers["Content-Security-Policy"] == CSP
    assert response.json == {"version": since, "elements": [], "rows": {}}
    head = sum(len(name) + len(value) + 4 for name, value in response.headers)
    assert len(whole.data) > 200_000
    assert head + len(response.data) < 1000


def test_a_page_whose_state_has_not_changed_is_not_drawn_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.http()
    since = shown_version(client)
    drawn: list[str] = []

    def draw(name: str, **_: Any) -> str:
        drawn.append(name)
        return ""

    monkeypatch.setattr(page, "render_template", draw)
    world.clock.seconds += 5
    answer = client.get(f"/page/live?since={since}").json
    assert (answer, drawn) == ({"version": since, "elements": [], "rows": {}}, [])
    # A version that this process has not drawn from this state: all of it is compared.
    client.get("/page/live?since=unknown")
    assert drawn == ["page.html"]
    world.employ(Scripted("Hello."))
    world.clock.seconds += 3600
    client.get(f"/page/live?since={since}")
    assert drawn == ["page.html", "page.html"]


def test_every_live_part_of_the_page_is_sent_to_a_tab_without_a_version(world: World) -> None:
    world.employ(Scripted("Hello."))
    client = world.http()
    whole = client.get("/", headers=HTML).text
    changes = client.get("/page/live").json
    assert changes is not None
    assert len(changes["elements"]) + len(changes["rows"]) == whole.count(" data-live")
    assert changes["rows"]["rows-models"]["keys"] == ["test/model"]
    assert changes["version"] == shown_version(client)


def test_an_event_brings_only_the_request_that_changed(world: World) -> None:
    """A running time that goes on sends nothing."""
    app = world.app()
    register = app.extensions["horde_proxy"].live.in_flight
    register.track_proxied(RequestInfo("first-request", "ann", "m", True, 0.0))

    def begin_another() -> None:
        if world.clock.seconds == 1010:
            register.track_proxied(RequestInfo("other-request", "ann", "n", True, 0.0))

    world.clock.every_sleep.append(begin_another)
    sent = events(app.test_client().get("/page/events").text)
    assert [[row[0] for row in rows] for rows in sent] == [["m"], ["n"]]

"""The last seven days on the page: who sees what, and which charts are drawn of it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from flask.testing import FlaskClient

from horde_proxy.aihorde.names import canonical
from horde_proxy.database.errors import DatabaseError
from horde_proxy.ledger import ClientKey
from horde_proxy.stats.history.hourly_facts import HourlyFacts
from horde_proxy.stats.history.records import (
    DAY,
    HOUR,
    EndpointFacts,
    EndpointKey,
    HordeFacts,
    HordeKey,
)
from tests.support import World, known

NOON = 1_769_860_800
"""2026-01-31, 12:00 UTC."""


def sample(hour: int, kind: str, name: str, *sums: Any) -> tuple[HordeKey, HordeFacts]:
    key = HordeKey(NOON + hour * HOUR, "horde", kind, canonical(name).key if name else "")
    return key, HordeFacts(name, *sums)


HORDE = dict(
    [
        sample(-1, "text", "", 12, 60, 72, 0.0, 36.0),
        sample(-1, "text", "Big-8B", 12, 24, 36, 0.0, 18.0, 220.0, 11),
        sample(0, "text", "", 6, 6, 6, 0.0, 0.0),
        sample(0, "image", "", 6, 18, 18, 0.0, 12.0),
        sample(0, "image", "SDXL 1.0", 6, 6, 6, 0.0, 6.0, 31_200_000.0, 6),
    ]
)
ENDPOINTS = {
    EndpointKey(NOON, "box", "m", "ann"): EndpointFacts(
        4, 1, 400, 80, 300, 150, Counter({-8: 3}), Counter({16: 3})
    ),
    EndpointKey(NOON - DAY, "box", "m", "bob"): EndpointFacts(1, 0, 100, 20),
    # More than seven days ago.
    EndpointKey(NOON - 8 * DAY, "box", "m", "bob"): EndpointFacts(99, 0, 100, 20),
}


def page_of(world: World) -> FlaskClient:
    """The page at half past twelve, with these facts in the database."""
    world.clock.seconds = NOON + HOUR / 2
    app = world.app()
    facts: HourlyFacts = app.extensions["horde_proxy"].live.hourly
    assert facts.database is not None
    facts.database.add(HORDE, ENDPOINTS)
    return app.test_client()


def state(client: FlaskClient, query: str = "", key: str | None = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer key-of-{key}-longer"} if key else {}
    response = client.get(f"/page/state.json{query}", headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json  # type: ignore[assignment]
    return found


def test_the_requests_of_a_week_are_told_in_words(world: World) -> None:
    assert [chart["desc"] for chart in state(page_of(world))["week"]["charts"]] == [
        "5 requests to endpoints in the last seven days, 1 of them failed.",
        "The median of an hour was between 500 ms and 500 ms in the last seven days.",
        "The median of an hour was between 4 s and 4 s in the last seven days.",
        "500 tokens of prompts in the last seven days. Of the 300 of which servers say it, 50% met "
        "a warm cache.",
    ]


def test_the_days_of_a_week_are_told_in_numbers(world: World) -> None:
    rows = state(page_of(world))["week"]["days"]["rows"]
    assert [[cell["text"] for cell in row["cells"]] for row in rows] == [
        ["31 Jan", "4", "1", "500 ms", "500 ms", "4 s", "4 s", "400", "50%", "80"],
        ["30 Jan", "1", "0", "–", "–", "–", "–", "100", "–", "20"],
    ]


def test_endpoints_are_told_apart_in_numbers(world: World) -> None:
    [row] = state(page_of(world))["week"]["endpoints"]["rows"]
    texts = [cell["text"] for cell in row["cells"]]
    assert texts == ["box", "5", "1", "500 ms", "500 ms", "4 s", "4 s", "500", "50%", "100"]


def test_the_horde_of_a_week_is_told_in_words(world: World) -> None:
    horde = state(page_of(world))["week_horde"]
    assert [(chart["title"], chart["desc"]) for chart in horde["charts"]] == [
        ("Text workers", "The number of workers was between 1 and 5 in the last seven days."),
        (
            "Text jobs",
            "The number of waiting and running jobs was between 0 and 3 in the last seven days.",
        ),
        ("Image workers", "The number of workers was between 3 and 3 in the last seven days."),
        (
            "Image jobs",
            "The number of waiting and running jobs was between 2 and 2 in the last seven days.",
        ),
    ]
    assert [[cell["text"] for cell in row["cells"]] for row in horde["models"]["rows"]] == [
        ["Big-8B", "text", "1.3", "2", "1", "20 tokens/s", "31 Jan 11:00 UTC"],
        ["SDXL 1.0", "image", "1", "1", "1", "5.2 megapixelsteps/s", "31 Jan 12:00 UTC"],
    ]


def test_a_model_is_chosen_by_the_query(world: World) -> None:
    client = page_of(world)
    horde = state(client, "?model=text+koboldcpp/Big-8B-Q8_0")["week_horde"]
    assert horde["model"] == {"name": "Big-8B", "value": "text Big-8B"}
    assert [chart["desc"] for chart in horde["charts"]] == [
        "The number of workers was between 0 and 2 in the last seven days.",
        "The number of waiting and running jobs was between 0 and 1.5 in the last seven days.",
        "The speed in tokens/s was between 20 and 20 in the last seven days.",
    ]
    image = state(client, "?model=image+SDXL+1.0")["week_horde"]["charts"][2]
    assert image["desc"] == (
        "The speed in megapixelsteps/s was between 5.2 and 5.2 in the last seven days."
    )
    # What is no model of the form shows the whole horde.
    assert state(client, "?model=nonsense&horde=none")["week_horde"]["model"] is None


def test_a_visitor_sees_its_own_requests_and_an_admin_all(world: World) -> None:
    keys = {name: ClientKey(name, admin=name == "root") for name in ("ann", "bob", "root")}
    client = page_of(world.configure(**known(**keys)))
    assert {
        name: state(client, key=name)["week"]["charts"][0]["desc"].partition(" ")[0]
        for name in keys
    } == {"ann": "4", "bob": "1", "root": "5"}


def test_in_passthrough_mode_only_the_horde_is_shown(world: World) -> None:
    shown = state(page_of(world.configure(access={"mode": "passthrough"})))
    assert shown["week"] is None
    assert len(shown["week_horde"]["charts"]) == 4


def test_without_a_history_there_is_no_section(world: World) -> None:
    client = world.configure(stats={"history_days": 0}).http()
    shown = state(client)
    assert (shown["week"], shown["week_horde"]) == (None, None)
    assert 'id="week"' not in client.get("/", headers={"Accept": "text/html"}).text


def test_a_database_that_fails_leaves_the_rest_of_the_page(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise DatabaseError("gone")

    client = page_of(world)
    for name in ("horde", "endpoints"):
        monkeypatch.setattr(f"horde_proxy.stats.history.database.HistoryDatabase.{name}", fail)
    html = client.get("/", headers={"Accept": "text/html"}).text
    assert html.count("The history cannot be read right now.") == 2
    assert 'id="table-models"' in html


def test_a_section_is_read_at_most_once_a_minute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, reads = page_of(world), []
    facts: HourlyFacts = client.application.extensions["horde_proxy"].live.hourly
    read = facts.endpoints

    def read_and_note(*arguments: Any) -> Any:
        reads.append(arguments)
        return read(*arguments)

    monkeypatch.setattr(facts, "endpoints", read_and_note)
    for _ in range(3):
        state(client)
    assert len(reads) == 1
    world.clock.seconds += 61
    state(client)
    assert len(reads) == 2


def test_each_chart_has_a_name_a_description_and_an_id_of_its_own(world: World) -> None:
    html = page_of(world).get("/?model=text+Big-8B", headers={"Accept": "text/html"}).text
    ids = re.findall(r' id="([^"]+)"', html)
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    drawn = re.findall(r'<svg id="(chart-week-[^"]+)"[^>]* role="img"', html)
    assert len(drawn) == 7
    for name in drawn:
        assert f'aria-labelledby="{name}-title {name}-desc"' in html
    assert '<option value="text Big-8B" selected>Big-8B</option>' in html

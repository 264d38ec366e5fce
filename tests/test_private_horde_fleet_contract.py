"""The routes of workers, teams, messages, filters, modes and news against recorded answers.

The captures are of a real AI-Horde with image workers: what only those have is left out, and what
only text workers have is added. SETUPS says what each capture needs beforehand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.test_private_horde import World
from tests.test_private_horde_contract import unlike

CAPTURES = Path(__file__).parent / "data" / "captures_fleet"
WORKER_OWNER = "<image-worker-owner-apikey>"
Setup = Callable[[World], Any]

IMAGES_ONLY = {
    "max_pixels",
    "megapixelsteps_generated",
    "img2img",
    "painting",
    "post-processing",
    "lora",
    "controlnet",
    "sdxl_controlnet",
}


def load(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())


@pytest.fixture
def world() -> World:
    world = World()
    world.horde.add_account(WORKER_OWNER, "wimage", trusted=True)
    world.horde.add_account("<poor-apikey>", "poor")
    world.horde.add_account("<trusted-apikey>", "trusted", trusted=True)
    world.horde.add_account("<moderator-apikey>", "mod", roles=("admin", "moderator"))
    return world


def worker(world: World) -> str:
    world.pop("img-worker", WORKER_OWNER)
    return str(world.worker("img-worker")["id"])


def seasoned_worker(world: World) -> str:
    world.submit()
    [job] = world.pop("img-worker", WORKER_OWNER)
    world.deliver(job, key=WORKER_OWNER)
    return worker(world)


def busy_worker(world: World) -> str:
    world.submit()
    return worker(world)


def two_workers(world: World) -> str:
    world.pop("lab-slow", WORKER_OWNER)
    return worker(world)


def nothing(world: World) -> None:
    return None


def call(world: World, path: str, key: str, body: Any, method: str = "POST") -> Any:
    response = world.client.open(
        f"/api/v2/{path}", method=method, json=body, headers={"apikey": key}
    )
    assert response.status_code in (200, 201), response.json
    return response.json


def team(world: World) -> str:
    return str(call(world, "teams", "<trusted-apikey>", {"name": "night owls"})["id"])


def team_with_worker(world: World) -> str:
    worker_id, team_id = worker(world), team(world)
    call(world, f"workers/{worker_id}", WORKER_OWNER, {"team": team_id}, "PUT")
    return team_id


def worker_and_team(world: World) -> tuple[str, str]:
    return worker(world), team(world)


def message(world: World) -> str:
    body = {"worker_id": worker(world), "message": "please update", "expiry": 12, "origin": "lab"}
    return str(call(world, "workers/messages", "<moderator-apikey>", body)["id"])


def prompt_filter(world: World) -> None:
    body = {
        "regex": "verybadword",
        "filter_type": 10,
        "description": "lab",
        "replacement": "nice",
    }
    call(world, "filters", "<moderator-apikey>", body, "PUT")


def news(world: World) -> None:
    body = {
        "title": "t",
        "newspiece": "n",
        "tags": ["a"],
        "more_info_urls": ["https://example.invalid/"],
    }
    call(world, "status/news", "<moderator-apikey>", body)


SETUPS: dict[str, Setup] = {
    "worker_by_name": seasoned_worker,
    "worker_delete": busy_worker,
    "worker_delete_not_owner": worker,
    "worker_get": seasoned_worker,
    "worker_get_404": nothing,
    "worker_get_moderator": seasoned_worker,
    "worker_get_not_uuid": nothing,
    "worker_get_owner": seasoned_worker,
    "worker_put_bad_type": worker,
    "worker_put_info": worker,
    "worker_put_info_long": worker,
    "worker_put_maintenance_off": worker,
    "worker_put_maintenance_on": worker,
    "worker_put_name": worker,
    "worker_put_name_taken": two_workers,
    "worker_put_not_owner": worker,
    "worker_put_nothing": worker,
    "worker_put_paused": worker,
    "worker_put_paused_not_mod": worker,
    "worker_put_unpaused": worker,
    "worker_put_team": worker_and_team,
    "worker_put_team_404": worker,
    "worker_put_team_none": worker,
    "team_404": nothing,
    "team_create": nothing,
    "team_create_same_name": team,
    "team_create_untrusted": nothing,
    "team_delete": team,
    "team_delete_not_owner": team,
    "team_get": team_with_worker,
    "team_patch": team,
    "team_patch_not_owner": team,
    "teams_list": team_with_worker,
    "worker_message_create": worker,
    "worker_message_delete": message,
    "worker_message_get": message,
    "worker_messages_mod": message,
    "worker_messages_owner": message,
    "filter_404": nothing,
    "filter_delete": prompt_filter,
    "filter_get": prompt_filter,
    "filter_patch": prompt_filter,
    "filter_put": nothing,
    "filter_put_bad_type": nothing,
    "filters_check_prompt": prompt_filter,
    "filters_get": prompt_filter,
    "filters_get_contains": prompt_filter,
    "filters_regex": prompt_filter,
    "modes_get": nothing,
    "modes_get_mod": nothing,
    "modes_put_invite": nothing,
    "modes_put_not_admin": nothing,
    "modes_put_nothing": nothing,
    "modes_put_raid": nothing,
    "news": news,
}


UUID = r"[1-9a-f][0-9a-f]{7}-[0-9a-fA-F-]{27}"


def replay(world: World, name: str) -> Any:
    """Return the private horde's response to a capture's request, with the real ids put in."""
    request = load(name)["request"]
    made = SETUPS[name](world)
    ids = made if isinstance(made, tuple) else (made, made)
    path, body = request["path"], json.dumps(request.get("body"))
    if ids[0] is not None:
        path, body = re.sub(UUID, ids[0], path), re.sub(UUID, ids[1], body)
    return world.client.open(
        path,
        method=request["method"],
        json=json.loads(body),
        headers={k: v for k, v in request["headers"].items() if k != "Content-Type"},
    )


def as_text(body: Any) -> Any:
    """A captured body as it would be of a text worker."""
    if isinstance(body, list):
        return [as_text(item) for item in body]
    if isinstance(body, dict) and "bridge_agent" in body:
        kept = {name: value for name, value in body.items() if name not in IMAGES_ONLY}
        return {**kept, "type": "text", "max_length": 1, "max_context_length": 1}
    return body


@pytest.mark.parametrize("name", sorted(SETUPS))
def test_the_status_and_the_shape_are_those_of_the_real_horde(world: World, name: str) -> None:
    expected = load(name)["response"]
    actual = replay(world, name)
    assert actual.status_code == expected["status"]
    assert unlike(as_text(expected["body"]), actual.json) == []
    limit = expected["headers"]["X-Ratelimit-Limit"]
    assert actual.headers["X-Ratelimit-Limit"] == limit


@pytest.mark.parametrize(
    "name", sorted(name for name in SETUPS if load(name)["response"]["status"] >= 400)
)
def test_refusals_say_what_the_real_horde_says(world: World, name: str) -> None:
    expected = load(name)["response"]["body"]
    actual = replay(world, name).json
    assert actual.get("rc") == expected.get("rc")
    if "errors" in expected:
        assert set(actual["errors"]) == set(expected["errors"])
    said = expected["message"].partition(" You have requested this URI")[0]
    assert actual["message"] == said


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name in SETUPS
        if load(name)["request"]["method"] == "PUT" and load(name)["response"]["status"] == 200
    ),
)
def test_a_change_is_answered_as_by_the_real_horde(world: World, name: str) -> None:
    answer = replay(world, name).json
    expected = load(name)["response"]["body"]
    own = ("id", "user")
    assert [value for field, value in answer.items() if field not in own] == [
        value for field, value in expected.items() if field not in own
    ]


def test_every_capture_has_a_replay() -> None:
    assert {path.stem for path in CAPTURES.glob("*.json")} == {*SETUPS, "filters_not_mod"}


def test_only_moderators_see_the_filters(world: World) -> None:
    # The real horde shows them to everybody (capture filters_not_mod), and so how to evade them.
    prompt_filter(world)
    request = load("filters_not_mod")["request"]
    response = world.client.get(request["path"], headers=request["headers"])
    assert (response.status_code, response.get_json()["rc"]) == (403, "NotModerator")

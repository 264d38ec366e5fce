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
}


def replay(world: World, name: str) -> Any:
    """Return the private horde's response to a capture's request, with the real id put in."""
    request = load(name)["request"]
    real_id = SETUPS[name](world)
    path = request["path"]
    if real_id is not None:
        path = re.sub(r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}", real_id, path)
    return world.client.open(
        path,
        method=request["method"],
        json=request.get("body"),
        headers={k: v for k, v in request["headers"].items() if k != "Content-Type"},
    )


def as_text(body: Any) -> Any:
    """A captured body as it would be of a text worker."""
    if isinstance(body, list):
        return [as_text(item) for item in body]
    if isinstance(body, dict) and "bridge_agent" in body:
        kept = {name: value for name, value in body.items() if name not in IMAGES_ONLY}
        return {**kept, "max_length": 1, "max_context_length": 1}
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
    answer.pop("id", None)
    expected = load(name)["response"]["body"]
    expected.pop("id", None)
    assert answer == expected

"""The tool image_generation of responses, whose pictures the horde makes."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.pictures import Raster
from tests.legal_responses import check_response, check_stream, parsed
from tests.support import Scripted, World
from tests.test_api_own_functions import FOX, WEATHER, Images, called

IMAGE_TOOL = {"type": "image_generation"}
WEATHER_TOOL = {"type": "function", "name": "weather", "parameters": None}


@pytest.fixture
def images(world: World, tmp_path: Path) -> Images:
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path / "pictures")
    return Images(world)


def post(world: World, **fields: Any) -> Any:
    body = {"model": "test/model", "input": "Draw a fox.", "tools": [IMAGE_TOOL], **fields}
    return world.http().post("/v1/responses", json=body, buffered=True)


def test_a_picture_is_an_item(world: World, images: Images) -> None:
    worker = world.employ(Scripted(called(FOX, text="Here it is.\n")))
    tool = {**IMAGE_TOOL, "size": "512x768", "output_format": "jpeg", "model": "gpt-image-1"}
    response = post(world, tools=[tool])
    check_response(response.json)
    message, picture = response.json["output"]
    assert message["content"][0]["text"].strip() == "Here it is."
    assert picture["id"].startswith("ig_")
    rest = {name: value for name, value in picture.items() if name not in ("id", "result")}
    assert rest == {
        "type": "image_generation_call",
        "status": "completed",
        "revised_prompt": "a fox in snow",
        "output_format": "jpeg",
        "size": "64x64",
        "quality": "medium",
    }
    assert Raster.read(base64.b64decode(picture["result"])).kind == "jpeg"
    params = images.submits[0]["params"]
    assert (params["width"], params["height"]) == (512, 768)
    assert response.json["horde"]["images"][0]["seeds"] == ["42"]
    assert '"generate_image"' in worker.payloads[0]["prompt"]


def test_a_stream_has_the_events_of_a_picture(world: World, images: Images) -> None:
    world.employ(Scripted(called(FOX, WEATHER)))
    response = post(world, stream=True, tools=[IMAGE_TOOL, WEATHER_TOOL])
    events = parsed(response.text)
    final = check_stream(events)
    assert [item["type"] for item in final["output"]] == ["function_call", "image_generation_call"]
    kinds = [event["type"] for event in events if event.get("output_index") == 1]
    assert kinds == [
        "response.output_item.added",
        "response.image_generation_call.in_progress",
        "response.image_generation_call.generating",
        "response.image_generation_call.completed",
        "response.output_item.done",
    ]


def test_a_picture_may_be_forced(world: World, images: Images) -> None:
    world.employ(Scripted(' a fox"}}\n</tool_call>'))
    response = post(world, tool_choice=IMAGE_TOOL)
    assert (response.status_code, len(images.submits)) == (200, 1)
    assert response.json["output"][0]["type"] == "image_generation_call"


def test_a_failure_is_a_sentence(world: World, images: Images) -> None:
    world.employ(Scripted(called('{"name": "generate_image", "arguments": {"prompt": " "}}')))
    [item] = post(world).json["output"]
    assert item["content"][0]["text"] == (
        "The picture could not be made: The model did not say what to draw."
    )


def test_without_image_models_the_tool_is_left_out(world: World) -> None:
    world.employ(Scripted("No."))
    response = post(world)
    assert response.headers["X-Horde-Warnings"] == (
        "tools: type 'image_generation' left out, no image model is available"
    )
    forced = post(world, tool_choice=IMAGE_TOOL)
    assert (forced.status_code, forced.json["error"]["param"]) == (400, "tools")


def test_options_that_cannot_be_read_are_left_out(world: World, images: Images) -> None:
    world.employ(Scripted(called(FOX)))
    response = post(world, tools=[{**IMAGE_TOOL, "size": "huge"}])
    assert response.headers["X-Horde-Warnings"] == ("tools: options of 'image_generation' left out")
    assert response.json["output"][0]["type"] == "image_generation_call"


def test_the_model_reads_that_it_made_a_picture(world: World, images: Images) -> None:
    worker = world.employ(Scripted("Blue now."))
    items = [
        {"role": "user", "content": "Draw a fox."},
        {
            "type": "image_generation_call",
            "id": "ig_1",
            "status": "completed",
            "result": "AAAA" * 1000,
            "revised_prompt": "a fox in snow",
        },
        {"role": "user", "content": "Make it blue."},
    ]
    assert post(world, input=items).status_code == 200
    prompt = worker.payloads[0]["prompt"]
    assert "a fox in snow" in prompt and "AAAA" not in prompt


def test_a_function_of_the_client_may_have_the_same_name(world: World, images: Images) -> None:
    world.employ(Scripted(called(FOX)))
    own = {"type": "function", "name": "generate_image"}
    response = post(world, tools=[own, IMAGE_TOOL])
    [item] = response.json["output"]
    assert (item["type"], item["name"], images.submits) == ("function_call", "generate_image", [])
    assert response.headers["X-Horde-Warnings"] == "tools: type 'image_generation' left out"

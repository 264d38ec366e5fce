"""Pictures in chats: a text model calls generate_image, and the proxy makes them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import responses
from flask import Flask, Response, request
from flask.testing import FlaskClient

from horde_proxy.ledger import ClientKey
from horde_proxy.pictures import Raster
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.scripted_images import MODEL, ScriptedImages
from tests.support import HORDE_URL, Scripted, World, known
from tests.test_api_proxying import HOME, made
from tests.test_api_proxying import servers as servers
from tests.test_upstreams_chat_answer import call, hire

FOX = '{"name": "generate_image", "arguments": {"prompt": "a fox in snow"}}'
CAT = '{"name": "generate_image", "arguments": {"prompt": "a cat"}}'
WEATHER = '{"name": "weather", "arguments": {"city": "Bonn"}}'
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# "http://localhost/v1/files/images/Ab1...x_.webp"
LINK = re.compile(r"http://localhost/v1/files/images/[\w-]{32}\.webp")
PROMPTED = [{"role": "user", "content": "Draw a fox."}]


class Images(ScriptedImages):
    """Makers of pictures on the horde of a World, whose texts others write."""

    def __init__(self, world: World) -> None:
        super().__init__()
        for path in (
            "api/v2/generate/async",
            "api/v2/generate/check",
            "api/v2/generate/status",
            "api/v2/status/models?type=image",
            "api/v2/workers?type=image",
            "pictures",
        ):
            world.session.mount(f"{HORDE_URL}/{path}", WSGIAdapter(self.app))


@pytest.fixture
def images(world: World, tmp_path: Path) -> Images:
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path / "pictures")
    return Images(world)


def called(*calls: str, text: str = "") -> str:
    """What a model of the family Hermes writes that calls functions."""
    return text + "".join(f"<tool_call>\n{call}\n</tool_call>\n" for call in calls) + "<|im_end|>"


def writes(world: World, text: str) -> Scripted:
    scripted: Scripted = world.employ(Scripted(text))
    return scripted


def post(http: FlaskClient, **fields: Any) -> Any:
    horde = {"images": True, **fields.pop("horde", {})}
    body = {"model": "test/model", "messages": PROMPTED, "horde": horde, **fields}
    response = http.post("/v1/chat/completions", json=body, buffered=True)
    assert response.status_code == 200, response.text
    return response


def content(response: Any, index: int = 0) -> str:
    """The text of an answer, with its links as LINK."""
    return LINK.sub("LINK", str(response.json["choices"][index]["message"]["content"]))


def chunks(response: Any) -> list[dict[str, Any]]:
    lines = response.get_data(as_text=True).split("\n")
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def test_a_picture_that_the_model_calls_for_is_shown_below_its_text(
    world: World, images: Images
) -> None:
    worker, http = writes(world, called(FOX, text="Here it is.\n")), world.http()
    response = post(http)
    [choice] = response.json["choices"]
    assert content(response) == "Here it is.\n\n![a fox in snow](LINK)"
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("stop", False)
    link = LINK.search(choice["message"]["content"])
    assert link is not None
    picture = http.get(link[0])
    assert (picture.status_code, picture.mimetype) == (200, "image/webp")
    assert Raster.read(picture.data).size == (64, 64)
    assert '"name":"generate_image"' in worker.payloads[0]["prompt"].replace(": ", ":")
    [submit] = images.submits
    assert (submit["prompt"], submit["models"]) == ("a fox in snow", [MODEL])
    assert (submit["params"]["width"], submit["params"]["height"]) == (1024, 1024)


def test_the_horde_object_has_the_pictures_and_what_all_cost(world: World, images: Images) -> None:
    writes(world, called(FOX))
    plain = post(world.http(), horde={"images": False}).json["horde"]
    horde = post(world.http()).json["horde"]
    assert horde["images"] == [
        {"model": MODEL, "seeds": ["42"], "workers": [{"id": "worker-1", "name": "painter"}]}
    ]
    assert "images" not in plain
    assert horde["request_ids"][-1] == "image-1"
    assert horde["kudos"] > 17.0


@pytest.mark.parametrize(
    ("orientation", "size"), [("portrait", (832, 1216)), ("landscape", (1216, 832))]
)
def test_a_picture_has_the_orientation_that_the_model_chose(
    world: World, images: Images, orientation: str, size: tuple[int, int]
) -> None:
    arguments = json.dumps({"prompt": "a fox", "orientation": orientation})
    writes(world, called(f'{{"name": "generate_image", "arguments": {arguments}}}'))
    assert content(post(world.http())) == "![a fox](LINK)"
    params = images.submits[0]["params"]
    assert (params["width"], params["height"]) == size


def test_the_clients_own_calls_are_passed_on_beside_a_picture(world: World, images: Images) -> None:
    writes(world, called(FOX, WEATHER))
    response = post(world.http(), tools=[WEATHER_TOOL])
    [choice] = response.json["choices"]
    assert content(response) == "![a fox in snow](LINK)"
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city":"Bonn"}'}


def test_the_clients_own_calls_alone_are_as_always(world: World, images: Images) -> None:
    writes(world, called(WEATHER))
    [choice] = post(world.http(), tools=[WEATHER_TOOL]).json["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert images.submits == []


def test_a_text_without_calls_is_as_always(world: World, images: Images) -> None:
    writes(world, "No.<|im_end|>")
    response = post(world.http())
    assert (content(response), images.submits) == ("No.", [])
    assert "images" not in response.json["horde"]


def test_a_stream_is_kept_alive_while_the_picture_is_made(world: World, images: Images) -> None:
    writes(world, called(FOX, WEATHER, text="Here."))
    images.polls = 60
    response = post(world.http(), stream=True, tools=[WEATHER_TOOL])
    text = response.get_data(as_text=True)
    assert text.rindex(": ") > text.index('"weather"')
    assert text.index('"weather"') < text.rindex("\n: ") < text.index("![a fox in snow]")
    events = chunks(response)
    assert len({event["id"] for event in events}) == 1
    deltas = [part["delta"] for event in events for part in event["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert {call["index"] for call in calls} == {0}
    written = "".join(delta.get("content") or "" for delta in deltas)
    assert LINK.sub("LINK", written) == "Here.\n\n![a fox in snow](LINK)"
    reasons = [part["finish_reason"] for event in events for part in event["choices"]]
    assert [reason for reason in reasons if reason] == ["tool_calls"]
    [shown] = [event for event in events if event["choices"] and "horde" in event]
    assert shown["horde"]["images"][0]["model"] == MODEL


def test_a_client_that_leaves_ends_its_picture(world: World, images: Images) -> None:
    world.configure(server={"cancel_grace": 0})
    writes(world, called(FOX))
    images.polls = 10_000
    body = {
        "model": "test/model",
        "messages": PROMPTED,
        "horde": {"images": True},
        "stream": True,
    }
    response = world.http().post("/v1/chat/completions", json=body, buffered=False)
    stream = response.iter_encoded()
    while not images.submits:
        next(stream)
    response.close()
    assert images.deleted == ["image-1"]


def test_a_client_that_comes_back_gets_the_same_picture(world: World, images: Images) -> None:
    worker, http = writes(world, called(FOX)), world.http()
    body = {"model": "test/model", "messages": PROMPTED, "horde": {"images": True}, "stream": True}
    response = http.post("/v1/chat/completions", json=body, buffered=False)
    stream = response.iter_encoded()
    while not images.submits:
        next(stream)
    response.close()
    again = chunks(http.post("/v1/chat/completions", json=body, buffered=True))
    written = "".join(
        part["delta"].get("content") or "" for event in again for part in event["choices"]
    )
    assert LINK.sub("LINK", written) == "![a fox in snow](LINK)"
    assert (len(worker.payloads), len(images.submits), images.deleted) == (1, 1, [])


def test_each_choice_has_its_own_picture(world: World, images: Images) -> None:
    writes(world, called(FOX))
    response = post(world.http(), n=2)
    assert [content(response, index) for index in (0, 1)] == ["![a fox in snow](LINK)"] * 2
    assert len(images.submits) == 2
    assert len(set(LINK.findall(response.text))) == 2


def test_an_answer_has_four_pictures_at_most(world: World, images: Images) -> None:
    writes(world, called(*[FOX, CAT] * 3))
    written = content(post(world.http()))
    assert written.count("LINK") == len(images.submits) == 4
    refusal = "The picture could not be made: An answer has 4 pictures at most."
    assert written.count(refusal) == 2


def test_a_censored_picture_is_a_sentence(world: World, images: Images) -> None:
    writes(world, called(FOX, text="Here."))
    images.censored = True
    response = post(world.http())
    assert content(response) == (
        "Here.\n\nThe picture could not be made: The horde censored the image."
    )
    assert response.json["choices"][0]["finish_reason"] == "stop"
    # The horde took its kudos all the same.
    assert response.json["horde"]["images"] == []
    assert response.json["horde"]["kudos"] > 17.0


def test_one_failed_picture_leaves_the_others(world: World, images: Images) -> None:
    writes(world, called(FOX, CAT))
    images.refusals = [(400, {"message": "This is no image.", "rc": "ImageValidationFailed"})]
    written = content(post(world.http()))
    assert written.count("LINK") == 1
    assert written.count("The picture could not be made: ") == 1


def test_a_folder_that_takes_no_picture_is_a_sentence(
    world: World, images: Images, tmp_path: Path
) -> None:
    (tmp_path / "pictures").write_text("a file")
    writes(world, called(FOX))
    assert content(post(world.http())) == (
        "The picture could not be made: This proxy cannot store pictures right now."
    )


def test_a_picture_that_takes_too_long_is_a_sentence(world: World, images: Images) -> None:
    world.configure(server={"timeout": 60})
    writes(world, called(FOX, text="Here."))
    images.polls = 10_000
    assert content(post(world.http())) == (
        "Here.\n\nThe picture could not be made: The answer did not come within the time that "
        "this proxy waits for one."
    )


def test_max_kudos_are_those_of_text_and_pictures_together(world: World, images: Images) -> None:
    writes(world, called(FOX))
    response = post(world.http(), horde={"max_kudos": 15})
    assert content(response) == (
        "The picture could not be made: This would cost more kudos than max_kudos allows. Ask for "
        "less, or set it higher."
    )
    assert images.submits == []


def test_the_settings_limit_text_and_pictures_together(world: World, images: Images) -> None:
    writes(world, called(FOX, CAT))
    # The text costs 3.68 kudos; a picture is expected to cost 42.08, and then costs 17.
    for most, pictures in ((45, 0), (46, 1), (62, 1), (63, 2), (88, 2)):
        world.configure(horde={"max_kudos_per_request": most})
        written = content(post(world.http()))
        assert (written.count("LINK"), written.count("more kudos")) == (pictures, 2 - pictures)


def test_the_limits_of_a_key_count_for_pictures_in_chats(world: World, images: Images) -> None:
    world.configure(**known(ann=ClientKey("ann", images_per_day=3)))
    writes(world, called(FOX, CAT))
    http = world.http()
    http.environ_base["HTTP_AUTHORIZATION"] = "Bearer key-of-ann-longer"
    assert content(post(http)).count("LINK") == 2
    written = content(post(http))
    assert (written.count("LINK"), len(images.submits)) == (1, 3)
    assert "The picture could not be made: This key may use 3 images a day" in written


def test_a_key_for_text_models_only_is_offered_no_pictures(world: World, images: Images) -> None:
    world.configure(**known(ann=ClientKey("ann", models=("test/*",))))
    worker, http = writes(world, "No.<|im_end|>"), world.http()
    http.environ_base["HTTP_AUTHORIZATION"] = "Bearer key-of-ann-longer"
    response = post(http)
    assert "generate_image" not in worker.payloads[0]["prompt"]
    assert response.headers["X-Horde-Warnings"] == (
        "horde: images not offered, no image model is available"
    )


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"response_format": {"type": "json_object"}}, "the answer is to be JSON"),
        ({"functions": [WEATHER_TOOL["function"]]}, "functions are of the older form"),
        ({"tools": [WEATHER_TOOL], "tool_choice": "none"}, "tool_choice excludes it"),
        ({"tools": [WEATHER_TOOL], "tool_choice": "required"}, "tool_choice excludes it"),
        (
            {"tools": [{"type": "function", "function": {"name": "generate_image"}}]},
            "a tool has the same name",
        ),
    ],
)
def test_a_request_that_has_no_room_for_it_gets_a_warning(
    world: World, images: Images, fields: dict[str, Any], reason: str
) -> None:
    writes(world, '{"name": "weather", "arguments": {"city": "Bonn"}}<|im_end|>')
    response = post(world.http(), **fields)
    assert f"horde: images not offered, {reason}" in response.headers["X-Horde-Warnings"]
    # In strict mode, each warning is an error.
    world.configure(server={"strict": True})
    body = {"model": "test/model", "messages": PROMPTED, "horde": {"images": True}, **fields}
    refused: Any = world.http().post("/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert refused.json["error"]["message"] == f"'horde.images' cannot be used here: {reason}."
    assert images.submits == []


def test_a_text_completion_has_no_functions(world: World, images: Images) -> None:
    writes(world, "No.<|im_end|>")
    body = {"model": "test/model", "prompt": "Hi", "horde": {"images": True}}
    response = world.http().post("/v1/completions", json=body)
    assert response.headers["X-Horde-Warnings"] == (
        "horde: images not offered, only chats have functions"
    )


def test_the_settings_offer_it_by_default_unless_the_request_says_otherwise(
    world: World, images: Images
) -> None:
    world.configure(horde={"images": True})
    worker, http = writes(world, called(FOX)), world.http()
    assert content(post(http, horde={"images": None})) == "![a fox in snow](LINK)"
    post(http, horde={"images": False})
    assert ["generate_image" in payload["prompt"] for payload in worker.payloads] == [True, False]
    # Nothing was wished for, so nothing is missed.
    response = post(http, horde={"images": None}, response_format={"type": "json_object"})
    assert "images" not in response.headers.get("X-Horde-Warnings", "")


def test_without_the_setting_nothing_is_offered(world: World, images: Images) -> None:
    worker = writes(world, "No.<|im_end|>")
    post(world.http(), horde={"images": None})
    assert "generate_image" not in worker.payloads[0]["prompt"]


def test_pictures_count_in_usage_and_metrics(world: World, images: Images) -> None:
    writes(world, called(FOX, CAT))
    app = world.app()
    post(app.test_client())
    text = app.test_client().get("/metrics").get_data(as_text=True)
    assert 'horde_proxy_images_total{model="test/model",upstream="horde"} 2.0' in text


class Server:
    """A server with OpenAI's API, whose model "m" calls functions. Bodies are in `bodies`."""

    def __init__(self, world: World, *events: dict[str, Any]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self._events = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        app = Flask("server")
        app.add_url_rule("/v1/models", "models", lambda: {"data": [{"id": "m"}]})
        app.add_url_rule("/v1/chat/completions", "chat", self._chat, methods=["POST"])
        world.session.mount(HOME, WSGIAdapter(app))

    def _chat(self) -> Response:
        self.bodies.append(request.get_json())
        return Response(self._events + "data: [DONE]\n\n", mimetype="text/event-stream")


def delta(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    """A chunk of a server with OpenAI's API."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "1", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


def test_a_server_that_answers_instead_of_a_horde_is_offered_it_too(
    world: World, images: Images
) -> None:
    function = {"name": "generate_image", "arguments": '{"prompt": '}
    first = {"index": 0, "id": "call_1", "type": "function", "function": function}
    rest = {"index": 0, "function": {"arguments": '"a fox"}'}}
    server = Server(
        world,
        delta(role="assistant", content="Here."),
        delta(tool_calls=[first]),
        delta(tool_calls=[rest]),
        delta("tool_calls"),
    )
    world.configure(
        endpoints=[
            {"type": "horde", "name": "horde", "url": HORDE_URL},
            {"type": "openai", "name": "home", "url": HOME, "priority": 1},
        ],
        fallbacks={"test/model": ["m"]},
        horde={"retries": 0},
    )
    world.employ_faulty()
    response = post(world.http(), tools=[WEATHER_TOOL])
    assert content(response) == "Here.\n\n![a fox](LINK)"
    assert response.json["choices"][0]["finish_reason"] == "stop"
    [body] = server.bodies
    assert [tool["function"]["name"] for tool in body["tools"]] == ["weather", "generate_image"]
    assert response.json["horde"] == {
        "kudos": 17.0,
        "request_ids": ["image-1"],
        "images": [
            {"model": MODEL, "seeds": ["42"], "workers": [{"id": "worker-1", "name": "painter"}]}
        ],
    }


def test_a_horde_makes_the_pictures_of_its_chats_itself(world: World, images: Images) -> None:
    other = "http://other.invalid"
    world.session.mount(other, WSGIAdapter(ScriptedImages().app))
    world.configure(
        endpoints=[
            {"type": "horde", "name": "horde", "url": HORDE_URL},
            {"type": "horde", "name": "other", "url": other},
        ]
    )
    images.workers = []
    worker = writes(world, "No.<|im_end|>")
    response = post(world.http())
    listed: Any = world.http().get("/v1/models").json
    assert MODEL in [model["id"] for model in listed["data"]]
    assert response.headers["X-Horde-Warnings"] == (
        "horde: images not offered, no image model is available"
    )
    assert "generate_image" not in worker.payloads[0]["prompt"]


def test_a_proxied_chat_says_that_it_has_no_pictures(servers: responses.RequestsMock) -> None:
    answer = {"id": "1", "object": "chat.completion", "choices": []}
    servers.post(f"{HOME}/v1/chat/completions", json=answer)
    http = made().test_client()
    body = {"model": "m", "messages": PROMPTED, "horde": {"images": True}}
    response = http.post("/v1/chat/completions", json=body)
    assert response.headers["X-Horde-Warnings"] == "horde: images not offered, the chat was proxied"
    del body["horde"]
    plain = http.post("/v1/chat/completions", json=body)
    assert "X-Horde-Warnings" not in plain.headers


def test_a_worker_that_takes_chats_is_offered_it_too(tmp_path: Path) -> None:
    world = World(chats=True)
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path / "pictures")
    images = Images(world)
    backend = hire(world, call('{"prompt": "a fox"}', "generate_image"))
    assert content(post(world.http())) == "![a fox](LINK)"
    assert [submit["prompt"] for submit in images.submits] == ["a fox"]
    [tool] = backend.payloads[0]["chat"]["tools"]
    assert tool["function"]["name"] == "generate_image"

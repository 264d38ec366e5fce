"""Pictures of servers with OpenAI's images API: proxied, and as fallbacks of hordes and back."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, jsonify, request
from PIL import Image
from requests import ConnectionError, PreparedRequest
from requests.adapters import BaseAdapter

from horde_proxy.ledger import ClientKey
from horde_proxy.pictures import Raster
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.scripted_images import MODEL, ScriptedImages
from tests.support import HORDE_URL, World, known
from tests.test_api_images import events, generate

SERVER_URL = "http://pictures.invalid"
PAINTER = "flux-at-home"
GREEN = Raster.plain(32, 48, (0, 200, 0)).encoded("png")
_TRANSPARENT = io.BytesIO()
Image.new("RGBA", (32, 48)).save(_TRANSPARENT, "PNG")
MASK = _TRANSPARENT.getvalue()


class PictureServer:
    """A server with OpenAI's images API.

    It answers with `answer`, or an error of `status`. `bodies` are the JSON bodies that came, and
    `forms` the fields of forms, `files` their files by name.
    """

    def __init__(self) -> None:
        self.models = [{"id": PAINTER}, {"id": "llama-3.1-8b", "type": "llm"}, {"id": "my-own"}]
        self.status = 200
        self.answer: Any = {
            "data": [{"b64_json": base64.b64encode(GREEN).decode()}],
            "usage": {"input_tokens": 7, "output_tokens": 100},
        }
        self.bodies: list[dict[str, Any]] = []
        self.forms: list[dict[str, str]] = []
        self.files: list[list[tuple[str, bytes]]] = []
        self.app = Flask("pictures")
        self.app.add_url_rule("/v1/models", "models", lambda: {"data": self.models})
        self.app.add_url_rule("/v1/images/<kind>", "make", self._make, methods=["POST"])
        self.app.add_url_rule("/files/green.png", "file", lambda: Response(GREEN))

    def _make(self, kind: str) -> tuple[Response, int]:
        if request.is_json:
            self.bodies.append(request.get_json())
        else:
            self.forms.append(request.form.to_dict())
            names = [*request.files.items(multi=True)]
            self.files.append([(name, file.read()) for name, file in names])
        if self.status >= 400:
            return jsonify({"error": {"message": "no"}}), self.status
        return jsonify(self.answer), 200


class ServerAdapter(WSGIAdapter):
    """Answers requests whose body is a file as well: those of forms."""

    def send(self, request: PreparedRequest, *args: Any, **options: Any) -> Any:
        body: Any = request.body
        if hasattr(body, "read"):
            request.body = body.read()
        return super().send(request, *args, **options)


class Unplugged(BaseAdapter):
    """A host that cannot be reached."""

    def send(self, *args: Any, **options: Any) -> Any:
        raise ConnectionError("Connection refused")

    def close(self) -> None:
        pass


@pytest.fixture
def horde(world: World, tmp_path: Path) -> ScriptedImages:
    scripted = ScriptedImages()
    world.session.mount(HORDE_URL, WSGIAdapter(scripted.app))
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path / "pictures")
    return scripted


@pytest.fixture
def server(world: World) -> PictureServer:
    made = PictureServer()
    world.session.mount(SERVER_URL, ServerAdapter(made.app))
    world.configure(
        endpoints=[
            {"type": "openai", "name": "home", "url": SERVER_URL},
            {"type": "horde", "name": "horde", "url": HORDE_URL, "priority": 1},
        ],
        fallbacks={PAINTER: [MODEL], MODEL: [PAINTER]},
    )
    return made


def alone(world: World) -> World:
    """The world with the server, and without a horde."""
    return world.configure(endpoints=[{"type": "openai", "name": "home", "url": SERVER_URL}])


def fetched(response: Any) -> bytes:
    assert response.status_code == 200, response.get_json()
    return base64.b64decode(response.get_json()["data"][0]["b64_json"])


def test_a_model_of_a_server_is_proxied_there(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    response = generate(world.http(), model=PAINTER, what="ever")
    assert fetched(response) == GREEN
    assert response.headers["X-Endpoint"] == "home"
    assert server.bodies == [{"prompt": "a fox", "model": PAINTER, "what": "ever"}]
    assert horde.submits == []


@pytest.mark.parametrize("status", [401, 404, 429, 500, 501, 503])
@pytest.mark.parametrize("stream", [False, True])
def test_a_horde_makes_what_a_server_cannot(
    world: World, server: PictureServer, horde: ScriptedImages, status: int, stream: bool
) -> None:
    server.status = status
    response = generate(world.http(), model=PAINTER, stream=stream)
    assert response.status_code == 200
    assert response.headers["X-Endpoint"] == "horde"
    if stream:
        assert [name for name, _ in events(response)] == ["image_generation.completed"]
    assert [submit["models"] for submit in horde.submits] == [[MODEL]]


def test_without_a_fallback_a_missing_path_is_what_the_server_says(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    server.status = 404
    response = generate(world.http(), model="my-own")
    assert (response.status_code, response.get_json()) == (404, {"error": {"message": "no"}})


def test_a_horde_makes_what_a_server_that_is_down_cannot(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    http = world.http()
    http.get("/v1/models")
    world.session.mount(SERVER_URL, Unplugged())
    assert generate(http, model=PAINTER).headers["X-Endpoint"] == "horde"


def test_the_pictures_of_a_proxied_form_count_for_its_key(
    world: World, server: PictureServer
) -> None:
    alone(world).configure(**known(ann=ClientKey("ann", images_per_day=3)))
    http, key = world.http(), {"Authorization": "Bearer key-of-ann-longer"}

    def status() -> int:
        image = (io.BytesIO(GREEN), "a.png")
        form = {"model": PAINTER, "prompt": "a hat", "n": "3", "image": image}
        response = http.post("/v1/images/edits", data=form, headers=key, buffered=True)
        response.close()  # where gunicorn counts it
        return response.status_code

    assert [status(), status()] == [200, 429]
    usage = http.get("/v1/usage", headers=key).get_json()
    assert usage["allowance"]["images_today"] == 3


def test_a_form_that_a_server_failed_is_read_for_a_horde(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    server.status = 500
    form = {"model": PAINTER, "prompt": "a hat", "image": (io.BytesIO(GREEN), "a.png")}
    response = world.http().post("/v1/images/edits", data=form)
    assert response.status_code == 200, response.get_json()
    assert server.forms == [{"model": PAINTER, "prompt": "a hat"}]
    assert horde.submits[0]["source_processing"] == "img2img"


def test_what_a_server_refuses_is_refused(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    server.status = 400
    assert generate(world.http(), model=PAINTER).status_code == 400
    assert horde.submits == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_makes_what_a_horde_refuses(
    world: World, server: PictureServer, horde: ScriptedImages, stream: bool
) -> None:
    horde.refusals = [(503, {"message": "down", "rc": "x"})] * 9
    response = generate(
        world.http(),
        model=MODEL,
        size="512x768",
        quality="high",
        seed=7,
        steps=8,
        output_format="webp",
        stream=stream,
    )
    assert response.status_code == 200, response.get_json()
    if stream:
        [(name, event)] = events(response)
        assert (name, event["horde"]) == ("image_generation.completed", {"model": PAINTER})
        picture = base64.b64decode(event["b64_json"])
    else:
        picture = fetched(response)
        assert response.get_json()["size"] == "32x48"
        assert response.get_json()["horde"] == {"model": PAINTER}
        assert response.headers["X-Endpoint"] == "home"
    assert Raster.read(picture).kind == "webp"
    assert server.bodies == [
        {
            "model": PAINTER,
            "prompt": "a fox",
            "n": 1,
            "size": "512x768",
            "quality": "high",
            "response_format": "b64_json",
            "seed": "7",
            "steps": 8,
        }
    ]


def test_a_server_makes_what_a_horde_that_is_down_cannot(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    http = world.http()
    http.get("/v1/models")
    world.session.mount(HORDE_URL, Unplugged())
    assert fetched(generate(http, model=MODEL)) == GREEN


def test_an_edit_goes_to_a_server_as_a_form(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    horde.refusals = [(503, {"message": "down", "rc": "x"})] * 9
    form = {
        "model": "Deliberate Inpainting",
        "prompt": "a hat",
        "input_fidelity": "high",
        "image": (io.BytesIO(GREEN), "a.png"),
        "mask": (io.BytesIO(MASK), "mask.png"),
    }
    world.configure(fallbacks={"Deliberate Inpainting": [PAINTER]})
    assert fetched(world.http().post("/v1/images/edits", data=form)) == GREEN
    assert server.forms == [
        {
            "model": PAINTER,
            "prompt": "a hat",
            "n": "1",
            "response_format": "b64_json",
            "input_fidelity": "high",
            "strength": "0.35",
        }
    ]
    [(first, source), (second, mask)] = server.files[0]
    assert (first, second) == ("image", "mask")
    assert Raster.read(source).pixels() == Raster.read(GREEN).pixels()
    assert set(Raster.read(mask).alpha()) == {0}


def test_a_picture_behind_a_link_is_fetched(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    server.answer = {"data": [{"url": f"{SERVER_URL}/files/green.png"}]}
    horde.refusals = [(503, {"message": "down", "rc": "x"})] * 9
    assert fetched(generate(world.http(), model=MODEL)) == GREEN


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": []},
        {"data": "x"},
        {"data": [None, {"b64_json": 5}, {"b64_json": "AAAA"}]},
        {"data": [{"url": "http://127.0.0.1:1/x"}]},
        [],
    ],
)
def test_an_answer_without_a_picture_is_an_error(
    world: World, server: PictureServer, horde: ScriptedImages, answer: Any
) -> None:
    server.answer = answer
    horde.refusals = [(503, {"message": "down", "rc": "x"})] * 9
    assert generate(world.http(), model=MODEL).status_code in (502, 503)


def test_fewer_pictures_than_were_asked_for_are_told(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    horde.refusals = [(503, {"message": "down", "rc": "x"})] * 9
    response = generate(world.http(), model=MODEL, n=2, quality="max")
    assert len(response.get_json()["data"]) == 1
    assert response.headers["X-Horde-Warnings"] == ("upscaling: not sent; n: 1 of 2 pictures came")


@pytest.mark.parametrize("name", ["auto", "gpt-image-1", "dall-e-3", "fast", "image"])
def test_without_a_horde_a_default_is_a_model_that_makes_pictures(
    world: World, server: PictureServer, name: str
) -> None:
    response = generate(alone(world).http(), model=name)
    assert fetched(response) == GREEN
    assert server.bodies[0]["model"] == PAINTER


@pytest.mark.parametrize("name", ["auto", "gpt-image-1", "fast"])
def test_without_a_model_of_pictures_no_text_model_gets_the_request(
    world: World, server: PictureServer, name: str
) -> None:
    server.models = [{"id": "llama-3.1-8b", "type": "llm"}, {"id": "mistral-7b"}]
    response = generate(alone(world).http(), model=name)
    assert response.status_code == 503
    assert "No image model is available" in response.get_json()["error"]["message"]
    assert server.bodies == []


def test_a_model_of_which_nothing_is_known_is_proxied_by_its_name(
    world: World, server: PictureServer
) -> None:
    assert fetched(generate(alone(world).http(), model="my-own")) == GREEN
    assert generate(alone(world).http(), model="llama-3.1-8b").status_code == 404


def test_a_body_without_a_model_goes_to_a_server_as_it_is(
    world: World, server: PictureServer
) -> None:
    assert fetched(generate(alone(world).http())) == GREEN
    assert server.bodies == [{"prompt": "a fox"}]


def test_a_key_for_some_models_needs_not_name_one(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    world.configure(**known(ann=ClientKey("ann", models=("stable_diffusion",))))
    body = {"prompt": "a fox"}
    key = {"Authorization": "Bearer key-of-ann-longer"}
    response = world.http().post("/v1/images/generations", json=body, headers=key)
    assert response.status_code == 200, response.get_json()
    assert [submit["models"] for submit in horde.submits] == [["stable_diffusion"]]
    assert server.bodies == []


def test_a_client_may_choose_the_server(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    body, chosen = {"prompt": "a fox", "model": "auto"}, {"X-Endpoint": "home"}
    response = world.http().post("/v1/images/generations", json=body, headers=chosen)
    assert fetched(response) == GREEN
    assert (server.bodies[0]["model"], horde.submits) == (PAINTER, [])


def test_a_style_goes_to_no_server(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    assert generate(alone(world).http(), model="style:anime").status_code == 503
    assert server.bodies == []


def test_models_are_listed_once(world: World, server: PictureServer, horde: ScriptedImages) -> None:
    listed = [model["id"] for model in world.http().get("/v1/models").get_json()["data"]]
    assert listed == [
        PAINTER,
        "llama-3.1-8b",
        "my-own",
        "Deliberate Inpainting",
        MODEL,
        "stable_diffusion",
    ]


def test_an_alias_leads_to_a_server(
    world: World, server: PictureServer, horde: ScriptedImages
) -> None:
    http = world.configure(aliases={"gpt-image-1": "my-own"}).http()
    assert fetched(generate(http, model="gpt-image-1")) == GREEN
    assert server.bodies[0]["model"] == "my-own"

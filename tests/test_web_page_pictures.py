"""The page's pictures: who may make them, which models it offers, what it says without any."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, jsonify
from flask.testing import FlaskClient
from PIL import Image

from horde_proxy.ledger import ClientKey
from horde_proxy.pictures import Raster
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.web.tables import image_models
from tests.scripted_images import MODEL, ScriptedImages
from tests.support import HORDE_URL, World, known

HTML = {"Accept": "text/html"}
GUEST, NARROW = "guest-key-0123456789", "key-of-narrow-longer"
PNG = Raster.plain(64, 64, (1, 2, 3)).encoded("png")
BODY = {"prompt": "a fox", "model": MODEL, "stream": True}


def mask() -> io.BytesIO:
    """A mask that marks the whole picture: it is transparent."""
    file = io.BytesIO()
    Image.new("RGBA", (64, 64)).save(file, "PNG")
    return io.BytesIO(file.getvalue())


@pytest.fixture
def horde(world: World, tmp_path: Path) -> ScriptedImages:
    scripted = ScriptedImages()
    world.session.mount(HORDE_URL, WSGIAdapter(scripted.app))
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path / "pictures")
    return scripted


@pytest.fixture
def guest(world: World, horde: ScriptedImages) -> FlaskClient:
    """A client that has logged in to the page."""
    narrow = ClientKey("narrow", models=("none/*",))
    http = world.configure(**known(guest=GUEST, narrow=narrow)).http()
    form = http.get("/", headers=HTML).text
    token = form.partition('name="token" value="')[2].partition('"')[0]
    assert http.post("/page/login", data={"key": GUEST, "token": token}).status_code == 303
    return http


def state(http: FlaskClient, **headers: str) -> dict[str, Any]:
    response = http.get("/page/state.json", headers=headers)
    assert response.status_code == 200
    return dict(response.get_json())


def token_of(http: FlaskClient) -> dict[str, str]:
    return {"X-Page-Token": state(http)["token"]}


def event_in(response: Any) -> dict[str, Any]:
    assert response.mimetype == "text/event-stream", response.text
    [line] = [line for line in response.text.split("\n") if line.startswith("data: ")]
    response.close()
    return dict(json.loads(line[6:]))


def test_a_picture_by_cookie_is_counted_for_its_key(guest: FlaskClient) -> None:
    event = event_in(guest.post("/page/images/generations", json=BODY, headers=token_of(guest)))
    assert event["type"] == "image_generation.completed"
    assert event["horde"] == {
        "model": MODEL,
        "seeds": ["42"],
        "workers": [{"id": "worker-1", "name": "painter"}],
    }
    assert state(guest)["charts"][0]["desc"].startswith("1 request in the last 24 hours")
    assert state(guest)["charts"][3]["desc"] == "1 picture made in the last 24 hours."
    other = state(guest, Authorization=f"Bearer {NARROW}")
    assert other["charts"][0]["desc"].startswith("0 requests")


def test_an_edit_by_cookie_takes_a_form_with_a_mask(
    guest: FlaskClient, horde: ScriptedImages
) -> None:
    files = {"image": (io.BytesIO(PNG), "picture"), "mask": (mask(), "mask.png")}
    form = {"prompt": "a hat", "model": "auto", "n": "1", "stream": "true", **files}
    response = guest.post("/page/images/edits", data=form, headers=token_of(guest))
    assert event_in(response)["type"] == "image_edit.completed"
    assert horde.submits[0]["source_processing"] == "inpainting"


@pytest.mark.parametrize("path", ["/page/images/generations", "/page/images/edits"])
@pytest.mark.parametrize("headers", [{}, {"X-Page-Token": "another"}])
def test_a_picture_without_the_token_is_refused(
    guest: FlaskClient, horde: ScriptedImages, path: str, headers: dict[str, str]
) -> None:
    assert guest.post(path, json=BODY, headers=headers).status_code == 403
    foreign = {**token_of(guest), "Sec-Fetch-Site": "cross-site"}
    assert guest.post(path, json=BODY, headers=foreign).status_code == 403
    guest.delete_cookie("horde_proxy_page")
    assert guest.post(path, json=BODY, headers=headers).status_code == 401
    assert horde.submits == []


def test_the_cookie_makes_no_pictures_beside_the_page(guest: FlaskClient) -> None:
    assert guest.post("/v1/images/generations", json=BODY).status_code == 401


def test_the_models_are_shown_with_their_seconds(guest: FlaskClient) -> None:
    shown = state(guest)
    assert [model["id"] for model in shown["image_models"]] == [
        "Deliberate Inpainting",
        MODEL,
        "stable_diffusion",
    ]
    assert shown["image_models_missing"] is None
    text = guest.get("/", headers=HTML).text
    assert "The best that is available" in text
    assert f'<option value="{MODEL}" data-horde data-seconds="' in text


def test_a_label_tells_the_seconds_where_they_are_known() -> None:
    models: list[dict[str, Any]] = [
        {"id": "b", "horde": {"expected_seconds": 12.4}},
        {"id": "A", "horde": {"expected_seconds": "soon"}},
        {"id": "c"},
    ]
    assert [model["label"] for model in image_models(models)] == ["A", "b, about 12 s", "c"]


def test_image_models_of_other_endpoints_are_offered(world: World) -> None:
    server = Flask("server")
    names = ["dall-e-3", "gpt-4o", "whisper-1"]
    server.add_url_rule("/v1/models", view_func=lambda: jsonify(data=[{"id": n} for n in names]))
    world.session.mount("http://server.invalid", WSGIAdapter(server))
    http = world.configure(endpoints=[{"type": "openai", "url": "http://server.invalid"}]).http()
    shown = state(http)
    assert [(model["id"], model["is_of_horde"]) for model in shown["image_models"]] == [
        ("dall-e-3", False)
    ]
    assert shown["image_models_missing"] is None
    assert shown["chat_models"] == ["gpt-4o"]
    # Without a horde's model, nothing chooses among those of endpoints.
    assert "The best that is available" not in http.get("/", headers=HTML).text


def test_a_hostile_name_of_an_image_model_stays_a_text(
    guest: FlaskClient, horde: ScriptedImages
) -> None:
    name = "<script>alert(1)</script>'\""
    horde.workers = [{**horde.workers[0], "models": [name]}]
    text = guest.get("/", headers=HTML).text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&#39;&#34;" in text


def test_without_a_worker_the_page_says_how_to_start_one(
    guest: FlaskClient, horde: ScriptedImages
) -> None:
    horde.workers = []
    missing = state(guest)["image_models_missing"]
    assert "no image worker is online" in missing["text"]
    assert missing["command"] == ("horde-proxy worker --horde URL --api-key KEY --backend painter")
    text = guest.get("/", headers=HTML).text
    assert missing["command"] in text
    assert "The best that is available" not in text


def test_a_key_that_may_use_no_image_model_is_told_so(guest: FlaskClient) -> None:
    shown = state(guest, Authorization=f"Bearer {NARROW}")
    assert shown["image_models"] == []
    assert shown["image_models_missing"] == {
        "text": "This key may use none of the models that make pictures.",
        "command": "",
    }


def test_without_a_horde_the_page_says_which_endpoint_is_missing(world: World) -> None:
    world.session.mount("http://server.invalid", WSGIAdapter(Flask("server")))
    http = world.configure(endpoints=[{"type": "openai", "url": "http://server.invalid"}]).http()
    assert state(http)["image_models_missing"]["command"] == '[[endpoints]] type = "horde"'


def test_the_page_loads_pictures_from_this_proxy_alone(world: World) -> None:
    policy = world.http().get("/", headers=HTML).headers["Content-Security-Policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives["img-src"] == "'self' blob:"
    assert directives["connect-src"] == "'self'"
    assert directives["default-src"] == "'none'"

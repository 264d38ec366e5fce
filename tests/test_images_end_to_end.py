"""Pictures from a client of the proxy through the private horde to a worker's painter, and back."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import responses
from flask import Flask, request
from flask.testing import FlaskClient
from PIL import Image
from requests import Session

from horde_proxy.api.internal_call import JobIdentity, call
from horde_proxy.errors import ShuttingDown
from horde_proxy.pictures import Raster, as_data_url
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.upstreams.picture_links import PictureLinks
from horde_proxy.upstreams.request_journal import RequestJournal
from horde_proxy.worker.alchemist import Alchemist
from horde_proxy.worker.backends.alchemy import open_alchemy
from horde_proxy.worker.backends.images import ImageOptions
from horde_proxy.worker.backends.images.painter import Painter
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.dreamer import Dreamer
from horde_proxy.worker.horde import WorkerIdentity
from tests.image_servers import FakeOpenAIImages, FakeWebUI, serve
from tests.support import HORDE_URL, OWNER_KEY, Scripted, World


@pytest.fixture
def http(world: World, tmp_path: Path) -> FlaskClient:
    """A proxy whose horde has a painter."""
    links = PictureLinks(HORDE_URL, open_session=lambda is_own: world.session)
    painter = Bridge(
        [WorkerIdentity(HORDE_URL, "painter", OWNER_KEY, wait=0.0)],
        Dreamer(Painter(), batch=2, links=lambda popped: links),
        stop=Event(),
        pause=lambda seconds: None,
    )
    painter.step(world.session)
    world.clock.every_sleep.append(lambda: painter.step(world.session))
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path / "pictures")
    return world.http()


def pictures(response: Any) -> list[Raster]:
    assert response.status_code == 200, response.get_data(as_text=True)
    return [
        Raster.read(base64.b64decode(entry["b64_json"])) for entry in response.get_json()["data"]
    ]


def test_a_picture_is_painted_for_a_client(http: FlaskClient) -> None:
    body = {"prompt": "a fox in snow", "size": "512x512", "seed": 42}
    response = http.post("/v1/images/generations", json=body)
    [picture] = pictures(response)
    assert (picture.kind, picture.size) == ("png", (512, 512))
    assert response.get_json()["horde"]["model"] == "horde-proxy/painter"
    assert response.get_json()["horde"]["seeds"] == ["42"]


def test_several_pictures_have_seeds_of_their_own(http: FlaskClient) -> None:
    body = {"prompt": "a fox", "size": "256x256", "n": 3, "seed": 42}
    response = http.post("/v1/images/generations", json=body)
    assert len({picture.pixels() for picture in pictures(response)}) == 3


def test_what_a_mask_does_not_show_as_transparent_is_kept(http: FlaskClient) -> None:
    mask, source = io.BytesIO(), Raster.plain(512, 512, (0, 200, 0)).encoded("png")
    image = Image.new("RGBA", (512, 512), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (256, 0, 512, 512))
    image.save(mask, "PNG")
    response = http.post(
        "/v1/images/edits",
        data={
            "prompt": "a moon",
            "image": (io.BytesIO(source), "a.png"),
            "mask": (io.BytesIO(mask.getvalue()), "mask.png"),
        },
    )
    [picture] = pictures(response)
    row = picture.pixels()[512 * 3 * 200 : 512 * 3 * 201]
    # WebP changes colours a little.
    assert max(abs(row[0] - 0), abs(row[1] - 200), abs(row[2] - 0)) < 12
    assert abs(row[-2] - 200) > 12 or abs(row[-3]) > 12


def employ_alchemist(world: World, url: str, fake: Any, kind: str | None = None) -> None:
    """An alchemist that checks in now and does a form at each sleep."""
    serve(url, fake.app)
    links = PictureLinks(HORDE_URL, open_session=lambda is_own: world.session)
    backend = open_alchemy(url, ImageOptions(kind=kind))
    alchemist = Bridge(
        [WorkerIdentity(HORDE_URL, "alchemist", OWNER_KEY, wait=0.0)],
        Alchemist(backend, links=lambda popped: links),
        stop=Event(),
        pause=lambda seconds: None,
    )
    alchemist.step(world.session)
    world.clock.every_sleep.append(lambda: alchemist.step(world.session))


@responses.activate
def test_a_picture_in_a_chat_is_described_by_the_workers_vision_model(world: World) -> None:
    fake = FakeOpenAIImages("qwen-vl")
    fake.answers += ["A blue square on a red ground."] * 3
    employ_alchemist(world, "http://vision.invalid:8000", fake)
    scribe = world.employ(Scripted("It is blue.", name="test/model"))
    picture = as_data_url(Raster.plain(64, 64, (0, 0, 255)).encoded("png"), "png")
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": picture}},
    ]
    body = {"model": "test/model", "messages": [{"role": "user", "content": content}]}
    response = world.http().post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.get_data(as_text=True)
    assert "[image: A blue square on a red ground." in scribe.payloads[0]["prompt"]


@responses.activate
def test_a_picture_is_enlarged_by_alchemy_and_fetched_by_its_link(world: World) -> None:
    employ_alchemist(world, "http://web-ui.invalid:7860", FakeWebUI(), "sdapi")
    source = base64.b64encode(Raster.plain(64, 64, (0, 0, 255)).encoded("webp")).decode()
    api, headers = f"{HORDE_URL}/api/v2/interrogate", {"apikey": OWNER_KEY}
    body = {"forms": [{"name": "RealESRGAN_x4plus"}], "source_image": source}
    request_id = world.session.post(f"{api}/async", json=body, headers=headers).json()["id"]
    world.clock.sleep(1)
    status = world.session.get(f"{api}/status/{request_id}", headers=headers).json()
    [form] = status["forms"]
    assert (status["state"], form["state"]) == ("done", "done")
    picture = world.session.get(form["result"]["RealESRGAN_x4plus"]).content
    assert Raster.read(picture).size == (256, 256)


def test_links_in_an_answer_in_this_process_lead_to_where_the_request_went() -> None:
    app, session = Flask("links"), Session()
    app.add_url_rule("/api/x", "x", lambda: f"{request.host_url}picture")
    session.mount("http://private-horde.invalid/api", WSGIAdapter(app))
    answer = session.get("http://private-horde.invalid/api/x")
    assert answer.text == "http://private-horde.invalid/picture"


def test_a_picture_of_a_job_is_not_asked_for_twice_over_a_restart(
    world: World, http: FlaskClient
) -> None:
    painter = world.clock.every_sleep.pop()
    cable, kept = world.cable(), dict[str, Any]()
    begin = world.clock()

    def job(*, is_killed: bool) -> JobIdentity:
        journal = RequestJournal(
            on_submit=lambda: kept.update(journal.as_json()), is_left_running=lambda: is_killed
        )
        if kept:
            journal.read(json.loads(json.dumps(kept)))
        return JobIdentity("job-1", "anybody", seconds=600, journal=journal)

    killed = job(is_killed=True)
    world.clock.every_sleep.append(
        lambda: killed.control.stop(ShuttingDown()) if world.clock() > begin + 20 else None
    )
    body = json.dumps({"prompt": "a fox in snow", "size": "512x512"}).encode()
    assert call(http.application, killed, "/v1/images/generations", body).status == 503
    world.clock.every_sleep[:] = [painter]
    answer = call(world.app(), job(is_killed=False), "/v1/images/generations", body)
    assert answer.status == 200
    [entry] = json.loads(answer.body)["data"]
    assert Raster.read(base64.b64decode(entry["b64_json"])).size == (512, 512)
    assert cable.calls.count("POST generate/async") == 1

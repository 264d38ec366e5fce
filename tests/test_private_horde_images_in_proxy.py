"""Images from a client of the proxy through the private horde to workers such as AI-Horde's own."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from horde_proxy.pictures import Raster
from tests.support import HORDE_URL, OWNER_KEY, World

MODEL = "SDXL 1.0"
INPAINTING = "Deliberate Inpainting"
SOURCE = Raster.plain(128, 128, (250, 10, 10)).encoded("png")


class Painter:
    """A worker that makes a picture of one colour for each job, as AI-Horde's own do."""

    def __init__(self, world: World, *models: str, **offer: Any) -> None:
        self.session, self.offer = world.session, offer
        self.models = models or (MODEL,)
        self.jobs: list[dict[str, Any]] = []
        self.sources: list[Raster] = []
        self.is_on = True
        self.step()
        world.clock.every_sleep.append(self.step)

    def call(self, route: str, body: Any) -> Any:
        url = f"{HORDE_URL}/api/v2/generate/{route}"
        response = self.session.post(url, json=body, headers={"apikey": OWNER_KEY})
        assert response.status_code == 200, response.text
        return response.json()

    def step(self) -> None:
        """Pop once, and deliver all images of the answer."""
        if not self.is_on:
            return
        offer = {
            "name": "painter",
            "models": list(self.models),
            "max_pixels": 2048 * 2048,
            "bridge_agent": "AI Horde Worker reGen:13.0.0:x",
            "amount": 4,
            **self.offer,
        }
        job = self.call("pop", offer)
        if job["id"] is None:
            return
        self.jobs.append(job)
        links = [job[name] for name in ("source_image", "source_mask") if job[name]]
        self.sources += [Raster.read(self.session.get(link).content) for link in links]
        payload = job["payload"]
        for number, job_id in enumerate(job["ids"]):
            picture = Raster.plain(payload["width"], payload["height"], (number, 200, 30))
            data = picture.encoded("webp")
            assert self.session.put(job["r2_uploads"][number], data=data).status_code == 200
            seed = int(payload["seed"]) + number
            self.call("submit", {"id": job_id, "generation": "R2", "seed": seed})


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World()
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path / "pictures")
    return world


def read(item: dict[str, Any]) -> Raster:
    return Raster.read(base64.b64decode(item["b64_json"]))


def test_a_generation_is_what_the_worker_drew(world: World) -> None:
    painter = Painter(world)
    body = {"prompt": "a fox", "model": MODEL, "n": 2, "size": "1024x1024", "seed": 7}
    response = world.http().post("/v1/images/generations", json=body)
    answer = response.get_json()
    assert response.status_code == 200, answer
    assert [read(item).size for item in answer["data"]] == [(1024, 1024)] * 2
    assert sorted(answer["horde"]["seeds"]) == ["7", "8"]
    assert answer["horde"]["workers"][0]["name"] == "painter"
    [job] = painter.jobs
    assert (job["payload"]["prompt"], job["payload"]["n_iter"]) == ("a fox", 2)


def test_several_workers_make_the_images_of_one_request(world: World) -> None:
    painters = [Painter(world, name=f"painter {number}", amount=1) for number in range(3)]
    body = {"prompt": "a fox", "model": MODEL, "n": 3}
    answer = world.http().post("/v1/images/generations", json=body).get_json()
    assert len(answer["data"]) == 3
    assert [len(painter.jobs) for painter in painters] == [1, 1, 1]
    assert len({worker["name"] for worker in answer["horde"]["workers"]}) == 3


def test_an_edit_brings_source_and_mask_to_the_worker(world: World) -> None:
    painter = Painter(world, INPAINTING)
    transparent = Raster.plain(128, 128, (0, 0, 0))
    mask = transparent.with_alpha_of(_transparent_left(128)).encoded("png")
    form = {
        "prompt": "a hat",
        "model": INPAINTING,
        "image": (io.BytesIO(SOURCE), "a.png"),
        "mask": (io.BytesIO(mask), "m.png"),
    }
    response = world.http().post("/v1/images/edits", data=form)
    assert response.status_code == 200, response.get_json()
    [job] = painter.jobs
    assert (job["source_processing"], job["model"]) == ("inpainting", INPAINTING)
    source, repaint = painter.sources
    width, height = source.size
    assert repaint.size == (width, height)
    pixels = repaint.pixels()
    middle = (height // 2) * width * 3
    # The left half, which is transparent in OpenAI's mask, is white in the horde's.
    assert pixels[middle] == 255
    assert pixels[middle + (width - 1) * 3] == 0


def _transparent_left(side: int) -> Raster:
    """A picture whose left half is transparent."""
    from PIL import Image

    image = Image.new("RGBA", (side, side), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, side // 2, side))
    file = io.BytesIO()
    image.save(file, "PNG")
    return Raster.read(file.getvalue())


def test_the_models_of_the_horde_are_listed_as_images(world: World) -> None:
    Painter(world)
    models = world.http().get("/v1/models").get_json()["data"]
    assert [model["type"] for model in models if model["id"] == MODEL] == ["image"]


def test_a_picture_that_is_censored_is_not_shown(world: World) -> None:
    painter = Painter(world)
    plain = painter.call

    def censoring(route: str, body: Any) -> Any:
        if route == "submit":
            metadata = [{"type": "censorship", "value": "csam"}]
            body = {**body, "state": "csam", "gen_metadata": metadata}
        return plain(route, body)

    painter.call = censoring  # type: ignore[method-assign]
    body = {"prompt": "a fox", "model": MODEL}
    response = world.http().post("/v1/images/generations", json=body)
    assert response.status_code == 400
    assert response.get_json()["error"]["code"] == "content_policy_violation"


def test_a_chat_with_a_picture_is_described_by_an_alchemist(world: World) -> None:
    def call(route: str, body: Any) -> Any:
        url = f"{HORDE_URL}/api/v2/{route}"
        response = world.session.post(url, json=body, headers={"apikey": OWNER_KEY})
        assert response.status_code == 200, response.text
        return response.json()

    seen: list[str] = []

    def describe() -> None:
        alchemist = {"name": "alchemist", "forms": ["caption", "describe", "interrogation"]}
        for form in call("interrogate/pop", {**alchemist, "amount": 5})["forms"] or ():
            picture = Raster.read(world.session.get(form["source_image"]).content)
            seen.append(f"{form['form']} of {picture.size[0]}x{picture.size[1]}")
            result: Any = "a red square"
            if form["form"] == "interrogation":
                result = {"tags": [{"text": "square", "confidence": 0.9}]}
            call("interrogate/submit", {"id": form["id"], "result": {form["form"]: result}})

    def write() -> None:
        offer = {"name": "scribe", "models": ["some-8b"], "max_context_length": 8192}
        job = call("generate/text/pop", {**offer, "max_length": 512})
        if job["id"]:
            seen.append(job["payload"]["prompt"])
            call("generate/text/submit", {"id": job["id"], "generation": "A square."})

    for step in (describe, write):
        step()
        world.clock.every_sleep.append(step)
    picture = f"data:image/png;base64,{base64.b64encode(SOURCE).decode('ascii')}"
    content = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": picture}},
    ]
    body = {"model": "some-8b", "messages": [{"role": "user", "content": content}]}
    response = world.http().post("/v1/chat/completions", json=body)
    assert response.get_json()["choices"][0]["message"]["content"] == "A square."
    assert "a red square" in seen[-1]
    assert any(line.endswith("of 128x128") for line in seen)

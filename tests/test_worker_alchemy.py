"""A worker for alchemy: its forms, what vision models are told, and how results are delivered.

Pops and submits are those of the real horde (tests/data/image_worker_captures).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
import responses

from horde_proxy.pictures import Raster, decoded, sniffed_type
from horde_proxy.worker.alchemist import Alchemist, forms_in
from horde_proxy.worker.backends import BackendDown, BackendError
from horde_proxy.worker.backends.alchemy import open_alchemy
from horde_proxy.worker.backends.alchemy.upscaling import SdapiAlchemy
from horde_proxy.worker.backends.alchemy.vision import VisionServer
from horde_proxy.worker.backends.images import ImageOptions
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.horde import WorkerIdentity
from tests.image_servers import FakeOpenAIImages, FakeWebUI, serve
from tests.support import Clock

HORDE = "http://127.0.0.1:22004"
API = f"{HORDE}/api/v2/interrogate"
URL = "http://vision.invalid:8000"
CAPTURES = Path(__file__).parent / "data" / "image_worker_captures"


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with responses.mock:
        yield


def captured(name: str, part: str = "response") -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())[part]["body"]


def vision(*answers: str) -> tuple[FakeOpenAIImages, Any]:
    fake = FakeOpenAIImages("qwen-vl")
    fake.answers += answers
    serve(URL, fake.app)
    return fake, open_alchemy(URL, ImageOptions())


def work(backend: Any, pop: Any, size: tuple[int, int] = (512, 512), batch: int = 1) -> list[Any]:
    """The bodies of submits after one pop."""
    responses.post(f"{API}/pop", json=pop)
    submit = responses.post(f"{API}/submit", json={"reward": 1.0})
    picture = Raster.plain(*size, (9, 9, 200)).encoded("webp")
    for form in pop["forms"] or ():
        responses.get(form["source_image"], body=picture)
        if "r2_upload" in form:
            responses.put(form["r2_upload"], status=200)
    clock = Clock()
    identity = WorkerIdentity(HORDE, "alch-worker", "the-key")
    kind = Alchemist(backend, batch=batch)
    Bridge([identity], kind, stop=Event(), pause=clock.sleep, clock=clock).step(requests.Session())
    return [json.loads(call.request.body or "") for call in submit.calls]


def test_a_pop_offers_the_forms_of_the_backend() -> None:
    _, backend = vision()
    assert work(backend, captured("interrogate_pop_first"), batch=2) == []
    [call] = [call for call in responses.calls if str(call.request.url).endswith("/pop")]
    body = json.loads(call.request.body or "")
    assert body.pop("bridge_agent").startswith("horde-proxy:")
    assert body == {
        "name": "alch-worker",
        "forms": ["caption", "describe", "interrogation", "nsfw"],
        "amount": 2,
        "threads": 1,
        "max_tiles": 255,
        "nsfw": True,
        "priority_usernames": [],
    }


def test_each_form_of_a_pop_is_submitted_on_its_own() -> None:
    _, backend = vision("A blue\nsquare.", "No.")
    pop = captured("interrogate_pop_amount_2")
    # A caption and nsfw of one picture.
    assert work(backend, pop, batch=2) == [
        {"id": pop["forms"][0]["id"], "result": {"caption": "A blue square."}, "state": "ok"},
        captured("interrogate_submit_nsfw", "request"),
    ]


def test_a_vision_model_gets_a_small_jpeg_and_an_instruction() -> None:
    fake, backend = vision("A square.")
    pop = captured("interrogate_pop_amount_2")
    work(backend, {**pop, "forms": pop["forms"][:1]}, size=(3000, 1500))
    [chat] = fake.chats
    assert (chat["model"], chat["max_tokens"]) == ("qwen-vl", 1120)
    text, image = chat["messages"][0]["content"]
    assert text["text"].startswith("Write a caption for this picture")
    url = image["image_url"]["url"]
    picture = Raster.read(decoded(url))
    assert url.startswith("data:image/jpeg;base64,")
    assert picture.size == (1448, 724)


@pytest.mark.parametrize(
    ("form", "answer", "result"),
    [
        ("caption", "<think>a\nb</think>\nA fox.", "A fox."),
        ("describe", "A fox.\n\nIt sleeps.", "A fox.\n\nIt sleeps."),
        ("nsfw", "Yes", True),
        ("nsfw", "no, it does not", False),
        (
            "interrogation",
            "1. fox\n- snow, Fox's tail., snow",
            {
                "tags": [
                    {"text": "fox", "confidence": 1.0},
                    {"text": "snow", "confidence": 1.0},
                    {"text": "Fox's tail", "confidence": 1.0},
                ],
                "sites": [],
                "artists": [],
                "flavors": [],
                "mediums": [],
                "movements": [],
                "techniques": [],
            },
        ),
    ],
)
def test_what_a_model_writes_becomes_the_forms_result(form: str, answer: str, result: Any) -> None:
    _, backend = vision(answer)
    source = Raster.plain(64, 64, (1, 2, 3))
    assert backend.transform(form, source, {}, lambda: False) == result


@pytest.mark.parametrize(
    ("form", "answer"),
    [("nsfw", "yes and no"), ("nsfw", "perhaps"), ("caption", " "), ("caption", "<think>hm")],
)
def test_an_answer_that_is_none_faults_the_form(form: str, answer: str) -> None:
    _, backend = vision(answer)
    with pytest.raises(BackendError, match="the vision model"):
        backend.transform(form, Raster.plain(64, 64, (1, 2, 3)), {}, lambda: False)


def test_a_post_processor_is_delivered_as_a_picture() -> None:
    serve(URL, FakeWebUI().app)
    backend = open_alchemy(URL, ImageOptions(kind="sdapi"))
    pop = captured("interrogate_pop_postprocessor")
    assert work(backend, pop) == [captured("interrogate_submit_postprocessor", "request")]
    [upload] = [call.request for call in responses.calls if call.request.method == "PUT"]
    picture = upload.body or b""
    assert isinstance(picture, bytes)
    assert (sniffed_type(picture), Raster.read(picture).size) == ("webp", (2048, 2048))
    assert "apikey" not in upload.headers


def test_a_picture_that_would_become_too_large_is_given_back() -> None:
    serve(URL, FakeWebUI().app)
    backend = open_alchemy(URL, ImageOptions(kind="sdapi"))
    pop = captured("interrogate_pop_postprocessor")
    [body] = work(backend, pop, size=(2048, 2048))
    assert (body["state"], body["result"]) == ("faulted", {})


@pytest.mark.parametrize(
    "form", [{"form": "vectorize"}, {"source_image": "http://10.0.0.1/a.webp"}]
)
def test_a_form_that_cannot_be_done_is_faulted_as_the_horde_has_it(form: dict[str, str]) -> None:
    _, backend = vision()
    entry = {**captured("interrogate_pop_amount_2")["forms"][0], **form}
    expected = captured("interrogate_submit_faulted", "request")
    assert work(backend, {"forms": [entry]}) == [{**expected, "id": entry["id"]}]


def test_forms_that_are_none_are_left_out() -> None:
    assert forms_in({"forms": None}) == []
    assert forms_in({"forms": ["x", {"id": ""}, {"id": "1"}]}) == [{"id": "1"}]


def test_the_server_of_a_url_is_found_out() -> None:
    assert isinstance(vision()[1], VisionServer)
    responses.reset()
    serve(URL, FakeWebUI().app)
    backend = open_alchemy(URL, ImageOptions())
    assert isinstance(backend, SdapiAlchemy)
    assert "RealESRGAN_x4plus" in backend.forms
    responses.reset()
    with pytest.raises(BackendDown, match="is no server for alchemy"):
        open_alchemy(URL, ImageOptions())
    with pytest.raises(BackendError, match="needs the URL of a server"):
        open_alchemy("painter", ImageOptions())

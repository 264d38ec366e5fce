"""The images API from end to end, on a scripted horde: what clients send and get."""

from __future__ import annotations

import base64
import errno
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from PIL import Image

from horde_proxy.api.uploads import read_upload
from horde_proxy.ledger import ClientKey
from horde_proxy.pictures import Raster
from horde_proxy.store import PictureStore
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.scripted_images import MODEL, WORKER, ScriptedImages
from tests.support import HORDE_URL, World, known

PNG = Raster.plain(64, 64, (1, 2, 3)).encoded("png")
_TRANSPARENT = io.BytesIO()
Image.new("RGBA", (64, 64)).save(_TRANSPARENT, "PNG")
MASK = _TRANSPARENT.getvalue()


@pytest.fixture
def horde(world: World, tmp_path: Path) -> ScriptedImages:
    scripted = ScriptedImages()
    world.session.mount(HORDE_URL, WSGIAdapter(scripted.app))
    world.runtime = replace(world.runtime, pictures_folder=lambda: tmp_path / "pictures")
    return scripted


@pytest.fixture
def http(world: World, horde: ScriptedImages) -> FlaskClient:
    return world.http()


def generate(http: FlaskClient, **body: Any) -> Any:
    return http.post("/v1/images/generations", json={"prompt": "a fox", **body})


def events(response: Any) -> list[tuple[str, dict[str, Any]]]:
    blocks = response.get_data(as_text=True).strip().split("\n\n")
    parts = [block.split("\n") for block in blocks if block.startswith("event: ")]
    return [(name[7:], json.loads(data[6:])) for name, data in parts]


def test_a_generation_gives_a_png_in_base64(http: FlaskClient, horde: ScriptedImages) -> None:
    response = generate(http, model=MODEL)
    assert response.status_code == 200
    body = response.get_json()
    assert Raster.read(base64.b64decode(body["data"][0]["b64_json"])).kind == "png"
    assert (body["size"], body["output_format"], body["quality"]) == ("64x64", "png", "medium")
    assert body["horde"] == {
        "kudos": 17.0,
        "model": MODEL,
        "seeds": ["42"],
        "workers": [{"id": "worker-1", "name": "painter"}],
    }
    assert response.headers["X-Horde-Model"] == MODEL
    assert response.headers["X-Endpoint"] == "horde"


@pytest.mark.parametrize(
    "name",
    [None, "", "auto", "gpt-image-1", "gpt-image-2.6-flare", "dall-e-3", "chatgpt-image-latest"],
)
def test_names_that_no_horde_has_mean_the_best_model(
    http: FlaskClient, horde: ScriptedImages, name: str | None
) -> None:
    response = generate(http, model=name, response_format="b64_json")
    assert response.status_code == 200, response.get_json()
    assert horde.submits[0]["models"] == [MODEL]


@pytest.mark.parametrize("name", ["sdxl 1.0", "SDXL 1.0"])
def test_a_model_is_found_as_people_write_it(
    http: FlaskClient, horde: ScriptedImages, name: str
) -> None:
    assert generate(http, model=name).status_code == 200
    assert horde.submits[0]["models"] == [MODEL]


def test_an_alias_of_the_settings_counts(world: World, horde: ScriptedImages) -> None:
    http = world.configure(aliases={"painter": "stable_diffusion"}).http()
    assert generate(http, model="painter").status_code == 200
    assert horde.submits[0]["models"] == ["stable_diffusion"]


@pytest.mark.parametrize("name", ["gpt-image-1", "GPT-Image-1", "dall-e-3", "image", "auto"])
def test_an_alias_goes_before_what_a_name_of_openais_means(
    world: World, horde: ScriptedImages, name: str
) -> None:
    aliases = {name: "painter", "painter": "stable_diffusion"}
    http = world.configure(aliases=aliases).http()
    assert generate(http, model=name, response_format="b64_json").status_code == 200
    assert generate(http, model="gpt-image-2", response_format="b64_json").status_code == 200
    assert [submit["models"] for submit in horde.submits] == [["stable_diffusion"], [MODEL]]


def test_an_alias_to_a_model_without_workers_is_a_404(world: World, horde: ScriptedImages) -> None:
    http = world.configure(aliases={"gpt-image-1": "Deliberate"}).http()
    assert generate(http, model="gpt-image-1").status_code == 404


@pytest.mark.parametrize("alias", [{"auto": "koboldcpp/text"}, {"auto": "dall-e-3"}])
def test_an_alias_of_auto_for_texts_does_not_count_for_pictures(
    world: World, horde: ScriptedImages, alias: dict[str, str]
) -> None:
    assert generate(world.configure(aliases=alias).http(), model="auto").status_code == 200
    assert horde.submits[0]["models"] == [MODEL]


def test_an_unknown_model_is_a_404_that_names_some(http: FlaskClient) -> None:
    response = generate(http, model="SDXL 9")
    assert response.status_code == 404
    assert MODEL in response.get_json()["error"]["message"]


def test_without_image_workers_the_error_says_so(http: FlaskClient, horde: ScriptedImages) -> None:
    horde.workers = []
    response = generate(http)
    assert response.status_code == 503
    assert "No image model is available" in response.get_json()["error"]["message"]


def test_a_form_with_a_picture_and_a_mask_is_an_edit(
    http: FlaskClient, horde: ScriptedImages
) -> None:
    form = {
        "prompt": "a hat",
        "n": "1",
        "image": (io.BytesIO(PNG), "blob", "application/octet-stream"),
        "mask": (io.BytesIO(MASK), "mask.png"),
    }
    response = http.post("/v1/images/edits", data=form)
    assert response.status_code == 200, response.get_json()
    [submit] = horde.submits
    assert submit["source_processing"] == "inpainting"
    assert submit["models"] == ["Deliberate Inpainting"]


def test_several_pictures_of_a_form_are_refused_with_a_reason(http: FlaskClient) -> None:
    form = {
        "prompt": "both",
        "image[]": [(io.BytesIO(PNG), "a.png"), (io.BytesIO(PNG), "b.png")],
    }
    response = http.post("/v1/images/edits", data=form)
    assert response.status_code == 400
    assert "one image at a time" in response.get_json()["error"]["message"]


def test_an_edit_may_be_json(http: FlaskClient, horde: ScriptedImages) -> None:
    url = "data:image/png;base64," + base64.b64encode(PNG).decode()
    body = {"prompt": "a hat", "images": [{"image_url": url}]}
    assert http.post("/v1/images/edits", json=body).status_code == 200
    assert horde.submits[0]["source_processing"] == "img2img"


def test_a_variation_needs_a_picture_only(http: FlaskClient, horde: ScriptedImages) -> None:
    form = {"image": (io.BytesIO(PNG), "a.png")}
    assert http.post("/v1/images/variations", data=form).status_code == 200
    assert horde.submits[0]["prompt"] == "image"


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"\x89PNG", "image/png"), (b"x=1", "application/x-www-form-urlencoded")],
)
def test_another_body_is_refused(http: FlaskClient, data: bytes, kind: str) -> None:
    response = http.post("/v1/images/edits", data=data, content_type=kind)
    assert response.status_code == 400


def test_a_stream_has_an_event_for_each_picture(http: FlaskClient) -> None:
    response = generate(http, n=2, stream=True, partial_images=2)
    assert response.mimetype == "text/event-stream"
    assert [(name, event["type"]) for name, event in events(response)] == [
        ("image_generation.completed", "image_generation.completed")
    ] * 2


def test_an_error_of_a_stream_is_an_event(http: FlaskClient, horde: ScriptedImages) -> None:
    horde.censored = True
    [(name, event)] = events(generate(http, stream=True))
    assert name == "error"
    assert event["error"]["code"] == "content_policy_violation"


def test_a_link_works_for_anybody_and_for_some_hours(
    world: World, http: FlaskClient, horde: ScriptedImages
) -> None:
    response = generate(http, model="dall-e-3", output_format="webp", n=2)
    links = [entry["url"] for entry in response.get_json()["data"]]
    assert len(set(links)) == 2
    assert links[0].startswith("http://localhost/v1/files/images/")
    path = links[0].removeprefix("http://localhost")
    assert path.endswith(".webp")
    picture = http.get(path)
    assert picture.status_code == 200
    assert picture.mimetype == "image/webp"
    assert Raster.read(picture.data).size == (64, 64)
    assert picture.headers["Access-Control-Allow-Origin"] == "*"
    assert picture.headers["X-Content-Type-Options"] == "nosniff"


def test_a_link_that_never_was_is_a_404(http: FlaskClient) -> None:
    for name in ("x.png", "..%2f..%2fetc%2fpasswd", "A" * 32 + ".png", "A" * 32 + ".svg"):
        assert http.get(f"/v1/files/images/{name}").status_code == 404


def test_links_name_the_address_that_the_client_knows(world: World, horde: ScriptedImages) -> None:
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "ai.example.org"}
    world.configure(access={"mode": "open"})

    def link(http: FlaskClient) -> str:
        body = {"prompt": "a fox", "response_format": "url"}
        response = http.post("/v1/images/generations", json=body, headers=forwarded)
        return str(response.get_json()["data"][0]["url"]).partition("/v1/")[0]

    assert link(world.http()) == "http://localhost"
    trusting = {"trusted_proxies": ["127.0.0.1"]}
    assert link(world.configure(server=trusting).http()) == "https://ai.example.org"
    public = {"public_url": "https://pictures.example.org/"}
    assert link(world.configure(server=public).http()) == "https://pictures.example.org"


def test_image_models_are_listed_after_those_of_texts(http: FlaskClient) -> None:
    models = http.get("/v1/models").get_json()["data"]
    listed = [model["id"] for model in models if model.get("type") == "image"]
    assert listed == ["Deliberate Inpainting", MODEL, "stable_diffusion"]
    assert http.get(f"/v1/models/{MODEL}").get_json()["type"] == "image"


def test_an_image_model_writes_no_texts(http: FlaskClient) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
    response = http.post("/v1/chat/completions", json=body)
    assert response.status_code == 404
    assert response.get_json()["error"]["message"] == (
        f"The model `{MODEL}` makes pictures: use it with POST /v1/images/generations."
    )


def test_a_bomb_is_a_400_and_reaches_no_horde(http: FlaskClient, horde: ScriptedImages) -> None:
    from tests.test_pictures import png_of_claimed_size

    form = {"prompt": "x", "image": (io.BytesIO(png_of_claimed_size(60_000, 60_000)), "a.png")}
    response = http.post("/v1/images/edits", data=form)
    assert response.status_code == 400
    assert response.get_json()["error"]["param"] == "image"
    assert horde.submits == []


def test_a_worker_that_takes_no_nsfw_is_not_asked_for_it(
    http: FlaskClient, horde: ScriptedImages
) -> None:
    horde.workers = [{**WORKER, "nsfw": False}]
    response = generate(http, model=MODEL, moderation="low")
    assert response.status_code == 503


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_that_are_finished_when_the_time_is_over_are_the_answer(
    world: World, horde: ScriptedImages, stream: bool
) -> None:
    times = {"timeout": 60, "stream_timeout": 60}
    horde.polls, horde.finished = 1000, 1
    response = generate(world.configure(server=times).http(), model=MODEL, n=3, stream=stream)
    assert response.status_code == 200
    if stream:
        assert [name for name, _ in events(response)] == ["image_generation.completed"]
    else:
        assert len(response.get_json()["data"]) == 1
        assert response.headers["X-Horde-Warnings"] == "n: 1 of 3 pictures came"
    assert horde.deleted == ["image-1"]


def test_without_a_picture_the_end_of_the_time_is_an_error(
    world: World, horde: ScriptedImages
) -> None:
    horde.polls = 1000
    response = generate(world.configure(server={"timeout": 60}).http(), model=MODEL)
    assert response.status_code == 504
    assert horde.deleted == ["image-1"]


def multipart(boundary: str, *parts: tuple[str, bytes]) -> dict[str, Any]:
    """The arguments of a POST of a form. A part whose name is "image" is a file."""
    body = b""
    for name, content in parts:
        file = '; filename="a"' if name == "image" else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    kind = f"multipart/form-data; boundary={boundary}"
    return {"data": body + f"--{boundary}--\r\n".encode(), "content_type": kind}


def test_a_form_that_is_sent_again_is_the_same_whatever_its_boundary_is() -> None:
    def digest(boundary: str, prompt: bytes) -> bytes:
        form = multipart(boundary, ("prompt", prompt), ("image", PNG))
        with Flask("test").test_request_context("/", method="POST", **form):
            return read_upload(request, 1_000_000).read()[1]

    assert digest("one", b"a hat") == digest("two", b"a hat")
    assert digest("one", b"a hat") != digest("one", b"a cap")


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ([b"3"], 3),
        ([b" 3\r\n"], 3),
        ([], 1),
        ([b"2", b"4", b"1"], 4),
        ([b"9" * 5000], 1),
        ([b"-4"], 1),
        ([b"three"], 1),
        (["²".encode()], 1),
    ],
)
def test_the_pictures_that_a_form_asks_for_are_counted(fields: list[bytes], count: int) -> None:
    parts = [("model", b"flux"), ("image", PNG * 2000), *(("n", field) for field in fields)]
    form = multipart("one", *parts, ("prompt", b"5"))
    with Flask("test").test_request_context("/", method="POST", **form):
        upload = read_upload(request, 10_000_000)
    assert (upload.n, upload.model) == (count, "flux")
    upload.close()


def test_a_form_has_objects_and_lists_as_the_sdks_write_them(
    http: FlaskClient, horde: ScriptedImages
) -> None:
    form = multipart(
        "one",
        ("prompt", b"a hat"),
        ("image", PNG),
        ("loras[][name]", b"first"),
        ("loras[][model]", b"0.5"),
        ("loras[][name]", b"second"),
        ("post_processing[]", b"GFPGAN"),
        ("horde[slow_workers]", b"false"),
        ("tis", b'[{"name": "7"}]'),
    )
    response = http.post("/v1/images/edits", **form)
    assert response.status_code == 200, response.get_json()
    [submit] = horde.submits
    assert submit["params"]["loras"] == [{"name": "first", "model": 0.5}, {"name": "second"}]
    assert submit["params"]["post_processing"] == ["GFPGAN"]
    assert submit["params"]["tis"] == [{"name": "7"}]
    assert submit["slow_workers"] is False


@pytest.mark.parametrize("name", ["image[]", "images[]", "images"])
def test_a_form_may_have_a_data_url_for_a_file(
    http: FlaskClient, horde: ScriptedImages, name: str
) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}".encode()
    response = http.post("/v1/images/edits", **multipart("one", ("prompt", b"x"), (name, url)))
    assert response.status_code == 200, response.get_json()
    assert horde.submits[0]["source_processing"] == "img2img"


def test_pictures_count_for_their_key_and_in_the_metrics(
    world: World, horde: ScriptedImages
) -> None:
    http = world.configure(**known(ann=ClientKey("ann", images_per_day=3, admin=True))).http()
    key = {"Authorization": "Bearer key-of-ann-longer"}

    def status(path: str = "generations", **fields: Any) -> int:
        body = {"prompt": "a fox", "model": MODEL, **fields}
        response = http.post(f"/v1/images/{path}", json=body, headers=key)
        response.get_data()
        response.close()  # where gunicorn counts it
        return response.status_code

    assert [status(n=2), status(n=2, stream=True), status(), status("variations")] == [
        200,
        200,
        429,
        429,
    ]
    usage = http.get("/v1/usage", headers=key).get_json()
    [row] = [row for row in usage["data"] if row["model"] == MODEL]
    assert (row["images"], row["kudos"], row["endpoint"]) == (4, 34.0, "horde")
    assert usage["allowance"]["images_today"] == 4
    text = http.get("/metrics", headers=key).get_data(as_text=True)
    assert f'horde_proxy_images_total{{model="{MODEL}",upstream="horde"}} 4.0' in text


@pytest.mark.parametrize("stream", [False, True])
def test_a_picture_that_cannot_be_stored_comes_in_base64(
    world: World, horde: ScriptedImages, tmp_path: Path, stream: bool
) -> None:
    (tmp_path / "pictures").write_text("no folder")
    response = generate(world.http(), model=MODEL, response_format="url", stream=stream)
    [sent] = [event for _, event in events(response)] if stream else response.get_json()["data"]
    assert Raster.read(base64.b64decode(sent["b64_json"])).kind == "png"


def test_a_full_disk_leaves_no_part_of_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(file: Path, data: bytes) -> int:
        file.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match="No space left"):
        PictureStore(tmp_path).add(PNG, "png")
    assert list(tmp_path.iterdir()) == []


def test_a_stream_has_links_where_those_are_wanted(world: World, horde: ScriptedImages) -> None:
    http = world.configure(server={"public_url": "https://pictures.example.org"}).http()
    response = generate(http, model=MODEL, n=2, response_format="url", stream=True)
    urls = [event["url"] for _, event in events(response)]
    assert len(set(urls)) == 2
    for url in urls:
        assert url.startswith("https://pictures.example.org/v1/files/images/")
        assert http.get(url.removeprefix("https://pictures.example.org")).status_code == 200


def test_open_webui_gets_what_it_reads(http: FlaskClient, horde: ScriptedImages) -> None:
    # As its routers/images.py sends them: an edit has its files in `image[]`, and never a mask.
    body = {"model": MODEL, "prompt": "a fox", "n": 1, "size": "512x512"}
    made = http.post("/v1/images/generations", json={**body, "response_format": "b64_json"})
    form = {**body, "n": "1", "image[]": (io.BytesIO(PNG), "image.png", "image/png")}
    edited = http.post("/v1/images/edits", data=form)
    for response in (made, edited):
        [image] = response.get_json()["data"]
        assert Raster.read(base64.b64decode(image["b64_json"])).kind == "png"
    assert [submit["params"]["width"] for submit in horde.submits] == [512, 512]
    assert horde.submits[1]["source_processing"] == "img2img"


def test_a_style_chooses_its_model_and_parameters(http: FlaskClient, horde: ScriptedImages) -> None:
    response = generate(http, model="style:anime", size="512x512", seed=7)
    assert response.status_code == 200
    assert response.headers["X-Horde-Model"] == "style:anime"
    [submit] = horde.submits
    assert submit["style"] == "anime"
    assert "models" not in submit
    assert submit["params"] == {"n": 1, "width": 512, "height": 512, "seed": "7"}

"""Pictures from a horde: what is submitted, how it is polled, and what comes of the results."""

from __future__ import annotations

import base64
import io
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import requests
from PIL import Image
from requests.adapters import HTTPAdapter

from horde_proxy.errors import (
    ContentPolicyViolation,
    InsufficientKudos,
    InvalidRequest,
    ModelNotFound,
    ProxyError,
    Unavailable,
)
from horde_proxy.pictures import Raster
from horde_proxy.protocol.image_request import ImageRequest, Picture
from horde_proxy.protocol.images import ImageFiles, read_images
from horde_proxy.upstreams.base import Accepted, Caller
from horde_proxy.upstreams.horde.image_catalog import build_image_catalog
from horde_proxy.upstreams.in_process import WSGIAdapter
from horde_proxy.upstreams.picture_links import PictureLinks, PictureLost
from horde_proxy.upstreams.public_addresses import public_address
from tests.scripted_images import MODEL, WORKER, ScriptedImages, as_raster
from tests.support import HORDE_URL, Clock, World

CALLER = Caller("client", "key")
TOO_FEW = {
    "message": "Due to heavy demand, for requests over 576x576 or over 50 steps (10 steps for LCM "
    "work) the client needs to already have the required kudos. This request requires 21.5 kudos "
    "to fulfil.",
    "rc": "KudosUpfront",
}
PNG = Raster.plain(640, 448, (1, 2, 3)).encoded("png")


@pytest.fixture
def horde(world: World) -> ScriptedImages:
    scripted = ScriptedImages()
    world.session.mount(HORDE_URL, WSGIAdapter(scripted.app))
    return scripted


@pytest.fixture
def make(world: World, horde: ScriptedImages) -> Callable[..., list[Any]]:
    images = world.upstream().images

    def items(request: ImageRequest | None = None, model: str = MODEL, **fields: Any) -> list[Any]:
        request = request or read_images({"prompt": "a fox", **fields}, "generation")
        return list(images.stream(request, model, CALLER))

    return items


def pictures(items: list[Any]) -> list[Picture]:
    return [item for item in items if isinstance(item, Picture)]


def edit(mask: bytes | None = None, image: bytes = PNG, **fields: Any) -> ImageRequest:
    return read_images({"prompt": "a hat", **fields}, "edit", ImageFiles((image,), mask))


def test_a_prompt_becomes_a_submit_that_suits_the_family(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    make()
    assert horde.submits == [
        {
            "prompt": "a fox",
            "params": {
                "n": 1,
                "width": 1024,
                "height": 1024,
                "steps": 28,
                "cfg_scale": 6.0,
                "sampler_name": "k_euler_a",
                "karras": True,
                "clip_skip": 1,
            },
            "models": [MODEL],
            "nsfw": False,
            "censor_nsfw": True,
            "trusted_workers": False,
            "slow_workers": True,
            "replacement_filter": True,
            "r2": True,
            "shared": False,
        }
    ]


def test_the_pictures_come_in_the_wanted_format_with_who_made_them(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    items = make(n=2)
    assert isinstance(items[0], Accepted)
    assert items[0].headers == {
        "X-Horde-Request-Id": "image-1",
        "X-Horde-Model": MODEL,
        "X-Endpoint": "horde",
    }
    first, second = pictures(items)
    assert (first.kind, first.width, first.height, first.seed) == ("png", 64, 64, "42")
    assert (second.seed, second.worker, second.model) == ("43", "worker-1", MODEL)
    assert Raster.read(first.data).kind == "png"
    assert items[0].spent().kudos == 17.0


def test_checks_are_polled_and_the_status_is_called_once(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    horde.polls = 6
    make()
    assert horde.status_calls == 1


@pytest.mark.parametrize(
    ("fields", "params"),
    [
        ({"quality": "low"}, {"steps": 20}),
        ({"quality": "high"}, {"steps": 40}),
        ({"quality": "max"}, {"post_processing": ["RealESRGAN_x2plus"]}),
        ({"size": "1792x1024"}, {"width": 1792, "height": 1024}),
        ({"background": "transparent"}, {"transparent": True}),
        ({"steps": 12, "seed": 7, "cfg_scale": 3}, {"steps": 12, "seed": "7", "cfg_scale": 3.0}),
        ({"loras": [{"name": "1"}], "tiling": True}, {"loras": [{"name": "1"}], "tiling": True}),
    ],
)
def test_fields_become_params(
    make: Callable[..., list[Any]], horde: ScriptedImages, fields: Any, params: Any
) -> None:
    make(**fields)
    assert params.items() <= horde.submits[0]["params"].items()


def test_a_negative_prompt_stands_behind_the_prompt_and_only_there(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    make(prompt="a ### title", negative_prompt="blurry ### x")
    assert horde.submits[0]["prompt"] == "a # # # title ### blurry # # # x"


def test_a_size_that_is_not_made_is_told(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    horde.kudos = 20.0
    items = make(size="4096x4096")
    assert horde.submits[0]["params"]["width"] == 1024
    assert items[0].headers["X-Horde-Warnings"] == "size: 1024x1024 is made"


def test_too_few_kudos_are_tried_once_within_the_limit_that_the_refusal_names(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    horde.refusals = [(403, TOO_FEW)]
    items = make()
    assert [submit["params"]["width"] for submit in horde.submits] == [1024, 576]
    assert items[0].headers["X-Horde-Warnings"] == "size: 576x576 is made, for too few kudos"
    horde.refusals = [(403, TOO_FEW), (403, TOO_FEW)]
    with pytest.raises(InsufficientKudos):
        make()


def test_max_kudos_are_kept(make: Callable[..., list[Any]], horde: ScriptedImages) -> None:
    with pytest.raises(InsufficientKudos):
        make(horde={"max_kudos": 10})
    assert horde.submits == []
    assert pictures(make(horde={"max_kudos": 100}))


def test_a_mask_is_inverted_and_fits_the_picture(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    image = Image.new("RGBA", (640, 448), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 320, 448))
    content = io.BytesIO()
    image.save(content, "PNG")
    make(edit(mask=content.getvalue()), "Deliberate Inpainting")
    [submit] = horde.submits
    assert submit["source_processing"] == "inpainting"
    assert (submit["params"]["width"], submit["params"]["height"]) == (640, 448)
    assert submit["params"]["denoising_strength"] == 1.0
    mask = as_raster(submit["source_mask"]).pixels()
    middle = 224 * 640 * 3
    assert mask[middle + 100 * 3] > 250
    assert mask[middle + 500 * 3] < 5
    assert not as_raster(submit["source_image"]).has_alpha


def test_a_transparent_part_of_the_picture_is_its_own_mask(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    content = io.BytesIO()
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(content, "PNG")
    make(edit(image=content.getvalue()))
    assert horde.submits[0]["source_processing"] == "inpainting"


def test_an_edit_without_mask_keeps_the_size_of_its_picture(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    make(edit(input_fidelity="high"))
    [submit] = horde.submits
    assert submit["source_processing"] == "img2img"
    assert (submit["params"]["width"], submit["params"]["height"]) == (640, 448)
    assert submit["params"]["denoising_strength"] == 0.35
    assert as_raster(submit["source_image"]).size == (640, 448)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"control_type": "canny"}, "control_type"),
        ({"hires_fix": True, "model": "Flux"}, "hires_fix"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_the_submit(
    make: Callable[..., list[Any]], horde: ScriptedImages, fields: Any, param: str
) -> None:
    horde.workers = [{**WORKER, "models": [MODEL, "Flux"]}]
    with pytest.raises(InvalidRequest) as caught:
        make(model=fields.pop("model", MODEL), **fields)
    assert caught.value.param == param
    assert horde.submits == []


def test_several_pictures_are_never_dropped_in_silence(make: Callable[..., list[Any]]) -> None:
    request = read_images({"prompt": "both"}, "edit", ImageFiles((PNG, PNG)))
    with pytest.raises(InvalidRequest, match="one image at a time"):
        make(request)


def test_an_unknown_model_is_not_found(make: Callable[..., list[Any]]) -> None:
    with pytest.raises(ModelNotFound):
        make(model="Nope")


def test_a_model_whose_workers_are_in_maintenance_says_so(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    horde.workers = [{**WORKER, "maintenance_mode": True}]
    with pytest.raises(Unavailable, match="its workers are in maintenance"):
        make()


def test_a_worker_that_takes_no_sources_is_not_counted_on(
    world: World, horde: ScriptedImages
) -> None:
    horde.workers = [{**WORKER, "img2img": False}]
    images = world.upstream().images
    with pytest.raises(Unavailable, match="takes such a request"):
        list(images.stream(edit(), MODEL, CALLER))


def test_censored_pictures_are_left_out(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    horde.censored, horde.metadata = True, [{"type": "censorship", "value": "csam"}]
    with pytest.raises(ContentPolicyViolation):
        make(n=2)
    assert len(horde.submits) == 1


def test_pictures_that_came_are_an_answer_though_others_are_lost(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    good = base64.b64encode(horde.picture).decode()
    horde.images = [good, base64.b64encode(b"broken").decode()]
    assert len(pictures(make(n=2))) == 1
    horde.images = [good]
    assert len(pictures(make(n=2))) == 2
    horde.images = ["N/A"]
    with pytest.raises(ProxyError):
        make()


def test_a_client_that_leaves_cancels(world: World, horde: ScriptedImages) -> None:
    horde.polls = 100
    request = read_images({"prompt": "a fox"}, "generation")
    items = world.upstream().images.stream(request, MODEL, CALLER)
    assert isinstance(next(items), Accepted)
    items.close()
    assert horde.deleted == ["image-1"]


def test_metadata_of_a_picture_does_not_leave(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x010E] = "a secret prompt"
    Image.new("RGB", (8, 8)).save(content, "WEBP", exif=exif)
    horde.picture = content.getvalue()
    [picture] = pictures(make(output_format="webp"))
    assert b"secret" in horde.picture
    assert b"secret" not in picture.data


def test_models_are_listed_with_what_pickers_need(world: World, horde: ScriptedImages) -> None:
    entry = next(model for model in world.upstream().images.models() if model["id"] == MODEL)
    assert entry["type"] == "image"
    assert entry["horde"] == {
        "available": True,
        "workers": 1,
        "threads": 1,
        "baseline": "stable_diffusion_xl",
        "inpainting": False,
        "max_pixels": 4_194_304,
        "queued_pixelsteps": 0,
        "jobs": 0,
        "pixelsteps_per_second": 1_800_000.0,
        "expected_seconds": 16.3,
    }


def test_a_model_that_only_the_status_knows_has_a_worker_that_can_do_everything() -> None:
    models = build_image_catalog(
        [{"name": "New", "count": 2}, {"name": "Old", "count": 0}], [], 5, {}
    )
    assert list(models) == ["New"]
    assert models["New"].workers[0].can_inpaint
    assert models["New"].first_seen == 5


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1:1/x",
        "http://[::1]/x",
        "http://169.254.169.254/latest",
        "ftp://example.com/x",
        "http://[broken/x",
        "file:///etc/passwd",
    ],
)
def test_links_to_this_site_are_not_followed(link: str) -> None:
    with pytest.raises(PictureLost):
        PictureLinks("https://horde.example/api/v2").fetch(link)


def test_redirects_of_links_are_not_followed(world: World, horde: ScriptedImages) -> None:
    @horde.app.get("/elsewhere")
    def elsewhere() -> Any:
        return "", 302, {"Location": "http://127.0.0.1/"}

    links = PictureLinks(HORDE_URL, open_session=lambda is_own: world.session)
    with pytest.raises(PictureLost, match="status 302"):
        links.fetch(f"{HORDE_URL}/elsewhere")


def test_a_failing_link_is_tried_again_and_its_signature_is_not_told() -> None:
    class Broken(requests.Session):
        tries = 0

        def get(self, url: Any, **options: Any) -> Any:
            Broken.tries += 1
            raise requests.ConnectionError(f"cannot reach {url}")

    links = PictureLinks("https://horde.example", open_session=lambda is_own: Broken())
    with pytest.raises(PictureLost) as caught:
        links.fetch("https://pictures.example/x?signature=secret")
    assert Broken.tries == 3
    assert "secret" not in str(caught.value)


class Drip:
    """A body of which a byte comes each ten seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self.reads = clock, 0

    def read1(self, size: int, decode_content: bool) -> bytes:
        self._clock.sleep(10)
        self.reads += 1
        return b"x"

    def close(self) -> None:
        pass

    release_conn = close


def test_a_picture_that_comes_byte_by_byte_is_given_up() -> None:
    clock = Clock()
    drip = Drip(clock)

    class Slow(requests.Session):
        def get(self, url: Any, **options: Any) -> Any:
            response = requests.Response()
            response.status_code, response.raw = 200, drip
            return response

    links = PictureLinks("https://horde.example", open_session=lambda is_own: Slow(), clock=clock)
    with pytest.raises(PictureLost, match="ReadTimeout"):
        links.fetch("https://pictures.example/x")
    assert drip.reads == 7


@pytest.mark.parametrize(
    ("addresses", "is_sent"), [(["10.0.0.1"], False), (["8.8.8.8"], True), ([], True)]
)
def test_a_link_to_this_site_is_not_fetched_through_a_proxy_either(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], is_sent: bool
) -> None:
    def resolve(name: str, port: int, **_: Any) -> Any:
        if not addresses:
            raise socket.gaierror("only the proxy knows it")
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    sent: list[str] = []

    def send(self: Any, request: Any, **options: Any) -> Any:
        sent.append(request.url)
        raise requests.ConnectionError

    monkeypatch.setattr(public_address, "__defaults__", (resolve,))
    monkeypatch.setattr(HTTPAdapter, "send", send)
    links = PictureLinks("https://horde.example", proxy_url="http://proxy.invalid:3128")
    with pytest.raises(PictureLost):
        links.fetch("https://pictures.example/x")
    assert bool(sent) is is_sent


def transparent() -> bytes:
    content = io.BytesIO()
    Image.new("RGBA", (64, 64)).save(content, "PNG")
    return content.getvalue()


def test_what_a_request_needs_without_saying_so_is_asked_of_workers_too(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    flux = "Flux.1-Schnell"
    horde.workers = [{**WORKER, "models": [flux], "post-processing": False, "painting": False}]
    needs_stripping = read_images({"prompt": "a fox", "background": "transparent"}, "generation")
    with pytest.raises(Unavailable, match="none of its 1 online workers"):
        make(needs_stripping, flux)
    with pytest.raises(Unavailable, match="none of its 1 online workers"):
        make(edit(image=transparent()), flux)
    make(read_images({"prompt": "a hat"}, "variation", ImageFiles((transparent(),))), flux)
    assert horde.submits[0]["source_processing"] == "img2img"
    assert "source_mask" not in horde.submits[0]


def test_a_picture_to_be_enlarged_is_small_enough_to_be_read_afterwards(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    horde.workers = [{**WORKER, "max_pixels": 3072 * 3072}]
    make(size="3072x3072", quality="max")
    make(size="3072x3072", post_processing=["RealESRGAN_x4plus"])
    sizes = [(sent["params"]["width"], sent["params"]["height"]) for sent in horde.submits]
    assert sizes == [(2880, 2880), (1408, 1408)]


def test_a_control_and_a_mask_are_refused_together(make: Callable[..., list[Any]]) -> None:
    request = edit(mask=Raster.read(transparent()).resized(640, 448).encoded("png"))
    controlled = replace(request, parameters={"control_type": "canny"})
    with pytest.raises(InvalidRequest, match="cannot be used with a mask"):
        make(controlled, "stable_diffusion")


def test_fewer_steps_are_told_as_such(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    horde.refusals = [(403, TOO_FEW)]
    items = make(size="512x512", steps=60)
    assert items[0].headers["X-Horde-Warnings"] == "steps: 50 are made, for too few kudos"


OTHER = {**WORKER, "id": "worker-2", "name": "other", "trusted": False, "bridge_agent": "mine:1:x"}


ANY = {"validated_backends": False}


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (ANY, {}),
        ({}, {"workers": ["worker-2"], "worker_blacklist": True}),
        ({**ANY, "deny_workers": ["painter"]}, {"workers": ["worker-1"], "worker_blacklist": True}),
        ({"allow_workers": ["painter"]}, {"workers": ["worker-1"], "worker_blacklist": False}),
        ({**ANY, "trusted_workers": True}, {"trusted_workers": True}),
        ({**ANY, "slow_workers": False}, {"slow_workers": False}),
        ({**ANY, "least_speed": 10.0**9}, {}),
    ],
)
def test_the_filters_of_the_settings_hold_for_pictures(
    world: World, horde: ScriptedImages, settings: dict[str, Any], fields: dict[str, Any]
) -> None:
    horde.workers = [WORKER, OTHER]
    images = world.configure(horde={"validated_backends": True, **settings}).upstream().images
    list(images.stream(read_images({"prompt": "a fox"}, "generation"), MODEL, CALLER))
    usual = {"trusted_workers": False, "slow_workers": True}
    names = ("workers", "worker_blacklist", *usual)
    sent = {name: horde.submits[0][name] for name in names if name in horde.submits[0]}
    assert sent == {**usual, **fields}


def test_a_model_whose_workers_the_settings_leave_out_is_not_available(
    world: World, horde: ScriptedImages
) -> None:
    images = world.configure(horde={"deny_workers": ["painter"]}).upstream().images
    assert {model["horde"]["available"] for model in images.models()} == {False}
    with pytest.raises(Unavailable, match=r"leave out its only online worker \(`deny_wor"):
        list(images.stream(read_images({"prompt": "a fox"}, "generation"), MODEL, CALLER))


def test_the_workers_of_a_request_go_over_those_of_the_settings(
    make: Callable[..., list[Any]], horde: ScriptedImages
) -> None:
    horde.workers = [WORKER, OTHER]
    make(horde={"workers": ["other"], "validated_backends": False})
    assert (horde.submits[0]["workers"], horde.submits[0]["worker_blacklist"]) == (
        ["worker-2"],
        False,
    )


@pytest.mark.parametrize(
    ("base", "link", "is_own"),
    [
        ("http://192.168.1.5:7001/api", "http://192.168.1.5:7001/p.webp", True),
        ("http://192.168.1.5:7001/api", "http://192.168.1.5:6379/p.webp", None),
        ("http://192.168.1.5:7001/api", "http://192.168.1.5/p.webp", None),
        ("http://192.168.1.5/api", "http://192.168.1.5:8443/p.webp", None),
        ("https://horde.home/api", "http://horde.home/p.webp", True),
        ("https://horde.home/api", "https://horde.home:9443/p.webp", False),
        ("https://horde.home/api", "https://horde.home:9000/p.webp", True),
        ("http://192.168.1.5:7001/api", "http://192.168.1.5:9000/bucket/p.webp?X-Amz=1", True),
        ("http://192.168.1.5:7001/api", "http://192.168.1.6:9000/bucket/p.webp", None),
        ("https://horde.home/api", "https://[::1]/p.webp", None),
    ],
)
def test_only_the_hordes_own_server_may_have_a_private_address(
    base: str, link: str, is_own: bool | None
) -> None:
    opened: list[bool] = []

    def open_session(own: bool) -> Any:
        opened.append(own)
        raise requests.ConnectionError

    with pytest.raises((PictureLost, requests.ConnectionError)):
        PictureLinks(base, open_session=open_session).fetch(link)
    assert opened == ([] if is_own is None else [is_own])

"""A worker for images: what it offers, how it reads jobs, and how pictures reach the horde.

Jobs are those of the real horde (tests/data/image_worker_captures).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
import responses
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from horde_proxy.pictures import Raster, sniffed_type
from horde_proxy.upstreams.picture_links import PictureLinks, PictureLost
from horde_proxy.worker.backends import BackendError, JobRefused
from horde_proxy.worker.backends.images import ImageOptions, MadePicture, PictureJob, open_images
from horde_proxy.worker.backends.images.painter import Painter
from horde_proxy.worker.bridge import Bridge
from horde_proxy.worker.dreamer import Dreamer, jobs_of_batch, read_job, seed_of
from horde_proxy.worker.horde import WorkerIdentity
from horde_proxy.worker.job_rules import JobRules
from tests.support import Clock

HORDE = "http://127.0.0.1:22004"
"""Where the captures' links lead: they count as the horde's own only on its own port."""
API = f"{HORDE}/api/v2/generate"
CAPTURES = Path(__file__).parent / "data" / "image_worker_captures"
MODELS = ("stable_diffusion", "Deliberate Inpainting", "SDXL 1.0")


def captured(name: str) -> dict[str, Any]:
    """The body that the real horde answered with."""
    body: dict[str, Any] = json.loads((CAPTURES / f"{name}.json").read_text())["response"]["body"]
    return body


def request_of(name: str) -> dict[str, Any]:
    """The body that a real worker sent."""
    body: dict[str, Any] = json.loads((CAPTURES / f"{name}.json").read_text())["request"]["body"]
    return body


class ScriptedPainter:
    """A backend that keeps its jobs and makes pictures of one colour, or raises an error."""

    features = frozenset({"img2img", "painting"})
    post_processors = frozenset({"RealESRGAN_x4plus", "GFPGAN"})
    max_pixels = 1024 * 1024

    def __init__(self, error: Exception | None = None, models: Sequence[str] = MODELS) -> None:
        self.jobs: list[PictureJob] = []
        self.error, self.models = error, models

    def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
        self.jobs.append(job)
        if self.error:
            raise self.error
        return MadePicture(Raster.plain(job.width, job.height, (1, 2, 3)), job.seed)


def bridge(backend: Any, **options: Any) -> Bridge:
    clock = Clock()
    identity = WorkerIdentity(HORDE, "img", "the-key", nsfw=False)
    kind = Dreamer(backend, **options)
    return Bridge([identity], kind, stop=Event(), pause=clock.sleep, clock=clock)


def horde(pop: Any) -> responses.BaseResponse:
    """A horde with one answer to pops; the answer to submits."""
    responses.post(f"{API}/pop", json=pop)
    submit: responses.BaseResponse = responses.post(f"{API}/submit", json={"reward": 5.76})
    return submit


def submits() -> list[dict[str, Any]]:
    return [
        json.loads(call.request.body or "")
        for call in responses.calls
        if str(call.request.url).endswith("/submit")
    ]


def picture(width: int = 512, height: int = 512) -> bytes:
    return Raster.plain(width, height, (200, 10, 10)).encoded("webp")


# The bridge.


@responses.activate
def test_a_pop_offers_what_the_backend_can_do() -> None:
    pop = responses.post(f"{API}/pop", json=captured("image_pop_skipped_max_pixels"))
    dreamer = bridge(ScriptedPainter(), rules=JobRules(["dragons"]), batch=2)
    assert dreamer.step(requests.Session()) == 1.0
    body = json.loads(pop.calls[0].request.body or "")
    assert body.pop("bridge_agent").startswith("horde-proxy:")
    assert body == {
        "name": "img",
        "models": list(MODELS),
        "nsfw": False,
        "threads": 1,
        "max_pixels": 1048576,
        "amount": 2,
        "blacklist": ["dragons"],
        "allow_img2img": True,
        "allow_painting": True,
        "allow_post_processing": True,
        "allow_controlnet": False,
        "allow_lora": False,
        "allow_unsafe_ipaddr": True,
        "priority_usernames": [],
    }


@responses.activate
def test_a_picture_is_uploaded_as_webp_without_a_key_and_submitted_with_its_seed() -> None:
    job = captured("image_pop_job_b64")
    horde(job)
    upload = responses.put(job["r2_upload"], status=200)
    worker = bridge(ScriptedPainter())
    worker.step(requests.Session())
    request = upload.calls[0].request
    assert sniffed_type(request.body or b"") == "webp"
    assert request.headers["Content-Type"] == "image/webp"
    assert "apikey" not in request.headers
    expected = {**request_of("image_submit_r2"), "id": job["id"]}
    del expected["gen_metadata"]
    assert submits() == [expected]
    assert worker.status.snapshot().done == {"image": 1}


@responses.activate
def test_each_picture_of_a_batch_is_submitted_with_the_next_seed_and_its_own_link() -> None:
    job = captured("image_pop_job_n2_amount2")
    horde(job)
    uploads = [responses.put(url, status=200) for url in job["r2_uploads"]]
    backend = ScriptedPainter()
    bridge(backend, batch=2).step(requests.Session())
    assert [len(upload.calls) for upload in uploads] == [1, 1]
    sent = [(body["id"], body["generation"], body["seed"]) for body in submits()]
    assert sent == [(job["ids"][0], "R2", 42), (job["ids"][1], "R2", 43)]
    assert [made.seed for made in backend.jobs] == [42, 43]


@responses.activate
def test_what_a_backend_does_not_do_is_told_the_requester() -> None:
    job = captured("image_pop_tiling_hires")
    horde(job)
    responses.put(job["r2_upload"], status=200)
    bridge(ScriptedPainter()).step(requests.Session())
    assert [entry["ref"] for entry in submits()[0]["gen_metadata"]] == [
        "tiling was left out: this worker does not have it",
        "hires_fix was left out: this worker does not have it",
    ]


@responses.activate
@pytest.mark.parametrize("status", [None, 403])
def test_without_a_link_that_works_a_picture_goes_with_the_submit(status: int | None) -> None:
    job = captured("image_pop_job_b64")
    if status:
        responses.put(job["r2_upload"], status=status)
    else:
        job["r2_upload"] = None
    horde(job)
    bridge(ScriptedPainter()).step(requests.Session())
    [body] = submits()
    assert sniffed_type(base64.b64decode(body["generation"])) == "webp"
    assert body["state"] == "ok"


@responses.activate
def test_a_failure_gives_the_job_back_with_a_reason() -> None:
    horde(captured("image_pop_job_b64"))
    error = BackendError("out of memory at http://secret", "the backend failed")
    bridge(ScriptedPainter(error)).step(requests.Session())
    [body] = submits()
    assert (body["state"], body["generation"]) == ("faulted", "")
    assert body["gen_metadata"] == [
        {"type": "information", "value": "see_ref", "ref": "the backend failed"}
    ]


@responses.activate
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payload": {"prompt": "two dragons"}}, "has a word that this worker refuses"),
        ({"payload": {"prompt": "x", "loras": [{"name": "1"}]}}, "no ControlNets, LoRAs"),
        ({"payload": {"prompt": "x", "control_type": "canny"}}, "no ControlNets, LoRAs"),
        ({"payload": {"prompt": "x", "transparent": True}}, "makes no transparent images"),
        (
            {"payload": {"prompt": "x", "post_processing": ["GFPGAN", "NMKD_Siax"]}},
            "this worker has no NMKD_Siax",
        ),
        ({"payload": {"prompt": "x", "width": 99_999}}, "a number of the job is out of range"),
        ({"payload": {"prompt": "x", "width": 2048, "height": 2048}}, "of this size"),
        ({"model": "another"}, "this worker has no such model"),
        ({"extra_source_images": [{"image": "x"}]}, "one source image only"),
    ],
)
def test_a_job_that_cannot_be_done_is_given_back(change: dict[str, Any], reason: str) -> None:
    horde({**captured("image_pop_job_b64"), **change})
    backend = ScriptedPainter()
    bridge(backend, rules=JobRules(["dragons"])).step(requests.Session())
    [body] = submits()
    assert reason in body["gen_metadata"][0]["ref"]
    assert (body["state"], backend.jobs) == ("faulted", [])


@responses.activate
def test_nothing_is_uploaded_for_a_worker_that_was_stopped() -> None:
    horde(captured("image_pop_job_b64"))

    class Stopped(ScriptedPainter):
        def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
            worker._stop.set()
            return super().paint(job, cancelled)

    worker = bridge(Stopped())
    worker.step(requests.Session())
    assert submits()[0]["gen_metadata"][0]["ref"] == "the worker is being stopped"


@responses.activate
def test_the_rest_of_a_batch_is_given_back_at_once_by_a_worker_that_is_stopped() -> None:
    job = captured("image_pop_job_n2_amount2")
    horde(job)
    responses.put(job["r2_uploads"][0], status=200)

    class Stopped(ScriptedPainter):
        def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
            worker._stop.set()
            return super().paint(job, cancelled)

    backend = Stopped()
    worker = bridge(backend, batch=2)
    worker.step(requests.Session())
    assert [body["state"] for body in submits()] == ["faulted", "faulted"]
    assert len(backend.jobs) == 1


@responses.activate
@pytest.mark.parametrize(
    "link", ["http://10.0.0.5/x.webp", "file:///etc/passwd", "http://169.254.169.254/latest"]
)
def test_no_source_is_fetched_from_another_host_of_this_site(link: str) -> None:
    horde({**captured("image_pop_img2img"), "source_image": link})
    bridge(ScriptedPainter()).step(requests.Session())
    assert submits()[0]["gen_metadata"][0]["ref"] == "the source image cannot be fetched"


# How jobs are read.


def links(*pictures: bytes) -> PictureLinks:
    """Links that lead to these pictures, one after another."""

    class Scripted(PictureLinks):
        def fetch(self, image: str) -> tuple[bytes, Raster]:
            data = queue.pop(0)
            return data, Raster.read(data)

    queue = list(pictures)
    return Scripted(HORDE)


def test_a_payload_is_read_with_its_negative_prompt() -> None:
    job = read_job(captured("image_pop_tiling_hires"), "m", links())
    assert job == PictureJob(
        id="c0f598d8-e314-43fb-bc02-e78913440d26",
        model="m",
        prompt="a lighthouse on a cliff",
        negative="blurry",
        width=768,
        height=768,
        seed=42,
        steps=20,
        cfg_scale=7.0,
        sampler="k_euler_a",
        karras=True,
        tiling=True,
        hires_fix=True,
        hires_strength=0.6,
        censors=True,
    )


def test_a_source_and_a_mask_get_the_size_of_the_job() -> None:
    mask = Raster.plain(128, 128, (255, 255, 255)).encoded("png")
    job = read_job(captured("image_pop_inpaint"), "m", links(picture(640, 320), mask))
    assert job.source and job.mask
    assert (job.source.size, job.mask.size, job.strength) == ((512, 512), (512, 512), 1.0)
    assert job.mask.pixels()[:3] == b"\xff\xff\xff"


def test_transparent_pixels_of_a_source_are_its_mask_where_it_is_inpainted() -> None:
    clear = Raster.plain(512, 512, (1, 2, 3)).with_alpha_of(
        Raster.read(picture_without_its_left_half())
    )
    job = read_job(captured("image_pop_inpaint_alpha"), "m", links(clear.encoded("png")))
    assert job.mask
    row = job.mask.pixels()[: 512 * 3]
    assert (row[:3], row[-3:]) == (b"\xff\xff\xff", b"\0\0\0")


def picture_without_its_left_half() -> bytes:
    image = Image.new("RGBA", (512, 512), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 256, 512))
    return Raster(image, "png").encoded("png")


def test_a_source_is_changed_by_the_strength_of_the_job() -> None:
    job = read_job(captured("image_pop_img2img"), "m", links(picture()))
    assert (job.strength, job.mask, job.source is not None) == (0.5, None, True)


def test_post_processing_is_kept_in_order() -> None:
    job = read_job(captured("image_pop_post"), "m", links())
    assert job.post_processing == ("RealESRGAN_x4plus", "GFPGAN")
    assert job.facefixer_strength == 0.6


@pytest.mark.parametrize(
    ("seed", "number"),
    [("42", 42), (str(2**32 + 5), 5), (7, 7), ("fox", seed_of("fox")), (None, 0)],
)
def test_a_seed_is_a_number_below_two_to_the_32nd(seed: Any, number: int) -> None:
    assert seed_of(seed) == number < 2**32


NAMES = [
    "width",
    "height",
    "ddim_steps",
    "cfg_scale",
    "seed",
    "seed_variation",
    "sampler_name",
    "clip_skip",
    "denoising_strength",
    "post_processing",
    "hires_fix_denoising_strength",
    "facefixer_strength",
    "prompt",
    "karras",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON))
def test_whatever_a_payload_holds_it_is_read_within_bounds_or_refused(
    payload: dict[str, Any],
) -> None:
    try:
        job = read_job({"id": "1", "payload": payload}, "m", links())
    except JobRefused:
        return
    assert 64 <= job.width <= 3072 and 64 <= job.height <= 3072
    assert 0 <= job.seed < 2**32 and 1 <= job.steps <= 500
    assert 0 <= job.strength <= 1 and 0 <= job.cfg_scale <= 100


def test_a_pop_without_a_job_has_none() -> None:
    assert jobs_of_batch(captured("image_pop_skipped_max_pixels")) == ()


def test_a_batch_whose_links_do_not_fit_is_submitted_as_base64() -> None:
    answer = {**captured("image_pop_job_n2_amount2"), "r2_uploads": ["one"]}
    assert [job["r2_upload"] for job in jobs_of_batch(answer)] == [None, None]


# The painter.


def painted(**fields: Any) -> MadePicture:
    values = {"id": "1", "model": "m", "prompt": "a red fox", "width": 256, "height": 192}
    return Painter().paint(PictureJob(**{"seed": 1, **values, **fields}), lambda: False)


def test_the_painter_draws_the_same_picture_for_the_same_job() -> None:
    assert painted().raster.pixels() == painted().raster.pixels()
    assert painted().raster.pixels() != painted(seed=2).raster.pixels()
    assert painted().raster.pixels() != painted(prompt="a blue fox").raster.pixels()


def test_the_painter_says_that_it_is_a_placeholder() -> None:
    assert painted().notes == (
        "This is a placeholder: horde-proxy/painter draws the words of the prompt and is no image "
        "model.",
    )


@pytest.mark.parametrize("size", [(64, 64), (64, 3072), (3072, 64), (1024, 1024)])
@pytest.mark.parametrize("prompt", ["", "x", "word " * 5000, "ünïcödé 狐 🦊", "x" * 3000])
def test_the_painter_draws_any_prompt_in_any_size(size: tuple[int, int], prompt: str) -> None:
    made = painted(width=size[0], height=size[1], prompt=prompt)
    assert made.raster.size == size


def test_the_painter_changes_a_source_by_the_strength() -> None:
    source = Raster.plain(256, 192, (0, 200, 0))
    assert painted(source=source, strength=0.0).raster.pixels() == source.pixels()
    assert painted(source=source, strength=1.0).raster.pixels() == painted().raster.pixels()


def test_the_painter_leaves_what_the_mask_has_black_as_it_was() -> None:
    image = Image.new("RGB", (256, 192))
    image.paste((255, 255, 255), (128, 0, 256, 192))
    source = Raster.plain(256, 192, (0, 200, 0))
    made = painted(source=source, mask=Raster(image, "png"), strength=1.0).raster
    rows = [made.pixels()[row * 768 : (row + 1) * 768] for row in range(192)]
    assert all(row[:384] == bytes((0, 200, 0)) * 128 for row in rows)
    assert any(row[384:] != bytes((0, 200, 0)) * 128 for row in rows)


def test_the_painter_enlarges_and_leaves_the_background_out() -> None:
    made = painted(post_processing=("RealESRGAN_x4plus", "strip_background")).raster
    assert (made.size, made.has_alpha) == ((1024, 768), True)
    assert painted(transparent=True).raster.has_alpha
    with pytest.raises(JobRefused, match="too large"):
        painted(width=3072, height=3072, post_processing=("RealESRGAN_x4plus",))


def test_the_painter_is_opened_by_its_name() -> None:
    assert isinstance(open_images("painter", ImageOptions()), Painter)
    assert open_images("echo", ImageOptions()) is None
    with pytest.raises(BackendError, match="leaves no model of painter: horde-proxy/painter"):
        open_images("painter", ImageOptions(denied_models=["*painter"]))


# Uploads.


@responses.activate
def test_an_upload_is_not_redirected_to_another_host() -> None:
    responses.put(f"{HORDE}/x", status=302, headers={"Location": "http://10.0.0.1/"})
    with pytest.raises(PictureLost, match="cannot be uploaded \\(status 302\\)"):
        PictureLinks(HORDE).upload(f"{HORDE}/x", b"data", "image/webp")

"""Servers of images behind a worker: what they are sent, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from PIL import Image

from horde_proxy.pictures import Raster, decoded
from horde_proxy.worker.backends import BackendDown, BackendError, JobRefused, ServerState
from horde_proxy.worker.backends.images import ImageOptions, PictureJob, open_images
from horde_proxy.worker.backends.images.comfyui import ComfyServer
from horde_proxy.worker.backends.images.sdapi import SdapiServer
from horde_proxy.worker.backends.images.workflow import filled, read_workflow
from tests.image_servers import COLOUR, FakeComfyUI, FakeOpenAIImages, FakeWebUI, serve
from tests.support import Clock

URL = "http://images.invalid:7860"


@pytest.fixture(autouse=True)
def network() -> Iterator[None]:
    with responses.mock:
        yield


def opened(fake: Any, **options: Any) -> Any:
    serve(URL, fake.app)
    backend = open_images(URL, ImageOptions(**options))
    if isinstance(backend, ComfyServer):
        backend._pause = Clock().sleep
    return backend


def job(**fields: Any) -> PictureJob:
    values = {"model": "dreamshaper_8", "prompt": "a fox", "width": 64, "height": 128, "seed": 7}
    return PictureJob(**{"id": "job-1", **values, **fields})


def never() -> bool:
    return False


# AUTOMATIC1111's web UI.


def test_the_web_ui_offers_the_checkpoint_that_is_loaded() -> None:
    backend = opened(FakeWebUI())
    assert isinstance(backend, SdapiServer)
    assert (backend.models, backend.slots(), backend.features) == (
        ("dreamshaper_8",),
        1,
        frozenset({"img2img", "painting", "tiling", "hires_fix"}),
    )


@pytest.mark.parametrize(
    ("options", "models"),
    [
        ({"models": ["*"]}, ("dreamshaper_8", "sd_xl_base_1.0")),
        ({"models": ["sd_xl*"]}, ("sd_xl_base_1.0",)),
        ({"models": ["*"], "denied_models": ["dream*"]}, ("sd_xl_base_1.0",)),
        ({"names": {"dreamshaper_8": "Dreamshaper"}}, ("Dreamshaper",)),
        ({"names": {"sd_xl_base_1.0": "SDXL 1.0"}, "models": ["SDXL 1.0"]}, ("SDXL 1.0",)),
        # Another name for the loaded one, as --model gives it.
        ({"models": ["Dreamshaper"]}, ("Dreamshaper",)),
    ],
)
def test_checkpoints_are_chosen_and_named_by_the_user(
    options: dict[str, Any], models: tuple[str, ...]
) -> None:
    assert opened(FakeWebUI(), **options).models == models


def test_checkpoints_to_choose_from_are_named() -> None:
    with pytest.raises(BackendError, match="it has dreamshaper_8, sd_xl_base_1.0"):
        opened(FakeWebUI(), models=["flux*"])
    fake = FakeWebUI()
    fake.options["sd_model_checkpoint"] = None
    for models in ([], ["flux"], ["a", "b"]):
        with pytest.raises(BackendError, match="it has dreamshaper_8, sd_xl_base_1.0"):
            opened(fake, models=models)


def test_the_loaded_checkpoint_is_found_without_its_hash() -> None:
    fake = FakeWebUI()
    fake.options["sd_model_checkpoint"] = "sd_xl_base_1.0.safetensors"
    assert opened(fake).models == ("sd_xl_base_1.0",)


def test_a_picture_of_words_is_made_with_the_jobs_settings() -> None:
    fake = FakeWebUI()
    made = opened(fake).paint(
        job(negative="blurry", steps=20, cfg_scale=7.5, sampler="k_dpmpp_2m", clip_skip=2), never
    )
    assert fake.bodies("txt2img") == [
        {
            "prompt": "a fox",
            "negative_prompt": "blurry",
            "seed": 7,
            "steps": 20,
            "cfg_scale": 7.5,
            "width": 64,
            "height": 128,
            "tiling": False,
            "batch_size": 1,
            "n_iter": 1,
            "send_images": True,
            "save_images": False,
            "override_settings": {
                "sd_model_checkpoint": "dreamshaper_8.safetensors [879]",
                "CLIP_stop_at_last_layers": 2,
            },
            "override_settings_restore_afterwards": False,
            "force_task_id": "job-1",
            "sampler_name": "DPM++ 2M",
            "scheduler": "karras",
        }
    ]
    assert (made.raster.size, made.raster.pixels()[:3], made.seed) == ((64, 128), bytes(COLOUR), 7)


def test_an_old_web_ui_has_schedules_in_the_names_of_samplers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeWebUI(has_schedulers=False)
    backend = opened(fake)
    for sampler in ("k_dpmpp_2m", "k_euler", "k_heun", "k_heun"):
        backend.paint(job(sampler=sampler), never)
    names = [body["sampler_name"] for body in fake.bodies("txt2img")]
    assert names == ["DPM++ 2M Karras", "Euler", "Euler a", "Euler a"]
    assert caplog.messages == [f"the backend at {URL} does not know k_heun: it is left out"]


def test_a_source_and_its_mask_are_sent_as_they_are() -> None:
    fake = FakeWebUI()
    source, mask = Raster.plain(64, 128, (1, 2, 3)), Raster.plain(64, 128, (255, 255, 255))
    opened(fake).paint(job(source=source, mask=mask, strength=0.6), never)
    [body] = fake.bodies("img2img")
    assert Raster.read(decoded(body["init_images"][0])).pixels() == source.pixels()
    # White is painted anew: the horde and the web UI mean the same.
    assert Raster.read(decoded(body["mask"])).pixels() == mask.pixels()
    assert (body["inpainting_mask_invert"], body["denoising_strength"]) == (0, 0.6)


def test_a_large_picture_is_made_in_two_passes_where_the_job_says_so() -> None:
    fake = FakeWebUI()
    made = opened(fake).paint(
        job(width=1024, height=768, hires_fix=True, hires_strength=0.5), never
    )
    [body] = fake.bodies("txt2img")
    names = ("width", "height", "hr_resize_x", "hr_resize_y", "denoising_strength", "enable_hr")
    assert [body[name] for name in names] == [576, 448, 1024, 768, 0.5, True]
    assert made.raster.size == (1024, 768)


def test_pictures_are_enlarged_and_faces_mended_after_they_were_made() -> None:
    fake = FakeWebUI()
    made = opened(fake).paint(
        job(post_processing=("GFPGAN", "NMKD_Siax"), facefixer_strength=0.4), never
    )
    faces, enlarged = fake.bodies("extra-single-image")
    assert faces["gfpgan_visibility"] == 0.4
    assert (enlarged["upscaler_1"], enlarged["upscaling_resize"]) == ("R-ESRGAN 4x+", 4)
    assert made.raster.size == (256, 512)
    assert made.notes == ("R-ESRGAN 4x+ was used for NMKD_Siax",)


@pytest.mark.parametrize("has_rembg", [False, True])
def test_backgrounds_are_left_out_only_where_the_extension_is_there(has_rembg: bool) -> None:
    fake = FakeWebUI(has_rembg=has_rembg)
    backend = opened(fake)
    assert ("strip_background" in backend.post_processors) == has_rembg
    assert ("transparent" in backend.features) == has_rembg
    if has_rembg:
        backend.paint(job(transparent=True), never)
        assert len(fake.bodies("rembg")) == 1


def test_without_upscalers_none_is_offered() -> None:
    fake = FakeWebUI()
    fake.upscalers = ["None", "Lanczos"]
    assert "RealESRGAN_x4plus" not in opened(fake).post_processors


@pytest.mark.parametrize(
    ("progress", "interrupts"),
    [({}, 1), ({"current_task": "job-1"}, 1), ({"current_task": "the owner's"}, 0)],
)
def test_a_cancelled_picture_is_interrupted_but_never_the_owners(
    progress: dict[str, Any], interrupts: int
) -> None:
    fake, cancelled = FakeWebUI(), [False]
    backend = opened(fake)
    fake.progress |= progress

    def cancel() -> None:
        cancelled[0] = True
        raise AssertionError

    fake.before = cancel
    with pytest.raises(BackendError):
        backend.paint(job(), lambda: cancelled[0])
    assert len(fake.bodies("interrupt")) == interrupts


def test_the_web_ui_tells_whether_it_makes_a_picture() -> None:
    fake = FakeWebUI()
    backend = opened(fake)
    assert backend.state() == ServerState(0)
    fake.progress["state"]["job_count"] = 1
    assert backend.state() == ServerState(1)
    responses.reset()
    with pytest.raises(BackendDown):
        backend.state()


def test_a_server_with_this_api_need_not_tell_its_progress() -> None:
    # KoboldCpp and stable-diffusion.cpp.
    fake = FakeWebUI()
    backend = opened(fake)
    fake.lacks = "progress"
    assert backend.state() == ServerState(None)
    backend.paint(job(), never)


def test_the_filter_of_a_server_is_used_where_a_job_says_so() -> None:
    fake = FakeWebUI()
    with pytest.raises(BackendError, match="has no filter of its own: leave censor out"):
        opened(fake, censor=True)
    fake.options["filter_nsfw"] = False
    backend = opened(fake, censor=True)
    for censors in (True, False):
        backend.paint(job(censors=censors), never)
    settings = [body["override_settings"] for body in fake.bodies("txt2img")]
    assert [entry["filter_nsfw"] for entry in settings] == [True, False]


# ComfyUI.


@pytest.mark.parametrize("is_new", [True, False])
def test_comfyui_offers_the_checkpoints_that_are_chosen(is_new: bool) -> None:
    backend = opened(FakeComfyUI(is_new=is_new), models=["*"])
    assert isinstance(backend, ComfyServer)
    assert backend.models == ("dreamshaper_8", "sdxl")
    assert backend.features == frozenset({"img2img", "painting"})


def test_the_default_workflow_is_filled_in_with_the_job() -> None:
    fake = FakeComfyUI()
    backend = opened(fake, models=["sdxl"])
    made = backend.paint(job(model="sdxl", negative="blurry", clip_skip=2), never)
    [workflow] = fake.workflows
    inputs = {name: node["inputs"] for name, node in workflow.items()}
    assert inputs["model"] == {"ckpt_name": "xl/sdxl.ckpt"}
    assert inputs["clip"]["stop_at_clip_layer"] == -2
    assert (inputs["positive"]["text"], inputs["negative"]["text"]) == ("a fox", "blurry")
    assert inputs["latent"] == {"width": 64, "height": 128, "batch_size": 1}
    assert inputs["sampled"] == {
        "model": ["model", 0],
        "positive": ["positive", 0],
        "negative": ["negative", 0],
        "latent_image": ["latent", 0],
        "seed": 7,
        "steps": 30,
        "cfg": 5.0,
        "sampler_name": "euler_ancestral",
        "scheduler": "karras",
        "denoise": 1.0,
    }
    assert (made.raster.size, made.raster.pixels()[:3]) == ((64, 128), bytes(COLOUR))


def test_sources_and_masks_are_uploaded_for_the_workflow() -> None:
    fake = FakeComfyUI()
    source, mask = Raster.plain(64, 128, (1, 2, 3)), Raster.plain(64, 128, (255, 255, 255))
    opened(fake, models=["dream*"]).paint(job(source=source, mask=mask, strength=0.5), never)
    [workflow] = fake.workflows
    files = [workflow["source"]["inputs"]["image"], workflow["mask"]["inputs"]["image"]]
    pixels = [Raster.read(fake.uploads[file]).pixels() for file in files]
    assert pixels == [source.pixels(), mask.pixels()]
    assert all(file.endswith(".png [temp]") for file in files)
    assert workflow["mask"]["inputs"]["channel"] == "red"
    assert workflow["sampled"]["inputs"]["latent_image"] == ["masked", 0]
    assert workflow["sampled"]["inputs"]["denoise"] == 0.5


def test_ones_own_workflow_is_filled_in_and_says_what_it_can_do(tmp_path: Path) -> None:
    file = tmp_path / "workflow.json"
    nodes = {
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "photo of %prompt%, best"}},
        "3": {"class_type": "KSampler", "inputs": {"seed": "%seed%", "cfg": "%scale%"}},
    }
    file.write_text(json.dumps(nodes))
    fake = FakeComfyUI()
    backend = opened(fake, workflow=file, models=["my-flux"])
    assert (backend.models, backend.features) == (("my-flux",), frozenset())
    backend.paint(job(model="my-flux", prompt="a fox of seed %seed%"), never)
    assert fake.workflows == [
        {
            "6": {
                "class_type": "CLIPTextEncode",
                "inputs": {"text": "photo of a fox of seed %seed%, best"},
            },
            "3": {"class_type": "KSampler", "inputs": {"seed": 7, "cfg": 5.0}},
        }
    ]


def test_a_prompt_that_looks_like_a_placeholder_stays_a_prompt() -> None:
    values = {"prompt": "%seed%", "seed": 7}
    assert filled({"a": ["%prompt%", "x %prompt%"]}, values) == {"a": ["%seed%", "x %seed%"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no JSON"),
        ('{"nodes": [], "links": []}', "is not in the API format"),
        ("[]", "is not in the API format"),
        ('{"1": {"class_type": "X", "inputs": {}}}', 'has no "%prompt%"'),
    ],
)
def test_a_workflow_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "workflow.json"
    file.write_text(text)
    with pytest.raises(BackendError, match=reason):
        read_workflow(file)
    with pytest.raises(BackendError, match="No such file"):
        read_workflow(tmp_path / "none.json")


def test_a_workflow_that_fails_refuses_the_job() -> None:
    fake = FakeComfyUI()
    fake.fails = True
    with pytest.raises(JobRefused, match="a workflow failed"):
        opened(fake, models=["dream*"]).paint(job(), never)


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_cancelled_workflow_leaves_the_queue_and_ends_but_no_other(is_ours: bool) -> None:
    fake = FakeComfyUI()
    fake.waits = 1000
    fake.running = [[1, "id-1" if is_ours else "another", {}, {}, []]]
    calls = iter([False] * 4 + [True] * 100)
    with pytest.raises(BackendError):
        opened(fake, models=["dream*"]).paint(job(), lambda: next(calls))
    assert fake.deleted == ["id-1"]
    assert fake.interrupted == ([{"prompt_id": "id-1"}] if is_ours else [])


def test_comfyui_tells_how_many_workflows_there_are() -> None:
    fake = FakeComfyUI()
    backend = opened(fake, models=["dream*"])
    fake.running = [[1, "x"]]
    assert backend.state() == ServerState(1)


# OpenAI's images API.

OPENAI = frozenset({"model", "prompt", "n", "size", "response_format"})


def test_a_server_with_openais_api_gets_what_others_of_its_kind_know() -> None:
    fake = FakeOpenAIImages()
    made = opened(fake, kind="openai-images").paint(job(negative="blurry", steps=4), never)
    assert fake.bodies == [
        {
            "model": "dreamshaper_8",
            "prompt": "a fox",
            "n": 1,
            "size": "64x128",
            "response_format": "b64_json",
            "seed": 7,
            "steps": 4,
            "cfg_scale": 5.0,
            "negative_prompt": "blurry",
        }
    ]
    assert (made.raster.size, made.seed) == ((64, 128), 7)


def test_a_server_that_refuses_further_fields_gets_none_from_then_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = FakeOpenAIImages(fields=OPENAI)
    backend = opened(fake, kind="openai-images")
    for _ in range(2):
        backend.paint(job(), never)
    assert [set(body) == OPENAI for body in fake.bodies] == [False, True, True]
    assert f"the backend at {URL} does not know seed: it is left out" in caplog.messages


def test_stable_diffusion_cpp_gets_its_settings_within_the_prompt() -> None:
    fake = FakeOpenAIImages("sd-cpp-local")
    opened(fake, kind="openai-images").paint(job(model="sd-cpp-local", steps=4), never)
    [body] = fake.bodies
    assert body["prompt"] == (
        'a fox<sd_cpp_extra_args>{"seed": 7, "steps": 4, "cfg_scale": 5.0}</sd_cpp_extra_args>'
    )
    assert set(body) == OPENAI


def test_a_mask_is_turned_into_openais_and_another_size_fitted() -> None:
    fake = FakeOpenAIImages()
    fake.size = (128, 128)
    image = Image.new("RGB", (64, 128))
    image.paste((255, 255, 255), (32, 0, 64, 128))
    source = Raster.plain(64, 128, (1, 2, 3))
    made = opened(fake, kind="openai-images").paint(
        job(source=source, mask=Raster(image, "png")), never
    )
    [files] = fake.files
    assert files["image"].pixels() == source.pixels()
    # White is painted anew; OpenAI means by it what is transparent.
    assert files["mask"].alpha()[:64] == b"\xff" * 32 + b"\0" * 32
    assert made.raster.size == (64, 128)


def test_several_models_are_offered_by_name() -> None:
    backend = opened(FakeOpenAIImages("llm", "flux", "sdxl"), kind="openai-images", models=["f*"])
    assert backend.models == ("flux",)
    with pytest.raises(BackendError, match="it has flux, llm"):
        opened(FakeOpenAIImages("llm", "flux"), kind="openai-images")


# Which server it is.


def test_a_url_without_a_server_of_images_is_none_of_them() -> None:
    for path in ("sdapi/v1/sd-models", "object_info/CheckpointLoaderSimple"):
        responses.get(f"{URL}/{path}", status=404)
    assert open_images(URL, ImageOptions()) is None
    with pytest.raises(BackendDown, match="is no comfyui server, or not running"):
        open_images(URL, ImageOptions(kind="comfyui"))
    with pytest.raises(BackendError, match="the kind sdapi needs the URL of a server"):
        open_images("painter", ImageOptions(kind="sdapi"))

"""AUTOMATIC1111's Stable Diffusion web UI, Forge, SD.Next: servers with the API /sdapi/v1.

Facts are from the server's own documentation at /docs. It does one picture at a time, and goes on
with it when its client hangs up: only POST /sdapi/v1/interrupt ends it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests

from horde_proxy.aihorde.baselines import baseline_of, legal_size
from horde_proxy.aihorde.image_limits import FACE_FIXERS, STRIP_BACKGROUND, UPSCALERS
from horde_proxy.pictures import Raster
from horde_proxy.printable import without_login
from horde_proxy.protocol.models import as_mapping
from horde_proxy.worker.backends.base import BackendDown, BackendError, JobRefused, ServerState
from horde_proxy.worker.backends.http_server import HttpServer, get, is_url, new_server_session
from horde_proxy.worker.backends.images.answers import MOST_BYTES, picture_in
from horde_proxy.worker.backends.images.base import (
    HIRES_FIX,
    IMG2IMG,
    PAINTING,
    TILING,
    TRANSPARENT,
    ImageOptions,
    MadePicture,
    PictureJob,
)
from horde_proxy.worker.backends.images.checkpoints import Checkpoint, chosen

_SAMPLERS: Mapping[str, str] = {
    "k_lms": "LMS",
    "k_heun": "Heun",
    "k_euler": "Euler",
    "k_euler_a": "Euler a",
    "k_dpm_2": "DPM2",
    "k_dpm_2_a": "DPM2 a",
    "k_dpm_fast": "DPM fast",
    "k_dpm_adaptive": "DPM adaptive",
    "k_dpmpp_2s_a": "DPM++ 2S a",
    "k_dpmpp_2m": "DPM++ 2M",
    "dpmsolver": "DPM++ 2M",
    "k_dpmpp_sde": "DPM++ SDE",
    "DDIM": "DDIM",
    "lcm": "LCM",
}
"""The horde's samplers in the server's words. `dpmsolver` is DPM-Solver++ of second order."""
_ANY_SAMPLER = "Euler a"
_UPSCALERS: Mapping[str, str] = {
    "RealESRGAN_x4plus": "R-ESRGAN 4x+",
    "RealESRGAN_x2plus": "R-ESRGAN 4x+",
    "RealESRGAN_x4plus_anime_6B": "R-ESRGAN 4x+ Anime6B",
}
"""The horde's upscalers in the server's words. Others are called by their files' names."""
_NO_MODELS = ("None", "Lanczos", "Nearest")
"""Upscalers that only stretch pixels."""
_REMBG = "/rembg"
"""The route of the extension sd-webui-rembg."""
_CENSOR = "filter_nsfw"
"""The option of servers that have a filter: they blur what it finds."""
_CODEFORMER_WEIGHT = 0.5


class SdapiServer(HttpServer):
    """A server that makes pictures with its checkpoints, and mends and enlarges them."""

    def __init__(
        self,
        url: str,
        session: requests.Session,
        checkpoints: Sequence[Checkpoint],
        options: ImageOptions,
    ) -> None:
        super().__init__(url, session)
        self._checkpoints = {checkpoint.name: checkpoint for checkpoint in checkpoints}
        self.models = tuple(self._checkpoints)
        self.max_pixels = options.max_pixels
        self._samplers = _names(self._known("samplers"), "name")
        # Servers before 1.9 have none: there, "DPM++ 2M Karras" is a sampler of its own.
        self._has_schedulers = bool(self._known("schedulers"))
        self._upscalers = [
            name for name in _names(self._known("upscalers"), "name") if name not in _NO_MODELS
        ]
        routes = as_mapping(get(session, f"{url}/openapi.json", "paths"))
        self._has_rembg = _REMBG in routes
        self._censors = options.censor
        if options.censor and _CENSOR not in as_mapping(get(session, f"{url}/sdapi/v1/options")):
            raise BackendError(f"{self.shown_url} has no filter of its own: leave censor out")

    @classmethod
    def open(cls, name: str, options: ImageOptions) -> SdapiServer | None:
        """The server at a URL; None where there is no such server. Raises BackendError."""
        if not is_url(name):
            return None
        url = name.rstrip("/").removesuffix("/sdapi/v1")
        session = new_server_session(options.api_key)
        entries = get(session, f"{url}/sdapi/v1/sd-models")
        if not isinstance(entries, list):
            return None
        checkpoints = [
            Checkpoint(str(entry["model_name"]), str(entry.get("title") or entry["model_name"]))
            for entry in map(as_mapping, entries)
            if entry.get("model_name")
        ]
        if not checkpoints:
            # KoboldCpp without an image model.
            return None
        loaded = as_mapping(get(session, f"{url}/sdapi/v1/options")).get("sd_model_checkpoint")
        server = cls(
            url, session, chosen(checkpoints, loaded, options, without_login(url)), options
        )
        options.report(f"Stable Diffusion web UI at {server.shown_url}")
        return server

    @property
    def features(self) -> frozenset[str]:
        """A background can only be left out by an extension."""
        cut_out = [TRANSPARENT] if self._has_rembg else []
        return frozenset({IMG2IMG, PAINTING, TILING, HIRES_FIX, *cut_out})

    @property
    def post_processors(self) -> frozenset[str]:
        """Those that the server has the models for."""
        upscalers = set(UPSCALERS) if self._upscalers else set()
        background = {STRIP_BACKGROUND} if self._has_rembg else set()
        return frozenset(upscalers | set(FACE_FIXERS) | background)

    def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
        """The picture. Raises BackendError."""
        if job.source is None:
            answer = self._made("txt2img", self._body(job), job.id, cancelled)
        else:
            answer = self._made("img2img", self._body(job) | _source(job), job.id, cancelled)
        images = answer.get("images")
        raster = picture_in(images[0] if isinstance(images, list) and images else None)
        notes = []
        is_cut_out = job.transparent and STRIP_BACKGROUND not in job.post_processing
        for name in (*job.post_processing, *([STRIP_BACKGROUND] if is_cut_out else [])):
            raster, note = self.processed(raster, name, job.facefixer_strength, cancelled)
            notes += [note] if note else []
        return MadePicture(raster, job.seed, tuple(notes))

    def processed(
        self, raster: Raster, name: str, strength: float, cancelled: Callable[[], bool]
    ) -> tuple[Raster, str]:
        """(the picture after a post-processor, a sentence where another one was used).

        Raises BackendError.
        """
        body: dict[str, Any] = {"image": _encoded(raster)}
        note = ""
        if name == STRIP_BACKGROUND:
            answer = self.post(_REMBG, {"input_image": body["image"], "model": "u2net"}, cancelled)
            return picture_in(as_mapping(answer).get("image")), note
        if name in UPSCALERS:
            upscaler = self._upscaler(name)
            if _UPSCALERS.get(name, name) not in upscaler:
                note = f"{upscaler} was used for {name}"
            body |= {"upscaling_resize": UPSCALERS[name], "upscaler_1": upscaler}
        elif name.startswith("CodeFormer"):
            body |= {"codeformer_visibility": strength, "codeformer_weight": _CODEFORMER_WEIGHT}
        else:
            # RestoreFormer is nowhere; GFPGAN does the same for faces.
            note = "GFPGAN was used for RestoreFormer" if name == "RestoreFormer" else ""
            body |= {"gfpgan_visibility": strength}
        answer = self.post("/sdapi/v1/extra-single-image", body, cancelled, most=MOST_BYTES)
        return picture_in(as_mapping(answer).get("image")), note

    def state(self) -> ServerState:
        """Whether it makes a picture. Raises BackendDown."""
        progress = self._progress()
        if progress is None:
            # KoboldCpp and stable-diffusion.cpp have this API without its progress.
            if self.read("/sdapi/v1/sd-models") is None:
                raise BackendDown(f"the backend at {self.shown_url} does not answer")
            return ServerState()
        return ServerState(1 if as_mapping(progress.get("state")).get("job_count") else 0)

    def slots(self) -> int:
        """One: it makes pictures one after another."""
        return 1

    def _body(self, job: PictureJob) -> dict[str, Any]:
        checkpoint = self._checkpoints[job.model]
        settings: dict[str, Any] = {
            "sd_model_checkpoint": checkpoint.title,
            "CLIP_stop_at_last_layers": job.clip_skip,
        }
        if self._censors:
            settings[_CENSOR] = job.censors
        return {
            "prompt": job.prompt,
            "negative_prompt": job.negative,
            "seed": job.seed,
            "steps": job.steps,
            "cfg_scale": job.cfg_scale,
            "width": job.width,
            "height": job.height,
            "tiling": job.tiling,
            "batch_size": 1,
            "n_iter": 1,
            "send_images": True,
            "save_images": False,
            "override_settings": settings,
            # Loading a checkpoint takes longer than a picture: the next job may need the same.
            "override_settings_restore_afterwards": False,
            "force_task_id": job.id,
            **self._sampling(job),
            **(_second_pass(job) if job.hires_fix and job.source is None else {}),
        }

    def _sampling(self, job: PictureJob) -> dict[str, Any]:
        """The sampler and its schedule, as this version of the server calls them."""
        name = _SAMPLERS[job.sampler]
        if self._samplers and name not in self._samplers:
            self.note_left_out([job.sampler])
            name = _ANY_SAMPLER
        if self._has_schedulers:
            return {"sampler_name": name, "scheduler": "karras" if job.karras else "automatic"}
        karras = f"{name} Karras"
        return {"sampler_name": karras if job.karras and karras in self._samplers else name}

    def _upscaler(self, name: str) -> str:
        """The server's upscaler for one of the horde's: the same, or the first that it has."""
        wanted = _UPSCALERS.get(name, name)
        same = [upscaler for upscaler in self._upscalers if wanted in upscaler]
        if not self._upscalers:
            raise JobRefused("it has no upscalers", "this worker has no upscalers")
        return (same or self._upscalers)[0]

    def _made(
        self, route: str, body: Mapping[str, Any], task: str, cancelled: Callable[[], bool]
    ) -> Mapping[str, Any]:
        try:
            return as_mapping(self.post(f"/sdapi/v1/{route}", body, cancelled, most=MOST_BYTES))
        except BackendError:
            if cancelled():
                self._interrupt(task)
            raise

    def _interrupt(self, task: str) -> None:
        """End our picture, but never one of the server's owner."""
        running = (self._progress() or {}).get("current_task")
        if running in (None, task):
            get(self._session, f"{self.url}/sdapi/v1/interrupt", body={})

    def _progress(self) -> Mapping[str, Any] | None:
        url = f"{self.url}/sdapi/v1/progress?skip_current_image=true"
        progress = get(self._session, url)
        return progress if isinstance(progress, dict) else None

    def _known(self, what: str) -> Sequence[Any]:
        """The server's list of samplers, schedulers or upscalers; empty where it has none."""
        entries = get(self._session, f"{self.url}/sdapi/v1/{what}")
        return entries if isinstance(entries, list) else ()


def _second_pass(job: PictureJob) -> dict[str, Any]:
    """First in the size that the model was trained for, then in the size of the job."""
    side = baseline_of(job.model).side
    if job.width * job.height <= side * side:
        return {}
    width, height = legal_size(job.width, job.height, side * side)
    return {
        "enable_hr": True,
        "width": width,
        "height": height,
        "hr_resize_x": job.width,
        "hr_resize_y": job.height,
        "hr_upscaler": "Latent",
        "denoising_strength": job.hires_strength,
    }


def _source(job: PictureJob) -> dict[str, Any]:
    """What img2img needs besides: the source, and the mask, whose white is painted anew."""
    assert job.source is not None
    body = {"init_images": [_encoded(job.source)], "denoising_strength": job.strength}
    if job.mask is None:
        return body
    return {
        **body,
        "mask": _encoded(job.mask),
        "inpainting_mask_invert": 0,
        # 1: it begins with what is there, as the horde's own workers do.
        "inpainting_fill": 1,
        "inpaint_full_res": False,
        "mask_blur": 4,
    }


def _encoded(raster: Raster) -> str:
    return base64.b64encode(raster.encoded("png")).decode("ascii")


def _names(entries: Sequence[Any], key: str) -> list[str]:
    return [str(entry[key]) for entry in map(as_mapping, entries) if entry.get(key)]

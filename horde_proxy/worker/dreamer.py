"""A worker for images: it reads a job's payload and sources, and delivers what is made.

A picture goes as WebP to the link that came with the job, without any key; the submit then says
"R2". Where there is no such link, or it fails, the picture is in the submit as base64.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from horde_proxy.aihorde.image_limits import (
    IMAGE_PARAMETERS,
    LEAST_SIDE,
    MOST_CFG,
    MOST_SIDE,
    MOST_STEPS,
    NEGATIVE,
    POST_PROCESSORS,
)
from horde_proxy.numbers import finite
from horde_proxy.pictures import Raster
from horde_proxy.upstreams.picture_links import PictureLinks, PictureLost
from horde_proxy.worker.backends import JobRefused
from horde_proxy.worker.backends.images import ImageBackend, MadePicture, PictureJob
from horde_proxy.worker.backends.images.base import (
    HIRES_FIX,
    IMG2IMG,
    PAINTING,
    TILING,
    TRANSPARENT,
)
from horde_proxy.worker.delivery import OpenLinks, links_of, webp_of
from horde_proxy.worker.horde import Job, Offer, Outcome, information
from horde_proxy.worker.job_rules import JobRules
from horde_proxy.worker.kinds import JobSummary, PoppedJob

PATH = "generate"
_SEEDS = 2**32
"""AI-Horde's seeds are below this."""
_MOST_BATCH = 20
"""Jobs of one pop: AI-Horde's bound for `amount`."""

log = logging.getLogger(__name__)


class Dreamer:
    """Makes pictures with one backend. `batch`: how many pictures of one request a pop may give.

    `links` opens the links of a job's horde.
    """

    path = PATH

    def __init__(
        self,
        backend: ImageBackend,
        *,
        rules: JobRules | None = None,
        batch: int = 1,
        links: OpenLinks = links_of,
    ) -> None:
        self.server: object = backend
        self.name = ", ".join(backend.models)
        self._backend, self._rules, self._links = backend, rules or JobRules(), links
        self._batch = batch

    def offer(self, threads: int) -> Offer:
        """All models, the largest picture, and which jobs the backend can do."""
        features = self._backend.features
        fields = {
            "models": list(self._backend.models),
            "max_pixels": self._backend.max_pixels,
            "threads": threads,
            "amount": self._batch,
            "blacklist": list(self._rules.words),
            "allow_img2img": IMG2IMG in features,
            "allow_painting": PAINTING in features,
            "allow_post_processing": bool(self._backend.post_processors),
            # These need files that a backend has not, and would have to download.
            "allow_controlnet": False,
            "allow_lora": False,
            # Whether requests from VPNs are served: their requesters are not known here anyway.
            "allow_unsafe_ipaddr": True,
        }
        return Offer(fields, jobs_in=jobs_of_batch)

    def summary(self, job: Job) -> JobSummary:
        """The model."""
        return JobSummary("image", str(job.get("model") or self.name))

    def check(self, job: Job) -> None:
        """Raises JobRefused for a job that the filters or the backend's models exclude."""
        self._rules.check_prompt(job)
        self._model_of(job)
        if reason := self._obstacle(job):
            raise JobRefused(reason, reason)

    def work(self, popped: PoppedJob, cancelled: Callable[[], bool]) -> Outcome:
        """The picture of a job, delivered. Raises BackendError."""
        links = self._links(popped)
        try:
            job = read_job(popped.job, self._model_of(popped.job), links)
        except PictureLost as exc:
            log.warning("job %s: %s", popped.id, exc)
            return Outcome("faulted", reason="the source image cannot be fetched")
        made = self._backend.paint(job, cancelled)
        if cancelled():
            # Nobody sees it, so nothing is uploaded.
            return Outcome("faulted", reason="the worker is being stopped")
        metadata = [information(note) for note in (*made.notes, *self._left_out(job))]
        text = _delivered(made, popped.job.get("r2_upload"), links)
        return Outcome("ok", text, seed=made.seed, metadata=metadata)

    def body(self, job_id: str, outcome: Outcome) -> dict[str, Any]:
        """The body of POST generate/submit."""
        return outcome.body(job_id)

    def _left_out(self, job: PictureJob) -> Iterator[str]:
        """Sentences about what the job has and the backend does not do."""
        for word, applies in ((TILING, job.tiling), (HIRES_FIX, job.hires_fix)):
            if applies and word not in self._backend.features:
                yield f"{word} was left out: this worker does not have it"

    def _model_of(self, job: Job) -> str:
        """The job's model. Raises JobRefused."""
        models = self._backend.models
        model = str(job.get("model"))
        if model in models:
            return model
        # The only one, whatever the horde calls it.
        if len(models) == 1:
            return models[0]
        raise JobRefused("its model is not offered here", "this worker has no such model")

    def _obstacle(self, job: Job) -> str:
        """Why the backend cannot do a job, which a horde should not have given; "" if it can."""
        payload, features = job.get("payload") or {}, self._backend.features
        width, height = size_of(payload)
        unknown = set(_post_processing(payload)) - self._backend.post_processors
        obstacles = {
            "this worker takes one source image only": job.get("extra_source_images"),
            "this worker takes no source images": job.get("source_image")
            and IMG2IMG not in features,
            "this worker takes no masks": job.get("source_mask") and PAINTING not in features,
            "this worker makes no transparent images": payload.get("transparent") is True
            and TRANSPARENT not in features,
            f"this worker has no {', '.join(sorted(unknown))}": unknown,
            "this worker makes no images of this size": width * height > self._backend.max_pixels,
            "this worker has no ControlNets, LoRAs and workflows": any(
                payload.get(name) for name in ("control_type", "loras", "tis", "workflow")
            ),
        }
        return next((reason for reason, applies in obstacles.items() if applies), "")


def jobs_of_batch(answer: Mapping[str, Any]) -> Sequence[Job]:
    """The jobs in an answer: one for each of `ids`, with its link and seed.

    A batch is several pictures of one request (capture image_pop_job_n2_amount2), whose seeds
    follow each other.
    """
    if not answer.get("id"):
        return ()
    ids, uploads = answer.get("ids"), answer.get("r2_uploads")
    ids = [str(job_id) for job_id in ids][:_MOST_BATCH] if isinstance(ids, list) else []
    if len(ids) < 2:
        return [answer]
    uploads = (
        uploads if isinstance(uploads, list) and len(uploads) == len(ids) else [None] * len(ids)
    )
    return [
        {**answer, "id": job_id, "r2_upload": upload, "seed_offset": number}
        for number, (job_id, upload) in enumerate(zip(ids, uploads, strict=False))
    ]


def read_job(job: Job, model: str, links: PictureLinks) -> PictureJob:
    """The picture to make. Raises JobRefused, and PictureLost for a source."""
    payload = job.get("payload")
    payload = payload if isinstance(payload, Mapping) else {}
    width, height = size_of(payload)
    prompt, _, negative = str(payload.get("prompt") or "").partition(NEGATIVE)
    source, mask = _sources(job, links, width, height)
    variation = _whole(payload.get("seed_variation"), 1, 1000, 1)
    seed = (
        seed_of(payload.get("seed")) + _whole(job.get("seed_offset"), 0, _MOST_BATCH, 0) * variation
    )
    return PictureJob(
        id=str(job["id"]),
        model=model,
        prompt=prompt.strip(),
        negative=negative.strip(),
        width=width,
        height=height,
        seed=seed % _SEEDS,
        steps=_whole(payload.get("ddim_steps"), 1, MOST_STEPS, 30),
        cfg_scale=_share(payload.get("cfg_scale"), 5.0, MOST_CFG),
        sampler=_sampler(payload.get("sampler_name")),
        karras=payload.get("karras") is not False,
        clip_skip=_whole(payload.get("clip_skip"), 1, 12, 1),
        tiling=payload.get("tiling") is True,
        transparent=payload.get("transparent") is True,
        hires_fix=payload.get("hires_fix") is True,
        hires_strength=_share(payload.get("hires_fix_denoising_strength"), 0.65),
        # What is painted within a mask is anew, unless the requester says otherwise.
        strength=_share(payload.get("denoising_strength"), 0.75 if mask is None else 1.0),
        source=source,
        mask=mask,
        post_processing=_post_processing(payload),
        facefixer_strength=_share(payload.get("facefixer_strength"), 0.75),
        censors=payload.get("use_nsfw_censor") is True,
    )


def size_of(payload: Mapping[str, Any]) -> tuple[int, int]:
    """(width, height) of the picture to make. Raises JobRefused beyond the horde's bounds."""
    width, height = (
        _whole(payload.get(name), LEAST_SIDE, MOST_SIDE, 512) for name in ("width", "height")
    )
    return width, height


def seed_of(value: Any) -> int:
    """A job's seed, "42", as a number; another text is hashed, as AI-Horde does it."""
    text = str(value if value is not None else 0)
    if text.isascii() and text.isdecimal() and len(text) < 100:
        return int(text) % _SEEDS
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _sources(
    job: Job, links: PictureLinks, width: int, height: int
) -> tuple[Raster | None, Raster | None]:
    """(source, mask) in the size of the job; the mask is the source's own transparency if need be.

    Raises PictureLost.
    """
    source = _fetched(job.get("source_image"), links)
    if source is None:
        return None, None
    source = source.covering(width, height)
    mask = _fetched(job.get("source_mask"), links)
    if mask is not None:
        return source.opaque(), mask.opaque((0, 0, 0)).covering(width, height)
    is_painting = job.get("source_processing") in ("inpainting", "outpainting")
    # Transparent pixels are painted anew where there is no mask (capture image_pop_inpaint_alpha).
    mask = source.repaint_mask() if is_painting and source.has_alpha else None
    return source.opaque(), mask


def _fetched(image: Any, links: PictureLinks) -> Raster | None:
    """The picture of a link or base64. Raises PictureLost."""
    if not isinstance(image, str) or not image:
        return None
    return links.fetch(image)[1]


def _delivered(made: MadePicture, upload: Any, links: PictureLinks) -> str:
    """The `generation` of the submit, after the picture was uploaded. Raises BackendError."""
    data = webp_of(made.raster)
    if isinstance(upload, str) and upload:
        try:
            links.upload(upload, data, "image/webp")
            return "R2"
        except PictureLost as exc:
            log.warning("%s; it goes with the submit", exc)
    return base64.b64encode(data).decode("ascii")


def _post_processing(payload: Mapping[str, Any]) -> tuple[str, ...]:
    value = payload.get("post_processing")
    names = value if isinstance(value, list) else []
    return tuple(name for name in names if name in POST_PROCESSORS)


def _sampler(value: Any) -> str:
    names = cast(Sequence[str], IMAGE_PARAMETERS["sampler_name"]["enum"])
    return value if value in names else "k_euler_a"


def _whole(value: Any, least: int, most: int, default: int) -> int:
    """A whole number within bounds. Raises JobRefused for one beyond them."""
    if value is None:
        return default
    number = finite(value)
    if number is None or not least <= number <= most:
        raise JobRefused("a number out of range", "a number of the job is out of range")
    return int(number)


def _share(value: Any, default: float, most: float = 1.0) -> float:
    """A number from 0 to `most`; the default for anything else."""
    number = finite(value)
    return default if number is None or not 0 <= number <= most else number

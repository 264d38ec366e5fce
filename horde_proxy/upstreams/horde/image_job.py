"""The image kind of job: a request for pictures as the body of a submit, and its results read.

Pure but for the catalog, which it looks at again when workers fail. See jobs.py for the contract.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from horde_proxy.aihorde import image_kudos, image_limits, kudos
from horde_proxy.aihorde.baselines import Baseline, legal_size
from horde_proxy.aihorde.image_limits import UpfrontLimit
from horde_proxy.aihorde.names import is_name
from horde_proxy.errors import InvalidRequest, NoEligibleWorker, Unavailable
from horde_proxy.pictures import MOST_PIXELS
from horde_proxy.protocol.image_request import ImageRequest
from horde_proxy.upstreams.base import Caller
from horde_proxy.upstreams.horde import text
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.image_catalog import ImageModel, ImageWorker
from horde_proxy.upstreams.horde.jobs import (
    Estimate,
    Generation,
    JobKind,
    OneRequestJob,
    generation_progress,
    generations,
)
from horde_proxy.upstreams.horde.workers import Filters, exclusion, worker_list

IMAGE = JobKind(
    name="image",
    submit_path="generate/async",
    check_path="generate/check",
    status_path="generate/status",
    is_final=text.is_final,
    progress=generation_progress,
    results=generations,
)
_STRENGTH = 0.6
"""How much of a source changes where the client does not say (images-api.md 4.2)."""
_UPSCALER = "RealESRGAN_x2plus"
_SOURCE_QUALITY = 95
"""Of a source that goes to the horde as WebP: a loss that no model notices."""
# Parameters of a request that a plan decides. All others are the horde's under the same name.
_DECIDED = frozenset(
    {"negative_prompt", "steps", "cfg_scale", "sampler_name", "karras", "post_processing"}
)


@dataclass(frozen=True)
class ImageGeneration(Generation):
    """A picture of the horde: a link to it, or base64. `seed` is a text."""

    image: str = field(repr=False)
    seed: str
    is_csam: bool


@dataclass(frozen=True)
class ImagePlan:
    """What is decided before the first submit.

    `size` is the legal size that is made, which may be another one than was asked for; `warnings`
    say so. `most_pixels`: what the model's workers make at most.
    """

    request: ImageRequest
    model: ImageModel
    workers: tuple[ImageWorker, ...]
    filters: Filters
    size: tuple[int, int]
    steps: int
    sampler: str
    cfg_scale: float
    post_processing: tuple[str, ...]
    is_transparent: bool
    warnings: tuple[str, ...]

    @property
    def baseline(self) -> Baseline:
        """The family of the model."""
        return self.model.baseline

    def kudos(self) -> float:
        """What one picture costs, without taxes."""
        parameters = self.request.parameters
        return image_kudos.image(
            *self.size,
            self.steps,
            self.baseline,
            sampler=self.sampler,
            has_source=bool(self.request.sources),
            has_control="control_type" in parameters,
            post_processing=self.post_processing,
            loras=len(parameters.get("loras", ())),
            inversions=len(parameters.get("tis", ())),
        )

    def within(self, limit: UpfrontLimit) -> ImagePlan:
        """The same plan, as small as needs no kudos."""
        size = legal_size(*self.size, min(limit.side, image_limits.MOST_SIDE) ** 2)
        steps = max(min(self.steps, _single_steps(limit.steps, self.sampler)), 1)
        return replace(self, size=size, steps=steps)


def make_image_plan(
    request: ImageRequest, model: ImageModel, *, most_pixels: int, filters: Filters
) -> ImagePlan:
    """The plan for a request. `most_pixels`: what the key's kudos permit. `filters`: for images.

    Raises InvalidRequest for what the model cannot do, Unavailable where no worker can.
    """
    _check_possible(request, model)
    workers = _workers(request, model, filters)
    baseline, parameters = model.baseline, request.parameters
    is_transparent = request.is_transparent and _can_be_transparent(request, baseline)
    post_processing = _post_processing(request, baseline)
    largest = min(
        max(worker.max_pixels for worker in workers), most_pixels, _most_before(post_processing)
    )
    size, wanted = _size(request, baseline, largest)
    warnings = list(request.warnings)
    if wanted is not None and size != wanted:
        warnings.append(f"size: {size[0]}x{size[1]} is made")
    if "negative_prompt" in parameters and not baseline.has_negative:
        warnings.append("negative_prompt: has no effect on this model")
    steps = parameters.get("steps", baseline.steps_for(request.quality))
    sampler = parameters.get("sampler_name", baseline.sampler)
    cfg_scale = parameters.get("cfg_scale", baseline.cfg_scale)
    if not request.style:
        warnings += model.facts.warnings(steps, cfg_scale, sampler)
    return ImagePlan(
        request,
        model,
        workers,
        filters,
        size,
        steps=steps,
        sampler=sampler,
        cfg_scale=cfg_scale,
        post_processing=post_processing,
        is_transparent=is_transparent,
        warnings=tuple(warnings),
    )


def _can_be_transparent(request: ImageRequest, baseline: Baseline) -> bool:
    """Whether the model itself can leave the background out: never with a control."""
    return baseline.can_be_transparent and "control_type" not in request.parameters


def _post_processing(request: ImageRequest, baseline: Baseline) -> tuple[str, ...]:
    """The post-processors that a request needs, those that it names first."""
    names = list(request.parameters.get("post_processing", ()))
    if request.is_transparent and not _can_be_transparent(request, baseline):
        names.append(image_limits.STRIP_BACKGROUND)
    if request.is_upscaled and not any(name in image_limits.UPSCALERS for name in names):
        names.append(_UPSCALER)
    return tuple(dict.fromkeys(names))


def _most_before(post_processing: Sequence[str]) -> int:
    """The pixels of a picture that is not too large to be read when it was enlarged."""
    factor = max((image_limits.UPSCALERS.get(name, 1) for name in post_processing), default=1)
    return MOST_PIXELS // factor**2


@dataclass(eq=False)
class ImageJob(OneRequestJob):
    """n pictures of one plan."""

    horde: HordeContext
    plan: ImagePlan
    n: int
    api_key: str = field(repr=False)
    caller: Caller
    max_kudos: float | None
    slow_workers: bool = True

    @property
    def kind(self) -> JobKind:
        return IMAGE

    @property
    def models(self) -> Sequence[str]:
        return (self.plan.model.name,)

    @property
    def journal_key(self) -> str:
        question = (self.n, self.plan.model.name, self.plan.request)
        return hashlib.sha256(repr(question).encode()).hexdigest()

    @property
    def description(self) -> str:
        width, height = self.plan.size
        return f"{self.plan.model.name} with {width}x{height} pixels"

    def payload(self, n: int, worker: str | None) -> dict[str, Any]:
        plan, request = self.plan, self.plan.request
        return {
            "prompt": _prompt(request, plan.baseline),
            "params": _params(plan, n),
            **_model_fields(plan),
            # Both default to true in the real horde (images-api.md 3.1).
            "nsfw": request.allows_nsfw,
            "censor_nsfw": not request.allows_nsfw,
            "trusted_workers": plan.filters.trusted,
            "slow_workers": self.slow_workers,
            # Without it, a suspicious word puts the address of this proxy into time-out.
            "replacement_filter": True,
            "r2": True,
            "shared": False,
            **_worker_fields(plan),
            **_sources(plan),
        }

    def price(self, n: int) -> float:
        return image_kudos.request(self.plan.kudos(), n, slow_workers=self.slow_workers)

    def upfront(self, n: int) -> float:
        width, height = self.plan.size
        steps = image_limits.accurate_steps(self.plan.steps, self.plan.sampler)
        is_free = (
            width * height <= image_limits.MOST_PIXELS_FREE
            and steps <= image_limits.MOST_STEPS_FREE
            and self.slow_workers
        )
        return 0.0 if is_free else self.price(n)

    def estimate(self) -> Estimate:
        width, height = self.plan.size
        work = width * height * image_limits.accurate_steps(self.plan.steps, self.plan.sampler)
        threads = sum(worker.threads for worker in self.plan.workers) or 1
        rounds = -(-self.n // threads)
        seconds = work / self.plan.model.speed * rounds
        return Estimate(self.plan.model.queue_seconds(), seconds)

    def read(self, result: Mapping[str, Any]) -> ImageGeneration:
        model, worker, worker_name = map(result.get, ("model", "worker_id", "worker_name"))
        metadata = result.get("gen_metadata")
        entries = metadata if isinstance(metadata, list) else []
        reasons = [entry.get("value") for entry in entries if isinstance(entry, dict)]
        seed = result.get("seed")
        return ImageGeneration(
            model=model if is_name(model) else self.plan.model.name,
            worker=worker if is_name(worker) else "",
            worker_name=worker_name if is_name(worker_name) else "",
            # `state` is "ok" for censored pictures too (images-api.md 3.6).
            is_censored=bool(result.get("censored")) or text.is_censored(result),
            image=str(result.get("img") or ""),
            seed=str(seed)[:100] if isinstance(seed, str | int) else "",
            is_csam="csam" in reasons,
        )

    def is_good(self, generation: ImageGeneration) -> bool:
        """Another seed may do, but a prompt that was censored is so again: it is not repeated.

        "N/A" is what the horde gives for a picture that its worker never stored.
        """
        return generation.is_censored or generation.image not in ("", "N/A")

    def shrink_to_free(self, limit: UpfrontLimit | None = None) -> bool:
        if limit is None:
            return False
        smaller = self.plan.within(limit)
        is_smaller = (smaller.size, smaller.steps) != (self.plan.size, self.plan.steps)
        warnings = list(self.plan.warnings)
        if smaller.size != self.plan.size:
            width, height = smaller.size
            warnings.append(f"size: {width}x{height} is made, for too few kudos")
        if smaller.steps != self.plan.steps:
            warnings.append(f"steps: {smaller.steps} are made, for too few kudos")
        smaller = replace(smaller, warnings=tuple(warnings))
        is_smaller = is_smaller or not self.slow_workers
        self.plan, self.slow_workers = smaller, True
        return is_smaller

    def note_fault(self) -> None:
        """The horde does not say which worker failed, and counts none that could be compared."""


def most_pixels(spendable: float, is_known: bool) -> int:
    """The pixels of a picture that a key may ask for: more than the free ones costs kudos upfront.

    `is_known`: whether the key's kudos are known, and it is no anonymous one.
    """
    has_kudos = is_known and spendable - kudos.REGISTERED_FLOOR > _RICH
    return image_limits.MOST_SIDE**2 if has_kudos else image_limits.MOST_PIXELS_FREE


_RICH = 500.0
"""Kudos with which a larger picture is tried. If they do not suffice, the horde names its limit."""


def _check_possible(request: ImageRequest, model: ImageModel) -> None:
    """Raises InvalidRequest for what the horde refuses of a model (images-api.md 3.3)."""
    baseline, parameters = model.baseline, request.parameters
    if len(request.sources) > 1:
        raise InvalidRequest(
            "The horde changes one image at a time: send one `image`.",
            param="image",
            code="invalid_value",
        )
    if "control_type" in parameters and not baseline.can_control:
        raise _impossible("control_type", model)
    if "control_type" in parameters and not request.sources:
        raise InvalidRequest(
            "'control_type' needs an image: use POST /v1/images/edits.",
            param="control_type",
            code="invalid_value",
        )
    if "control_type" in parameters and request.mask is not None:
        raise InvalidRequest(
            "'control_type' cannot be used with a mask: send one of the two.",
            param="control_type",
            code="invalid_value",
        )
    if parameters.get("hires_fix") and not baseline.can_fix_hires:
        raise _impossible("hires_fix", model)


def _impossible(name: str, model: ImageModel) -> InvalidRequest:
    return InvalidRequest(
        f"Invalid value for '{name}': the model `{model.name}` cannot do that.",
        param=name,
        code="invalid_value",
    )


def _workers(request: ImageRequest, model: ImageModel, filters: Filters) -> tuple[ImageWorker, ...]:
    """The workers that can take a request. Raises Unavailable."""
    active = [worker for worker in model.workers if not worker.in_maintenance]
    if not active:
        raise Unavailable(f"`{model.name}` cannot be used now: its workers are in maintenance.")
    eligible = [worker for worker in active if filters.admits(worker)]
    if not eligible:
        raise NoEligibleWorker(f"`{model.name}` cannot be used now: {exclusion(active, filters)}.")
    able = tuple(worker for worker in eligible if not _lacks(worker, request, model.baseline))
    if not able:
        counts = Counter(
            name for worker in eligible for name in _lacks(worker, request, model.baseline)
        )
        lacks = ", ".join(f"`{name}` {count}" for name, count in counts.items())
        raise NoEligibleWorker(
            f"`{model.name}` cannot be used for this now: none of its {len(eligible)} online "
            f"workers takes such a request (refused for {lacks}). Leave that out, or choose "
            "another model."
        )
    return able


def _lacks(worker: ImageWorker, request: ImageRequest, baseline: Baseline) -> list[str]:
    """The fields of a request that keep a worker from it; none for one that may take it."""
    parameters = request.parameters
    needs = {
        "image": (worker.takes_sources, bool(request.sources)),
        "mask": (worker.can_inpaint, request.repaints),
        "control_type": (worker.can_control, "control_type" in parameters),
        "loras": (worker.can_use_loras, bool(parameters.get("loras"))),
        "post_processing": (worker.can_post_process, bool(_post_processing(request, baseline))),
        "nsfw": (worker.takes_nsfw, request.allows_nsfw),
    }
    return [name for name, (is_able, is_needed) in needs.items() if is_needed and not is_able]


def _size(
    request: ImageRequest, baseline: Baseline, most: int
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """(the legal size that is made, the size that was asked for or None)."""
    wanted = request.size
    if wanted is None and request.sources:
        wanted = request.sources[0].size
    if wanted is None:
        return legal_size(baseline.side, baseline.side, most), None
    return legal_size(*wanted, most), wanted


def _prompt(request: ImageRequest, baseline: Baseline) -> str:
    prompt = image_limits.without_negative(request.prompt)
    negative = request.parameters.get("negative_prompt", "")
    if not negative or not baseline.has_negative:
        return prompt
    return f"{prompt} {image_limits.NEGATIVE} {image_limits.without_negative(negative)}"


def _model_fields(plan: ImagePlan) -> dict[str, Any]:
    """Which model makes the picture: a style names its own models (images-api.md 3.8)."""
    style = plan.request.style
    return {"style": style} if style else {"models": [plan.model.name]}


def _decided(plan: ImagePlan) -> dict[str, Any]:
    """The parameters that suit the plan's model; none where a style has its own."""
    if plan.request.style:
        return {}
    return {
        "steps": plan.steps,
        "cfg_scale": plan.cfg_scale,
        "sampler_name": plan.sampler,
        "karras": plan.request.parameters.get("karras", plan.baseline.karras),
        "clip_skip": plan.baseline.clip_skip,
    }


def _params(plan: ImagePlan, n: int) -> dict[str, Any]:
    request, parameters = plan.request, plan.request.parameters
    width, height = plan.size
    params: dict[str, Any] = {
        "n": n,
        "width": width,
        "height": height,
        **_decided(plan),
        **{name: value for name, value in parameters.items() if name not in _DECIDED},
    }
    if plan.post_processing:
        params["post_processing"] = list(plan.post_processing)
    if plan.is_transparent:
        params["transparent"] = True
    if request.sources:
        params["denoising_strength"] = request.strength or _STRENGTH
        # A mask says what may change: there, everything may.
        if request.repaints and request.strength is None:
            params["denoising_strength"] = 1.0
    return params


def _sources(plan: ImagePlan) -> dict[str, Any]:
    """The fields of a submit about what is to be changed."""
    request = plan.request
    if not request.sources:
        return {}
    source = request.sources[0]
    mask = (request.mask or source) if request.repaints else None
    fields: dict[str, Any] = {
        "source_image": _as_base64(
            source.opaque().resized(*plan.size).encoded("webp", quality=_SOURCE_QUALITY)
        ),
        "source_processing": "img2img" if mask is None else "inpainting",
    }
    if mask is not None:
        # The horde's white is what OpenAI's transparency is: painted anew.
        fields["source_mask"] = _as_base64(
            mask.repaint_mask().resized(*plan.size).encoded("webp", quality=100)
        )
    return fields


def _as_base64(data: bytes) -> str:
    # The horde wants it bare, without the head of a data URL.
    return base64.b64encode(data).decode("ascii")


def _worker_fields(plan: ImagePlan) -> dict[str, Any]:
    """The fields of a submit that keep out whom the filters do not admit."""
    filters = plan.filters
    unwanted = [
        worker.id
        for worker in plan.model.workers
        if worker.id and filters.must_name(worker, is_image=True)
    ]
    return worker_list(plan.workers, unwanted, must_list=bool(filters.allow))


def _single_steps(accurate: int, sampler: str) -> int:
    """The steps of a sampler that count as so many."""
    return accurate // 2 if sampler in image_limits.SECOND_ORDER else accurate

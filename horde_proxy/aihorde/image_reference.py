"""What the horde's reference of image models says of each: its family, and what suits it. Pure.

The reference is a JSON document {name: record}, under the AGPL: it is fetched where the settings
name one, and never shipped. Its values are checked: one that makes no sense counts as absent.
Fields: images-api.md 3.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from horde_proxy.aihorde.baselines import BASELINES, Baseline
from horde_proxy.aihorde.image_limits import MOST_CFG, MOST_STEPS, SAMPLERS
from horde_proxy.numbers import finite

_MOST_CLIP_SKIP = 12


@dataclass(frozen=True)
class ImageModelFacts:
    """One model. None and () mean that the reference says nothing.

    `baseline` is the name of a family. The others are the model's `requirements`: a picture that
    keeps to none of them is made, but a bad one. `can_fix_hires` and `can_control` are False where
    the reference says that the model does not support them.
    """

    baseline: str | None = None
    is_inpainting: bool | None = None
    is_nsfw: bool | None = None
    least_steps: int = 1
    most_steps: int = MOST_STEPS
    cfg_scale: float | None = None
    least_cfg: float = 0.0
    most_cfg: float = float(MOST_CFG)
    samplers: tuple[str, ...] = ()
    is_karras: bool | None = None
    clip_skip: int | None = None
    can_fix_hires: bool = True
    can_control: bool = True

    def suited(self, family: Baseline) -> Baseline:
        """What images of this model are made with, where its family alone would have `family`."""
        if self == NO_FACTS:
            return family
        low, medium, high = (
            min(max(steps, self.least_steps), self.most_steps) for steps in family.steps
        )
        cfg_scale = family.cfg_scale if self.cfg_scale is None else self.cfg_scale
        is_free = not self.samplers or family.sampler in self.samplers
        return replace(
            family,
            steps=(low, medium, high),
            cfg_scale=min(max(cfg_scale, self.least_cfg), self.most_cfg),
            sampler=family.sampler if is_free else self.samplers[0],
            karras=family.karras if self.is_karras is None else self.is_karras,
            clip_skip=self.clip_skip or family.clip_skip,
            can_control=family.can_control and self.can_control,
            can_fix_hires=family.can_fix_hires and self.can_fix_hires,
        )

    def warnings(self, steps: int, cfg_scale: float, sampler: str) -> list[str]:
        """What of these the model is not made for: sentences for a client."""
        unsuited = []
        if not self.least_steps <= steps <= self.most_steps:
            unsuited.append(f"steps: the model is made for {self.least_steps} to {self.most_steps}")
        if not self.least_cfg <= cfg_scale <= self.most_cfg:
            unsuited.append(
                f"cfg_scale: the model is made for {self.least_cfg:g} to {self.most_cfg:g}"
            )
        if self.samplers and sampler not in self.samplers:
            unsuited.append(f"sampler_name: the model is made for {', '.join(self.samplers)}")
        return unsuited


NO_FACTS = ImageModelFacts()
"""The facts of a model that the reference does not have."""


def read_image_reference(document: Any) -> dict[str, ImageModelFacts]:
    """The facts by the models' names; {} for what is no reference."""
    if not isinstance(document, Mapping):
        return {}
    return {
        name: _facts(record)
        for name, record in document.items()
        if isinstance(name, str) and isinstance(record, Mapping)
    }


def _facts(record: Mapping[str, Any]) -> ImageModelFacts:
    given = record.get("requirements")
    needs: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    least_steps, most_steps = _range(needs, "steps", 1, MOST_STEPS)
    least_cfg, most_cfg = _range(needs, "cfg_scale", 0, MOST_CFG)
    schedulers = [str(name).lower() for name in _texts(needs.get("schedulers"))]
    unsupported = _texts(record.get("features_not_supported"))
    baseline = record.get("baseline")
    return ImageModelFacts(
        baseline=baseline if isinstance(baseline, str) and baseline in BASELINES else None,
        is_inpainting=_boolean(record.get("inpainting")),
        is_nsfw=_boolean(record.get("nsfw")),
        least_steps=int(least_steps),
        most_steps=int(most_steps),
        cfg_scale=_within(needs.get("cfg_scale"), 0, MOST_CFG),
        least_cfg=least_cfg,
        most_cfg=most_cfg,
        samplers=tuple(name for name in _texts(needs.get("samplers")) if name in SAMPLERS),
        is_karras="karras" in schedulers if schedulers else None,
        clip_skip=int(_within(needs.get("clip_skip"), 1, _MOST_CLIP_SKIP) or 0) or None,
        can_fix_hires="hires_fix" not in unsupported,
        can_control="controlnet" not in unsupported,
    )


def _range(needs: Mapping[str, Any], name: str, least: float, most: float) -> tuple[float, float]:
    """(the least, the most) that a model needs; all that the horde takes where they contradict."""
    low, high = (_within(needs.get(f"{end}_{name}"), least, most) for end in ("min", "max"))
    bounds = (least if low is None else low, most if high is None else high)
    return bounds if bounds[0] <= bounds[1] else (least, most)


def _within(value: Any, least: float, most: float) -> float | None:
    number = finite(value)
    return number if number is not None and least <= number <= most else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []

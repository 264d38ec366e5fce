"""Parameters of image models beyond OpenAI's, under the horde's names and in its ranges. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from horde_proxy.aihorde import image_limits
from horde_proxy.protocol.validation import invalid

_PARAMETERS = (
    "seed",
    "seed_variation",
    "steps",
    "cfg_scale",
    "sampler_name",
    "karras",
    "clip_skip",
    "tiling",
    "hires_fix",
    "hires_fix_denoising_strength",
    "control_type",
    "image_is_control",
    "return_control_map",
    "facefixer_strength",
    "post_processing",
    "loras",
    "tis",
)
"""All parameters beyond OpenAI's that are passed on."""


def parameters_in(fields: BaseModel) -> dict[str, Any]:
    """What is set of the horde's own parameters. Raises InvalidRequest for an unknown name."""
    given = {
        name: value
        for name in (*_PARAMETERS, "negative_prompt")
        if (value := getattr(fields, name)) is not None
    }
    if "seed" in given:
        # The horde takes texts only; -1 is what other APIs call a random one.
        seed = str(given.pop("seed")).strip()[:100]
        given.update({"seed": seed} if seed not in ("-1", "") else {})
    if "cfg_scale" in given:
        # More decimals are refused (capture image_err_cfg_decimals).
        given["cfg_scale"] = round(given["cfg_scale"], 2)
    for name in ("loras", "tis"):
        # CivitAI's ids are numbers in forms and scripts; the horde takes names as texts only.
        if name in given:
            given[name] = [_with_text_name(entry) for entry in given[name]]
    _check_name(given, "sampler_name", image_limits.SAMPLERS)
    _check_name(given, "control_type", image_limits.CONTROL_TYPES)
    _check_post_processing(given.get("post_processing", []))
    for name, most in (
        ("loras", image_limits.MOST_LORAS),
        ("tis", image_limits.MOST_INVERSIONS),
    ):
        if len(given.get(name, [])) > most:
            raise invalid(
                f"Invalid value for '{name}': at most {most} are allowed.",
                name,
                "array_above_max_length",
            )
    return given


def _with_text_name(entry: Mapping[str, Any]) -> dict[str, Any]:
    name = entry.get("name")
    return {**entry, "name": str(name)} if isinstance(name, int) else dict(entry)


def _check_name(given: dict[str, Any], name: str, known: Sequence[str]) -> None:
    """Write a name as the horde does: "Euler_a" is "k_euler_a". Raises InvalidRequest."""
    if name not in given:
        return
    wanted = str(given[name]).lower().replace(" ", "_").removeprefix("k_")
    match = next((own for own in known if own.lower().removeprefix("k_") == wanted), None)
    if match is None:
        raise invalid(
            f"Invalid value for '{name}': expected one of {', '.join(known)}.",
            name,
            "invalid_value",
        )
    given[name] = match


def _check_post_processing(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in image_limits.POST_PROCESSORS]
    if unknown:
        raise invalid(
            "Invalid value for 'post_processing': expected some of "
            f"{', '.join(image_limits.POST_PROCESSORS)}.",
            "post_processing",
            "invalid_value",
        )
    if sum(name in image_limits.UPSCALERS for name in names) > 1:
        raise invalid(
            "Invalid value for 'post_processing': at most one upscaler is allowed.",
            "post_processing",
            "invalid_value",
        )

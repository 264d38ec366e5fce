"""The checks of a request for images that fits the schema, but not other rules. Pure.

Each check raises the horde's refusal or returns nothing. `fields` is a body that was read with
`image_schema.SUBMIT`. The rules are those of images-api.md 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horde_proxy.aihorde.baselines import (
    CASCADE,
    SD2,
    SD2_512,
    Baseline,
    baseline_of,
)
from horde_proxy.aihorde.image_limits import (
    MOST_INVERSIONS,
    MOST_LORAS,
    MOST_PROMPT_WORDS,
    POST_PROCESSORS,
    UPSCALERS,
)
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.records import HordeAccount

_MOST_EXTRA_SOURCES = 5
_FAMILY_NAMES = {
    "stable_diffusion_xl": "SDXL",
    "stable_cascade": "Stable Cascade",
    "flux_1": "Flux",
    "qwen_image": "Qwen",
    "z_image_turbo": "Z-Image",
}
# These make an image from another one only.
_NEED_SOURCES = ("pix2pix", "Stable Diffusion 2 Depth")

Fields = Mapping[str, Any]


def check(fields: Fields) -> None:
    """Refuse what no account may send."""
    params = fields["params"]
    baselines = [baseline_of(model) for model in fields["models"]]
    _check_names(fields)
    _check_families(params, baselines)
    _check_numbers(fields, params)
    _check_workflow(params)
    _check_processing(fields, baselines)


def check_account(fields: Fields, account: HordeAccount) -> None:
    """Refuse what this account may not send."""
    if fields["params"]["special"] is not None and "special" not in account.roles:
        raise refusal("BadRequest", reason="Only special users can send a special field.")
    if fields["disable_batching"] and fields["params"]["n"] > 1 and not account.trusted:
        raise refusal("RequiresTrust")
    if len(fields["extra_source_images"] or ()) > 1 and not account.trusted:
        raise refusal("RequiresTrust")


def _check_names(fields: Fields) -> None:
    for model in fields["models"]:
        if model in POST_PROCESSORS:
            raise refusal("UnexpectedModelName", model=model)
        if model in _NEED_SOURCES and fields["source_image"] is None:
            raise refusal("SourceImageRequiredForModel", model=model)


def _check_families(params: Fields, baselines: list[Baseline]) -> None:
    """Refuse what a model of the request cannot do."""
    for baseline in baselines:
        family = _FAMILY_NAMES.get(baseline.name, baseline.name)
        if params["hires_fix"] and not baseline.can_fix_hires:
            raise refusal("HiResMismatch", family=family)
        if params["control_type"] is not None and not baseline.can_control:
            code = "ControlNetUnsupported" if baseline in (SD2, SD2_512) else "ControlNetMismatch"
            raise refusal(code, family=family)
        if params["transparent"] and not baseline.can_be_transparent:
            raise refusal("InvalidTransparencyModel", family=family)
    if params["transparent"] and params["control_type"] is not None:
        raise refusal("InvalidTransparencyCN")


def _check_numbers(fields: Fields, params: Fields) -> None:
    if round(params["cfg_scale"], 2) != params["cfg_scale"]:
        raise refusal("BadCFGDecimals")
    if sum(name in UPSCALERS for name in params["post_processing"] or ()) > 1:
        raise refusal("TooManyUpscalers")
    if len(params["loras"] or ()) > MOST_LORAS:
        raise refusal("TooManyLoras", most=MOST_LORAS)
    if len(params["tis"] or ()) > MOST_INVERSIONS:
        raise refusal("TooManyTIs", most=MOST_INVERSIONS)
    for lora in params["loras"] or ():
        name = lora.get("name", "")
        if lora.get("is_version") and not (name.isascii() and name.isdecimal()):
            raise refusal("BadLoraVersion")
    # No longer prompt has an effect; each word is at least a letter and a space.
    if fields["prompt"].count(" ") > MOST_PROMPT_WORDS:
        raise refusal("BadRequest", reason=f"A prompt has at most {MOST_PROMPT_WORDS} words.")


def _check_workflow(params: Fields) -> None:
    texts = params["extra_texts"]
    if params["workflow"] is None:
        if texts is not None:
            raise refusal("InvalidExtraTexts.")
    elif not any(text.get("reference") == params["workflow"] for text in texts or ()):
        raise refusal("MissingExtraTexts.")


def _check_processing(fields: Fields, baselines: list[Baseline]) -> None:
    is_remix = fields["source_processing"] == "remix"
    if is_remix and any(baseline is not CASCADE for baseline in baselines):
        raise refusal("InvalidRemix")
    extras = fields["extra_source_images"]
    if extras is None:
        return
    if not is_remix or len(extras) > _MOST_EXTRA_SOURCES:
        raise refusal("InvalidExtraSourceImages.")
    if fields["params"]["transparent"]:
        raise refusal("InvalidTransparencyImg2Img")

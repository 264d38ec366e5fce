"""Bodies of OpenAI's images API, of generations, edits and variations, as ImageRequests. Pure.

    body --> image_sources (pictures), image_parameters (beyond OpenAI's) --> ImageRequest
    pictures --> image_answers

A multipart form comes as its fields, which are texts, and its files. Source: the Images API
reference; what clients really send is in docs/clients.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from horde_proxy.aihorde import image_limits
from horde_proxy.json_reading import parse_json
from horde_proxy.protocol.image_answers import answer, completed_event, makers, usage
from horde_proxy.protocol.image_parameters import parameters_in
from horde_proxy.protocol.image_request import ImageKind, ImageRequest, OutputFormat
from horde_proxy.protocol.image_sources import MOST_SOURCES, ImageFiles, sources_in
from horde_proxy.protocol.leniency import Leniency, plain_name
from horde_proxy.protocol.sampled_body import HordeParameters, Int, LenientModel, Objects
from horde_proxy.protocol.validation import invalid, missing_parameter, validated

MOST_PROMPT = 32_000
"""Characters, as OpenAI's API."""
STYLE = "style"
"""What stands before the name of a style where a model is named: "style:anime"."""
_LONGEST_STYLE = 1024
"""Characters, as the horde takes."""
_DEFAULT_PROMPT = "image"
"""Of a variation, which has none: a horde refuses an empty one."""
# "1024x1024", "1792X1024" and "1024*768" of careless scripts. Longer numbers are no sizes, and are
# refused before anything is calculated with them.
_SIZE = re.compile(r"\s*(\d{1,6})\s*[xX*]\s*(\d{1,6})\s*", re.ASCII)
_QUALITIES: Mapping[str, tuple[Literal["low", "medium", "high"], bool]] = {
    "auto": ("medium", False),
    "standard": ("medium", False),
    "low": ("low", False),
    "medium": ("medium", False),
    "high": ("high", False),
    "hd": ("high", False),
    "xhigh": ("high", True),
    "max": ("high", True),
}
# What older and other clients call the types. SVG and GIF are no pictures of a horde.
_FORMATS: Mapping[str, OutputFormat] = {
    "png": "png",
    "webp": "webp",
    "jpeg": "jpeg",
    "jpg": "jpeg",
    "auto": "png",
}
# OpenAI's fields that nothing here can honour. X-Horde-Warnings tells the client.
_UNSUPPORTED = ("style", "complexity", "svg", "frame_count", "frame_duration_ms", "markup")
# Fields of image models by the horde's name: other names of the same, as A1111's API, ComfyUI's
# fronts and LocalAI have them.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "sampler_name": ("sampler",),
    "cfg_scale": ("guidance_scale", "guidance"),
    "steps": ("num_inference_steps", "step"),
    "control_type": ("control",),
}
_STRUCTURED = frozenset({"horde", "loras", "tis", "post_processing"})
"""Fields that are objects or lists; forms have them as JSON."""


class ImageFields(LenientModel):
    """Numbers and booleans may be texts, as in forms; JSON from scripts has them as well."""

    model_config = ConfigDict(extra="allow", strict=False, allow_inf_nan=False)

    prompt: Annotated[str, Field(min_length=1, max_length=MOST_PROMPT)] | None = None
    model: str | None = None
    n: Annotated[Int, Field(ge=1)] | None = None
    size: str | None = None
    quality: str | None = None
    response_format: str | dict[str, Any] | None = None
    output_format: str | None = None
    output_compression: Annotated[Int, Field(ge=0, le=100)] | None = None
    background: str | None = None
    moderation: str | None = None
    stream: bool | None = None
    partial_images: Annotated[Int, Field(ge=0, le=3)] | None = None
    input_fidelity: str | None = None
    horde: HordeParameters | None = None

    negative_prompt: Annotated[str, Field(max_length=MOST_PROMPT)] | None = None
    denoising_strength: Annotated[float, Field(gt=0, le=1)] | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Int | str | None = None
    seed_variation: Annotated[Int, Field(ge=1, le=1000)] | None = None
    steps: Annotated[Int, Field(ge=1, le=image_limits.MOST_STEPS)] | None = None
    cfg_scale: Annotated[float, Field(ge=0, le=image_limits.MOST_CFG)] | None = None
    sampler_name: str | None = None
    karras: bool | None = None
    clip_skip: Annotated[Int, Field(ge=1, le=12)] | None = None
    tiling: bool | None = None
    hires_fix: bool | None = None
    hires_fix_denoising_strength: Annotated[float, Field(ge=0.01, le=1)] | None = None
    control_type: str | None = None
    image_is_control: bool | None = None
    return_control_map: bool | None = None
    facefixer_strength: Annotated[float, Field(ge=0, le=1)] | None = None
    post_processing: Annotated[list[str], Field(max_length=5)] | None = None
    loras: Objects | None = None
    tis: Objects | None = None


def read_images(
    body: Any,
    kind: ImageKind,
    files: ImageFiles | None = None,
    *,
    max_n: int = 10,
    strict: bool = False,
) -> ImageRequest:
    """The ImageRequest in a decoded body. Raises InvalidRequest with param and code.

    A JSON body of an edit has its pictures as data URLs or base64; a form as `files`.
    """
    fields, leniency = validated(ImageFields, _with_known_names(body)), Leniency(strict=strict)
    assert isinstance(body, dict)
    sources, mask = sources_in(body, kind, files)
    prompt = fields.prompt if kind != "variation" else fields.prompt or _DEFAULT_PROMPT
    if prompt is None:
        raise missing_parameter("prompt")
    _check_count(fields.n or 1, max_n)
    _warn_of_unsupported(body, leniency)
    quality, is_upscaled = _quality(fields.quality, leniency)
    model, style = _model_and_style(fields.model or "")
    request = ImageRequest(
        model=model,
        style=style,
        prompt=prompt,
        n=fields.n or 1,
        kind=kind,
        size=_size(fields.size),
        quality=quality,
        is_upscaled=is_upscaled,
        sources=sources,
        mask=mask,
        strength=_strength(fields),
        allows_nsfw=fields.moderation == "low",
        stream=bool(fields.stream),
        parameters=parameters_in(fields),
        horde=fields.horde.model_dump(exclude_none=True) if fields.horde else {},
    )
    return replace(_with_output(request, fields), warnings=leniency.warnings())


def _with_known_names(body: Any) -> Any:
    """The body with the names of this API for what it calls otherwise."""
    if not isinstance(body, dict):
        return body
    # A form's empty field is one that was left empty.
    known = {name: value for name, value in body.items() if value != ""}
    for name, others in _OTHER_NAMES.items():
        given = next((known[other] for other in others if known.get(other) is not None), None)
        if known.get(name) is None and given is not None:
            known[name] = given
    for name in _STRUCTURED.intersection(known):
        known[name] = _from_text(known[name])
    if isinstance(known.get("post_processing"), str):
        known["post_processing"] = [known["post_processing"]]
    return known


def _from_text(value: Any) -> Any:
    """An object or list that a form has as JSON text; anything else stays."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return value
    try:
        return parse_json(value.encode())
    except (ValueError, RecursionError):
        return value


def _check_count(n: int, most: int) -> None:
    if n > most:
        raise invalid(
            f"Invalid value for 'n': must be at most {most}.", "n", "integer_above_max_value"
        )


def _model_and_style(name: str) -> tuple[str, str]:
    """(the model, "") or ("", the style) of a name such as "style:raw and unfiltered"."""
    prefix, is_style, style = name.strip().partition(":")
    if is_style and prefix.strip().lower() == STYLE:
        if not 3 <= len(style.strip()) <= _LONGEST_STYLE:
            raise invalid("The name of a style has 3 to 1024 characters.", "model", "invalid_value")
        return "", style.strip()
    return name.strip(), ""


def _size(size: str | None) -> tuple[int, int] | None:
    """(width, height), or None for "auto" and no size."""
    if size is None or size.strip().lower() in ("", "auto"):
        return None
    match = _SIZE.fullmatch(size)
    if match is None or not int(match[1]) or not int(match[2]):
        raise invalid(
            "Invalid value for 'size': expected WIDTHxHEIGHT, such as 1024x1024, or auto.",
            "size",
            "invalid_value",
        )
    return int(match[1]), int(match[2])


def _quality(
    quality: str | None, leniency: Leniency
) -> tuple[Literal["low", "medium", "high"], bool]:
    known = _QUALITIES.get((quality or "auto").lower())
    if known is None:
        error = invalid(
            f"Invalid value for 'quality': expected one of {', '.join(_QUALITIES)}.",
            "quality",
            "invalid_value",
        )
        leniency.tolerate(error, f"{plain_name(quality)} is unknown, so medium is used")
        return "medium", False
    return known


def _strength(fields: ImageFields) -> float | None:
    """How much may change: the client's number, or what OpenAI's input_fidelity stands for."""
    given = fields.denoising_strength or fields.strength
    if given is None and fields.input_fidelity == "high":
        # images-api.md 4.2; without it an upstream's default, about 0.6, counts.
        return 0.35
    return given


def _with_output(request: ImageRequest, fields: ImageFields) -> ImageRequest:
    """The request with the form of its answer."""
    output = _FORMATS.get((fields.output_format or "png").lower())
    if output is None:
        raise invalid(
            "Invalid value for 'output_format': expected png, jpeg or webp.",
            "output_format",
            "invalid_value",
        )
    is_transparent = fields.background == "transparent"
    if is_transparent and output == "jpeg":
        raise invalid(
            "A transparent background needs the output_format png or webp.",
            "background",
            "invalid_value",
        )
    return replace(
        request,
        response_format=_response_format(request.model, fields.response_format),
        output_format=output,
        compression=fields.output_compression,
        is_transparent=is_transparent,
    )


def _response_format(model: str, given: Any) -> Literal["b64_json", "url"]:
    """How the pictures come. LocalAI's users send an object: {"type": "b64_json"}."""
    if isinstance(given, dict):
        given = given.get("type")
    if given in ("url", "b64_json"):
        return "url" if given == "url" else "b64_json"
    if given is not None:
        raise invalid(
            "Invalid value for 'response_format': expected url or b64_json.",
            "response_format",
            "invalid_value",
        )
    # LangChain asks for these, says nothing of the form, and reads data[].url only. LibreChat and
    # the AI SDK read b64_json only, as newer models of OpenAI's always give.
    return "url" if model.startswith("dall-e") else "b64_json"


def _warn_of_unsupported(body: Mapping[str, Any], leniency: Leniency) -> None:
    for name in _UNSUPPORTED:
        if body.get(name) not in (None, "", "auto"):
            error = invalid(f"Unsupported parameter: '{name}'.", name, "unsupported_parameter")
            leniency.tolerate(error, "not supported")


__all__ = [
    "MOST_PROMPT",
    "MOST_SOURCES",
    "STYLE",
    "ImageFiles",
    "answer",
    "completed_event",
    "makers",
    "read_images",
    "usage",
]

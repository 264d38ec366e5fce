"""OpenAI's images API: bodies of generations, edits and variations in, answers and events out.

Pure. A multipart form comes as its fields, which are texts, and its files. Source: the Images API
reference; what clients really send is in docs/clients.md.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from horde_proxy.aihorde import image_limits
from horde_proxy.errors import InvalidRequest
from horde_proxy.json_reading import parse_json
from horde_proxy.pictures import MOST_PIXELS, BadPicture, Raster, decoded, sniffed_type
from horde_proxy.protocol import sse
from horde_proxy.protocol.image_request import ImageKind, ImageRequest, OutputFormat, Picture
from horde_proxy.protocol.leniency import Leniency, plain_name
from horde_proxy.protocol.sampled_body import HordeParameters, Int, LenientModel, Objects
from horde_proxy.protocol.validation import validated

MOST_PROMPT = 32_000
"""Characters, as OpenAI's API."""
MOST_SOURCES = 16
STYLE = "style"
"""What stands before the name of a style where a model is named: "style:anime"."""
_LONGEST_STYLE = 1024
"""Characters, as the horde takes."""
_MOST_WEBP_PIXELS = MOST_PIXELS // 2
"""WebP's decoder takes 15 bytes a pixel, however few bytes the file has; others take 4 to 7."""
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
_STRUCTURED = frozenset({"horde", "loras", "tis", "post_processing"})
"""Fields that are objects or lists; forms have them as JSON."""


class _ImageBody(LenientModel):
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


@dataclass(frozen=True)
class ImageFiles:
    """The files of a form, or what JSON bodies refer to: the pictures, and the mask if any."""

    images: tuple[bytes, ...] = ()
    mask: bytes | None = None


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
    fields, leniency = validated(_ImageBody, _with_known_names(body)), Leniency(strict=strict)
    assert isinstance(body, dict)
    sources, mask = _sources(body, kind, files)
    prompt = fields.prompt if kind != "variation" else fields.prompt or _DEFAULT_PROMPT
    if prompt is None:
        raise _invalid(
            "Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter"
        )
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
        parameters=_parameters(fields),
        horde=fields.horde.model_dump(exclude_none=True) if fields.horde else {},
    )
    return replace(_with_output(request, fields), warnings=leniency.warnings())


def answer(
    request: ImageRequest, pictures: Sequence[Picture], urls: Sequence[str], created: int
) -> dict[str, Any]:
    """The answer to a request that is not streamed. `urls` are used where those are wanted."""
    first = pictures[0]
    return {
        "created": created,
        "data": [
            _image(request, picture, url)
            for picture, url in zip(pictures, urls or [""] * len(pictures), strict=True)
        ],
        "background": "transparent" if request.is_transparent else "opaque",
        "output_format": first.kind,
        "quality": request.quality,
        "size": f"{first.width}x{first.height}",
        "usage": usage(request),
    }


def completed_event(request: ImageRequest, picture: Picture, url: str, created: int) -> bytes:
    """The event of one picture that is ready: `image_generation.completed`, or of an edit."""
    name = "image_edit.completed" if request.kind == "edit" else "image_generation.completed"
    data = {
        "type": name,
        **_image(request, picture, url),
        "created_at": created,
        "size": f"{picture.width}x{picture.height}",
        "quality": request.quality,
        "background": "transparent" if request.is_transparent else "opaque",
        "output_format": picture.kind,
        "usage": usage(request),
        "horde": makers([picture]),
    }
    return sse.event(data, name)


def makers(pictures: Sequence[Picture]) -> dict[str, Any]:
    """Who made the pictures, and from which seeds: fields of the `horde` object."""
    workers = dict.fromkeys((picture.worker, picture.worker_name) for picture in pictures)
    return {
        "model": pictures[0].model,
        "seeds": [picture.seed for picture in pictures],
        "workers": [{"id": worker, "name": name} for worker, name in workers],
    }


def usage(request: ImageRequest) -> dict[str, Any]:
    """OpenAI's usage. A horde counts no tokens of pictures; those of the prompt are estimated."""
    # Four characters a token, as the horde bills texts.
    tokens = -(-len(request.prompt) // 4)
    return {
        "input_tokens": tokens,
        "input_tokens_details": {"image_tokens": 0, "text_tokens": tokens},
        "output_tokens": 0,
        "total_tokens": tokens,
    }


def _image(request: ImageRequest, picture: Picture, url: str) -> dict[str, Any]:
    # Without a link, because it could not be stored, the picture itself is better than nothing.
    if request.response_format == "url" and url:
        return {"url": url}
    return {"b64_json": base64.b64encode(picture.data).decode("ascii")}


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


def _sources(
    body: Mapping[str, Any], kind: ImageKind, files: ImageFiles | None
) -> tuple[tuple[Raster, ...], Raster | None]:
    """(the pictures to change, the mask of the first). Raises InvalidRequest."""
    if kind == "generation":
        return (), None
    files = files or ImageFiles()
    # A form may have a data URL for a file.
    files = ImageFiles(
        files.images or tuple(_referenced(body)),
        _one(body.get("mask") or None, "mask") if files.mask is None else files.mask,
    )
    if not files.images:
        raise _invalid(
            "Missing required parameter: 'image'.", "image", "missing_required_parameter"
        )
    if len(files.images) > MOST_SOURCES:
        raise _invalid(
            f"Invalid value for 'image': at most {MOST_SOURCES} images are allowed.",
            "image",
            "array_above_max_length",
        )
    sources, left = list[Raster](), MOST_PIXELS
    for data in files.images:
        source = _raster(data, "image", left)
        left -= source.size[0] * source.size[1]
        sources.append(source)
    mask = None if files.mask is None else _mask(files.mask, sources[0])
    # A horde takes no larger ones, and each is held while its request waits.
    shrunk = tuple(source.within(image_limits.MOST_SIDE**2) for source in sources)
    return shrunk, mask.within(image_limits.MOST_SIDE**2) if mask else None


def _mask(data: bytes, source: Raster) -> Raster:
    """The mask of a picture. Raises InvalidRequest."""
    mask = _raster(data, "mask")
    if mask.size != source.size:
        raise _invalid(
            "The mask must have the same size as the (first) image.", "mask", "invalid_value"
        )
    # Scripts of other APIs send black and white masks, which would leave everything unchanged.
    if not mask.has_alpha:
        raise _invalid(
            "The mask has no transparent pixels: those mark what is to be changed.",
            "mask",
            "invalid_value",
        )
    return mask


def _referenced(body: Mapping[str, Any]) -> Iterator[bytes]:
    """The pictures in a JSON body: `image`, or Codex' and newer clients' list `images`."""
    given = body.get("image") or body.get("images") or []
    for reference in given if isinstance(given, list) else [given]:
        data = _one(reference, "image")
        if data is not None:
            yield data


def _one(reference: Any, param: str) -> bytes | None:
    """The bytes that a reference has: base64, a data URL, or {"image_url": one of them}."""
    if isinstance(reference, dict):
        reference = reference.get("image_url") or reference.get("url") or reference.get("b64_json")
        if isinstance(reference, dict):
            reference = reference.get("url")
    if reference is None:
        return None
    if not isinstance(reference, str):
        raise _invalid(f"'{param}' must be a data URL or base64.", param, "invalid_type")
    if reference[:8].lower().startswith(("http://", "https://")):
        raise _invalid(
            f"'{param}' must be a data URL or base64: links are not fetched.",
            param,
            "unsupported_parameter",
        )
    try:
        return decoded(reference)
    except BadPicture as exc:
        raise _invalid(str(exc), param, "invalid_image") from exc


def _raster(data: bytes, param: str, most_pixels: int = MOST_PIXELS) -> Raster:
    """The picture that the bytes are, of so many pixels at most. Raises InvalidRequest."""
    if sniffed_type(data) == "webp":
        most_pixels = min(most_pixels, _MOST_WEBP_PIXELS)
    try:
        return Raster.read(data, most_pixels=max(most_pixels, 0))
    except BadPicture as exc:
        raise _invalid(str(exc), param, "invalid_image") from exc


def _check_count(n: int, most: int) -> None:
    if n > most:
        raise _invalid(
            f"Invalid value for 'n': must be at most {most}.", "n", "integer_above_max_value"
        )


def _model_and_style(name: str) -> tuple[str, str]:
    """(the model, "") or ("", the style) of a name such as "style:raw and unfiltered"."""
    prefix, is_style, style = name.strip().partition(":")
    if is_style and prefix.strip().lower() == STYLE:
        if not 3 <= len(style.strip()) <= _LONGEST_STYLE:
            raise _invalid(
                "The name of a style has 3 to 1024 characters.", "model", "invalid_value"
            )
        return "", style.strip()
    return name.strip(), ""


def _size(size: str | None) -> tuple[int, int] | None:
    """(width, height), or None for "auto" and no size."""
    if size is None or size.strip().lower() in ("", "auto"):
        return None
    match = _SIZE.fullmatch(size)
    if match is None or not int(match[1]) or not int(match[2]):
        raise _invalid(
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
        error = _invalid(
            f"Invalid value for 'quality': expected one of {', '.join(_QUALITIES)}.",
            "quality",
            "invalid_value",
        )
        leniency.tolerate(error, f"{plain_name(quality)} is unknown, so medium is used")
        return "medium", False
    return known


def _strength(fields: _ImageBody) -> float | None:
    """How much may change: the client's number, or what OpenAI's input_fidelity stands for."""
    given = fields.denoising_strength or fields.strength
    if given is None and fields.input_fidelity == "high":
        # images-api.md 4.2; without it an upstream's default, about 0.6, counts.
        return 0.35
    return given


def _with_output(request: ImageRequest, fields: _ImageBody) -> ImageRequest:
    """The request with the form of its answer."""
    output = _FORMATS.get((fields.output_format or "png").lower())
    if output is None:
        raise _invalid(
            "Invalid value for 'output_format': expected png, jpeg or webp.",
            "output_format",
            "invalid_value",
        )
    is_transparent = fields.background == "transparent"
    if is_transparent and output == "jpeg":
        raise _invalid(
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
        raise _invalid(
            "Invalid value for 'response_format': expected url or b64_json.",
            "response_format",
            "invalid_value",
        )
    # LangChain asks for these, says nothing of the form, and reads data[].url only. LibreChat and
    # the AI SDK read b64_json only, as newer models of OpenAI's always give.
    return "url" if model.startswith("dall-e") else "b64_json"


def _parameters(fields: _ImageBody) -> dict[str, Any]:
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
            raise _invalid(
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
        raise _invalid(
            f"Invalid value for '{name}': expected one of {', '.join(known)}.",
            name,
            "invalid_value",
        )
    given[name] = match


def _check_post_processing(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in image_limits.POST_PROCESSORS]
    if unknown:
        raise _invalid(
            "Invalid value for 'post_processing': expected some of "
            f"{', '.join(image_limits.POST_PROCESSORS)}.",
            "post_processing",
            "invalid_value",
        )
    if sum(name in image_limits.UPSCALERS for name in names) > 1:
        raise _invalid(
            "Invalid value for 'post_processing': at most one upscaler is allowed.",
            "post_processing",
            "invalid_value",
        )


def _warn_of_unsupported(body: Mapping[str, Any], leniency: Leniency) -> None:
    for name in _UNSUPPORTED:
        if body.get(name) not in (None, "", "auto"):
            error = _invalid(f"Unsupported parameter: '{name}'.", name, "unsupported_parameter")
            leniency.tolerate(error, "not supported")


def _invalid(message: str, param: str, code: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)

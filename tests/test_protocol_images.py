"""OpenAI's images API: what clients send becomes a request, what was made becomes an answer."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from horde_proxy.errors import InvalidRequest
from horde_proxy.pictures import PictureType, Raster, as_data_url
from horde_proxy.protocol.image_request import ImageKind, ImageRequest, Picture
from horde_proxy.protocol.images import (
    ImageFiles,
    answer,
    completed_event,
    makers,
    read_images,
)

PNG = Raster.plain(64, 64, (10, 20, 30)).encoded("png")
WEBP = Raster.plain(64, 64, (10, 20, 30)).encoded("webp")
SMALL = Raster.plain(32, 64, (0, 0, 0)).encoded("png")
URL = as_data_url(PNG, "png")
EDIT = {"prompt": "a hat"}


def hole(width: int, height: int) -> Raster:
    """A picture whose pixels are all transparent."""
    content = io.BytesIO()
    Image.new("RGBA", (width, height)).save(content, "PNG")
    return Raster.read(content.getvalue())


def generation(**fields: Any) -> ImageRequest:
    return read_images({"prompt": "a fox", **fields}, "generation")


def refusal(kind: Any = "generation", files: ImageFiles | None = None, **fields: Any) -> Any:
    with pytest.raises(InvalidRequest) as caught:
        read_images({"prompt": "a fox", **fields}, kind, files)
    return caught.value.param, caught.value.code


def test_a_prompt_alone_is_enough() -> None:
    request = read_images({"prompt": "a fox"}, "generation")
    assert request == ImageRequest(model="", prompt="a fox")
    assert (request.n, request.size, request.quality) == (1, None, "medium")
    assert (request.response_format, request.output_format) == ("b64_json", "png")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (None, None),
        ("auto", None),
        ("", None),
        ("1024x1024", (1024, 1024)),
        (" 1792X1024 ", (1792, 1024)),
        ("1024*768", (1024, 768)),
        ("100000x10000", (100_000, 10_000)),
    ],
)
def test_sizes_are_read_as_clients_write_them(size: Any, expected: Any) -> None:
    assert generation(size=size).size == expected


@pytest.mark.parametrize("size", ["big", "0x0", "1024x", "-5x5", "9999999x9999999", "1e3x1e3"])
def test_what_is_no_size_is_refused(size: str) -> None:
    assert refusal(size=size) == ("size", "invalid_value")


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (None, ("medium", False)),
        ("auto", ("medium", False)),
        ("standard", ("medium", False)),
        ("low", ("low", False)),
        ("hd", ("high", False)),
        ("max", ("high", True)),
    ],
)
def test_qualities_of_all_of_openais_models_are_known(quality: Any, expected: Any) -> None:
    request = generation(quality=quality)
    assert (request.quality, request.is_upscaled) == expected


def test_an_unknown_quality_is_a_warning() -> None:
    request = generation(quality="superb")
    assert request.quality == "medium"
    assert request.warnings == ("quality: superb is unknown, so medium is used",)


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({}, "b64_json"),
        ({"response_format": "url"}, "url"),
        ({"response_format": "b64_json", "model": "dall-e-3"}, "b64_json"),
        ({"response_format": {"type": "b64_json"}}, "b64_json"),
        # What LangChain and LibreChat send.
        ({"model": "dall-e-3", "n": 1, "size": "1024x1024", "quality": "standard"}, "url"),
        (
            {"model": "gpt-image-1", "background": "auto", "quality": "auto", "size": "auto"},
            "b64_json",
        ),
    ],
)
def test_pictures_come_in_the_form_that_the_client_reads(fields: Any, form: str) -> None:
    assert generation(**fields).response_format == form


def test_transparency_needs_a_format_that_has_it() -> None:
    assert generation(background="transparent").is_transparent
    assert generation(background="transparent", output_format="webp").is_transparent
    assert refusal(background="transparent", output_format="jpeg") == (
        "background",
        "invalid_value",
    )


@pytest.mark.parametrize("output", ["svg", "gif", "bmp"])
def test_formats_that_nobody_makes_are_refused(output: str) -> None:
    assert refusal(output_format=output) == ("output_format", "invalid_value")


def test_the_hordes_parameters_are_passed_under_its_names() -> None:
    request = generation(
        negative_prompt="blurry",
        seed=42,
        num_inference_steps=12,
        guidance_scale=6.123,
        sampler="Euler a",
        control="canny",
        post_processing="RealESRGAN_x4plus",
        loras=[{"name": "1234"}],
    )
    assert request.parameters == {
        "negative_prompt": "blurry",
        "seed": "42",
        "steps": 12,
        "cfg_scale": 6.12,
        "sampler_name": "k_euler_a",
        "control_type": "canny",
        "post_processing": ["RealESRGAN_x4plus"],
        "loras": [{"name": "1234"}],
    }
    assert "seed" not in generation(seed=-1).parameters


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"prompt": ""}, ("prompt", "missing_required_parameter")),
        ({"prompt": None}, ("prompt", "missing_required_parameter")),
        ({"prompt": "x" * 32_001}, ("prompt", "string_above_max_length")),
        ({"n": 0}, ("n", "integer_below_min_value")),
        ({"n": 11}, ("n", "integer_above_max_value")),
        ({"n": "two"}, ("n", "invalid_type")),
        ({"steps": 501}, ("steps", "integer_above_max_value")),
        ({"cfg_scale": 101}, ("cfg_scale", "decimal_above_max_value")),
        ({"sampler": "best"}, ("sampler_name", "invalid_value")),
        ({"control_type": "nope"}, ("control_type", "invalid_value")),
        ({"post_processing": ["nope"]}, ("post_processing", "invalid_value")),
        (
            {"post_processing": ["RealESRGAN_x4plus", "RealESRGAN_x2plus"]},
            ("post_processing", "invalid_value"),
        ),
        ({"loras": [{}] * 6}, ("loras", "array_above_max_length")),
        ({"response_format": "gif"}, ("response_format", "invalid_value")),
        ({"output_compression": 101}, ("output_compression", "integer_above_max_value")),
        ({"horde": {"max_kudos": 0}}, ("horde.max_kudos", "decimal_below_min_value")),
    ],
)
def test_a_wrong_field_is_named(fields: Any, fault: tuple[str, str]) -> None:
    assert refusal(**fields) == fault


def test_fields_that_nothing_here_can_honour_are_warned_of() -> None:
    request = generation(style="vivid", markup="x", user="me", moderation="low")
    assert request.warnings == ("style: not supported", "markup: not supported")
    assert request.allows_nsfw


def test_a_form_has_texts_for_numbers() -> None:
    request = read_images(
        {"prompt": "a hat", "n": "2", "stream": "true", "size": "", "quality": "high"},
        "edit",
        ImageFiles((PNG, WEBP)),
    )
    assert (request.n, request.stream, request.size, request.quality) == (2, True, None, "high")
    assert [source.size for source in request.sources] == [(64, 64), (64, 64)]
    assert request.mask is None


@pytest.mark.parametrize(
    "body",
    [
        {"image": URL},
        {"image": [URL]},
        {"image": base64.b64encode(PNG).decode()},
        {"images": [{"image_url": URL}]},
        {"images": [{"image_url": {"url": URL}}]},
    ],
)
def test_an_edit_in_json_refers_to_its_pictures(body: Any) -> None:
    request = read_images({"prompt": "a hat", **body}, "edit")
    assert [source.size for source in request.sources] == [(64, 64)]


def test_a_mask_belongs_to_the_first_picture_and_has_its_size() -> None:
    request = read_images(EDIT, "edit", ImageFiles((PNG,), hole(64, 64).encoded("webp")))
    assert request.mask is not None
    assert refusal("edit", ImageFiles((PNG,), SMALL)) == ("mask", "invalid_value")


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, ("image", "missing_required_parameter")),
        ({"image": "https://example.com/a.png"}, ("image", "unsupported_parameter")),
        ({"image": 5}, ("image", "invalid_type")),
        ({"image": "data:image/png;base64,AAAA"}, ("image", "invalid_image")),
        ({"image": "!"}, ("image", "invalid_image")),
        ({"image": [URL] * 17}, ("image", "array_above_max_length")),
    ],
)
def test_an_edit_without_a_readable_picture_is_refused(fields: Any, fault: Any) -> None:
    assert refusal("edit", **fields) == fault


def test_a_variation_needs_no_prompt() -> None:
    request = read_images({}, "variation", ImageFiles((PNG,)))
    assert request.prompt == "image"
    assert read_images({"prompt": ""}, "variation", ImageFiles((PNG,))).prompt == "image"


def test_fidelity_and_strength_say_how_much_may_change() -> None:
    files = ImageFiles((PNG,))
    assert read_images({"prompt": "a"}, "edit", files).strength is None
    assert read_images({"prompt": "a", "input_fidelity": "high"}, "edit", files).strength == 0.35
    assert read_images({"prompt": "a", "strength": "0.8"}, "edit", files).strength == 0.8


PICTURE = Picture(PNG, "png", 64, 64, model="SDXL 1.0", seed="42")


def test_an_answer_has_what_clients_read() -> None:
    request = generation(n=2)
    assert answer(request, [PICTURE, PICTURE], [], 1_796_000_000) == {
        "created": 1_796_000_000,
        "data": [{"b64_json": base64.b64encode(PNG).decode()}] * 2,
        "background": "opaque",
        "output_format": "png",
        "quality": "medium",
        "size": "64x64",
        "usage": {
            "input_tokens": 2,
            "input_tokens_details": {"image_tokens": 0, "text_tokens": 2},
            "output_tokens": 0,
            "total_tokens": 2,
        },
    }
    links = answer(generation(response_format="url"), [PICTURE], ["http://x/1.png"], 0)
    assert links["data"] == [{"url": "http://x/1.png"}]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("generation", "image_generation.completed"), ("edit", "image_edit.completed")],
)
def test_a_stream_ends_with_one_event_for_each_picture(kind: Any, name: str) -> None:
    files = ImageFiles((PNG,)) if kind == "edit" else None
    request = read_images({"prompt": "a fox", "stream": True}, kind, files)
    head, data = completed_event(request, PICTURE, "", 5).decode().strip().split("\n")
    assert head == f"event: {name}"
    event = json.loads(data.removeprefix("data: "))
    assert event["type"] == name
    assert event["b64_json"] == base64.b64encode(PNG).decode()
    assert (event["size"], event["output_format"], event["created_at"]) == ("64x64", "png", 5)
    assert event["horde"] == makers([PICTURE])


def test_makers_name_each_worker_once_and_each_seed() -> None:
    both = [replace(PICTURE, seed=seed, worker="w-1", worker_name="painter") for seed in ("7", "8")]
    other = replace(PICTURE, seed="9", worker="w-2", worker_name="")
    assert makers([*both, other]) == {
        "model": PICTURE.model,
        "seeds": ["7", "8", "9"],
        "workers": [{"id": "w-1", "name": "painter"}, {"id": "w-2", "name": ""}],
    }


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12) | st.integers() | st.none()))
def test_any_body_is_read_or_refused(body: dict[str, Any]) -> None:
    try:
        read_images(body, "generation")
    except InvalidRequest as exc:
        assert exc.status == 400


def test_the_names_of_loras_are_texts() -> None:
    request = generation(loras=[{"name": 12, "model": 0.5}, {"name": "ink"}], tis=[{"name": 7}])
    assert request.parameters == {
        "loras": [{"name": "12", "model": 0.5}, {"name": "ink"}],
        "tis": [{"name": "7"}],
    }


def of_size(width: int, height: int, kind: PictureType = "png") -> bytes:
    return Raster.plain(width, height, (1, 2, 3)).encoded(kind)


def test_pictures_of_a_request_have_a_bound_together() -> None:
    half = of_size(7680, 2160)
    assert len(read_images(EDIT, "edit", ImageFiles((half, half))).sources) == 2
    with pytest.raises(InvalidRequest, match="at most 0 pixels"):
        read_images(EDIT, "edit", ImageFiles((half, half, of_size(8, 8))))


def test_a_webp_has_half_the_pixels_because_its_decoder_needs_more_memory() -> None:
    assert read_images(EDIT, "edit", ImageFiles((of_size(3840, 4320, "webp"),)))
    with pytest.raises(InvalidRequest, match="at most 16,588,800 pixels"):
        read_images(EDIT, "edit", ImageFiles((of_size(3904, 4320, "webp"),)))


def test_a_picture_is_held_no_larger_than_a_horde_takes_it() -> None:
    mask = Raster.plain(6000, 3000, (0, 0, 0)).with_alpha_of(hole(6000, 3000)).encoded("png")
    request = read_images(EDIT, "edit", ImageFiles((of_size(6000, 3000),), mask))
    assert request.sources[0].size == (4344, 2172)
    assert request.mask is not None and request.mask.size == (4344, 2172)


def test_a_mask_without_transparency_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no transparent pixels") as caught:
        read_images(EDIT, "edit", ImageFiles((of_size(64, 64),), of_size(64, 64)))
    assert caught.value.param == "mask"


@pytest.mark.parametrize(
    ("kind", "fields", "repaints"),
    [
        ("edit", {}, True),
        ("edit", {"control_type": "canny"}, False),
        ("variation", {}, False),
    ],
)
def test_transparent_parts_are_painted_anew_by_edits_only(
    kind: ImageKind, fields: dict[str, Any], repaints: bool
) -> None:
    source = hole(64, 64).encoded("png")
    assert read_images({**EDIT, **fields}, kind, ImageFiles((source,))).repaints is repaints


@pytest.mark.parametrize(
    ("name", "model", "style"),
    [
        ("style:anime", "", "anime"),
        ("Style: raw and unfiltered ", "", "raw and unfiltered"),
        ("SDXL 1.0", "SDXL 1.0", ""),
        ("styles:x", "styles:x", ""),
    ],
)
def test_a_style_is_named_where_a_model_is(name: str, model: str, style: str) -> None:
    request = generation(model=name)
    assert (request.model, request.style) == (model, style)


def test_a_style_needs_a_name() -> None:
    assert refusal(model="style:") == ("model", "invalid_value")

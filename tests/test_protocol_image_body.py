"""Requests for servers with OpenAI's images API, and their answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.pictures import Raster
from horde_proxy.protocol.image_body import image_body, images_in, tokens_in
from horde_proxy.protocol.images import ImageFiles, read_images

PNG = Raster.plain(64, 64, (1, 2, 3)).encoded("png")


def body(model: str = "flux", is_strict: bool = False, **fields: Any) -> Any:
    return image_body(
        read_images({"prompt": "a fox", **fields}, "generation"), model, is_strict=is_strict
    )


def test_a_plain_request_has_little_more_than_its_prompt() -> None:
    plain = body()
    assert (plain.path, plain.files, plain.left_out) == ("images/generations", (), ())
    assert plain.fields == {
        "model": "flux",
        "prompt": "a fox",
        "n": 1,
        "response_format": "b64_json",
    }


@pytest.mark.parametrize("model", ["gpt-image-1.5", "GPT-Image-2", "chatgpt-image-latest"])
def test_openais_own_models_get_no_response_format(model: str) -> None:
    assert "response_format" not in body(model).fields


def test_what_openai_has_is_sent_in_its_words() -> None:
    fields = body(
        n=2, size="1024x768", quality="xhigh", background="transparent", moderation="low"
    ).fields
    assert fields == {
        "model": "flux",
        "prompt": "a fox",
        "n": 2,
        "size": "1024x768",
        "quality": "high",
        "background": "transparent",
        "moderation": "low",
        "response_format": "b64_json",
    }


def test_a_strict_server_gets_nothing_that_openai_does_not_know() -> None:
    strict = body(is_strict=True, seed=7, steps=20, negative_prompt="people", quality="max")
    assert set(strict.fields) == {"model", "prompt", "n", "quality", "response_format"}
    assert strict.left_out == ("negative_prompt", "seed", "steps", "upscaling")
    loose = body(seed=7, loras=[{"name": "ink"}])
    assert (loose.fields["seed"], loose.fields["loras"]) == ("7", [{"name": "ink"}])
    assert loose.form_fields()["loras"] == '[{"name": "ink"}]'


@pytest.mark.parametrize(("count", "name"), [(1, "image"), (2, "image[]")])
def test_several_pictures_have_another_name_than_one(count: int, name: str) -> None:
    request = read_images({"prompt": "both"}, "edit", ImageFiles((PNG,) * count))
    edit = image_body(request, "flux")
    assert edit.path == "images/edits"
    assert [file.name for file in edit.files] == [name] * count


def test_a_variation_has_no_prompt() -> None:
    variation = image_body(read_images({}, "variation", ImageFiles((PNG,))), "flux")
    assert variation.path == "images/variations"
    assert "prompt" not in variation.fields


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "url", "b64_json", "usage", "input_tokens", "output_tokens"]),
            inner,
        )
    ),
)


@given(json_values)
def test_any_answer_is_read(document: Any) -> None:
    assert all(isinstance(image, str) for image in images_in(document))
    assert all(0 <= count <= 10**9 for count in tokens_in(document))


def test_tokens_beyond_all_measure_count_as_none() -> None:
    usage = {"input_tokens": 12, "output_tokens": 1e300}
    assert tokens_in({"usage": usage}) == (12, 0)

"""Facts about images: sizes, families, prices, and what refusals say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.aihorde import baselines, image_kudos, image_limits
from horde_proxy.aihorde.baselines import (
    CASCADE,
    FLUX,
    QWEN,
    SD1,
    SDXL,
    SDXL_FAST,
    Z_IMAGE,
    baseline_of,
    legal_size,
)

CAPTURES = Path(__file__).parent / "data" / "image_captures"
MEGAPIXEL = 1024 * 1024


def capture(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("image_err_sampler", image_limits.SAMPLERS),
        ("image_err_post_processing", image_limits.POST_PROCESSORS),
        ("image_err_control_type", image_limits.CONTROL_TYPES),
        ("image_err_source_processing", image_limits.SOURCE_PROCESSINGS),
        ("interrogate_err_unknown_form", image_limits.ALCHEMY_FORMS),
    ],
)
def test_the_names_are_those_that_the_horde_lists(name: str, names: tuple[str, ...]) -> None:
    [message] = capture(name)["response"]["body"]["errors"].values()
    assert set(names) == set(re.findall(r"'([^']+)'", message)) - {"nope", "k_nope"}


@pytest.mark.parametrize(
    ("model", "known", "baseline"),
    [
        ("stable_diffusion", None, SD1),
        ("Dreamshaper", None, SD1),
        ("Deliberate Inpainting", None, SD1),
        ("AlbedoBase XL (SDXL)", None, SDXL),
        ("SDXL 1.0", None, SDXL),
        ("Pony Diffusion XL", None, SDXL),
        ("DreamShaper XL Lightning", None, SDXL_FAST),
        ("DreamShaper XL", "stable_diffusion_xl", SDXL),
        ("Flux.1-Schnell fp8 (Compact)", None, FLUX),
        ("Stable Cascade 1.0", None, CASCADE),
        ("Z-Image-Turbo", None, Z_IMAGE),
        ("Qwen-Image", None, QWEN),
        ("Anything", "flux_1", FLUX),
        ("Anything", "a new one", SD1),
    ],
)
def test_a_model_has_the_baseline_of_the_reference_or_of_its_name(
    model: str, known: str | None, baseline: baselines.Baseline
) -> None:
    assert baseline_of(model, known) is baseline


@pytest.mark.parametrize(
    ("wanted", "most", "size"),
    [
        ((1024, 1024), MEGAPIXEL, (1024, 1024)),
        ((1792, 1024), MEGAPIXEL, (1344, 768)),
        ((1024, 1792), MEGAPIXEL, (768, 1344)),
        ((1536, 1024), MEGAPIXEL, (1216, 832)),
        ((1000, 500), MEGAPIXEL, (1024, 512)),
        ((256, 256), MEGAPIXEL, (256, 256)),
        ((1, 1), MEGAPIXEL, (64, 64)),
        ((100_000, 10_000), MEGAPIXEL, (3072, 320)),
        ((10**30, 1), MEGAPIXEL, (3072, 64)),
        ((1024, 1024), 576 * 576, (576, 576)),
    ],
)
def test_a_size_becomes_the_nearest_legal_one(
    wanted: tuple[int, int], most: int, size: tuple[int, int]
) -> None:
    assert legal_size(*wanted, most) == size


@given(
    st.integers(-(10**20), 10**20),
    st.integers(-(10**20), 10**20),
    st.integers(64 * 64, 3072 * 3072),
)
def test_every_size_becomes_a_legal_one(width: int, height: int, most: int) -> None:
    sides = legal_size(width, height, most)
    assert all(64 <= side <= 3072 and side % 64 == 0 for side in sides)
    assert sides[0] * sides[1] <= most


@pytest.mark.parametrize(
    ("size", "steps", "sampler", "kudos"),
    [
        ((512, 512), 30, "k_euler_a", 7.6),
        ((768, 768), 30, "k_euler_a", 11.8),
        ((1024, 1024), 20, "k_euler_a", 16.0),
        ((1024, 1024), 25, "k_euler_a", 18.3),
        ((1024, 1024), 30, "k_euler_a", 21.0),
        ((1024, 1024), 8, "k_euler", 11.6),
        ((1024, 1024), 4, "k_euler", 10.3),
        ((1024, 1536), 25, "k_euler_a", 30.0),
        ((1536, 1024), 8, "k_euler", 18.7),
        ((512, 512), 30, "k_dpmpp_sde", 12.9),
    ],
)
def test_prices_come_within_four_percent_of_the_hordes(
    size: tuple[int, int], steps: int, sampler: str, kudos: float
) -> None:
    assert image_kudos.image(*size, steps, SD1, sampler=sampler) == pytest.approx(kudos, rel=0.04)


def test_a_request_pays_for_its_images_and_taxes() -> None:
    # Capture image_dry_run_sizes: two of 1024x1024 with 20 steps are 35 kudos.
    one = image_kudos.image(1024, 1024, 20, SD1)
    assert image_kudos.request(one, 2) == pytest.approx(35.0, rel=0.04)
    assert image_kudos.request(10.0, 2, slow_workers=False, blacklist=True) == pytest.approx(29.4)
    assert image_kudos.image(1024, 1024, 20, FLUX) == pytest.approx(8 * one, rel=0.001)


def test_alchemy_pays_by_form_and_tiles() -> None:
    assert image_kudos.alchemy("caption", 2048, 2048) == 1.0
    assert image_kudos.alchemy("interrogation", 512, 512) == 3.0
    assert image_kudos.alchemy("RealESRGAN_x4plus", 513, 512) == 6.0
    assert image_kudos.alchemy("strip_background", 512, 512) == 3.0


def test_the_limit_of_a_refusal_is_read_from_its_message() -> None:
    message = capture("image_err_kudos_slow_workers")["response"]["body"]["message"]
    assert image_limits.upfront_limit(message) == (1032, 50, 9.112)
    assert image_limits.upfront_limit("You need more kudos.") is None


@pytest.mark.parametrize(
    ("prompt", "harmless"),
    [
        ("a cat ### dog", "a cat # # # dog"),
        ("#### title", "# # # # title"),
        ("## title", "## title"),
    ],
)
def test_a_prompt_cannot_begin_a_negative_one(prompt: str, harmless: str) -> None:
    assert image_limits.without_negative(prompt) == harmless

"""The reference of image models: invented entries, in the shape of the horde's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.aihorde.baselines import FLUX, SD1, SDXL, baseline_of
from horde_proxy.aihorde.image_reference import NO_FACTS, ImageModelFacts, read_image_reference
from horde_proxy.errors import UpstreamFailed
from horde_proxy.upstreams.horde.image_reference_loading import ImageReference
from horde_proxy.upstreams.in_process import WSGIAdapter
from tests.scripted_images import WORKER, ScriptedImages
from tests.support import HORDE_URL, Clock, World
from tests.test_api_images import generate

REFERENCE: dict[str, Any] = {
    "Waterlily": {
        "name": "Waterlily",
        "baseline": "stable_diffusion_xl",
        "type": "ckpt",
        "inpainting": False,
        "nsfw": True,
        "requirements": {
            "min_steps": 3,
            "max_steps": 6,
            "cfg_scale": 2,
            "samplers": ["k_dpmpp_sde"],
            "schedulers": ["karras"],
            "clip_skip": 2,
        },
        "features_not_supported": ["hires_fix", "controlnet"],
    },
    "Repainter": {"name": "Repainter", "baseline": "stable diffusion 1", "inpainting": True},
    "Old Oak": {"name": "Old Oak", "baseline": "stable diffusion 1", "nsfw": False},
}
WATERLILY = read_image_reference(REFERENCE)["Waterlily"]


def read(**record: Any) -> ImageModelFacts:
    return read_image_reference({"x": record})["x"]


def test_an_entry_says_what_suits_its_model() -> None:
    suited = WATERLILY.suited(baseline_of("Waterlily", WATERLILY.baseline))
    assert suited.name == "stable_diffusion_xl"
    assert (suited.steps, suited.cfg_scale, suited.sampler) == ((6, 6, 6), 2.0, "k_dpmpp_sde")
    assert (suited.karras, suited.clip_skip, suited.side) == (True, 2, 1024)
    assert (suited.can_fix_hires, suited.can_control) == (False, False)


def test_bounds_move_the_values_of_the_family_and_no_further() -> None:
    assert read(requirements={"max_cfg_scale": 2.5}).suited(SDXL).cfg_scale == 2.5
    assert read(requirements={"min_steps": 6, "max_steps": 20}).suited(FLUX).steps == (6, 6, 8)
    assert read(requirements={"samplers": ["k_heun", "k_euler_a"]}).suited(SD1).sampler == (
        "k_euler_a"
    )
    assert read(requirements={"schedulers": ["simple"]}).suited(SD1).karras is False
    assert NO_FACTS.suited(SD1) is SD1


@pytest.mark.parametrize(
    "requirements",
    [
        None,
        [],
        {"min_steps": "4"},
        {"min_steps": -1, "max_steps": 10**9},
        {"min_steps": 9, "max_steps": 3},
        {"cfg_scale": float("nan"), "clip_skip": 99},
        {"samplers": ["euler of another program"], "schedulers": "karras"},
    ],
)
def test_values_that_make_no_sense_count_as_absent(requirements: Any) -> None:
    assert read(baseline="a new family", requirements=requirements, nsfw="no") == NO_FACTS


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
)


@given(json_values)
def test_any_document_is_read(document: Any) -> None:
    read_image_reference(document)
    facts = read(requirements=document, features_not_supported=document)
    low, _, high = facts.suited(SD1).steps
    assert 1 <= low <= high <= 500


def test_a_request_that_does_not_suit_the_model_is_warned_of() -> None:
    assert WATERLILY.warnings(30, 2.0, "k_euler") == [
        "steps: the model is made for 3 to 6",
        "sampler_name: the model is made for k_dpmpp_sde",
    ]
    assert read(requirements={"max_cfg_scale": 2.5}).warnings(30, 7.0, "lcm") == [
        "cfg_scale: the model is made for 0 to 2.5"
    ]
    assert NO_FACTS.warnings(500, 100.0, "lcm") == []


def test_a_reference_that_cannot_be_fetched_is_tried_again_and_keeps_what_was_known() -> None:
    clock, answers = Clock(), list[Any]()

    def source() -> tuple[Any, float]:
        if not answers:
            raise UpstreamFailed("no network")
        return answers.pop(), 0.0

    reference = ImageReference(source, ttl=1000, clock=clock, run=lambda load: load())
    assert reference.facts() == {}
    answers.append({"no": "records"})
    clock.sleep(301)
    assert reference.facts() == {}
    answers.append(REFERENCE)
    clock.sleep(301)
    facts = reference.facts()
    assert sorted(facts) == ["Old Oak", "Repainter", "Waterlily"]
    clock.sleep(1001)
    assert reference.facts() is facts


@pytest.fixture
def horde(world: World, tmp_path: Path) -> ScriptedImages:
    scripted = ScriptedImages()
    scripted.workers = [{**WORKER, "models": [*REFERENCE]}]
    world.session.mount(HORDE_URL, WSGIAdapter(scripted.app))
    (tmp_path / "stable_diffusion.json").write_text(json.dumps(REFERENCE))
    return scripted


def with_reference(world: World, tmp_path: Path) -> World:
    return world.configure(stats={"image_reference": str(tmp_path / "stable_diffusion.json")})


def test_a_picture_is_made_as_the_reference_says(
    world: World, horde: ScriptedImages, tmp_path: Path
) -> None:
    response = generate(with_reference(world, tmp_path).http(), model="Waterlily", cfg_scale=2.5)
    assert response.status_code == 200
    params = horde.submits[0]["params"]
    assert (params["width"], params["height"]) == (1024, 1024)
    assert (params["steps"], params["sampler_name"], params["karras"]) == (6, "k_dpmpp_sde", True)
    assert (params["cfg_scale"], params["clip_skip"]) == (2.5, 2)
    warned = generate(world.http(), model="Waterlily", steps=30)
    assert warned.headers["X-Horde-Warnings"] == "steps: the model is made for 3 to 6"
    refused = generate(world.http(), model="Waterlily", hires_fix=True)
    assert refused.status_code == 400


def test_without_a_reference_names_tell_the_family(world: World, horde: ScriptedImages) -> None:
    assert generate(world.http(), model="Waterlily").status_code == 200
    params = horde.submits[0]["params"]
    assert (params["width"], params["steps"], params["sampler_name"]) == (512, 25, "k_euler_a")


def test_a_reference_that_is_missing_harms_nothing(
    world: World, horde: ScriptedImages, tmp_path: Path
) -> None:
    world.configure(stats={"image_reference": str(tmp_path / "missing.json")})
    assert generate(world.http(), model="Waterlily").status_code == 200


def test_the_list_of_models_has_what_the_reference_says(
    world: World, horde: ScriptedImages, tmp_path: Path
) -> None:
    models = with_reference(world, tmp_path).http().get("/v1/models").get_json()["data"]
    facts = {
        model["id"]: (
            model["horde"]["baseline"],
            model["horde"]["inpainting"],
            model["horde"].get("nsfw"),
        )
        for model in models
    }
    assert facts == {
        "Old Oak": ("stable diffusion 1", False, False),
        "Repainter": ("stable diffusion 1", True, None),
        "Waterlily": ("stable_diffusion_xl", False, True),
    }


def test_the_default_is_no_model_that_is_flagged(
    world: World, horde: ScriptedImages, tmp_path: Path
) -> None:
    http = with_reference(world, tmp_path).http()
    horde.workers = [{**WORKER, "nsfw": True, "models": ["Waterlily", "Zinnia"]}]
    generate(http, model="auto")
    generate(http, model="auto", moderation="low")
    assert [submit["models"] for submit in horde.submits] == [["Zinnia"], ["Waterlily"]]

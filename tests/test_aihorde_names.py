"""One form for the names of a model, its family, and its size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.aihorde.names import canonical, distinct, family, parameters_of

NAMES = st.text(st.sampled_from("aB8b-_./:#qQ4v1 "), max_size=20) | st.text(max_size=20)


@pytest.mark.parametrize(
    "name",
    [
        "Cydonia-24B-v4.3",
        "cydonia-24b-V4.3",
        "Cydonia_24B v4.3",
        "TheDrummer/Cydonia-24B-v4.3",
        "koboldcpp/Cydonia-24B-v4.3",
        "KOBOLDCPP/Cydonia-24B-v4.3",
        "aphrodite/TheDrummer/Cydonia-24B-v4.3",
        "koboldcpp/TheDrummer/Cydonia-24B-v4.3",
        "koboldcpp/TheDrummer_Cydonia-24B-v4.3-Q4_K_M",
        "tabbyAPI/Cydonia-24B-v4.3-4.0bpw-h6-exl2",
        "koboldcpp/Cydonia-24B-v4.3.i1-Q4_K_S",
        "koboldcpp/Cydonia-24B-v4.3-UD-Q8_K_XL",
        "koboldcpp/Cydonia-24B-v4.3-IQ4_XS.gguf",
        "aphrodite/Cydonia-24B-v4.3-nvfp4",
        "koboldcpp/Cydonia-24B-v4.3::some/user#1234",
    ],
)
def test_a_models_key_leaves_out_engine_author_user_and_quantisation(name: str) -> None:
    assert canonical(name).key == "cydonia-24b-v4.3"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("koboldcpp/Cydonia-24B-v4.3", "koboldcpp/Cydonia-22B-v4.3"),
        ("koboldcpp/Cydonia-24B-v4.3", "koboldcpp/Cydonia-24B-v4.2"),
        ("koboldcpp/Cydonia-24B-v4.3", "koboldcpp/Cydonia-24B"),
        ("Angelic_Eclipse-12B", "Eclipse-12B"),
        ("Qwen_2.5-7B", "2.5-7B"),
    ],
)
def test_size_version_and_first_word_tell_models_apart(one: str, other: str) -> None:
    assert canonical(one).key != canonical(other).key


@pytest.mark.parametrize(
    ("name", "backend", "author", "bare"),
    [
        ("koboldcpp/X-8B", "koboldcpp", "", "X-8B"),
        ("Aphrodite/Org/X-8B-FP8", "aphrodite", "Org", "X-8B-FP8"),
        ("tabbyAPI/X", "tabbyapi", "", "X"),
        ("llamacpp/X", "llamacpp", "", "X"),
        ("newengine/Org/X", "newengine", "Org", "X"),
        ("Org/X", "canonical", "Org", "X"),
        ("X", "canonical", "", "X"),
        ("koboldcpp/google_gemma-3-1b-it", "koboldcpp", "google", "google_gemma-3-1b-it"),
        ("Qwen_Qwen3-0.6B", "canonical", "Qwen", "Qwen_Qwen3-0.6B"),
        ("koboldcpp/Angelic_Eclipse", "koboldcpp", "", "Angelic_Eclipse"),
        ("X::user#1", "canonical", "", "X"),
        ("X::rest", "canonical", "", "X::rest"),
        ("stable_diffusion", "canonical", "", "stable_diffusion"),
        ("", "canonical", "", ""),
        ("/", "canonical", "", "/"),
        ("koboldcpp/", "koboldcpp", "", "koboldcpp/"),
    ],
)
def test_a_name_has_parts(name: str, backend: str, author: str, bare: str) -> None:
    assert canonical(name)[1:] == (backend, author, bare)


def test_names_without_a_model_stay_different() -> None:
    assert len({canonical(name).key for name in ("/", "koboldcpp/", "aphrodite/", "::u#1")}) == 4


@given(NAMES)
def test_a_bare_name_means_the_same_model(name: str) -> None:
    parts = canonical(name)
    if "/" not in parts.bare and "::" not in parts.bare:
        assert canonical(parts.bare).key == parts.key


def test_each_model_has_one_name_and_the_shortest_bare_one_of_its_variants() -> None:
    assert distinct(
        [
            "koboldcpp/X-8B-Q4_K_M",
            "org/Y-8B",
            "aphrodite/org/X-8B",
            "y_8b",
            "koboldcpp/X-9B-Q8_0",
        ]
    ) == ["X-8B", "Y-8B", "X-9B-Q8_0"]
    assert distinct([]) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("koboldcpp/L3-8B-Stheno-v3.2", "L3-Stheno"),
        ("aphrodite/TheDrummer/Behemoth-X-123B-v2.1", "Behemoth-X"),
        ("koboldcpp/Lumimaid-v0.2-8B", "Lumimaid"),
        ("koboldcpp/Broken-Tutu-24B-Unslop-v2.0-Q4_K_M", "Broken-Tutu-Unslop"),
        ("koboldcpp/Llama-3.1-8B-Lexi-Uncensored-V2", "Llama-3.1-Lexi"),
        ("koboldcpp/Mistral-7B-Instruct-v0.3.Q4_K_M", "Mistral"),
        ("Mixtral-8x7B-Instruct-v0.1", "Mixtral"),
        ("koboldcpp/google_gemma-3-1b-it-Q4_K_M", "gemma-3"),
        ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "Qwen3-Coder"),
        ("koboldcpp/Qwen3-30B-A3B-Instruct-2507", "Qwen3"),
        ("Phi-3-Mini-4K-Instruct", "Phi-3-Mini"),
        ("command-r-08-2024", "command-r"),
        ("Foo-2024-08-Chat", "Foo"),
        ("3.1-Foo-8B", "Foo"),
        ("Celeste-12B-v1.6b-Thinking", "Celeste"),
        ("Foo-turbo-latest", "Foo"),
        ("zai-org/GLM-4.6", "GLM-4.6"),
        ("gemma-4-31b", "gemma-4"),
        ("SDXL 1.0", "SDXL-1.0"),
        ("Base-7B", "Base-7B"),
        ("v1.0", "v1.0"),
        ("", ""),
    ],
)
def test_a_family_has_no_size_version_quantisation_variant_and_date(
    name: str, expected: str
) -> None:
    assert family(name) == expected


@given(NAMES)
def test_each_name_has_a_family(name: str) -> None:
    assert (family(name) == "") == (name == "")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("koboldcpp/L3-8B-Stheno-v3.2", 8_000_000_000),
        ("Mixtral-8x7B", 56_000_000_000),
        ("SmolLM2-135M", 135_000_000),
        ("koboldcpp/Qwen_Qwen3-0.6B-IQ4_XS", 600_000_000),
        ("zai-org/GLM-4.6", None),
        ("Foo-0B", None),
    ],
)
def test_a_name_may_tell_the_number_of_parameters(name: str, parameters: int | None) -> None:
    assert parameters_of(name) == parameters

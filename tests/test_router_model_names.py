"""From the name that a client gives to the ids of the models."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.aihorde.names import normalised, size_of
from horde_proxy.errors import InvalidRequest
from horde_proxy.router import model_names
from horde_proxy.router.model_names import expected_seconds


def model(name: str, seconds: float | None = None, context: int | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": name}
    if seconds is not None:
        entry["horde"] = {"expected_seconds": seconds}
    if context is not None:
        entry["context_length"] = context
    return entry


STHENO = "koboldcpp/L3-8B-Stheno-v3.2"
STHENO_TOO = "aphrodite/Sao10K/L3-8B-Stheno-v3.2"
BEHEMOTH = "aphrodite/TheDrummer/Behemoth-X-123B-v2.1"
QWEN = "koboldcpp/Qwen3-30B-A3B"
SMOL = "koboldcpp/SmolLM2-135M-Instruct"
OFFER = [
    model(BEHEMOTH, 60.0, 16384),
    model(STHENO, 12.0, 8192),
    model(QWEN, 20.0, 32768),
    model(SMOL, 4.0, 2048),
]


def resolve(name: str, models: list[dict[str, Any]], aliases: dict[str, str]) -> list[str]:
    """All groups as one list."""
    return [model_id for group in model_names.resolve(name, models, aliases) for model_id in group]


def matches(name: str, *aliases: tuple[str, str]) -> list[str]:
    return resolve(name, OFFER, dict(aliases))


# Aliases


def test_an_alias_is_followed_whatever_its_case() -> None:
    assert matches("GPT-4o", ("gpt-4O", STHENO)) == [STHENO]


def test_aliases_chain() -> None:
    assert matches("a", ("a", "B"), ("b", "qwen3*")) == [QWEN]


def test_an_alias_comes_before_an_id() -> None:
    assert matches(STHENO, (STHENO, QWEN)) == [QWEN]


def test_an_alias_may_be_a_list_of_aliases_words_and_globs() -> None:
    assert matches("a", ("a", "b, large"), ("b", "*smol*")) == [SMOL, BEHEMOTH, QWEN, STHENO]


def test_a_cycle_of_aliases_matches_nothing() -> None:
    assert matches("a", ("a", "b"), ("b", "c"), ("c", "A")) == []
    assert matches(STHENO, (STHENO, STHENO)) == []


def test_a_cycle_inside_a_list_leaves_the_rest_of_the_list() -> None:
    assert matches("a", ("a", f"a,{STHENO}")) == [STHENO]


def test_an_alias_of_a_missing_model_matches_nothing() -> None:
    assert matches("fast", ("fast", "koboldcpp/gone")) == []


def test_an_empty_alias_is_harmless() -> None:
    assert matches("", ("", "")) == []
    assert matches("a", ("a", "")) == []


# Ids


def test_an_exact_id_matches_only_itself() -> None:
    models = [model("a/x", 1.0), model("A/x", 9.0), model("b/x", 1.0)]
    assert resolve("A/x", models, {}) == ["A/x"]


def test_an_id_is_found_in_another_case() -> None:
    assert matches("KOBOLDCPP/l3-8b-stheno-V3.2") == [STHENO]


def test_an_id_in_another_case_comes_before_other_engines() -> None:
    models = [model(STHENO, 9.0), model(STHENO_TOO, 1.0)]
    assert resolve(STHENO.lower(), models, {}) == [STHENO]


def test_an_id_with_a_comma_wins_over_the_list() -> None:
    assert resolve("a,b", [model("a"), model("b"), model("a,b")], {}) == ["a,b"]


def test_an_id_that_looks_like_a_glob_wins_over_the_glob() -> None:
    assert resolve("a*", [model("ab"), model("a*")], {}) == ["a*"]


def test_an_id_that_two_entries_have_is_found_once() -> None:
    assert resolve("*", [model("a"), model("a")], {}) == ["a"]


@pytest.mark.parametrize("name", ["", " ", "nothing", "stheno-v3.2", "koboldcpp/", "/", ",", ",,"])
def test_a_name_of_nothing_matches_nothing(name: str) -> None:
    assert matches(name) == []
    assert resolve(name, [], {}) == []


def test_an_empty_name_is_not_a_model_without_a_name() -> None:
    assert resolve("/", [model("koboldcpp/")], {}) == []


def test_a_name_of_absurd_length_matches_nothing_unless_it_is_an_id() -> None:
    assert matches("*" * 1001) == []
    assert resolve("x" * 1001, [model("x" * 1001)], {}) == ["x" * 1001]


# Normalised names


@pytest.mark.parametrize(
    "name",
    [
        "L3-8B-Stheno-v3.2",
        "l3-8b-stheno-v3.2",
        "l3_8b stheno_v3.2",
        "Sao10K/L3-8B-Stheno-v3.2",
        "Sao10K_L3-8B-Stheno-v3.2-Q4_K_M",
        "koboldcpp/Sao10K_L3-8B-Stheno-v3.2",
        "koboldcpp/L3-8B-Stheno-v3.2-Q4_K_M",
        "aphrodite/Sao10K/L3-8B-Stheno-v3.2.i1-Q4_K_M.gguf",
        "tabbyAPI/L3-8B-Stheno-v3.2-4.0bpw-h6-exl2",
        "koboldcpp/L3-8B-Stheno-v3.2::some/user#1234",
    ],
)
def test_a_name_means_its_model_without_engine_author_and_quantisation(name: str) -> None:
    assert matches(name) == [STHENO]


def test_the_ids_are_normalised_too_and_the_quickest_comes_first() -> None:
    models = [model(STHENO, 9.0), model(f"{STHENO_TOO}-FP8", 3.0), model(f"b/{STHENO}", 3.0)]
    assert resolve("L3-8B-Stheno-v3.2-Q8_0", models, {}) == [
        f"{STHENO_TOO}-FP8",
        f"b/{STHENO}",
        STHENO,
    ]


@pytest.mark.parametrize(
    "suffix",
    [
        "-Q4_K_M",
        ".q4_k_m",
        ":Q4_K_M",
        "_Q8_0",
        "-Q6_K",
        "-Q3_K_XL",
        "-Q4",
        "-IQ3_XXS",
        "-IQ4_NL",
        "-IQ2_M",
        ".i1-Q4_K_S",
        "-i1-IQ1_S",
        "-UD-Q4_K_XL",
        "-Q4_0_4_4",
        "-TQ1_0",
        "-4bit",
        "-4-bit",
        "-4bit-128g",
        "-8bpw",
        "-4.0bpw-h6-exl2",
        "-exl2-6.5bpw",
        "-exl3",
        "-GPTQ",
        "-AWQ",
        "-GGUF",
        ".gguf",
        ".Q5_K_M.gguf",
        "-fp16",
        "-bf16",
        "-F16",
        "-FP8",
        "-NVFP4",
        "-int8",
        "-W4A16",
        "-GPTQ-Int4",
        "::user#12",
        "-Q4_K_M::us er#12",
        "-GGUF:Q4_K_M",
        "--Q4_K_M",
    ],
)
def test_suffixes_of_model_files_are_ignored_in_names(suffix: str) -> None:
    assert normalised(f"koboldcpp/Foo-7B{suffix}") == "foo-7b"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EVA-Q2.5", "eva-q2.5"),
        ("google_gemma-3-27b-it-Q4_K_M", "gemma-3-27b-it"),
        ("Angelic_Eclipse-12B", "angelic-eclipse-12b"),
        ("Qwen3", "qwen3"),
        ("QwQ-32B", "qwq-32b"),
        ("Foo-v1.16", "foo-v1.16"),
        ("Foo-3-8bit", "foo-3"),
        ("Foo-GGUF-it", "foo-gguf-it"),
        ("Q4_K_M", "q4-k-m"),
        ("gguf", "gguf"),
        ("a::b", "a::b"),
        ("Qwen 3:8b@x", "qwen-3:8b@x"),
        (" a  b__c ", "a-b-c"),
    ],
)
def test_what_only_resembles_a_quantisation_stays(name: str, expected: str) -> None:
    assert normalised(name) == expected


@given(st.text(st.sampled_from("aB3 _-.:/#q4km81fpbitgu"), max_size=30) | st.text(max_size=30))
def test_a_normalised_name_stays_as_it_is(name: str) -> None:
    assert normalised(normalised(name)) == normalised(name)


# Globs and regexes


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("KOBOLDCPP/*", [SMOL, STHENO, QWEN]),
        ("l3-8b-*", [STHENO]),
        ("*thedrummer*", [BEHEMOTH]),
        ("qwen?-30b-a3b", [QWEN]),
        ("[lq]*", [STHENO, QWEN]),
        ("aphrodite/*/L3-8B-Stheno-v3.2", []),
        ("drummer*", []),
    ],
)
def test_a_glob_fits_the_whole_id_or_what_follows_its_last_slash(
    glob: str, expected: list[str]
) -> None:
    assert matches(glob) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("~stheno|BEHEMOTH", [STHENO, BEHEMOTH]),
        ("~^koboldcpp/.*b$", [QWEN]),
        ("~[0-9]{3}[bm]", [SMOL, BEHEMOTH]),
        ("~[0-9]{3,4}m", [SMOL]),
        ("~aphrodite/L3-8B-Stheno-v3.2", []),
        ("~(smol{7,8})", []),
    ],
)
def test_a_regex_is_searched_for_in_the_id(name: str, expected: list[str]) -> None:
    assert matches(name) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "[z-a]",
        "*",
        "a{2,1}",
        "(?P<a",
        r"\q",
        "(?<=a*)b",
        "(" * 200,
    ],
)
def test_a_broken_regex_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="not usable") as caught:
        matches(f"~{pattern}")
    assert (caught.value.param, caught.value.code) == ("model", "invalid_value")


def test_a_broken_regex_in_a_list_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="not usable"):
        matches("nothing,~(")


def test_a_regex_has_at_most_two_hundred_characters() -> None:
    assert matches("~" + "x" * 200) == []
    with pytest.raises(InvalidRequest, match="more than 200 characters"):
        matches("~" + "x" * 201)


@pytest.mark.parametrize(
    "pattern",
    ["(.+)+@", "(.*){9}@", ".*.*.*.*@", ".?" * 40 + "@", "(..|..)" * 25 + "@", "(a|a)*b(c*)*$"],
)
def test_a_regex_that_python_would_try_for_ages_just_matches_nothing(pattern: str) -> None:
    models = [{"id": "a" * 1000 + str(number)} for number in range(100)]
    assert resolve(f"~{pattern}", models, {}) == []


@pytest.mark.parametrize("pattern", [r"(a+)+\1", "(?P<a>a+)(?P=a)", "(?=a)b", "(?x)a", "\ud800"])
def test_a_regex_is_in_the_syntax_of_re2(pattern: str) -> None:
    with pytest.raises(InvalidRequest, match="not usable"):
        matches(f"~{pattern}")


@pytest.mark.parametrize("name", ["~(", "~429(", "~" + "x" * 504, "~a{502,500}"])
def test_no_message_has_digits_that_make_a_client_retry(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        matches(name)
    assert re.search("429|500|502|503|504", caught.value.message) is None


# Lists


def test_a_list_keeps_its_order_without_duplicates() -> None:
    assert matches(f"{QWEN}, l3-8b-stheno-v3.2 ,nothing,,koboldcpp/*") == [QWEN, STHENO, SMOL]


def test_a_list_of_two_full_ids_is_not_taken_for_its_last() -> None:
    assert matches(f"{SMOL},Sao10K/L3-8B-Stheno-v3.2") == [SMOL, STHENO]


def test_a_list_may_have_regexes_and_globs_with_commas_in_brackets() -> None:
    assert matches("~[0-9]{3,3}m$|135m,[l,k]3-*,~qwen") == [SMOL, STHENO, QWEN]


def test_a_list_may_end_with_a_word_for_the_rest() -> None:
    assert matches("~stheno,auto") == [STHENO, QWEN, BEHEMOTH, SMOL]


def test_of_a_list_the_first_twenty_names_count() -> None:
    assert matches("x," * 19 + STHENO) == [STHENO]
    assert matches("x," * 20 + STHENO) == []


# Words


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("fast", [SMOL, STHENO, QWEN, BEHEMOTH]),
        ("LARGE", [BEHEMOTH, QWEN, STHENO, SMOL]),
        ("long", [QWEN, BEHEMOTH, STHENO, SMOL]),
        # (60+10)/sqrt(123) = 6.3, (20+10)/sqrt(30) = 5.5, (12+10)/sqrt(8) = 7.8;
        # the small context last
        ("Auto", [QWEN, BEHEMOTH, STHENO, SMOL]),
    ],
)
def test_a_word_puts_all_models_into_its_order(word: str, expected: list[str]) -> None:
    assert matches(word) == expected


@pytest.mark.parametrize("word", ["auto", "fast", "large", "long"])
def test_a_word_never_means_a_model_that_cannot_chat(word: str) -> None:
    others = [
        model("Qwen3-Embedding-800B", 0.0, 131072),
        model("a-whisper-large-v3", 0.0, 131072),
        {**model("a-mine", 0.0, 131072), "architecture": {"output_modalities": ["image"]}},
    ]
    assert sorted(resolve(word, [*OFFER, *others], {})) == sorted(matches(word))
    assert resolve(word, others, {}) == []
    # By its name it is found: embeddings are proxied.
    assert resolve("qwen3-embedding-800b", others, {}) == ["Qwen3-Embedding-800B"]


@pytest.mark.parametrize("word", ["auto", "fast", "large", "long"])
def test_of_equal_models_the_quickest_comes_first_and_then_the_id(word: str) -> None:
    models = [model("d-8B", 9.0, 8192), model("c-8B", 3.0, 8192), model("b-8B", 3.0, 8192)]
    assert resolve(word, models, {}) == ["b-8B", "c-8B", "d-8B"]


def test_an_unknown_value_counts_as_the_worst() -> None:
    models = [model("unknown"), model("known-1B", 5.0, 4096)]
    assert resolve("large", models, {}) == ["known-1B", "unknown"]
    assert resolve("long", models, {}) == ["known-1B", "unknown"]
    assert resolve("auto", models, {}) == ["known-1B", "unknown"]


def test_capability_is_clamped_for_the_balance() -> None:
    models = [model("a-0.1B", 10.0, 4096), model("b-1B", 9.0, 4096)]
    assert resolve("auto", models, {}) == ["b-1B", "a-0.1B"]
    models = [model("a-600B", 10.0, 4096), model("b-150B", 9.0, 4096)]
    assert resolve("auto", models, {}) == ["b-150B", "a-600B"]


def test_a_model_of_that_name_comes_before_the_word() -> None:
    assert resolve("fast", [model("a", 1.0), model("fast", 9.0)], {}) == ["fast"]
    assert resolve("FAST", [model("a", 1.0), model("fast", 9.0)], {}) == ["fast"]


# Time and size


@pytest.mark.parametrize(
    ("horde", "seconds"),
    [
        ({"expected_seconds": 12.0, "eta": 90}, 12.0),
        ({"expected_seconds": 0}, 0.0),
        ({"eta": 30, "tokens_per_second": 20.0}, 40.0),
        ({"tokens_per_second": 50}, 4.0),
        ({"eta": 7}, 47.0),
        ({"eta": 7, "tokens_per_second": 0.0}, 47.0),
        ({"expected_seconds": None, "eta": None, "tokens_per_second": "fast"}, 40.0),
        ({"expected_seconds": float("nan"), "tokens_per_second": float("nan")}, 40.0),
        ({}, 40.0),
        (None, 5.0),
    ],
)
def test_the_expected_seconds_are_the_hordes_or_estimated(horde: Any, seconds: float) -> None:
    assert expected_seconds({"id": "x", "horde": horde}) == seconds


def test_a_model_that_is_not_the_hordes_is_expected_in_five_seconds() -> None:
    assert expected_seconds({"id": "gpt-4o"}) == 5.0


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("koboldcpp/L3-8B-Stheno-v3.2", 8.0),
        ("8b", 8.0),
        ("Mixtral-8x7B-Instruct", 56.0),
        ("WizardLM-2-8X22B", 176.0),
        ("SmolLM2-135M", 0.135),
        ("Qwen3-30B-A3B", 30.0),
        ("Llama-3.1-70B", 70.0),
        ("Qwen2.5-0.5B-Instruct-Q4_K_M.gguf", 0.5),
        ("foo_7b.gguf", 7.0),
        ("qwen3:8b", 8.0),
        ("Foo-1M-14B", 14.0),
        ("Foo-8B-and-3B", 8.0),
        ("70B-club/Foo-8B::3B#1", 8.0),
        ("celeste-12b-v1.6b", 12.0),
    ],
)
def test_the_size_is_the_first_that_the_name_tells(name: str, billions: float) -> None:
    assert size_of(name) == billions


@pytest.mark.parametrize(
    "name",
    [
        "",
        "v1.6b",
        "A3B",
        "Foo-8bit",
        "Foo-8bpw",
        "Foo-128k",
        "Foo-8Bx",
        "Foo-8B2",
        "Mixtral8x7B",
        "Foo-8 B",
        "70B/Foo",
    ],
)
def test_a_name_without_a_size_has_the_size_none(name: str) -> None:
    assert size_of(name) is None


# Whatever comes


NAMES = st.text(st.sampled_from("aAb8B-_./:,~*?[]()|+{}#q4 "), max_size=20) | st.text(max_size=20)
MODELS = st.lists(st.builds(model, NAMES.filter(bool), st.none() | st.floats(0, 900)), max_size=8)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@given(NAMES, MODELS, st.dictionaries(NAMES, NAMES, max_size=4))
def test_any_name_matches_each_model_at_most_once_or_is_invalid(
    name: str, models: list[dict[str, Any]], aliases: dict[str, str]
) -> None:
    try:
        ids = resolve(name, models, aliases)
    except InvalidRequest:
        return
    assert len(ids) == len(set(ids))
    assert set(ids) <= {entry["id"] for entry in models}


@given(MODELS.filter(bool))
def test_an_exact_id_always_matches_itself(models: list[dict[str, Any]]) -> None:
    for entry in models:
        assert resolve(entry["id"], models, {}) == [entry["id"]]


def test_an_exact_id_is_found_without_a_look_into_the_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [model(f"koboldcpp/Model-{number}-8B", number % 7) for number in range(300)]
    monkeypatch.setattr(model_names, "normalised", lambda name: pytest.fail(name))
    assert resolve("koboldcpp/Model-299-8B", models, {}) == ["koboldcpp/Model-299-8B"]


def test_a_pattern_is_one_group_and_each_element_of_a_list_its_own() -> None:
    models = [model("a/x-8B"), model("b/x-8B"), model("c/y-8B")]
    assert model_names.resolve("*x-8B", models, {}) == [["a/x-8B", "b/x-8B"]]
    assert model_names.resolve("c/y-8B,*x-8B", models, {}) == [["c/y-8B"], ["a/x-8B", "b/x-8B"]]
    assert [len(group) for group in model_names.resolve("auto", models, {})] == [1, 1, 1]


# The tag ":latest"


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("llama3.2:latest", "llama3.2"),
        ("LLAMA3.2:Latest", "llama3.2"),
        ("Llama3.2", "llama3.2:latest"),
        ("llama3.2", "library/llama3.2:latest"),
        ("hf.co/me/x", "hf.co/me/x:latest"),
        ("llama3.*", "llama3.2:latest"),
        ("gone,llama3.2", "llama3.2:latest"),
    ],
)
def test_a_name_and_its_latest_are_one_model(name: str, listed: str) -> None:
    assert resolve(name, [model("other"), model(listed)], {}) == [listed]


@pytest.mark.parametrize("name", ["llama3.2:1b", "llama3.2:latest2", "latest", ":latest", "llama3"])
def test_another_tag_is_another_model(name: str) -> None:
    assert resolve(name, [model("llama3.2:latest"), model("llama3.2:3b")], {}) == []


def test_of_a_name_and_its_latest_the_one_that_was_written_goes_first() -> None:
    models = [model("x", 1.0), model("x:latest", 9.0)]
    assert resolve("x:latest", models, {}) == ["x:latest", "x"]
    assert resolve("x", models, {}) == ["x", "x:latest"]


@pytest.mark.parametrize(
    ("name", "aliases"),
    [
        ("gpt:latest", {"gpt": "x"}),
        ("gpt", {"gpt:latest": "x"}),
        ("x", {"x": "x:latest"}),
        ("x:latest", {"x": "x:latest"}),
        ("gpt", {"gpt": "y", "y:latest": "x"}),
    ],
)
def test_an_alias_counts_with_and_without_latest(name: str, aliases: dict[str, str]) -> None:
    assert resolve(name, [model("x:latest")], aliases) == ["x:latest"]


@pytest.mark.parametrize(
    ("name", "chain"),
    [
        ("a", ["a", "b", "c"]),
        ("A:latest", ["A:latest", "b", "c"]),
        ("c", ["c"]),
        ("x", ["x", "y", "x", ""]),
        ("", [""]),
    ],
)
def test_aliases_are_followed_to_their_end(name: str, chain: list[str]) -> None:
    assert model_names.alias_chain(name, {"a": "b", "b": "c", "x": "y", "y": "x"}) == chain


# Models that the settings exclude


def excluded(name: str) -> dict[str, Any]:
    return {"id": name, "context_length": 16384, "horde": {"available": False}}


def test_a_model_that_cannot_be_used_has_only_its_exact_name() -> None:
    offer = [excluded(STHENO), model(STHENO_TOO, 12.0, 8192), model(QWEN, 20.0, 32768)]
    assert resolve(STHENO, offer, {}) == [STHENO]
    assert resolve("L3-8B-Stheno-v3.2", offer, {}) == [STHENO_TOO]
    assert resolve("*stheno*", offer, {}) == [STHENO_TOO]
    assert resolve("auto", offer, {}) == [QWEN, STHENO_TOO]
    assert resolve("large", offer, {}) == [QWEN, STHENO_TOO]


def test_without_another_model_a_name_leads_to_the_one_that_cannot_be_used() -> None:
    offer = [excluded(STHENO), model(QWEN, 20.0, 32768)]
    assert resolve("L3-8B-Stheno-v3.2", offer, {}) == [STHENO]
    assert resolve("auto", [excluded(STHENO)], {}) == [STHENO]

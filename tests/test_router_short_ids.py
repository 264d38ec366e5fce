"""Short ids of models: what they are, and what they refer to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import ModelNotFound
from horde_proxy.ledger import ClientKey
from horde_proxy.router import EVERYTHING, Router, Scope
from horde_proxy.router.short_ids import short_ids
from tests.test_router import Offering, endpoint

STHENO = "koboldcpp/L3-8B-Stheno-v3.2"
STHENO_TOO = "aphrodite/Sao10K/L3-8B-Stheno-v3.2"
QWEN = "koboldcpp/Qwen3-30B-A3B"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([STHENO], ["L3-8B-Stheno-v3.2"]),
        ([STHENO_TOO], ["L3-8B-Stheno-v3.2"]),
        (["llama3:8b"], ["llama3:8b"]),
        (["a--b"], ["a--b"]),
        ([STHENO, QWEN], ["L3-8B-Stheno-v3.2", "Qwen3-30B-A3B"]),
        # As many parts as are needed, for all that would be alike.
        (
            [STHENO, STHENO_TOO],
            ["koboldcpp--L3-8B-Stheno-v3.2", "Sao10K--L3-8B-Stheno-v3.2"],
        ),
        (["a/x/m", "b/x/m"], ["a--x--m", "b--x--m"]),
        # Prefixes of endpoints count as parts.
        (["home/m", "cloud/m"], ["home--m", "cloud--m"]),
        # A real id is never shadowed, and a whole id is meant before the end of another.
        (["m", "org/m"], ["m", "org--m"]),
        (["org/m", "cloud/org/m"], ["org--m", "cloud--org--m"]),
        (["m", "org/m", "org--m"], ["m", "org/m", "org--m"]),
        # Upper and lower case are alike.
        (["a/M", "b/m"], ["a--M", "b--m"]),
        (["M", "b/m"], ["M", "b--m"]),
        # A name with and without Ollama's default tag is one model.
        (["m", "org/m:latest"], ["m", "org--m:latest"]),
        (["org/m", "org/m:latest"], ["m", "m:latest"]),
        # Different quantisations are different models.
        (["koboldcpp/m", "koboldcpp/m-Q4_K_M"], ["m", "m-Q4_K_M"]),
        # Slashes that divide nothing.
        (["/m", "x/", "/", "a//b"], ["m", "x", "/", "b"]),
        (["a//b", "a/b"], ["a//b", "a/b"]),
    ],
)
def test_a_short_id_has_as_many_parts_as_are_needed(ids: list[str], expected: list[str]) -> None:
    pairs = dict(zip(ids, expected, strict=True))
    for order in (ids, ids[::-1]):
        assert {full: full for full in ids} | short_ids(order, ()) == pairs


def test_a_short_id_is_never_an_alias_or_a_word() -> None:
    ids = ["koboldcpp/Auto", "koboldcpp/GPT-4o", "koboldcpp/m"]
    assert list(short_ids(ids, {"auto", "gpt-4o", "koboldcpp--auto"}).values()) == [
        "koboldcpp/Auto",
        "koboldcpp--GPT-4o",
        "m",
    ]


IDS = st.sets(
    st.builds(
        lambda name, tag: name + tag,
        st.text("ab-/", min_size=1, max_size=6),
        st.sampled_from(["", "", ":latest"]),
    ),
    max_size=12,
)


@given(IDS)
def test_each_short_id_is_listed_once_and_refers_to_its_model(ids: set[str]) -> None:
    router = Router([endpoint(Offering("one", *ids))], short_ids=True)
    listing = router.models()
    folded = [model["id"].casefold() for model in listing]
    assert len(set(folded)) == len(ids)
    for model in listing:
        full = model.get("full_id", model["id"])
        # Both are understood, and name the same model.
        assert router.model(model["id"]) == model
        assert router.model(full) == model


def listed(router: Router, scope: Scope = EVERYTHING) -> list[str]:
    return [model["id"] for model in router.models(scope)]


def of_one(*models: str, **settings: Any) -> Router:
    return Router([endpoint(Offering("one", *models))], short_ids=True, **settings)


def resolved(router: Router, name: str) -> list[tuple[str, ...]]:
    return [candidate.models for candidate, _ in router.candidates(name)]


def test_without_the_setting_models_have_their_full_ids() -> None:
    router = Router([endpoint(Offering("one", STHENO))])
    assert router.models() == [
        {"name": STHENO, "id": STHENO, "owned_by": "one", "endpoints": ["one"]}
    ]


def test_a_model_with_a_short_id_shows_its_full_one_as_well() -> None:
    model = {
        "id": "L3-8B-Stheno-v3.2",
        # For people.
        "name": STHENO,
        "owned_by": "one",
        "endpoints": ["one"],
        "full_id": STHENO,
    }
    router = of_one(STHENO)
    assert router.models() == [model]
    assert router.model("l3-8b-stheno-V3.2") == model
    assert router.model(STHENO) == model


def test_a_short_id_is_one_model_and_not_all_of_its_kind() -> None:
    quantised = "koboldcpp/m-Q4_K_M"
    assert resolved(of_one("koboldcpp/m", quantised), "m") == [("koboldcpp/m",)]
    # Without the setting, a name without engine is any of them.
    router = Router([endpoint(Offering("one", "koboldcpp/m", quantised))])
    assert resolved(router, "m") == [("koboldcpp/m", quantised)]


@pytest.mark.parametrize("is_short", [True, False])
@pytest.mark.parametrize("name", ["Sao10K--L3-8B-Stheno-v3.2", "sao10k--l3-8b-stheno-v3.2"])
def test_a_short_id_is_understood_with_and_without_the_setting(name: str, is_short: bool) -> None:
    offering = Offering("one", STHENO, STHENO_TOO, "x/Sao10K/other")
    router = Router([endpoint(offering)], short_ids=is_short)
    assert resolved(router, name) == [(STHENO_TOO,)]


@pytest.mark.parametrize("is_short", [True, False])
def test_a_whole_id_comes_before_one_that_ends_like_it(is_short: bool) -> None:
    router = Router([endpoint(Offering("one", "org/m", "cloud/org/m"))], short_ids=is_short)
    assert resolved(router, "org--m") == [("org/m",)]


@pytest.mark.parametrize("is_short", [True, False])
def test_a_short_id_lives_on_when_workers_come_and_go(is_short: bool) -> None:
    def router(*models: str) -> Router:
        return Router([endpoint(Offering("one", *models))], short_ids=is_short)

    # Another worker with the same model came: the id is listed longer, and means both.
    assert sorted(resolved(router(STHENO, STHENO_TOO), "L3-8B-Stheno-v3.2")) == [
        (STHENO_TOO,),
        (STHENO,),
    ]
    # It left again, or only the other one is there.
    for name in ("koboldcpp--L3-8B-Stheno-v3.2", "Sao10K--L3-8B-Stheno-v3.2"):
        assert resolved(router(STHENO), name) == [(STHENO,)]
        assert resolved(router(STHENO_TOO), name) == [(STHENO_TOO,)]


def test_an_alias_may_lead_to_a_short_id_and_is_never_shadowed() -> None:
    router = of_one("a/m", "a/x", aliases={"M": "x", "gpt": "A--m"})
    assert listed(router) == ["a--m", "x"]
    assert resolved(router, "m") == [("a/x",)]
    assert resolved(router, "gpt") == [("a/m",)]


def test_a_tag_makes_no_second_model() -> None:
    router = of_one("llama3", "org/llama3:latest", "org/qwen:latest")
    assert listed(router) == ["llama3", "org--llama3:latest", "qwen:latest"]
    assert resolved(router, "llama3:latest") == [("llama3",)]
    assert resolved(router, "org--llama3") == [("org/llama3:latest",)]
    assert resolved(router, "qwen") == [("org/qwen:latest",)]


def test_a_word_is_never_shadowed() -> None:
    assert listed(of_one("a/fast", "a/auto", "a/m")) == ["a--fast", "a--auto", "m"]


def test_short_ids_are_unambiguous_among_the_models_of_a_keys_scope() -> None:
    home, cloud = Offering("home", "a/m"), Offering("cloud", "b/m", "b/n")
    router = Router([endpoint(home), endpoint(cloud)], short_ids=True)
    assert listed(router) == ["a--m", "b--m", "n"]
    # A key's globs are for full ids.
    assert listed(router, ClientKey("k", models=("b/*",))) == ["m", "n"]
    assert listed(router, ClientKey("k", endpoints=("home",))) == ["m"]
    scope = ClientKey("k", models=("b/*",))
    assert router.model("m", scope)["full_id"] == "b/m"
    # The key may use this model only: a/m means it to the key as well, without its author.
    assert router.model("a--m", scope)["full_id"] == "b/m"
    assert router.model("a/m", scope)["full_id"] == "b/m"


def test_models_of_one_name_at_two_endpoints_are_one_model() -> None:
    router = Router(
        [endpoint(Offering("one", "org/m")), endpoint(Offering("two", "org/m"), prefix="two/")],
        short_ids=True,
    )
    assert listed(router) == ["org--m", "two--org--m"]
    router = Router(
        [endpoint(Offering("one", "org/m")), endpoint(Offering("two", "org/m"))], short_ids=True
    )
    assert [(model["id"], model["endpoints"]) for model in router.models()] == [
        ("m", ["one", "two"])
    ]


def test_an_unknown_model_is_answered_with_ids_as_they_are_listed() -> None:
    with pytest.raises(ModelNotFound, match="Available: `L3-8B-Stheno-v3.2`\\."):
        of_one(STHENO).candidates("L3-8B-Sthenos")


def test_fallbacks_may_be_named_by_short_ids() -> None:
    router = of_one("a/m", "b/other", fallbacks={"m": ["other"]})
    for name in ("m", "a/m"):
        assert resolved(router, name) == [("a/m",), ("b/other",)]


def test_answers_are_named_by_short_ids_also_where_an_endpoint_has_a_prefix() -> None:
    router = Router([endpoint(Offering("one", "a/m", "n"), prefix="home/")], short_ids=True)
    assert router.short_ids() == {"home/a/m": "m", "a/m": "m", "home/n": "n", "n": "n"}
    assert Router([endpoint(Offering("one", "a/m"))]).short_ids() == {}

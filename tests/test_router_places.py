"""Requests that are bound to places: no list, alias or fallback leads beyond them."""

from __future__ import annotations

import pytest

from horde_proxy.errors import (
    AllEndpointsFailed,
    ModelNotFound,
    UpstreamFailed,
)
from horde_proxy.ledger import ClientKey
from horde_proxy.places import Binding, EndpointPlace
from horde_proxy.router import EVERYTHING, Router
from horde_proxy.router.candidates import Candidate, Candidates
from horde_proxy.router.model_names import aliases_in
from horde_proxy.router.scope import PlacesExcluded, bound
from tests.test_router import Offering, Proxying, endpoint, tried_in_order

HOME = Binding("the header X-Places", frozenset({"home"}))
AT_HOME = bound(EVERYTHING, HOME)


def router(**options: object) -> Router:
    """`m` is everywhere, `big` at the crowd and paid, `small` at home."""
    return Router(
        [
            endpoint(Offering("horde", "m", "big"), place="crowd"),
            endpoint(Proxying("provider", "m", "big"), place="paid", priority=1),
            endpoint(Proxying("box", "m", "small"), place="home", priority=2),
            endpoint(Offering("friends", "m"), place="private", priority=3),
        ],
        **options,  # type: ignore[arg-type]
    )


def names(of: Router, name: str | None, scope: object = AT_HOME) -> list[str]:
    return [endpoint for endpoint, _ in tried_in_order(of, name, scope=scope)]


@pytest.mark.parametrize(
    ("places", "endpoints"),
    [
        (["home"], ["box"]),
        (["home", "private"], ["box", "friends"]),
        (["paid", "crowd"], ["horde", "provider"]),
        (["home", "private", "crowd", "paid"], ["horde", "provider", "box", "friends"]),
    ],
)
def test_only_endpoints_at_the_places_are_candidates(
    places: list[str], endpoints: list[str]
) -> None:
    scope = bound(EVERYTHING, Binding("the header X-Places", frozenset(places)))
    assert names(router(), "m", scope) == endpoints


def test_a_key_and_a_request_leave_what_both_allow() -> None:
    key = ClientKey("ann", places=("home", "private"))
    assert names(router(), "m", key) == ["box", "friends"]
    request = Binding("the header X-Places", frozenset({"private", "crowd"}))
    assert names(router(), "m", bound(key, request)) == ["friends"]


def test_no_place_left_is_refused_at_once_with_both_bindings() -> None:
    with pytest.raises(PlacesExcluded) as caught:
        bound(ClientKey("ann", places=("paid",)), HOME)
    assert str(caught.value) == (
        "The key `ann` allows only `paid` and the header X-Places allows only `home`: no place is "
        "in all of them, so that nothing may answer."
    )


def test_a_refusal_names_the_binding_what_would_answer_and_what_may() -> None:
    with pytest.raises(PlacesExcluded) as caught:
        router().candidates("big", AT_HOME)
    assert (caught.value.status, caught.value.code) == (403, "places_excluded")
    assert str(caught.value) == (
        "The header X-Places allows only `home`; `big` would be answered by horde (crowd), "
        "provider (paid) only. Models that may answer: m, small."
    )


def test_a_named_endpoint_beyond_the_places_is_refused() -> None:
    with pytest.raises(PlacesExcluded, match=r"`m` would be answered by horde \(crowd\) only"):
        router().candidates("m", AT_HOME, "horde")


def test_a_refusal_says_nothing_of_what_the_key_may_not_use_anyway() -> None:
    key = ClientKey("ann", endpoints=("box", "provider"), places=("home",))
    with pytest.raises(PlacesExcluded, match=r"answered by provider \(paid\) only"):
        router().candidates("big", key)
    with pytest.raises(ModelNotFound):
        router().candidates("big", ClientKey("ann", endpoints=("box",), places=("home",)))


def test_an_unknown_model_is_unknown_in_all_places() -> None:
    with pytest.raises(ModelNotFound, match="`m`, `small`"):
        router().candidates("nothing-like-it", AT_HOME)


def test_fallbacks_stay_within_the_places() -> None:
    of = router(fallbacks={"small": ["big", "m"], "big": ["small"], "*": ["big"]})
    assert names(of, "small") == ["box", "box"]
    # The model itself is beyond the places, and its fallback within.
    assert tried_in_order(of, "big", scope=AT_HOME) == [("box", ("small",))]
    assert names(of, "m") == ["box"]


def test_an_endpoint_that_lists_nothing_is_not_tried_beyond_its_place() -> None:
    any_model = Proxying("provider")
    any_model.offers_any = True
    of = Router([endpoint(any_model, place="paid"), endpoint(Proxying("box", "m"), place="home")])
    assert names(of, "any", EVERYTHING) == ["provider"]
    with pytest.raises(PlacesExcluded, match=r"provider \(paid\)"):
        of.candidates("any", AT_HOME)


def test_a_call_without_a_model_goes_to_servers_at_the_places_only() -> None:
    assert names(router(), None, EVERYTHING) == ["provider", "box"]
    assert names(router(), None) == ["box"]
    private = bound(EVERYTHING, Binding("this job", frozenset({"private"})))
    with pytest.raises(PlacesExcluded, match="this request would be answered by provider"):
        router().candidates(None, private)


def test_a_server_at_home_that_cannot_be_reached_is_no_reason_to_go_elsewhere() -> None:
    box = Proxying("box", "m")
    box.lists_fail = UpstreamFailed("box is down")
    horde = endpoint(Offering("horde", "m"), place="crowd")
    of = Router([endpoint(box, place="home"), horde])
    # It may be back soon, so that this is no refusal.
    with pytest.raises(UpstreamFailed, match="box"):
        of.candidates("m", AT_HOME)
    both = Router([endpoint(box, place="home"), endpoint(box, place="home"), horde])
    with pytest.raises(AllEndpointsFailed):
        both.candidates("m", AT_HOME)


def test_an_endpoint_of_unknown_place_is_beyond_all_places() -> None:
    of = Router([endpoint(Proxying("box", "m"))])
    assert names(of, "m", EVERYTHING) == ["box"]
    everywhere = Binding("this job", frozenset({"home", "private", "crowd", "paid"}))
    with pytest.raises(PlacesExcluded):
        of.candidates("m", bound(EVERYTHING, everywhere))


@pytest.mark.parametrize(
    "model", ["gpt-oss:120b-cloud", "glm-4.6:cloud", "glm-4.6:Cloud", "x-CLOUD "]
)
def test_models_that_ollama_com_runs_are_not_at_home(model: str) -> None:
    of = Router([endpoint(Proxying("box", "m", model), place="home")])
    assert [listed["id"] for listed in of.models(AT_HOME)] == ["m"]
    with pytest.raises(PlacesExcluded, match=r"box \(paid\)"):
        of.candidates(model, AT_HOME)
    paid = bound(EVERYTHING, Binding("this job", frozenset({"paid"})))
    assert names(of, model, paid) == ["box"]


def test_a_copy_of_such_a_model_is_not_at_home_either() -> None:
    box = Proxying("box", "m", "mine")
    box.listed[1]["remote_host"] = "https://ollama.com:443"
    of = Router([endpoint(box, place="home", prefix="box/")])
    assert [listed["id"] for listed in of.models(AT_HOME)] == ["box/m"]
    with pytest.raises(PlacesExcluded, match=r"box \(paid\)"):
        of.candidates("box/mine", AT_HOME)


def test_lists_of_models_and_endpoints_show_what_may_be_reached() -> None:
    assert [model["id"] for model in router().models(AT_HOME)] == ["m", "small"]
    assert router().models(AT_HOME)[0]["endpoints"] == ["box"]
    [state] = router().states(AT_HOME)
    assert (state["name"], state["place"], state["models"]) == ("box", "home", ["m", "small"])


ALIASES = {"secret": "m", "diary": "secret", "plain": "m"}
BOUND = {"secret": ["home", "private"]}


@pytest.mark.parametrize(
    ("name", "endpoints"),
    [
        ("plain", ["horde", "provider", "box", "friends"]),
        ("secret", ["box", "friends"]),
        ("SECRET:latest", ["box", "friends"]),
        # An alias of an alias, and an element of a list: the prompt is the same for all elements.
        ("diary", ["box", "friends"]),
        ("secret,m", ["box", "friends"]),
        ("m, secret", ["box", "friends"]),
    ],
)
def test_an_alias_binds_whatever_names_it(name: str, endpoints: list[str]) -> None:
    assert names(router(aliases=ALIASES, alias_places=BOUND), name, EVERYTHING) == endpoints


def test_an_alias_binds_its_fallbacks_and_an_alias_among_fallbacks_itself_alone() -> None:
    of = router(
        aliases={**ALIASES, "s": "small"},
        alias_places={"s": ["home"], "secret": ["home"]},
        fallbacks={"s": ["big", "m"], "big": ["secret"]},
    )
    assert names(of, "s", EVERYTHING) == ["box", "box"]
    assert names(of, "big", EVERYTHING) == ["horde", "provider", "box"]
    paid = bound(EVERYTHING, Binding("the key `ann`", frozenset({"paid"})))
    assert names(of, "big", paid) == ["provider"]


def test_an_alias_and_a_key_without_a_common_place_are_refused() -> None:
    of = router(aliases=ALIASES, alias_places=BOUND)
    with pytest.raises(PlacesExcluded, match="The key `ann` allows only `paid` and the alias"):
        of.candidates("secret", ClientKey("ann", places=("paid",)))


def test_aliases_that_lead_in_a_circle_are_each_passed_once() -> None:
    assert aliases_in("a", {"a": "b,c", "b": "a", "c": "x"}) == ["a", "c", "b"]


def test_a_name_of_many_commas_is_no_list() -> None:
    """A line of a batch may have megabytes; only the first thousand characters of a list count."""
    assert aliases_in("," * 1_000_000 + "diary", {"diary": "x"}) == []
    assert aliases_in("," * 995 + "diary", {"diary": "x"}) == ["diary"]


def test_candidates_drop_what_their_scope_does_not_hold_whoever_made_the_list() -> None:
    beyond = Candidate(endpoint(Offering("horde", "m"), place="crowd"), ("m",))
    assert not Candidates("m", [beyond], {}, AT_HOME)
    assert Candidates("m", [beyond], {}, EVERYTHING)


def test_scopes_that_allow_the_same_are_one() -> None:
    other = Binding("the field `places`", frozenset({"home"}))
    assert bound(EVERYTHING, other) == AT_HOME
    assert bound(AT_HOME, other) == AT_HOME
    assert hash(bound(AT_HOME, other)) == hash(AT_HOME)
    assert bound(AT_HOME, HOME) is AT_HOME
    assert bound(EVERYTHING) is EVERYTHING


@pytest.mark.parametrize("place", ["home", "private", "crowd", "paid", None])
def test_nothing_is_excluded_without_a_binding(place: EndpointPlace | None) -> None:
    of = Router([endpoint(Proxying("box", "m"), place=place)])
    assert names(of, "m", EVERYTHING) == ["box"]

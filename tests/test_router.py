"""From a model's name to its routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from horde_proxy.errors import ModelNotFound
from horde_proxy.protocol.chat import ChatRequest
from horde_proxy.router import Router
from horde_proxy.upstreams import Route, StreamItem


class Offering:
    """An upstream that only has models."""

    def __init__(self, name: str, *models: str) -> None:
        self.name, self._models = name, models

    def models(self) -> Sequence[dict[str, Any]]:
        return [{"id": model, "owned_by": self.name} for model in self._models]

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        return tuple(model for model in models if model[0] == models[0][0])

    def stream(self, request: ChatRequest, route: Route) -> Iterator[StreamItem]:
        raise AssertionError("not asked")


ONE, TWO = Offering("one", "a/Llama-3-8B", "b"), Offering("two", "b", "c")


def test_all_upstreams_that_offer_a_model_are_candidates_in_order() -> None:
    assert Router([ONE, TWO]).candidates("b") == [Route(ONE, ("b",)), Route(TWO, ("b",))]
    assert Router([ONE, TWO]).candidates("c") == [Route(TWO, ("c",))]


def test_a_model_that_two_offer_is_listed_once() -> None:
    found = Router([ONE, TWO]).models()
    assert [(model["id"], model["owned_by"]) for model in found] == [
        ("a/Llama-3-8B", "one"), ("b", "one"), ("c", "two"),
    ]


def test_an_unknown_model_names_near_ones() -> None:
    with pytest.raises(ModelNotFound, match="On offer are: `a/Llama-3-8B`."):
        Router([ONE]).candidates("a/Llama-3-7b")


def test_the_models_of_a_pattern_share_a_route_where_they_can() -> None:
    one = Offering("one", "a1", "b1", "a2")
    assert Router([one]).candidates("*[12]") == [Route(one, ("a1", "a2")), Route(one, ("b1",))]


def test_the_elements_of_a_list_are_routes_of_their_own() -> None:
    one = Offering("one", "a1", "a2")
    assert Router([one]).candidates("gone,a2,a1") == [Route(one, ("a2",)), Route(one, ("a1",))]


def test_an_alias_has_the_real_models_route_and_description() -> None:
    router = Router([ONE], {"gpt-4o-mini": "a/Llama-3-8B"})
    assert router.candidates("gpt-4o-mini") == [Route(ONE, ("a/Llama-3-8B",))]
    assert router.model("gpt-4o-mini")["id"] == "a/Llama-3-8B"

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

    def stream(self, request: ChatRequest, route: Route) -> Iterator[StreamItem]:
        raise AssertionError("not asked")


ONE, TWO = Offering("one", "a/Llama-3-8B", "b"), Offering("two", "b", "c")


def test_all_upstreams_that_offer_a_model_are_candidates_in_order() -> None:
    assert Router([ONE, TWO]).candidates("b") == [Route(ONE, "b"), Route(TWO, "b")]
    assert Router([ONE, TWO]).candidates("c") == [Route(TWO, "c")]


def test_a_model_that_two_offer_is_listed_once() -> None:
    found = Router([ONE, TWO]).models()
    assert [(model["id"], model["owned_by"]) for model in found] == [
        ("a/Llama-3-8B", "one"), ("b", "one"), ("c", "two"),
    ]


def test_an_unknown_model_names_near_ones() -> None:
    with pytest.raises(ModelNotFound, match="On offer are: `a/Llama-3-8B`."):
        Router([ONE]).candidates("a/Llama-3-8b")

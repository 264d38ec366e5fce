"""The models that one request names, in the fields of OpenRouter and LiteLLM."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.named_models import read_named_models

# The body's fields: the model that is passed on, and the further ones.
BODIES: list[tuple[dict[str, Any], str | None, tuple[str, ...]]] = [
    ({"models": ["a", "b"]}, "a", ("b",)),
    ({"model": "a", "models": ["b", "c"]}, "a", ("b", "c")),
    ({"model": "a", "models": ["b", "a", "b"]}, "a", ("b",)),
    ({"model": None, "models": ["a"]}, "a", ()),
    ({"model": "", "models": ["a"]}, "a", ()),
    ({"model": "a", "models": []}, "a", ()),
    ({"model": "a", "models": None}, "a", ()),
    ({"models": []}, None, ()),
    ({"model": "a", "fallbacks": ["b", {"model": "c"}]}, "a", ("b", "c")),
    ({"model": "a", "models": ["b"], "fallbacks": ["c"]}, "a", ("b", "c")),
    ({"model": 5, "models": ["b"]}, 5, ("b",)),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("body", "model", "further"), BODIES)
def test_the_first_model_is_passed_on_and_the_others_are_kept(
    body: dict[str, Any], model: str | None, further: tuple[str, ...]
) -> None:
    named = read_named_models({**body, "n": 1})
    assert named is not None
    assert (named.document.get("model"), named.further) == (model, further)
    assert named.document.keys() - {"model"} == {"n"}


@pytest.mark.parametrize("body", [None, [], "models", {"model": "a"}])
def test_a_body_without_a_list_is_left_alone(body: Any) -> None:
    assert read_named_models(body) is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"models": "a"}, "models"),
        ({"models": ["a", 5]}, "models"),
        ({"models": [""]}, "models"),
        ({"models": ["x" * 1001]}, "models"),
        ({"models": [str(number) for number in range(21)]}, "models"),
        ({"fallbacks": {"a": ["b"]}}, "fallbacks"),
        ({"fallbacks": [{"name": "b"}]}, "fallbacks"),
    ],
)
def test_a_list_that_is_none_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_named_models(body)
    assert caught.value.param == param


def test_what_else_an_entry_says_is_named_in_a_warning() -> None:
    named = read_named_models({"fallbacks": [{"model": "b", "temperature": 0}]})
    assert named is not None
    assert named.warnings == ("fallbacks: only `model` of each entry is used",)

"""Places in words and lists, and what several bindings leave."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.places import Binding, common_places, read_places, written


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ("home", {"home"}),
        (" Home , PRIVATE ", {"home", "private"}),
        (["crowd", "paid"], {"crowd", "paid"}),
    ],
)
def test_places_are_read_from_a_text_or_a_list(value: Any, places: set[str]) -> None:
    assert read_places(value) == places


@pytest.mark.parametrize("value", ["hoem", "home,", "", [], ["home", 1], None, {"home": True}, 7])
def test_whatever_is_no_list_of_places_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="home, private, crowd, paid"):
        read_places(value)


def test_several_bindings_leave_what_all_of_them_allow() -> None:
    key = Binding("the key `ann`", frozenset({"home", "private"}))
    header = Binding("the header X-Places", frozenset({"private", "paid"}))
    assert common_places([]) == {"home", "private", "crowd", "paid"}
    assert common_places([key, header]) == {"private"}


def test_places_are_written_in_one_order() -> None:
    assert written({"paid", "home"}) == "`home` or `paid`"
    assert written({"crowd"}) == "`crowd`"
    assert written(()) == "no place"
    key = Binding("the key `ann`", frozenset({"private", "home"}))
    assert str(key) == "the key `ann` allows only `home` or `private`"

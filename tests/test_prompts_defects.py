"""Texts that no reader would want, and texts that only look like them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.prompts.answer import defect_in, loops
from horde_proxy.prompts.formats import FORMATS

SENTENCE = "I am a language model, and I am here to help you with whatever you need today. "
PARAGRAPH = (
    "The capital of France is Paris. It lies on the Seine, has more than two million inhabitants "
    "and is known for its museums.\n\nIf you want to know more about it, ask me about its history, "
    "its food or its bridges, and I shall tell you all I know.\n\n"
)
ROWS = "".join(
    f"| {number} | a cell of the table that is the same in each row |\n" for number in range(40)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes " * 76, True),
        ("yes " * 75, False),
        ("Well then. " + "yes " * 80, True),
        ("yes " * 80 + "  \n", True),
        ("yes " * 80 + "no", False),
        ("ha" * 200, True),
        ("x" * 300, True),
        ("-" * 2000, False),
        ("\n" * 2000, False),
        ("| - " * 500, False),
        (SENTENCE * 8 + "I", True),
        (SENTENCE * 8, False),
        (PARAGRAPH * 8 + "The", True),
        (PARAGRAPH * 8, False),
        ("So: " + PARAGRAPH * 8 + PARAGRAPH[:100], True),
        (PARAGRAPH * 8 + "That is all.", False),
        ("a" * 50 + ("b" * 30 + "c") * 12, True),
        (("b" * 90 + "c") * 8, True),
        ("z" * 601 * 2, True),
        ((SENTENCE * 8)[:600] * 8, True),
        ("".join(map(chr, range(0x4E00, 0x4E00 + 601))) * 8, False),
        ("".join(map(chr, range(0x4E00, 0x4E00 + 600))) * 8, True),
        (ROWS, False),
        ("", False),
        ("short", False),
    ],
)
def test_a_text_loops_that_ends_in_one_unit_over_and_over(text: str, expected: bool) -> None:
    assert loops(text) is expected


@given(st.text(min_size=1, max_size=600).filter(lambda unit: unit.strip() == unit), st.text())
def test_a_unit_with_a_letter_is_found_whatever_comes_before(unit: str, before: str) -> None:
    rounds = max(12, -(-300 // len(unit))) if len(unit) <= 60 else 8
    has_letter = any(map(str.isalnum, unit))
    assert loops(before + unit * rounds) or not has_letter


@pytest.mark.parametrize(
    ("text", "is_first", "expected"),
    [
        ("", True, "empty"),
        (" \n", True, "empty"),
        ("", False, None),
        ("{{[INPUT]}} hello", True, "tags"),
        (" {{[OUTPUT_END]}}", True, "tags"),
        ("{{[INPUT]}} hello", False, None),
        ("He wrote {{[INPUT]}}.", True, None),
        ("no " * 200, True, "loop"),
        ("no " * 200, False, "loop"),
        ("Paris.", True, None),
    ],
)
def test_defects_are_found(text: str, is_first: bool, expected: str | None) -> None:
    assert defect_in(text, FORMATS["chatml"], is_first=is_first) == expected

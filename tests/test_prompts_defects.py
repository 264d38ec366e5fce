"""Texts that no reader would want, and texts that only look like them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.prompts.answer import defect_in
from horde_proxy.prompts.formats import FORMATS
from horde_proxy.prompts.repetition import loops

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


WORDS = st.text("bghilmnoprstuyéд漢", min_size=1, max_size=9)


@given(st.lists(WORDS, min_size=1, max_size=60), st.text())
def test_repeated_words_are_a_loop_whatever_comes_before(words: list[str], before: str) -> None:
    unit = " ".join(words)[:599] + " "
    rounds = max(12, -(-300 // len(unit))) if len(unit) <= 60 else 8
    assert loops(before + unit * (rounds + 1) + "x") is False
    assert loops(before + unit * (rounds + 1))


@pytest.mark.parametrize(
    "unit",
    [
        "0",
        "0 ",
        "00 00 00 00 ",
        "0x00, ",
        "ff ff ff ff  ",
        "\\x00",
        "| 0 | 0 | 0 |\n",
        "0,0,0,0\n",
        "A",
        "AQEB",
        "AAEC\n",
        "10px 0 #000, ",
        "1fr ",
        "1010",
    ],
)
def test_numbers_and_dumps_repeat_on_purpose(unit: str) -> None:
    assert not loops(unit * (9000 // len(unit)))


@pytest.mark.parametrize(
    "unit",
    ["| n/a | n/a |\n", "  margin: 0;\n  padding: 0;\n", "foo,bar\n", "<td>x</td>", "    pass;\n"],
)
def test_rows_of_a_table_and_code_are_a_loop_only_after_a_hundred_rounds(unit: str) -> None:
    assert not loops(unit * 99)
    assert loops(unit * 101)


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

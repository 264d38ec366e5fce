"""The estimate of token counts, against counts that SmolLM2's own tokenizer gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.prompts.tokens import count_within, estimate, exceeds, truncate

SAMPLES = json.loads((Path(__file__).parent / "data" / "llama_token_counts.json").read_text())


FOREIGN = ("Present at the meeting were Aoife", "Heute Morgen", "lol ok so")


def english(kind: str) -> list[dict[str, Any]]:
    """The samples of a kind but for three: foreign names, German, and emoji."""
    return [
        each for each in SAMPLES if each["kind"] == kind and not each["text"].startswith(FOREIGN)
    ]


@pytest.mark.parametrize("kind", ["prose", "code"])
def test_the_sum_over_all_samples_is_good_to_three_percent(kind: str) -> None:
    counted = sum(each["tokens"] for each in english(kind))
    estimated = sum(estimate(each["text"]) for each in english(kind))
    assert abs(estimated / counted - 1) < 0.03


@pytest.mark.parametrize("kind", ["prose", "code"])
def test_each_sample_is_good_to_ten_percent(kind: str) -> None:
    errors = [abs(estimate(each["text"]) / each["tokens"] - 1) for each in english(kind)]
    assert len(errors) >= 12
    assert max(errors) <= 0.105


def test_a_very_long_text_is_judged_by_its_ends() -> None:
    assert estimate("word " * 1_000_000) == pytest.approx(1_020_000, rel=0.02)


def test_an_empty_text_has_no_tokens() -> None:
    assert estimate("") == 0


def test_other_scripts_count_by_the_character() -> None:
    assert 20 <= estimate("今天天气很好，我们去公园散步吧。") <= 40


@given(st.text(), st.integers(1, 50))
def test_a_truncated_text_is_a_beginning_that_fits(text: str, tokens: int) -> None:
    short = truncate(text, tokens)
    assert text.startswith(short)
    assert estimate(short) <= tokens or len(short.split()) <= 1


@pytest.mark.parametrize(
    ("text", "tokens", "short"),
    [
        ("Hello there friend", 1, "Hello"),
        ("Certainly! ok", 1, "Certainly"),
        ('{"a":1}', 1, "{"),
        ("你好啊", 3, "你好"),
        ("今" * 100, 13, "今" * 10),
        ("000\r\U00010000\U00010000\x80", 7, "000\r\U00010000"),
        ("é" * 8 + "\U0001f600" * 9, 9, "é" * 8),
        ("é" * 8 + "\U0001f600" * 9, 10, "é" * 8 + "\U0001f600"),
        ("", 1, ""),
    ],
)
def test_truncation_leaves_at_least_one_character(text: str, tokens: int, short: str) -> None:
    assert truncate(text, tokens) == short


def test_a_text_that_fits_is_not_truncated() -> None:
    assert truncate("one two three", 3 + 1) == "one two three"


def test_truncation_falls_between_words() -> None:
    assert truncate("one two three four", 1) == "one"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("This is a sentence about rain. " * 4, 28),  # seven tokens each
        ("1234567890" * 9, 30),  # three digits are one token of Llama 3
        ("element.getElementById(otherElement); " * 5, 40),
        ("-" * 64, 2),  # a ruler
        ("漢字の文章です。" * 5, 20),
        ("    return x\n" * 20, 80),
    ],
)
def test_a_text_of_a_worker_that_kept_its_max_length_never_exceeds_it(
    text: str, tokens: int
) -> None:
    assert not exceeds(text, tokens)
    assert count_within(text, tokens) <= tokens
    assert exceeds(text * 8, tokens)
    assert count_within(text * 8, tokens) == estimate(text * 8)


def test_megabytes_are_judged_by_their_beginning() -> None:
    assert exceeds("word " * 1_000_000, 50)
    assert not exceeds("", 16)

"""Generated text to a message."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.prompts.answer import Answer, cut, read_answer
from horde_proxy.prompts.formats import FORMATS

CHATML = FORMATS["chatml"]


def read(text: str, format: str = "chatml", **options: object) -> Answer:
    options.setdefault("max_length", 512)
    return read_answer(text, FORMATS[format], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "format", "content"),
    [
        ("He likes cats</s>", "mistral-v3", "He likes cats"),
        ("The answer is here\nUser: more", "plain", "The answer is here"),
        ("The answer is here", "plain", "The answer is here"),
        ("Hi there!\n### Instruction:", "alpaca", "Hi there!"),
        ("Hi<|im_end|>\n<|im_start|>user\nmore", "chatml", "Hi"),
        ("<|im_start|>assistant\nHi<|im_end|>", "chatml", "Hi"),
        ("assistant\n\nHi", "llama3", "Hi"),
        ("model\nHi", "gemma", "Hi"),
        ("assistant\nHi", "gemma", "Hi"),
        ("CHATBOT\nHi", "command-r", "Hi"),
        ("ai\n\nHi", "minimax", "Hi"),
        ("Assistant\nHi", "deepseek", "Hi"),
        ("CHATBOT is a word", "command-r", "CHATBOT is a word"),
        ("ai and other\nwords", "minimax", "ai and other\nwords"),
        ("ai\nHi", "chatml", "ai\nHi"),
        ("Response\nDear Sir", "alpaca", "Response\nDear Sir"),
        ("response\n1", "dots", "response\n1"),
        ("OUTPUT\n42", "placeholders", "OUTPUT\n42"),
        (" Hi", "vicuna", "Hi"),
        ("Hi<|eot_id|>", "chatml", "Hi"),
        ("Hi</s>", "chatml", "Hi"),
        ("<s>struck</s>", "chatml", "<s>struck</s>"),
        ("Hi <|im_e", "chatml", "Hi"),
        ("a < b and # c", "chatml", "a < b and # c"),
        ("Hi{{[INPUT]}}again", "placeholders", "Hi"),
        ("The assistant\nis here", "chatml", "The assistant\nis here"),
    ],
)
def test_the_formats_residue_is_cut_off(text: str, format: str, content: str) -> None:
    assert read(text, format).content == content


def test_a_family_that_nobody_knows_yet_has_its_role_s_name_cut_off() -> None:
    zephyrus = replace(
        FORMATS["chatml"], user=("<~user~>\n", "<~over~>"), assistant=("<~zephyrus~>\n", "<~over~>")
    )
    assert read_answer("zephyrus\nHi", zephyrus, max_length=99).content == "Hi"
    assert read_answer("zephyrus blows", zephyrus, max_length=99).content == "zephyrus blows"


def test_the_clients_stop_is_cut_exactly() -> None:
    answer = read("one, two \nEND three", stops=("END",))
    assert (answer.content, answer.finish_reason) == ("one, two \n", "stop")


def test_the_first_of_several_stops_counts() -> None:
    assert cut("a STOP b END c", ("END", "STOP")) == ("a ", "STOP")


def test_the_longer_of_two_stops_at_one_place_is_the_one_found() -> None:
    assert cut("a STOPPED", ("STOP", "STOPPED")) == ("a ", "STOPPED")


@given(st.text(alphabet="ab \n<>"), st.lists(st.text(alphabet="ab<>", min_size=1), max_size=3))
def test_a_cut_only_takes_away_an_end(text: str, stops: list[str]) -> None:
    before, stop = cut(text, stops)
    assert text.startswith(before)
    assert all(each not in before for each in stops)
    assert (stop is None) == (before == text)


def test_a_thought_is_reasoning() -> None:
    answer = read("<think>\nhm\n</think>\n\nYes.")
    assert (answer.reasoning, answer.content) == ("hm", "Yes.")


def test_a_thought_whose_beginning_is_not_seen_is_reasoning() -> None:
    answer = read("hm, let me see</think>Yes.", "glm4")
    assert (answer.reasoning, answer.content) == ("hm, let me see", "Yes.")


def test_a_thought_without_an_end_is_all_reasoning() -> None:
    answer = read("<think>hm and hm")
    assert (answer.reasoning, answer.content) == ("hm and hm", "")


def test_a_mentioned_tag_is_no_thought() -> None:
    text = "Close it with `</think>` and go on."
    assert read(text, "deepseek").content == text


def test_a_tag_in_a_format_that_does_not_think_is_text() -> None:
    text = "Use </think> here."
    assert read(text, "alpaca").content == text


def test_a_prefilled_answer_keeps_its_leading_space() -> None:
    assert read(" more", prefilled=True).content == " more"


@pytest.mark.parametrize(
    ("text", "max_length", "reason"),
    [
        ("A short sentence.", 100, "stop"),
        ("word " * 100 + "and then the", 100, "length"),
        ("word " * 84 + "and then the", 100, "length"),
        ("word " * 84 + "and an end.", 100, "stop"),
        ("word " * 40 + "and then the", 100, "stop"),
        ("word " * 100 + "the end.<|im_end|>", 100, "stop"),
    ],
)
def test_the_finish_reason_is_inferred(text: str, max_length: int, reason: str) -> None:
    assert read(text, max_length=max_length).finish_reason == reason


def test_fewer_tokens_than_the_horde_can_be_asked_for_are_cut_here() -> None:
    answer = read("one two three four five six seven", max_length=16, max_tokens=3)
    assert (answer.content, answer.finish_reason) == ("one two three", "length")


def test_an_answer_within_the_clients_limit_ends_with_stop() -> None:
    assert read("one two", max_length=16, max_tokens=10).finish_reason == "stop"


def test_tokens_are_estimated_with_the_reasoning_in_them() -> None:
    answer = read("<think>one two</think>three four")
    assert answer.tokens > answer.reasoning_tokens > 0


def test_nothing_is_nothing() -> None:
    assert read("") == Answer("", "", "stop", 0, 0, "")

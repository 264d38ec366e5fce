"""An answer in segments reads like the same answer in one go."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.prompts.answer import read_answer
from horde_proxy.prompts.end_tokens import held_back
from horde_proxy.prompts.formats import FORMATS, PLACEHOLDERS, Format
from horde_proxy.prompts.partial_answer import LengthEstimate, PartialAnswer
from horde_proxy.prompts.tokens import estimate

CHATML = FORMATS["chatml"]
FILL = LengthEstimate()


def draft(stops: tuple[str, ...] = (), limit: int = 4000, prefilled: bool = False) -> PartialAnswer:
    return PartialAnswer(CHATML, stops=stops, limit=limit, prefilled=prefilled)


def contents(deltas: Sequence[tuple[str, str]]) -> str:
    return "".join(text for part, text in deltas if part == "content")


def read_in_segments(segments: list[str], stops: tuple[str, ...] = ()) -> str:
    """The content as a client gets it, the answer being at its end after the last segment."""
    own = draft(stops)
    got = ""
    for segment in segments:
        own.add(segment, 100, FILL)
        got += contents(own.final_parts())
    return got + contents(own.finish(100, False)[0])


def test_final_parts_come_after_each_segment() -> None:
    own = draft()
    own.add("One two ", 2, FILL)
    assert own.final_parts() == [("content", "One two")]
    own.add("three.", 2, FILL)
    assert own.final_parts() == [("content", " three.")]


def test_a_stop_that_straddles_a_seam_is_found() -> None:
    assert read_in_segments(["Hello EN", "D and more"], stops=("END",)) == "Hello "


def test_the_beginning_of_a_stop_that_never_comes_is_kept() -> None:
    assert read_in_segments(["Hello EN", "GLAND"], stops=("END",)) == "Hello ENGLAND"


def test_a_format_stop_that_straddles_a_seam_is_found() -> None:
    assert read_in_segments(["Hello <|im_", "end|>\nuser"]) == "Hello"


def test_whitespace_at_a_seam_is_neither_lost_nor_doubled() -> None:
    assert read_in_segments(["a \n", "\n  b\t", "\tc"]) == "a \n\n  b\t\tc"


def test_a_repeated_opening_tag_is_removed_between_segments() -> None:
    own = PartialAnswer(FORMATS["llama3"], stops=(), limit=4000, prefilled=False)
    tag = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    own.add("The first", 2, FILL)
    own.add(tag + " and the second.", 4, FILL)
    assert own.text == "The first and the second."


def test_a_word_that_looks_like_a_role_is_kept_at_a_seam() -> None:
    assert read_in_segments(["It is a ", "model\nof something"]) == "It is a model\nof something"


def test_an_echoed_role_at_the_beginning_is_held_until_it_is_known() -> None:
    own = draft()
    own.add("assist", 1, FILL)
    assert own.final_parts() == []
    own.add("ant\nHello", 2, FILL)
    assert own.final_parts() == [("content", "Hello")]


def test_a_role_of_the_format_s_own_is_held_as_well() -> None:
    own = PartialAnswer(FORMATS["command-r"], stops=(), limit=4000, prefilled=False)
    own.add("CHAT", 1, FILL)
    assert own.final_parts() == []
    own.add("BOT\nHello", 2, FILL)
    assert own.final_parts() == [("content", "Hello")]


def test_a_character_that_was_cut_in_two_is_left_for_the_next_segment_to_write() -> None:
    own = draft()
    own.add("one two three four \ufffd", 5, FILL)
    own.add("\U0001f600 five.", 5, FILL)
    assert own.text == "one two three four \U0001f600 five."


def test_reasoning_and_content_are_told_apart_across_seams() -> None:
    own = draft()
    deltas = []
    for segment in ("<thi", "nk>One, ", "two.</th", "ink>\n\nThe ans", "wer."):
        own.add(segment, 3, FILL)
        deltas += own.final_parts()
    deltas += own.finish(3, False)[0]
    assert "".join(text for part, text in deltas if part == "reasoning") == "One, two."
    assert contents(deltas) == "The answer."


def test_an_answer_after_an_unopened_thought_goes_on_across_seams() -> None:
    own = PartialAnswer(FORMATS["deepseek"], stops=(), limit=4000, prefilled=False)
    deltas = []
    for segment in ("Let me think.</think>\n\nThe answer", " is forty", "-two."):
        own.add(segment, 3, FILL)
        deltas += own.final_parts()
    deltas += own.finish(3, False)[0]
    assert contents(deltas) == "The answer is forty-two."


@pytest.mark.parametrize(
    ("text", "length", "end"),
    [
        ("", 100, "ended"),
        ("Short.", 100, "ended"),
        ("word " * 100, 100, "full"),
        ("word " * 99 + "end.", 100, "doubtful"),
        ("word " * 70 + "and", 100, "doubtful"),
        ("word " * 40 + "and", 100, "ended"),
        ("word " * 100 + "<|im_end|>", 100, "ended"),
        ("word " * 100 + "</s>", 100, "ended"),
    ],
)
def test_how_a_segment_ended(text: str, length: int, end: str) -> None:
    assert draft().add(text, length, FILL) == end


def test_a_model_whose_tokens_are_longer_is_learned() -> None:
    fill = FILL
    for _ in range(30):
        fill = fill.with_full(1.5)
    assert fill.judge("word " * 110, 100) == "ended"
    assert fill.judge("word " * 150, 100) == "full"


def test_the_first_full_segments_of_a_model_count_most() -> None:
    fill = FILL.with_full(1.2)
    assert (fill.mean, fill.spread) == pytest.approx((1.1, 0.175))
    for _ in range(3):
        fill = fill.with_full(1.2)
    # The four count as much as four and what was assumed: the mean of one 1.0 and four 1.2.
    assert (fill.mean, fill.spread) == pytest.approx((1.16, 0.34 / 3))


def test_answers_that_proved_complete_show_that_others_of_their_length_are() -> None:
    sentence = "word " * 75 + "end."
    assert estimate(sentence) == 79
    fill = FILL.with_complete(0.8)
    assert fill.judge(sentence, 100) == "doubtful"
    fill = fill.with_complete(0.79)
    assert fill.judge(sentence, 100) == "ended"
    # Not what is longer, nor what breaks off within a sentence.
    assert fill.judge("word " * 76 + "end.", 100) == "doubtful"
    assert fill.judge("word " * 79, 100) == "doubtful"
    # A full segment of that length takes it back.
    assert fill.with_full(0.8).judge(sentence, 100) == "doubtful"


def test_no_text_shows_that_what_is_as_long_as_full_ones_is_complete() -> None:
    fill = FILL.with_complete(1.4).with_complete(1.4)
    assert fill.complete == (0.85, 0.85)
    assert fill.judge("word " * 99 + "end.", 100) == "doubtful"


@pytest.mark.parametrize(
    "continuation",
    [
        "",
        "  \n",
        "<|im_end|>",
        "\nUser: and now?",
        "**Human**: hm",
        "### Instruction:\nNext",
        "Paris is the capital of France.",
        " Paris is the capital of France. And",
        "[INST] More",
    ],
)
def test_a_continuation_that_adds_nothing_is_rambling(continuation: str) -> None:
    own = draft()
    own.add("Well. Paris is the capital of France. And so on.", 10, FILL)
    assert own.adds_nothing(continuation)


@pytest.mark.parametrize(
    "continuation",
    [
        " The next sentence.",
        "\n\n2. Second",
        "A user asked: what?",
        "The",
        "Systems: three",
    ],
)
def test_a_continuation_that_goes_on_is_no_rambling(continuation: str) -> None:
    own = draft()
    own.add("Well. Paris is the capital of France.", 10, FILL)
    assert not own.adds_nothing(continuation)


def test_a_chain_is_cut_at_the_limit_of_the_client_and_says_so() -> None:
    own = draft(limit=3)
    own.add("one two", 2, FILL)
    own.add(" three four five", 3, FILL)
    deltas, answer = own.finish(3, False)
    assert contents(deltas) == "one two three"
    assert (answer.finish_reason, answer.tokens) == ("length", 3)


def test_a_chain_that_ended_by_itself_is_a_stop() -> None:
    own = draft()
    own.add("one two three", 3, FILL)
    own.add(" four.", 3, FILL)
    assert own.finish(3, False)[1].finish_reason == "stop"


def test_the_beginning_of_a_string_at_the_end_is_held_back() -> None:
    assert held_back("foo EN", ("END", "N")) == 2


FRAGMENTS = st.sampled_from(
    [
        *("<think>", "</think>", "\n<think>", "<thinking>", "</thinking>", "[THINK]", "[/THINK]"),
        *("<tool_call>", '{"name": "f"}', "</tool_call>", "[TOOL_CALLS]", "<invoke name=", "```\n"),
        *("<|channel|>", "analysis", "final", "<|message|>", "<|end|>", "<|start|>", "assistant"),
        *(
            "analysisWe need",
            "assistantfinal",
            "assistantcommentary",
            " to=functions.f",
            "<|call|>",
        ),
        *(
            "<|im_end|>",
            "<|im_start|>",
            "</s>",
            "<s>",
            "<eos>",
            "\nUSER:",
            "### Response:",
            "model",
        ),
        *(
            "\n",
            " ",
            "    ",
            "`",
            '"',
            "Hi",
            "the ",
            "and",
            "…",
            ". ",
            "okay, ",
            "END",
            "<",
            "[",
            "é",
        ),
    ]
)
FORMS = st.sampled_from(
    [PLACEHOLDERS, *map(FORMATS.__getitem__, ("chatml", "vicuna", "alpaca", "harmony", "gemma"))]
)


@given(st.lists(FRAGMENTS, max_size=12), st.lists(st.integers(1, 9)), FORMS, st.booleans())
def test_an_answer_read_in_pieces_equals_the_answer_read_whole(
    fragments: list[str], sizes: list[int], format: Format, may_call: bool
) -> None:
    own = PartialAnswer(format, stops=("END",), limit=10**6, prefilled=False, may_call=may_call)
    text, parts = "".join(fragments), {"reasoning": "", "content": ""}
    for size in (*sizes, len(text)):
        own.text, text = own.text + text[:size], text[size:]
        for part, new in own.final_parts():
            parts[part] += new
    for part, new in own.finish(10**6, False)[0]:
        parts[part] += new
    whole = read_answer(
        own.text,
        format,
        stops=("END",),
        max_length=10**6,
        may_be_thought=not own._given["content"] or own._was_unopened,
        may_call=may_call,
    )
    assert parts == {"reasoning": whole.reasoning, "content": whole.content}


@pytest.mark.parametrize(
    ("beginning", "is_held"),
    [
        ("Okay, so the user wants", True),
        ("The user asks for", True),
        ("Okay", True),
        ("嗯，用户", True),
        ("Paris is the capital", False),
        ("I like", False),
    ],
)
def test_a_text_that_begins_like_a_thought_waits_for_its_end(beginning: str, is_held: bool) -> None:
    own = draft()
    own.add(beginning, 2, FILL)
    assert (own.final_parts() == []) is is_held
    own.add(" it.\n</think>\nRome.", 2, FILL)
    if is_held:
        assert own.finish(2, False)[0] == [
            ("reasoning", f"{beginning} it."),
            ("content", "Rome."),
        ]


TEXTS = st.text(st.sampled_from("ab \n\t<|>_/EDNthinkmso.é漢😀{[]}`"), max_size=60)


@given(
    segments=st.lists(TEXTS, min_size=1, max_size=6),
    stops=st.sampled_from([(), ("END",), ("\n\n", "a b"), ("😀", "<b>")]),
    format=st.sampled_from([CHATML, PLACEHOLDERS, FORMATS["mistral-v3"], FORMATS["alpaca"]]),
    prefilled=st.booleans(),
)
def test_an_answer_read_in_segments_equals_the_answer_read_whole(
    segments: list[str], stops: tuple[str, ...], format: Format, prefilled: bool
) -> None:
    own = PartialAnswer(format, stops=stops, limit=10**6, prefilled=prefilled)
    deltas = []
    for segment in segments:
        own.add(segment, 1, FILL)
        deltas += own.final_parts()
    deltas += own.finish(10**6, False)[0]
    whole = read_answer(
        own.text,
        format,
        stops=stops,
        max_length=10**6,
        prefilled=prefilled,
        may_be_thought=not own._given["content"] or own._was_unopened,
    )
    assert contents(deltas) == whole.content
    reasoning = "".join(text for part, text in deltas if part == "reasoning")
    assert reasoning == whole.reasoning

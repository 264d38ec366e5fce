"""Generated text to a message."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.prompts.answer import Answer, read_answer
from horde_proxy.prompts.end_tokens import cut
from horde_proxy.prompts.formats import FORMATS
from horde_proxy.prompts.partial_answer import LengthEstimate, PartialAnswer
from tests.support import growth

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
        ("assistant\nuser\nsystem", "chatml", "assistant\nuser\nsystem"),
        ("assistant\n\nuser\nsystem", "chatml", "user\nsystem"),
        ("model\nBMW", "chatml", "model\nBMW"),
        ("model\nHi", "placeholders", "Hi"),
        ("    return 1\n", "chatml", "    return 1\n"),
        ("\n\n    return 1", "chatml", "    return 1"),
        ("     return 1", "vicuna", "    return 1"),
        ("\treturn 1", "vicuna", "\treturn 1"),
        ("<think>a</think>\n\n  - b", "chatml", "  - b"),
        ("POSTGRES_USER: postgres", "vicuna", "POSTGRES_USER: postgres"),
        ("Hi.\nUSER: and now?", "vicuna", "Hi."),
        ("env:\n  DB_User: x", "deepseek-v2", "env:\n  DB_User: x"),
        ("Hi.\n\nUser: and now?", "deepseek-v2", "Hi."),
        ("GPT4 Correct User: is a tag", "openchat", "GPT4 Correct User: is a tag"),
        ("# API\n\n### Response:\n\n200", "alpaca", "# API\n\n### Response:\n\n200"),
        ("### Response:\nHi", "alpaca", "Hi"),
        ("Is ### Instruction: a tag?", "alpaca", "Is ### Instruction: a tag?"),
        ("Say <s>no</s> yes.</s>", "mistral-v3", "Say <s>no</s> yes."),
        ("<s class='x'>no</s> yes", "vicuna", "<s class='x'>no</s> yes"),
        ("Hi.<eos>", "chatml", "Hi."),
        ("Hi.<eos>\n<|im_end|>\n", "llama3", "Hi."),
        ("Hi.<|eot_id|><|start_header_id|>user", "chatml", "Hi."),
        ("Hi.<｜end▁of▁sentence｜>", "chatml", "Hi."),
        ("Hi.<|END_OF_TURN_TOKEN|>", "placeholders", "Hi."),
        ("Hi.<seed:eos>[e~[", "placeholders", "Hi."),
        ("Use <|im_end|> as end.", "chatml", "Use <|im_end|> as end."),
        ("It ends with `<|im_end|>`.", "chatml", "It ends with `<|im_end|>`."),
        (
            "- <|im_end|>: ends a turn\n- <eos>: too",
            "chatml",
            "- <|im_end|>: ends a turn\n- <eos>: too",
        ),
        ("| <|im_end|> | end |", "chatml", "| <|im_end|> | end |"),
        ("Hello.<|im_start|>user\nWhat?", "chatml", "Hello."),
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


THOUGHTS = [
    # text, format, reasoning, content
    ("<thinking>\nI plan.\n</thinking>\nFour.", "chatml", "I plan.", "Four."),
    ("<thought>I plan.</thought>Four.", "llama3", "I plan.", "Four."),
    ("<reasoning>\nI plan.\n</reasoning>\n\nFour.", "mistral-v3", "I plan.", "Four."),
    ("[THINK]I plan.[/THINK]Four.", "mistral-v7-tekken", "I plan.", "Four."),
    ("<seed:think>I plan.</seed:think>Four.", "seed-oss", "I plan.", "Four."),
    ("◁think▷I plan.◁/think▷Four.", "kimi", "I plan.", "Four."),
    (
        "<|START_THINKING|>I plan.<|END_THINKING|><|START_RESPONSE|>Four.<|END_RESPONSE|>",
        "command-r",
        "I plan.",
        "Four.",
    ),
    ("<|channel>thought\nI plan.<channel|>Four.<turn|>", "gemma4", "I plan.", "Four."),
    ("<think>a</think>\n<think>b</think>\nFour.", "chatml", "a\n\nb", "Four."),
    ("<think>a</think>\n</think>\nFour.", "chatml", "a", "Four."),
    ("<think>\n\n</think>\n\nFour.", "chatml", "", "Four."),
    (
        "<think>a</think>\nFirst.\n<think>b</think>\nSecond.",
        "chatml",
        "a\n\nb",
        "First.\n\nSecond.",
    ),
    ("First.\n<think>b</think>\nSecond.", "chatml", "b", "First.\n\nSecond."),
    ("First.\n\n<think>b</think>", "chatml", "b", "First."),
    ("<think>a</think>First.\n<think>and so on", "chatml", "a\n\nand so on", "First."),
    ("First.\n<think>\nis a tag.", "chatml", "", "First.\n<think>\nis a tag."),
    ("```\n<think>\nb\n</think>\n```", "chatml", "", "```\n<think>\nb\n</think>\n```"),
    (
        "Models think between <think> and </think> tags. So do I.",
        "chatml",
        "",
        "Models think between <think> and </think> tags. So do I.",
    ),
    ("<think> and </think> are tags.", "chatml", "", "<think> and </think> are tags."),
    ("<think>...</think> is a tag.", "chatml", "", "<think>...</think> is a tag."),
    (
        "<think>What is `</think>`? A tag.</think>Yes.",
        "chatml",
        "What is `</think>`? A tag.",
        "Yes.",
    ),
    ("<think>so four </think> yes", "chatml", "so four", "yes"),
    ("Let me think.</think>\n\nFour.", "chatml", "Let me think.", "Four."),
    ("Okay, so four.\n</think>\nFour.", "placeholders", "Okay, so four.", "Four."),
    ('{"a": "</think>"}', "chatml", "", '{"a": "</think>"}'),
    # gpt-oss
    (
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>four"
        "<|return|>",
        "placeholders",
        "Easy.",
        "four",
    ),
    (
        "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>four"
        "<|return|>",
        "harmony",
        "Easy.",
        "four",
    ),
    ("analysisWe need four.assistantfinalfour", "placeholders", "We need four.", "four"),
    ("analysisWe need four.assistantfinalfour", "harmony", "We need four.", "four"),
    ("analysisWe need to think", "harmony", "We need to think", ""),
    ("<|channel|>final<|message|>Hello.<|end|>", "harmony", "", "Hello."),
    ("Hello.<|end|><|start|>user<|message|>And now?", "harmony", "", "Hello."),
    (
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final"
        "<|message|>Done.",
        "harmony",
        "",
        "I look.\n\nDone.",
    ),
    (
        "<|channel|>analysis<|message|>Ls.<|end|><|start|>assistant<|channel|>commentary "
        "to=functions.bash <|constrain|>json<|message|>{}<|call|>",
        "harmony",
        "Ls.",
        "<|channel|>commentary to=functions.bash <|constrain|>json<|message|>{}",
    ),
    (
        "analysisWe need ls.assistantcommentary to=functions.bash json{}",
        "placeholders",
        "We need ls.",
        "commentary to=functions.bash json{}",
    ),
    ("analysis of data", "harmony", "", "analysis of data"),
    ("analysisResult = 4", "harmony", "", "analysisResult = 4"),
]


@pytest.mark.parametrize(("text", "format", "reasoning", "content"), THOUGHTS)
def test_thoughts_are_separated_whole_and_streamed(
    text: str, format: str, reasoning: str, content: str
) -> None:
    answer = read(text, format)
    assert (answer.reasoning, answer.content) == (reasoning, content)
    for size in (1, 3, 40):
        assert streamed(text, format, size) == (reasoning, content)


def streamed(text: str, format: str, size: int, may_call: bool = False) -> tuple[str, str]:
    """(reasoning, content) of a text that comes in pieces of this size."""
    own = PartialAnswer(FORMATS[format], stops=(), limit=10**6, prefilled=False, may_call=may_call)
    parts = {"reasoning": "", "content": ""}
    for start in range(0, len(text), size):
        own.add(text[start : start + size], 1, LengthEstimate())
        for part, new in own.final_parts():
            parts[part] += new
    for part, new in own.finish(10**6, False)[0]:
        parts[part] += new
    return parts["reasoning"], parts["content"]


CALL = '<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        (f"<think>\nI look.\n{CALL}", "I look.", CALL),
        ("<think>I look.<tool_call>bash\n<arg_key>", "I look.", "<tool_call>bash\n<arg_key>"),
        ("<think>a<function=bash>\n<parameter=x>", "a", "<function=bash>\n<parameter=x>"),
        ("<think>Is <tool_call> the tag? Yes", "Is <tool_call> the tag? Yes", ""),
        (f"<think>I look.\n{CALL}\n</think>Done.", f"I look.\n{CALL}", "Done."),
        (f"<think>a\n{CALL}\n<think>b</think>", "a\n\nb", CALL),
        (f"{CALL}\n<think>\nwait\n</think>", "wait", CALL),
        ("<tool_call>\n<think>\na\n</think>", "", "<tool_call>\n<think>\na\n</think>"),
        (
            '<think>a\n<tool_call>{"x": "</think>"}</tool_call>',
            "a",
            '<tool_call>{"x": "</think>"}</tool_call>',
        ),
    ],
)
def test_a_call_ends_a_thought_that_has_no_end(text: str, reasoning: str, content: str) -> None:
    answer = read(text, may_call=True)
    assert (answer.reasoning, answer.content) == (reasoning, content)
    for size in (1, 3, 40):
        assert streamed(text, "chatml", size, may_call=True) == (reasoning, content)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "\n<think> x </think> y", "assistant\n", "0"]
)
@pytest.mark.parametrize("is_open", [False, True])
def test_hostile_texts_are_read_in_linear_time(unit: str, is_open: bool) -> None:
    def work(size: int) -> None:
        read(unit * (size // len(unit)), max_length=10**6, may_call=True, is_open=is_open)

    assert growth(work, 100_000) < 1.5


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

"""What of a chat fits into which worker."""

from __future__ import annotations

from typing import Any

import pytest

from horde_proxy.errors import ContextLengthExceeded
from horde_proxy.prompts import fit as fitting
from horde_proxy.prompts.fit import Capacity, fit
from horde_proxy.prompts.formats import FORMATS, render
from horde_proxy.prompts.tokens import estimate
from horde_proxy.protocol.generation_request import Message, ToolCall

CHATML = FORMATS["chatml"]
LONG = "word " * 500  # about 510 tokens


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


def call(name: str) -> Message:
    return Message("assistant", "", (ToolCall(name, name, "{}"),))


def result(name: str, text: str) -> Message:
    return Message("tool", text, tool_call_id=name)


def test_a_short_chat_requests_the_context_it_needs_rounded_up() -> None:
    fitted = fit([user("Hi")], CHATML, 512, [Capacity(1024, 16384)])
    assert (fitted.max_length, fitted.max_context_length, fitted.dropped) == (512, 768, 0)


def test_rounding_up_never_excludes_a_worker_that_has_room() -> None:
    fitted = fit([user("Hi")], CHATML, 512, [Capacity(512, 600), Capacity(1024, 16384)])
    assert fitted.max_context_length == 600


def test_a_worker_too_short_for_the_answer_does_not_lower_the_context() -> None:
    fitted = fit([user("Hi")], CHATML, 512, [Capacity(80, 600), Capacity(1024, 16384)])
    assert fitted.max_context_length == 768


def test_the_answer_is_shortened_to_what_one_worker_gives() -> None:
    fitted = fit([user("Hi")], CHATML, 32000, [Capacity(200, 8192), Capacity(300, 4096)])
    assert fitted.max_length == 300


def test_context_and_length_are_looked_at_as_pairs() -> None:
    """The largest context (8192) and the largest length (1024) are of two different workers."""
    chat = [user(LONG * 4)]
    fitted = fit(chat, CHATML, 1024, [Capacity(200, 8192), Capacity(1024, 2048)])
    assert fitted.max_length == 200
    assert fitted.max_context_length <= 8192


def test_the_least_length_is_sixteen() -> None:
    assert fit([user("Hi")], CHATML, 1, [Capacity(512, 2048)]).max_length == 16


def test_the_oldest_exchange_goes_first() -> None:
    chat = [
        Message("system", "S"),
        user(LONG),
        assistant("A1"),
        user(LONG),
        assistant("A2"),
        user("last"),
    ]
    fitted = fit(chat, CHATML, 128, [Capacity(512, 900)])
    assert fitted.dropped == 2
    assert "A1" not in fitted.prompt
    assert "A2" in fitted.prompt
    assert fitted.prompt.startswith("<|im_start|>system\nS<|im_end|>")


def test_system_and_last_user_turn_are_never_dropped() -> None:
    chat = [Message("system", LONG), user(LONG), assistant("A"), user("last")]
    fitted = fit(chat, CHATML, 128, [Capacity(512, 900)])
    assert LONG in fitted.prompt
    assert fitted.prompt.endswith("<|im_start|>user\nlast<|im_end|>\n<|im_start|>assistant\n")


def test_a_last_turn_that_does_not_fit_alone_is_a_context_error() -> None:
    with pytest.raises(ContextLengthExceeded) as raised:
        fit([user(LONG * 3)], CHATML, 128, [Capacity(512, 1024)])
    assert raised.value.envelope()["error"]["code"] == "context_length_exceeded"
    assert str(raised.value).startswith("This model's maximum context length is 1024 tokens. ")


def test_old_tool_results_go_first_and_their_calls_stay() -> None:
    chat = [
        user("old"),
        assistant("answer"),
        user("do it"),
        call("one"),
        result("one", LONG),
        call("two"),
        result("two", "R2"),
    ]
    fitted = fit(chat, CHATML, 128, [Capacity(512, 512)])
    assert (fitted.dropped, fitted.blanked) == (0, 1)
    assert '"name": "one"' in fitted.prompt
    assert fitting.LEFT_OUT in fitted.prompt
    assert "<tool_response>\nR2\n</tool_response>" in fitted.prompt


def test_a_tool_result_goes_with_its_call() -> None:
    long_call = Message("assistant", LONG, (ToolCall("one", "one", "{}"),))
    chat = [user("do it"), long_call, result("one", LONG), call("two"), result("two", "R2")]
    fitted = fit(chat, CHATML, 128, [Capacity(512, 512)])
    assert (fitted.dropped, fitted.blanked) == (2, 0)
    assert '"name": "one"' not in fitted.prompt
    assert "do it" in fitted.prompt
    assert '"name": "two"' in fitted.prompt
    assert "<tool_response>\nR2\n</tool_response>" in fitted.prompt


def count_renderings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that grows by one with each rendering of a prompt."""
    rendered: list[Any] = []

    def counted(*arguments: Any) -> Any:
        rendered.append(arguments)
        return render(*arguments)

    monkeypatch.setattr(fitting, "render", counted)
    return rendered


def test_the_long_history_of_an_agent_is_rendered_once_or_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rendering costs the most: 50,000 tokens must not be rendered for each turn that goes."""
    rendered = count_renderings(monkeypatch)
    rounds = [(call(f"c{i}"), result(f"c{i}", LONG)) for i in range(100)]
    chat = [user("do it"), *(message for pair in rounds for message in pair)]
    for context in (131_072, 16_384):
        rendered.clear()
        fit(chat, CHATML, 512, [Capacity(512, context)])
        assert len(rendered) <= 2


def test_the_newest_round_of_calls_stays() -> None:
    chat = [user("do it"), call("one"), result("one", LONG)]
    with pytest.raises(ContextLengthExceeded):
        fit(chat, CHATML, 128, [Capacity(512, 400)])


def test_the_newest_round_of_calls_stays_when_its_answer_is_begun() -> None:
    chat = [user("do it"), call("one"), result("one", LONG), assistant("It says")]
    with pytest.raises(ContextLengthExceeded):
        fit(chat, CHATML, 128, [Capacity(512, 400)])


def test_several_results_share_a_user_turn() -> None:
    chat = [user("do it"), call("one"), result("one", "R1"), result("one", "R2")]
    prompt = fit(chat, CHATML, 128, [Capacity(512, 2048)]).prompt
    assert (
        "<|im_start|>user\n<tool_response>\nR1\n</tool_response>\n"
        "<tool_response>\nR2\n</tool_response><|im_end|>\n"
    ) in prompt


def test_a_call_is_written_as_hermes_models_write_it() -> None:
    chat = [user("x"), call("f"), result("f", "R")]
    prompt = fit(chat, CHATML, 128, [Capacity(512, 2048)]).prompt
    assert '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>' in prompt


def test_prompt_and_answer_never_exceed_the_requested_context() -> None:
    for size in range(1, 400, 7):
        fitted = fit([user("word " * size)], CHATML, 512, [Capacity(512, 1024), Capacity(100, 700)])
        assert estimate(fitted.prompt) + fitted.max_length <= fitted.max_context_length <= 1024


@pytest.mark.parametrize("format", ["llama3", "command-r", "chatml"])
def test_many_tiny_turns_cost_a_few_renderings_only(
    format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered = count_renderings(monkeypatch)
    chat = [each for _ in range(1000) for each in (user("a"), assistant("a"))]
    fit([*chat, user("a")], FORMATS[format], 256, [Capacity(512, 2001 * 11 + 700)])
    assert len(rendered) < 12


def test_a_long_history_is_fitted_quickly_and_keeps_its_end() -> None:
    chat = [each for i in range(2000) for each in (user(f"question {i}"), assistant(f"answer {i}"))]
    fitted = fit([*chat, user("last")], CHATML, 256, [Capacity(512, 4096)])
    assert "answer 1999" in fitted.prompt
    assert "answer 0<" not in fitted.prompt

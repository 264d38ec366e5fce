"""Tool calls and JSON from generated text: read, corrected, and as a last resort guided."""

from __future__ import annotations

import json
from typing import Any

import openai.types.chat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde_proxy.errors import InvalidRequest, ToolCallFailed
from horde_proxy.prompts.tokens import truncate
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.chunks import fold
from horde_proxy.upstreams.base import Caller, Route
from horde_proxy.upstreams.horde.accounts import Accounts
from horde_proxy.worker.backends import BackendError
from tests.support import Scripted, World

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": None}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
NAMED = {"type": "function", "function": {"name": "get_weather"}}


RATIO_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "x",
        "schema": {
            "type": "object",
            "properties": {"ratio": {"type": "number"}},
            "required": ["ratio"],
        },
    },
}


class Lines(Scripted):
    """Gives one text after the other; the last one again and again."""

    def __init__(self, *texts: str, **extra: Any) -> None:
        super().__init__("", **extra)
        self.texts = list(texts)

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.payloads.append(dict(payload))
        return self.texts.pop(0) if len(self.texts) > 1 else self.texts[0]


def chunks(world: World, *texts: str, **fields: Any) -> list[dict[str, Any]]:
    world.employ(Lines(*texts), "worker")
    return asked(world, **fields)


def asked(world: World, **fields: Any) -> list[dict[str, Any]]:
    upstream = world.upstream()
    body = {
        "model": "test/model",
        "messages": [{"role": "user", "content": "Weather in Oslo?"}],
        **fields,
    }
    request = read_chat(body)
    items = upstream.stream(request, Route(upstream, ("test/model",)), Caller())
    return [item for item in items if isinstance(item, dict)]


def answer(world: World, *texts: str, **fields: Any) -> dict[str, Any]:
    found = fold(chunks(world, *texts, **fields))
    openai.types.chat.ChatCompletion.model_validate(found, strict=False)
    return found


def calls(found: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        (each["function"]["name"], json.loads(each["function"]["arguments"]))
        for each in found["choices"][0]["message"]["tool_calls"]
    ]


def test_a_call_is_returned_in_openais_form(world: World) -> None:
    found = answer(world, f"Let me look.\n{CALL}", tools=[WEATHER])
    [choice] = found["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert choice["message"]["tool_calls"][0]["id"].startswith("call_")


def test_the_model_is_told_of_the_tools_and_kept_from_inventing_results(world: World) -> None:
    worker = world.employ(Lines(CALL))
    asked(world, tools=[WEATHER], temperature=1.5)
    [payload] = worker.payloads
    assert "# Tools" in payload["prompt"]
    assert '"name":"get_weather"' in payload["prompt"]
    assert "\n<tool_response>" in payload["stop_sequence"]
    assert (payload["temperature"], payload["rep_pen"]) == (0.7, 1.0)


def test_content_is_null_beside_a_call_alone(world: World) -> None:
    assert answer(world, CALL, tools=[WEATHER])["choices"][0]["message"]["content"] is None


def test_tool_choice_none_is_plain_text(world: World) -> None:
    found = answer(world, CALL, tools=[WEATHER], tool_choice="none")
    assert found["choices"][0]["message"]["content"] == CALL
    assert found["choices"][0]["finish_reason"] == "stop"


def test_an_answer_without_a_call_stays_text(world: World) -> None:
    found = answer(world, "It is cold there.", tools=[WEATHER])
    assert found["choices"][0]["message"]["content"] == "It is cold there."
    assert found["choices"][0]["finish_reason"] == "stop"
    assert "tool_calls" not in found["choices"][0]["message"]


def test_calls_keep_their_order_and_only_one_is_kept_without_parallel_calls(
    world: World,
) -> None:
    two = CALL + "\n" + CALL.replace("Oslo", "Rome")
    assert calls(answer(world, two, tools=[WEATHER])) == [
        ("get_weather", {"city": "Oslo"}),
        ("get_weather", {"city": "Rome"}),
    ]
    other = World()
    assert calls(answer(other, two, tools=[WEATHER], parallel_tool_calls=False)) == [
        ("get_weather", {"city": "Oslo"}),
    ]


def test_the_deltas_come_in_openais_order(world: World) -> None:
    found = chunks(world, f"Look.\n{CALL}", tools=[WEATHER], stream=True)
    deltas = [each["choices"][0]["delta"] for each in found if each["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert deltas[1] == {"content": "Look."}
    first = deltas[2]["tool_calls"][0]
    assert first["function"] == {"name": "get_weather", "arguments": ""}
    assert first["index"] == 0
    assert deltas[3] == {"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Oslo"}'}}]}
    assert deltas[4] == {}
    assert found[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_prompt_begins_a_named_call(world: World) -> None:
    worker = world.employ(Lines('"city": "Oslo"}}\n</tool_call>'))
    found = fold(asked(world, tools=[WEATHER, TIME], tool_choice=NAMED))
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert worker.payloads[0]["prompt"].endswith(
        '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": {'
    )
    assert "get_time" not in worker.payloads[0]["prompt"]


def test_the_prompt_begins_a_required_call_up_to_its_name(world: World) -> None:
    found = answer(
        world,
        'get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
        tools=[WEATHER, TIME],
        tool_choice="required",
    )
    assert calls(found) == [("get_weather", {"city": "Oslo"})]


def test_an_invalid_call_is_corrected_once(world: World) -> None:
    worker = world.employ(Lines('<tool_call>\n{"name": "get_wether", "arguments": {}}', CALL))
    found = fold(asked(world, tools=[WEATHER]))
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert "Your function call was invalid:" in worker.payloads[1]["prompt"]
    assert found["horde"]["retries"] == 1


TASK = {
    "type": "function",
    "function": {
        "name": "task",
        "parameters": {
            "type": "object",
            "properties": {"prompt": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["prompt", "days"],
        },
    },
}


def task(arguments: str) -> str:
    return f'<tool_call>\n{{"name": "task", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "texts, expected",
    [
        ([task('{"prompt": "x"}'), "I am sorry, I cannot."], [("task", {"prompt": "x"})]),
        ([task('{"prompt": "x"}'), task("{}")], [("task", {"prompt": "x"})]),
        ([task("{}"), task('{"prompt": "x"}')], [("task", {"prompt": "x"})]),
    ],
)
def test_a_call_is_not_lost_to_a_correction_without_one(
    world: World, texts: list[str], expected: Any, stream: bool
) -> None:
    found = answer(world, *texts, tools=[TASK], stream=stream)
    assert calls(found) == expected
    assert found["choices"][0]["message"]["content"] is None
    assert found["horde"]["retries"] == 1


@pytest.mark.parametrize("texts", [('{"prompt": "x"}', "{}"), ("{}", '{"prompt": "x"}')])
def test_of_two_calls_the_one_with_fewer_problems_is_filled(
    world: World, texts: tuple[str, ...]
) -> None:
    found = answer(world, *map(task, texts), "3,", tools=[TASK], tool_choice="required")
    assert calls(found) == [("task", {"prompt": "x", "days": 3})]
    assert found["horde"]["guided_requests"] == 1


def test_of_several_required_calls_only_what_does_not_fit_is_filled(world: World) -> None:
    world.configure(horde={"tool_retries": 0})
    both = task('{"prompt": "x", "days": 3}') + task('{"prompt": "y"}')
    found = answer(world, both, "4,", tools=[TASK], tool_choice="required")
    assert calls(found) == [
        ("task", {"prompt": "x", "days": 3}),
        ("task", {"prompt": "y", "days": 4}),
    ]
    assert found["horde"]["guided_requests"] == 1


def test_a_required_call_that_cannot_be_filled_is_left_out_beside_others(world: World) -> None:
    world.configure(horde={"tool_retries": 0})
    both = task('{"prompt": "x", "days": 3}') + task('{"prompt": "y"}')
    found = answer(world, both, "I cannot say.", tools=[TASK], tool_choice="required")
    assert calls(found) == [("task", {"prompt": "x", "days": 3})]


def test_a_strict_tool_is_called_without_arguments_that_it_forbids(world: World) -> None:
    closed = {**WEATHER["function"]["parameters"], "additionalProperties": False}
    tool = {"type": "function", "function": {**WEATHER["function"], "parameters": closed}}
    tool["function"]["strict"] = True  # type: ignore[index]
    text = CALL.replace('"Oslo"', '"Oslo", "country": "Norway"')
    found = answer(world, text, tools=[tool])
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert found["horde"]["retries"] == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [WEATHER]}, 160),
        ({"response_format": {"type": "json_object"}}, 220),
    ],
)
def test_no_correction_is_requested_when_the_question_would_not_fit(
    world: World, fields: dict[str, Any], words: int
) -> None:
    worker = world.employ(Lines("<tool_call>" + "no call " * 40 + "</tool_call>", context=1024))
    question = "Weather? " + " ".join(map(str, range(words)))
    asked(world, messages=[{"role": "user", "content": question}], max_tokens=200, **fields)
    assert worker.payloads
    assert all("Weather? 0 1 2" in each["prompt"] for each in worker.payloads)


def test_the_answer_is_kept_when_its_correction_fails(world: World) -> None:
    class Failing(Lines):
        def generate(self, payload: Any, cancelled: Any) -> str:
            if self.payloads:
                raise BackendError("no more")
            return super().generate(payload, cancelled)

    world.configure(horde={"retries": 0})
    unknown = '<tool_call>\n{"name": "no_such_tool", "arguments": {"x": 1}}\n</tool_call>'
    world.employ(Failing(unknown))
    assert calls(fold(asked(world, tools=[WEATHER]))) == [("no_such_tool", {"x": 1})]


def test_a_call_that_stays_unknown_is_passed_on_for_the_agent_to_handle(world: World) -> None:
    unknown = '<tool_call>\n{"name": "no_such_tool", "arguments": {"x": 1}}\n</tool_call>'
    assert calls(answer(world, unknown, tools=[WEATHER])) == [("no_such_tool", {"x": 1})]


def test_a_call_that_was_cut_off_is_never_repaired(world: World) -> None:
    text = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "' + "Os" * 200
    found = answer(world, text, tools=[WEATHER], max_tokens=64, horde={"segments": False})
    [choice] = found["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith('<tool_call>\n{"name": "get_weather"')
    assert "tool_calls" not in choice["message"]


def test_a_call_longer_than_one_job_is_continued(world: World) -> None:
    call = json.dumps({"name": "get_weather", "arguments": {"city": "word " * 300}})
    text = f"<tool_call>\n{call}\n</tool_call>"

    class Reciting(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            from horde_proxy.prompts.tokens import truncate

            done = payload["prompt"].rpartition("<|im_start|>assistant\n")[2]
            return truncate(text[len(done) :], payload["max_length"])

    world.employ(Reciting("", max_length=100))
    found = fold(asked(world, tools=[WEATHER], max_tokens=2000))
    assert calls(found) == [("get_weather", {"city": "word " * 300})]


def test_legacy_functions_are_answered_in_the_legacy_form(world: World) -> None:
    found = answer(world, CALL, functions=[WEATHER["function"]], function_call="auto")
    [choice] = found["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {
        "name": "get_weather",
        "arguments": '{"city":"Oslo"}',
    }


def test_each_choice_is_read_by_itself(world: World) -> None:
    found = answer(world, CALL, tools=[WEATHER], n=2)
    assert [each["finish_reason"] for each in found["choices"]] == ["tool_calls"] * 2


def test_a_required_call_that_does_not_come_is_filled_in_leaf_by_leaf(world: World) -> None:
    worker = world.employ(Lines("I would rather not.", "Nor now.", 'Oslo"'))
    found = fold(asked(world, tools=[WEATHER], tool_choice=NAMED))
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert found["horde"]["guided_requests"] == 1
    leaf = worker.payloads[-1]
    assert leaf["prompt"].endswith('{"name": "get_weather", "arguments": {"city": "')
    assert '"' in leaf["stop_sequence"]
    assert leaf["max_length"] < 256


def test_among_several_tools_the_name_is_a_leaf_too(world: World) -> None:
    world.configure(horde={"tool_retries": 0})
    found = answer(
        world, "???", "get_weather", 'Oslo"', tools=[TIME, WEATHER], tool_choice="required"
    )
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert found["horde"]["guided_requests"] == 2


def test_a_call_that_the_model_does_not_make_is_a_400(world: World) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {"type": "object", "patternProperties": {"x": {}}, "required": ["x1"]},
        },
    }
    with pytest.raises(ToolCallFailed) as raised:
        answer(world, "no", tools=[tool], tool_choice="required")
    assert raised.value.status == 400


def test_an_argument_that_the_model_does_not_say_is_a_400_that_names_it(world: World) -> None:
    world.configure(horde={"tool_retries": 0})
    days = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": days}}
    worker = world.employ(Lines("I would rather not."))
    with pytest.raises(ToolCallFailed, match="The model gave no value for 'days'"):
        asked(world, tools=[tool], tool_choice="required")
    assert [payload.get("temperature") for payload in worker.payloads] == [0.1, 0.01, 0.7]


def test_a_leaf_for_which_the_model_starts_over_is_requested_again(world: World) -> None:
    world.configure(horde={"tool_retries": 0})
    found = answer(world, "Hm.", '{"', '{"', 'Oslo"', tools=[WEATHER], tool_choice=NAMED)
    assert calls(found) == [("get_weather", {"city": "Oslo"})]


def test_a_model_without_tool_style_answers_in_plain_text(world: World) -> None:
    world.configure(tool_styles={"test/*": "none"})
    worker = world.employ(Lines("Hello."))
    upstream = world.upstream()
    request = read_chat(
        {"model": "test/model", "tools": [WEATHER], "messages": [{"role": "user", "content": "Hi"}]}
    )
    accepted = next(upstream.stream(request, Route(upstream, ("test/model",)), Caller()))
    assert accepted.headers["X-Horde-Warnings"] == (  # type: ignore[union-attr]
        "tools: not supported for this model"
    )
    assert worker.payloads == []


def test_past_calls_and_results_are_written_in_the_models_own_style(world: World) -> None:
    world.configure(tool_styles={"*": "llama3"})
    worker = world.employ(Lines("It is cold."))
    asked(
        world,
        tools=[WEATHER],
        messages=[
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city":"Oslo"}'},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "-3"},
            {"role": "tool", "content": "orphan"},
        ],
    )
    prompt = worker.payloads[0]["prompt"]
    assert '{"name": "get_weather", "parameters": {"city":"Oslo"}}' in prompt
    assert '{"output": "-3"}\n{"output": "orphan"}' in prompt


PERSON = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "age"],
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
}


def schema_format(strict: bool = True) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {
            "name": "person",
            "strict": strict,
            "schema": PERSON,
        },
    }


def test_json_is_serialised_anew(world: World) -> None:
    found = answer(world, '\n "name": "Ann",\n "age": 3 }\n', response_format=schema_format())
    assert found["choices"][0]["message"]["content"] == '{"name":"Ann","age":3}'
    assert found["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "text",
    [
        '"a": 1}',
        '"a": 1, }',
        "'a': 1}",
        '"a": 1}\nThat is all.',
    ],
)
def test_a_json_object_is_repaired(world: World, text: str) -> None:
    found = answer(world, text, response_format={"type": "json_object"})
    assert found["choices"][0]["message"]["content"] == '{"a":1}'


def test_json_that_does_not_fit_is_requested_again(world: World) -> None:
    worker = world.employ(Lines('"name": "Ann"}', '"name": "Ann", "age": 3}'))
    found = fold(asked(world, response_format=schema_format()))
    assert json.loads(found["choices"][0]["message"]["content"]) == {"name": "Ann", "age": 3}
    assert "Your answer was invalid:" in worker.payloads[1]["prompt"]


def test_json_that_does_not_come_is_filled_in(world: World) -> None:
    found = answer(world, "Hm.", "Well.", 'Ann"', "3,", response_format=schema_format())
    assert json.loads(found["choices"][0]["message"]["content"]) == {"name": "Ann", "age": 3}
    assert found["horde"]["guided_requests"] == 2


def test_a_strict_schema_that_cannot_be_met_is_a_refusal(world: World) -> None:
    unfillable = {"type": "object", "patternProperties": {"x": {}}, "required": ["x1"]}
    found = answer(
        world,
        "Hm.",
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "x",
                "strict": True,
                "schema": unfillable,
            },
        },
    )
    message = found["choices"][0]["message"]
    assert message["content"] is None
    assert message["refusal"].startswith("No valid JSON: ")


def test_json_of_digits_counts_no_more_tokens_than_were_requested(world: World) -> None:
    text = '{"number":123456789012345678901234567890}'
    found = answer(world, text, response_format={"type": "json_object"}, max_tokens=20)
    assert found["choices"][0]["message"]["content"] == text
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["usage"]["completion_tokens"] == 20


def test_json_that_was_cut_off_says_length(world: World) -> None:
    found = answer(
        world,
        '"name": "' + "A" * 900,
        response_format=schema_format(),
        max_tokens=32,
        horde={"segments": False},
    )
    assert found["choices"][0]["finish_reason"] == "length"


class Rambling(Scripted):
    """Tells a story without an end in a text of its JSON, unless one value is requested."""

    def generate(self, payload: Any, cancelled: Any) -> str:
        self.payloads.append(dict(payload))
        story = '"name": "' + " ".join(f"Day {number} was different." for number in range(9000))
        written = payload["prompt"].rpartition("assistant\n{")[2]
        if not story.startswith(written):
            return "3}"
        return truncate(story[len(written) :], payload["max_length"])


@pytest.mark.parametrize(("limit", "reason"), [({}, "stop"), ({"max_tokens": 300}, "length")])
def test_json_without_an_end_is_filled_where_the_client_set_no_limit(
    world: World, limit: dict[str, Any], reason: str
) -> None:
    world.employ(Rambling(""), "worker")
    fields = {"response_format": schema_format(), **limit}
    [choice] = fold(asked(world, **fields))["choices"]
    assert choice["finish_reason"] == reason
    if not limit:
        assert set(json.loads(choice["message"]["content"])) == {"name", "age"}


SCHEMAS = st.fixed_dictionaries(
    {
        "type": st.just("object"),
        "properties": st.dictionaries(
            st.sampled_from(["city", "days", "unit", "tags", "ok"]),
            st.sampled_from(
                [
                    {"type": "string"},
                    {"type": "integer", "minimum": 1},
                    {"type": "boolean"},
                    {"enum": ["C", "F"]},
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "number"},
                ]
            ),
            min_size=1,
        ),
    }
)


@given(schema=SCHEMAS, garbage=st.lists(st.text(max_size=30), min_size=1, max_size=8))
def test_whatever_a_model_says_a_strict_schema_is_met_or_refused(
    schema: dict[str, Any], garbage: list[str]
) -> None:
    import jsonschema

    schema = {**schema, "required": sorted(schema["properties"])}
    world = World()
    world.configure(horde={"address_limits": [], "key_limits": []})
    world.horde.rate_limits = False
    world.configure(horde={"retries": 0})
    found = answer(
        world,
        *garbage,
        response_format={
            "type": "json_schema",
            "json_schema": {
                "name": "x",
                "strict": True,
                "schema": schema,
            },
        },
    )
    message = found["choices"][0]["message"]
    if message["refusal"]:
        assert message["content"] is None
    else:
        jsonschema.validate(json.loads(message["content"]), schema)


def test_a_guided_value_is_quoted_from_the_user(world: World) -> None:
    world.configure(horde={"tool_retries": 0})
    found = answer(world, "???", 'OSLO"', tools=[WEATHER], tool_choice=NAMED)
    assert calls(found) == [("get_weather", {"city": "Oslo"})]


def test_a_guided_value_that_is_no_quotation_is_requested_in_plain_text_too(world: World) -> None:
    world.configure(horde={"tool_retries": 0})
    worker = world.employ(Lines("???", 'Osterlo"', " Oslo, Norway"))
    found = fold(asked(world, tools=[WEATHER], tool_choice=NAMED))
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert worker.payloads[-1]["prompt"].endswith("<|im_start|>assistant\ncity:")
    assert found["horde"]["guided_requests"] == 2


@pytest.mark.parametrize(
    "texts",
    [
        ("???", 'C:\\temp\\new"'),
        ("???", 'C:\\\\temp\\\\new"', " C:\\temp\\new"),
    ],
)
def test_a_quoted_path_keeps_its_backslashes(world: World, texts: tuple[str, ...]) -> None:
    world.configure(horde={"tool_retries": 0})
    found = answer(
        world,
        *texts,
        tools=[WEATHER],
        tool_choice=NAMED,
        messages=[
            {"role": "user", "content": "The weather of C:\\temp\\new, please."},
        ],
    )
    assert calls(found) == [("get_weather", {"city": "C:\\temp\\new"})]


def test_nothing_is_requested_after_a_finished_call(world: World) -> None:
    worker = world.employ(
        Lines('"city": "Oslo"}}\n</tool_call>\n' + "and so on, " * 60, max_length=128)
    )
    found = fold(asked(world, tools=[WEATHER], tool_choice=NAMED))
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert len(worker.payloads) == 1


def test_text_that_is_no_call_is_streamed_as_it_is_written(world: World) -> None:
    text = "I look first. " + " ".join(f"word{number}" for number in range(300)) + "\n" + CALL

    class Reciting(Scripted):
        def generate(self, payload: Any, cancelled: Any) -> str:
            from horde_proxy.prompts.tokens import truncate

            self.payloads.append(dict(payload))
            done = payload["prompt"].rpartition("<|im_start|>assistant\n")[2]
            return truncate(text[len(done) :], payload["max_length"])

    worker = world.employ(Reciting("", max_length=100))
    upstream = world.upstream()
    request = read_chat(
        {
            "model": "test/model",
            "stream": True,
            "tools": [WEATHER],
            "messages": [{"role": "user", "content": "Weather?"}],
        }
    )
    items = upstream.stream(request, Route(upstream, ("test/model",)), Caller())
    found = []
    for item in items:
        if isinstance(item, dict):
            found.append(item)
            if item["choices"] and "word1" in str(item["choices"][0]["delta"]):
                break
    assert len(worker.payloads) == 1
    found += [item for item in items if isinstance(item, dict)]
    whole = fold(found)
    assert whole["choices"][0]["message"]["content"] == text.partition("\n<tool_call>")[0]
    assert calls(whole) == [("get_weather", {"city": "Oslo"})]


@pytest.mark.parametrize("text", ["It is cold.", f"I look.\n{CALL}"])
def test_a_thought_is_streamed_before_the_text_also_with_tools(world: World, text: str) -> None:
    streamed = chunks(world, f"<think>Where?</think>{text}", tools=[WEATHER], stream=True)
    deltas = [choice["delta"] for chunk in streamed for choice in chunk["choices"]]
    names = [name for delta in deltas for name in delta if name in ("reasoning_content", "content")]
    # The first chunk is that of the role, with an empty content.
    assert sorted(names[1:], reverse=True) == names[1:]
    assert fold(streamed)["choices"][0]["message"]["reasoning_content"] == "Where?"


def test_a_text_after_a_failed_call_is_not_lost_in_a_stream(world: World) -> None:
    broken = 'Let me check.\n<tool_call>\n{"name": broken\n</tool_call>'
    found = answer(world, broken, "It is sunny there.", tools=[WEATHER], stream=True)
    [choice] = found["choices"]
    assert choice["message"]["content"] == "Let me check.\n\nIt is sunny there."
    assert choice["finish_reason"] == "stop"


def test_the_continuation_of_a_clients_beginning_is_streamed_once(world: World) -> None:
    found = answer(
        world,
        f" I look.\n{CALL}",
        tools=[WEATHER],
        stream=True,
        messages=[
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "Sure,"},
        ],
    )
    assert found["choices"][0]["message"]["content"] == " I look."


@pytest.mark.parametrize(
    "text",
    [
        'Here it is: {"name": "Ann", "age": 3}',
        'Sure!\n```json\n{"name": "Ann", "age": 3}\n```',
        '{"name": "Ann", "age": 3} That is all.',
        '```\n{"name": "Ann", "age": 3}\n```',
    ],
)
@pytest.mark.parametrize("wanted", [{"type": "json_object"}, None])
def test_json_that_began_anew_is_found(world: World, text: str, wanted: Any) -> None:
    found = answer(world, text, response_format=wanted or schema_format())
    assert found["choices"][0]["message"]["content"] == '{"name":"Ann","age":3}'
    assert len(found["horde"]["request_ids"]) == 1


class Reciting(Scripted):
    """Goes on with one text, as far as each job's length allows."""

    def generate(self, payload: Any, cancelled: Any) -> str:
        done = payload["prompt"].rpartition("<|im_start|>assistant\n")[2]
        return truncate(self.text[len(done) :], payload["max_length"])


@pytest.mark.parametrize(
    "value",
    [
        {"city": {"name": "Oslo"}, "text": " ".join(map(str, range(400)))},
        {"cities": [{"name": "Oslo"}, {"name": "Rome"}], "text": " ".join(map(str, range(400)))},
    ],
)
def test_json_is_not_over_where_an_object_within_it_ends(world: World, value: Any) -> None:
    world.employ(Reciting(json.dumps(value)))
    found = fold(asked(world, response_format={"type": "json_object"}, max_tokens=2000))
    assert json.loads(found["choices"][0]["message"]["content"]) == value


def test_a_long_list_is_not_over_after_its_first_element(world: World) -> None:
    value = [{"name": f"Ann {number}"} for number in range(100)]
    world.employ(Reciting(json.dumps(value)))
    found = fold(
        asked(
            world,
            max_tokens=2000,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "array"}},
            },
        )
    )
    assert json.loads(found["choices"][0]["message"]["content"]) == value


def test_an_object_within_faulty_json_is_not_taken_for_the_answer(world: World) -> None:
    found = answer(
        world, '"city": {"name": "Oslo"}, "days": 3,}', response_format={"type": "json_object"}
    )
    assert found["choices"][0]["message"]["content"] == '{"city":{"name":"Oslo"},"days":3}'


THOUGHT = '<think>\nMaybe {"x": 1}? Or ' + CALL.replace("Oslo", "Rome") + "? No.\n</think>\n"


def test_json_in_the_models_thoughts_is_not_its_answer(world: World) -> None:
    found = answer(world, THOUGHT + '{"city": "Oslo"}', response_format={"type": "json_object"})
    assert found["choices"][0]["message"]["content"] == '{"city":"Oslo"}'
    found = answer(World(), THOUGHT + CALL, tools=[WEATHER], tool_choice="required")
    assert calls(found) == [("get_weather", {"city": "Oslo"})]


def test_an_answer_is_not_over_while_the_model_thinks(world: World) -> None:
    world.employ(Reciting('<think>\nMaybe {"x": 1}? ' + "Hm. " * 300 + '</think>\n{"x": 2}'))
    found = fold(
        asked(
            world,
            max_tokens=2000,
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "x",
                    "schema": {
                        "anyOf": [{"type": "object", "required": ["x"]}, {"type": "null"}],
                    },
                },
            },
        )
    )
    assert found["choices"][0]["message"]["content"] == '{"x":2}'
    assert found["horde"]["retries"] == 0


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_value_that_is_no_number_is_requested_again(world: World, number: str) -> None:
    found = answer(
        world,
        f'"ratio": {number}}}',
        '"ratio": 1}',
        response_format=RATIO_FORMAT,
    )
    assert found["choices"][0]["message"]["content"] == '{"ratio":1}'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "wanted, problem",
    [
        ({"type": "json_object"}, "The answer is not valid JSON."),
        (RATIO_FORMAT, "The answer is not valid JSON. The model gave no value for 'ratio'."),
    ],
)
def test_prose_is_a_refusal_that_repeats_it(
    world: World, wanted: Any, problem: str, stream: bool
) -> None:
    found = answer(world, "Hello, my: friend", response_format=wanted, stream=stream)
    [choice] = found["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"] == (
        f"No valid JSON: {problem} The model wrote: Hello, my: friend"
    )
    assert found["horde"]["retries"] == 1
    assert found["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize(
    "fields",
    [{"response_format": {"type": "json_object"}}, {"tools": [WEATHER], "tool_choice": NAMED}],
)
def test_prose_that_was_cut_off_does_not_begin_with_our_prefill(
    world: World, fields: dict[str, Any]
) -> None:
    text = "Well, " + " ".join(f"word{number}" for number in range(99))
    found = answer(world, text, max_tokens=32, horde={"segments": False}, **fields)
    [choice] = found["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].startswith("Well, word0")


def test_json_that_was_complete_before_the_limit_is_an_answer(world: World) -> None:
    text = '"name": "Ann", "age": 3}\nThat is all. ' + "More. " * 99
    found = answer(
        world, text, response_format=schema_format(), max_tokens=32, horde={"segments": False}
    )
    assert found["choices"][0]["finish_reason"] == "stop"
    assert found["choices"][0]["message"]["content"] == '{"name":"Ann","age":3}'


def test_a_complete_part_of_json_that_was_cut_off_is_not_the_answer(world: World) -> None:
    text = '"people": [{"name": "Ann"}, {"name": "' + "Bo" * 99
    found = answer(
        world,
        text,
        response_format={"type": "json_object"},
        max_tokens=32,
        horde={"segments": False},
    )
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["choices"][0]["message"]["content"].startswith('{"people": [{"name": "Ann"}')


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
        f"I will call it.\n{CALL}",
        'get_weather(city="Oslo")',
    ],
)
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_began_anew_is_found(world: World, text: str, choice: Any) -> None:
    found = answer(world, text, tools=[WEATHER], tool_choice=choice)
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert len(found["horde"]["request_ids"]) == 1


def test_a_tool_without_parameters_gets_no_invented_arguments(world: World) -> None:
    now = {"type": "function", "function": {"name": "get_now"}}
    choice = {"type": "function", "function": {"name": "get_now"}}
    found = answer(world, "The weather: it is nice", tools=[now], tool_choice=choice)
    assert calls(found) == [("get_now", {})]
    assert len(found["horde"]["request_ids"]) == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"$ref": "#/$defs/Place", "$defs": {"Place": WEATHER["function"]["parameters"]}},
        {"type": "object", "allOf": [{"properties": {"city": {"type": "string"}}}]},
        {
            "type": "object",
            "anyOf": [
                {"properties": {"city": {"type": "string"}}},
                {"properties": {"id": {"type": "integer"}}},
            ],
        },
    ],
)
def test_arguments_may_be_declared_elsewhere_in_the_schema(
    world: World, parameters: dict[str, Any]
) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
    found = answer(world, '"city": "Oslo"}}', "???", tools=[tool], tool_choice=NAMED)
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    assert found["horde"]["retries"] == 0


def test_nulls_in_a_schema_are_absent(world: World) -> None:
    schema = {
        "type": "object",
        "required": ["a"],
        "additionalProperties": False,
        "properties": {"a": {"type": "string", "description": None, "enum": None}},
    }
    found = answer(
        world,
        "prose",
        "prose",
        'x"',
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "p", "strict": True, "schema": schema},
        },
    )
    assert json.loads(found["choices"][0]["message"]["content"]) == {"a": "x"}


def test_an_invalid_schema_is_refused_before_any_submit(world: World) -> None:
    worker = world.employ(Lines("x"))
    with pytest.raises(InvalidRequest) as raised:
        asked(
            world,
            response_format={
                "type": "json_schema",
                "json_schema": {
                    "name": "p",
                    "schema": {"type": "banana"},
                },
            },
        )
    assert raised.value.param == "response_format.json_schema.schema"
    assert worker.payloads == []


def test_with_tools_and_a_format_an_answer_without_calls_is_json(world: World) -> None:
    text = '```json\n{"name": "Ann", "age": 3}\n```'
    found = answer(world, text, tools=[WEATHER], response_format=schema_format())
    assert found["choices"][0]["message"]["content"] == '{"name":"Ann","age":3}'
    assert calls(answer(World(), CALL, tools=[WEATHER], response_format=schema_format())) == [
        ("get_weather", {"city": "Oslo"}),
    ]


def test_allowed_tools_may_be_named_flat_and_must_be_there(world: World) -> None:
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "auto",
            "tools": [{"type": "function", "name": "get_weather"}],
        },
    }
    found = answer(world, CALL, tools=[WEATHER, TIME], tool_choice=allowed)
    assert calls(found) == [("get_weather", {"city": "Oslo"})]
    allowed["allowed_tools"]["tools"] = [{"name": "nope"}]  # type: ignore[index]
    with pytest.raises(InvalidRequest, match="nope"):
        asked(world, tools=[WEATHER], tool_choice=allowed)


def test_a_guided_value_is_no_longer_than_the_key_allows(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Accounts, "max_length", lambda *_: 20)
    worker = world.employ(Lines("I would rather not.", "Nor now.", 'Oslo"'))
    found = fold(asked(world, tools=[WEATHER], tool_choice=NAMED))
    assert found["horde"]["guided_requests"] == 1
    assert {payload["max_length"] for payload in worker.payloads} == {20}

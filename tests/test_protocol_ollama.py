"""Ollama's bodies in, its lines and objects out; no server and no clock."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import ollama
import pytest

from horde_proxy.errors import InvalidRequest, UpstreamFailed
from horde_proxy.prompts.fill_in import can_fill_in, fill_in_prompt
from horde_proxy.protocol.chunks import Chunk, Head, call_deltas, chunk, role_chunk, usage
from horde_proxy.protocol.error_shapes import ErrorFacts
from horde_proxy.protocol.error_shapes import ollama as ollama_shape
from horde_proxy.protocol.generation_request import GenerationRequest, ToolCall
from horde_proxy.protocol.ollama.answers import OllamaLines, fold_ollama, load_chunks
from horde_proxy.protocol.ollama.embeddings import (
    embed_answer,
    embed_body,
    older_embed_answer,
    older_embed_body,
    vectors_in,
)
from horde_proxy.protocol.ollama.models import (
    capabilities,
    listed_model,
    running_model,
    shown_model,
    tagged,
)
from horde_proxy.protocol.ollama.requests import (
    AnswerTimes,
    OllamaQuestion,
    ReadingRules,
    is_zero_duration,
    read_generate,
    read_ollama_chat,
)
from horde_proxy.protocol.openai_body import fields_left_out, openai_body
from horde_proxy.upstreams.base import DeadlinePassed

NOW = "2026-11-29T21:30:00.000000Z"
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
USER = {"role": "user", "content": "Hi"}


class Seconds:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.value = 0.0

    def __call__(self) -> float:
        return self.value


def times(clock: Seconds | None = None) -> AnswerTimes:
    return AnswerTimes(lambda: NOW, clock or Seconds(), 0.0)


def chat(strict: bool = False, clock: Seconds | None = None, **fields: Any) -> OllamaQuestion:
    body = {"model": "m", "messages": [USER], **fields}
    return read_ollama_chat(body, ReadingRules(strict, keeps_pictures=True), times(clock))


def request(**fields: Any) -> GenerationRequest:
    return chat(**fields).requests[0]


def generate(**fields: Any) -> OllamaQuestion:
    rules = ReadingRules(keeps_pictures=True, default_tokens=99)
    return read_generate({"model": "m", **fields}, rules, times(), fill_in_prompt)


# Requests.


def test_a_chat_streams_unless_it_says_no() -> None:
    assert [request(**fields).stream for fields in ({}, {"stream": True}, {"stream": False})] == [
        True,
        True,
        False,
    ]


def test_a_chat_becomes_openais_body() -> None:
    body = openai_body(
        request(
            messages=[{"role": "SYSTEM", "content": "Be brief."}, USER],
            options={"num_predict": 50, "temperature": 0.5, "seed": 7, "stop": ["a", "b"]},
            format="json",
            keep_alive="5m",
        )
    )
    assert body == {
        "model": "m",
        "stream": True,
        "max_tokens": 50,
        "temperature": 0.5,
        "seed": 7,
        "stop": ["a", "b"],
        "response_format": {"type": "json_object"},
        "messages": [{"role": "system", "content": "Be brief."}, USER],
    }


OPTIONS: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({"num_predict": -1}, {}, ()),
    ({"num_predict": -2}, {}, ()),
    ({"num_predict": 0}, {}, ()),
    ({"num_predict": 42.0}, {"max_tokens": 42}, ()),
    ({"num_ctx": 8192, "num_gpu": 1, "use_mmap": True}, {}, ()),
    ({"top_k": 40, "top_p": 0.9, "min_p": 0.1}, {"top_k": 40, "top_p": 0.9, "min_p": 0.1}, ()),
    ({"typical_p": 1, "tfs_z": 0.9}, {"typical_p": 1, "tfs": 0.9}, ()),
    ({"repeat_penalty": 1.1}, {"repeat_penalty": 1.1}, ()),
    ({"repeat_last_n": 64}, {"rep_pen_range": 64}, ()),
    ({"repeat_last_n": 0}, {"rep_pen_range": 0}, ()),
    ({"repeat_last_n": -1, "seed": -1}, {}, ()),
    ({"stop": "x"}, {"stop": "x"}, ()),
    ({"stop": None, "top_k": None}, {}, ()),
    ({"mirostat": 0}, {}, ()),
    ({"mirostat": 2}, {}, ("options: mirostat not supported",)),
    ({"foo": 1, "bar": 2}, {}, ("options: unknown one left out (2 times)",)),
    ({"temperature": "0.5"}, {}, ("options: temperature of a wrong type left out",)),
    ({"top_k": 1.5}, {}, ("options: top_k of a wrong type left out",)),
    ({"temperature": True}, {}, ("options: temperature of a wrong type left out",)),
    ({"temperature": 10**400}, {}, ("options: temperature of a wrong type left out",)),
    ({"stop": 5}, {}, ("options: stop of a wrong type left out",)),
]


@pytest.mark.parametrize(("options", "fields", "warnings"), OPTIONS)
def test_options_become_fields_or_warnings(
    options: dict[str, Any], fields: dict[str, Any], warnings: tuple[str, ...]
) -> None:
    read = request(options=options)
    rest = {"model": "m", "stream": True, "messages": [USER]}
    assert {name: value for name, value in read.source.items() if name not in rest} == fields
    assert read.front_warnings == warnings


def test_in_strict_mode_an_unknown_option_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="Unsupported option"):
        chat(strict=True, options={"foo": 1})


def test_what_changes_the_answer_and_cannot_be_done_is_told() -> None:
    read = request(logprobs=True, truncate=False, shift=True)
    assert read.warnings == ("logprobs: not supported", "truncate: false is not supported")


def test_a_schema_is_the_format_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    read = request(format=schema).json_format
    assert read is not None
    assert read.schema == schema
    assert request(format="").json_format is None


def test_no_thoughts_is_said_to_servers_in_their_words() -> None:
    read = chat(think=False)
    assert not read.shows_thoughts
    body = openai_body(read.requests[0])
    assert body["reasoning"] == {"effort": "none"}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    # OpenAI's own API would refuse the whole chat for either.
    strict = openai_body(read.requests[0], is_strict=True)
    assert {"reasoning", "chat_template_kwargs"} & strict.keys() == set()
    assert fields_left_out(read.requests[0], is_strict=True) == (
        "chat_template_kwargs",
        "reasoning",
    )


@pytest.mark.parametrize(("think", "effort"), [("low", "low"), ("max", "high"), (True, None)])
def test_a_level_of_thinking_is_an_effort(think: Any, effort: str | None) -> None:
    read = chat(think=think)
    assert read.shows_thoughts
    assert read.requests[0].source.get("reasoning_effort") == effort


def test_pictures_beside_a_text_become_parts() -> None:
    read = request(messages=[{"role": "user", "content": "What?", "images": [PNG]}])
    assert read.source["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What?"},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
            ],
        }
    ]
    assert read.messages[0].text == "What?\n[image left out]"
    assert read.messages[0].pictures[0].url.startswith("data:image/png;base64,")


def test_a_picture_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="content of type 'image' is not supported"):
        request(messages=[{"role": "user", "content": "What?", "images": ["!"]}])


def call(name: str, **more: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": {"a": 1}}, **more}


def tool_turns(*results: dict[str, Any], calls: Sequence[dict[str, Any]]) -> list[Any]:
    turns = [{"role": "tool", **result} for result in results]
    return [USER, {"role": "assistant", "tool_calls": list(calls)}, *turns]


# What comes back of two calls, by what a client tells of them: nothing (Home Assistant), the tool's
# name (Zed, ollama for Python), or the call's id (the AI SDK's provider).
RESULTS = [
    (({"content": "1"}, {"content": "2"}), ("call_1", "call_2")),
    (
        ({"content": "2", "tool_name": "g"}, {"content": "1", "tool_name": "f"}),
        ("call_2", "call_1"),
    ),
    (({"content": "2", "tool_name": "g"}, {"content": "1"}), ("call_2", "call_1")),
]


@pytest.mark.parametrize(("results", "ids"), RESULTS)
def test_results_find_their_calls(results: Sequence[Any], ids: tuple[str, ...]) -> None:
    read = request(messages=tool_turns(*results, calls=[call("f"), call("g")]))
    assert read.messages[1].tool_calls == (
        ToolCall("call_1", "f", '{"a": 1}'),
        ToolCall("call_2", "g", '{"a": 1}'),
    )
    assert tuple(message.tool_call_id for message in read.messages[2:]) == ids


def test_ids_of_calls_stay() -> None:
    turns = tool_turns({"content": "1", "tool_call_id": "x"}, calls=[call("f", id="x")])
    read = request(messages=turns)
    assert read.messages[1].tool_calls[0].id == read.messages[2].tool_call_id == "x"


def test_calls_for_an_endpoint_are_openais() -> None:
    turns = tool_turns({"content": "1"}, calls=[call("f")])
    assert request(messages=turns).source["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "f", "arguments": '{"a": 1}'},
                }
            ],
        },
        {"role": "tool", "content": "1", "tool_call_id": "call_1"},
    ]


def test_thoughts_of_an_older_turn_are_reasoning() -> None:
    read = request(messages=[USER, {"role": "assistant", "content": "A", "thinking": "T"}, USER])
    assert read.messages[1].reasoning == "T"


def test_no_tools_are_no_tools() -> None:
    assert request(tools=[]).tools == ()
    assert "tools" not in request(tools=[]).source


@pytest.mark.parametrize(
    ("keep_alive", "is_zero"),
    [(0, True), ("0", True), ("0s", True), ("0m", True), (-1, False), ("5m", False), (None, False)],
)
def test_a_chat_without_messages_loads_or_unloads(keep_alive: Any, is_zero: bool) -> None:
    assert is_zero_duration(keep_alive) is is_zero
    question = chat(messages=[], keep_alive=keep_alive)
    chunks = load_chunks(question)
    assert chunks is not None
    assert not question.requests[0].stream
    assert fold_ollama(question, chunks) == {
        "model": "m",
        "created_at": NOW,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "unload" if is_zero else "load",
    }


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model is required"),
    ({"model": ""}, "model is required"),
    ({"model": 5}, "Invalid type for 'model'"),
    ({"messages": "x"}, "Invalid type for 'messages'"),
    ({"messages": ["x"]}, r"Invalid type for 'messages.\[0\]'"),
    ({"stream": "yes"}, "Invalid type for 'stream'"),
    ({"format": "xml"}, "Invalid value for 'format'"),
    ({"think": "very"}, "Invalid value for 'think'"),
    ({"options": []}, "Invalid type for 'options'"),
    ({"options": {"temperature": 9}}, "Invalid value for 'temperature': must be at most 5"),
    ({"messages": [{"role": "user", "images": "x"}]}, "images': expected an array"),
    ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, "tool_calls': expected an array"),
]


@pytest.mark.parametrize(("fields", "message"), BROKEN)
def test_a_broken_chat_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        chat(**fields)


def test_a_prompt_is_a_chat_of_one_turn() -> None:
    question = generate(prompt="Hi", system="Be brief.", images=[PNG])
    assert question.route == "generate"
    [system, user] = question.requests[0].source["messages"]
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in user["content"]] == ["text", "image_url"]


def test_template_and_context_are_left_out_with_a_warning() -> None:
    [read] = generate(prompt="Hi", template="{{ .Prompt }}", context=[1, 2]).requests
    assert read.front_warnings == ("template: not supported", "context: not supported")


def test_a_raw_prompt_is_continued_as_it_is() -> None:
    [read] = generate(prompt="Once", raw=True, options={"num_predict": 5}).requests
    assert (read.raw, read.messages[0].text, read.max_tokens) == (True, "Once", 5)
    assert generate(prompt="Once", raw=True).requests[0].max_tokens == 99


@pytest.mark.parametrize("field", ["template", "system", "context"])
def test_a_raw_prompt_takes_nothing_that_shapes_it(field: str) -> None:
    with pytest.raises(InvalidRequest, match="raw mode does not support"):
        generate(prompt="Once", raw=True, **{field: [1] if field == "context" else "x"})


def test_a_gap_is_filled_by_a_model_that_can() -> None:
    [read] = generate(
        model="koboldcpp/Qwen2.5-Coder-7B-Q4_K_M",
        prompt="def {a}(",
        suffix="return",
        options={"stop": "\n\n"},
    ).requests
    assert read.raw
    assert read.messages[0].text == ("<|fim_prefix|>def {a}(<|fim_suffix|>return<|fim_middle|>")
    assert read.stop == ("\n\n", "<|endoftext|>", "<|fim_pad|>", "<|file_sep|>")


def test_what_has_no_place_in_a_gap_is_told() -> None:
    fields = {"prompt": "A", "suffix": "B", "system": "Be brief.", "images": [PNG]}
    [read] = generate(model="codegemma", **fields).requests
    assert read.front_warnings == (
        "system: left out of a prompt that is raw or has a suffix",
        "images: left out of a prompt that is raw or has a suffix",
    )


@pytest.mark.parametrize(
    ("model", "prompt"),
    [
        ("codellama:7b-code", "<PRE> A <SUF>B <MID>"),
        ("deepseek-coder:6.7b", "<｜fim▁begin｜>A<｜fim▁hole｜>B<｜fim▁end｜>"),
        ("org/Codestral-22B", "[SUFFIX]B[PREFIX]A"),
        ("starcoder2:3b", "<fim_prefix>A<fim_suffix>B<fim_middle>"),
        ("granite-8b-code-base", "<fim_prefix>A<fim_suffix>B<fim_middle>"),
        ("codegemma:2b", "<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>"),
        ("qwen3-coder:30b", "<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>"),
    ],
)
def test_each_family_has_its_own_tags_for_a_gap(model: str, prompt: str) -> None:
    filled = fill_in_prompt(model, "A", "B")
    assert filled is not None
    assert filled.prompt == prompt


@pytest.mark.parametrize("model", ["llama3.2", "CodeLlama-34b-hf", "Qwen3-8B", "mistral-code"])
def test_other_models_fill_no_gap(model: str) -> None:
    assert not can_fill_in(model)
    with pytest.raises(InvalidRequest, match=f'"{model}" does not support insert'):
        generate(model=model, prompt="A", suffix="B")


def test_pictures_are_not_made_here() -> None:
    with pytest.raises(InvalidRequest, match="/v1/images/generations"):
        generate(prompt="A cat", width=512)


# Answers.

HEAD = Head("chatcmpl-1", 0, "koboldcpp/m")
END = {**chunk(HEAD, {}), "choices": [], "usage": usage(10, 5), "horde": {}}


def stop(reason: Any = "stop") -> Chunk:
    return chunk(HEAD, {}, finish_reason=reason)


def lines(*chunks: Chunk, question: OllamaQuestion | None = None) -> list[Any]:
    """The lines of a stream, each of which ollama for Python can read."""
    writer = OllamaLines(question or chat())
    parts = [*writer.begin()]
    for part in chunks:
        parts += writer.chunk(part)
    assert writer.is_complete
    assert not writer.is_open
    text = b"".join([*parts, writer.end()])
    assert text.endswith(b"\n")
    read = [json.loads(line) for line in text.splitlines()]
    model = ollama.GenerateResponse if question and question.route == "generate" else None
    for line in read:
        (model or ollama.ChatResponse).model_validate(line)
    return read


LAST = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 1,
    "load_duration": 1,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 1,
    "eval_count": 5,
    "eval_duration": 1,
}


def piece(content: str = "", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, **more}
    return {"model": "m", "created_at": NOW, "message": message, "done": False}


def test_a_chat_is_written_as_lines() -> None:
    text = [chunk(HEAD, {"content": "Hello"}), chunk(HEAD, {"content": " there."})]
    assert lines(role_chunk(HEAD), *text, stop(), END) == [
        piece(),
        piece("Hello"),
        piece(" there."),
        {**piece(), **LAST},
    ]


def test_a_prompt_is_answered_with_a_response() -> None:
    question = generate(prompt="Hi")
    head = {"model": "m", "created_at": NOW}
    assert lines(chunk(HEAD, {"content": "Hello"}), stop("length"), END, question=question) == [
        {**head, "response": "", "done": False},
        {**head, "response": "Hello", "done": False},
        {**head, "response": "", **LAST, "done_reason": "length"},
    ]


def test_thoughts_have_their_own_field() -> None:
    chunks = [chunk(HEAD, {"reasoning_content": "Hm."}), chunk(HEAD, {"content": "A"}), stop()]
    assert lines(*chunks)[1:3] == [piece(thinking="Hm."), piece("A")]
    assert lines(*chunks, question=chat(think=False))[1] == piece("A")


def test_calls_come_in_one_line_before_the_last_one() -> None:
    calls = [
        *call_deltas(0, "call_a", "f", '{"a": {"b": 1}}'),
        *call_deltas(1, "call_b", "g", ""),
    ]
    written = lines(*[chunk(HEAD, delta) for delta in calls], stop("tool_calls"), END)
    assert written == [
        piece(),
        piece(
            tool_calls=[
                {
                    "id": "call_a",
                    "function": {"index": 0, "name": "f", "arguments": {"a": {"b": 1}}},
                },
                {"id": "call_b", "function": {"index": 1, "name": "g", "arguments": {}}},
            ]
        ),
        {**piece(), **LAST},
    ]


@pytest.mark.parametrize("arguments", ['{"a": "unfin', "[1]", '{"a": NaN}', '"text"'])
def test_a_call_that_broke_off_is_text(arguments: str) -> None:
    deltas = [chunk(HEAD, delta) for delta in call_deltas(0, "call_a", "f", arguments)]
    assert lines(*deltas, stop("length"), END)[1:] == [
        piece(f"\nf({arguments})"),
        {**piece(), **LAST, "done_reason": "length"},
    ]
    assert fold_ollama(chat(), [*deltas, stop("length"), END])["message"] == {
        "role": "assistant",
        "content": f"\nf({arguments})",
    }


def test_an_answer_in_one_piece_is_one_object() -> None:
    chunks = [
        role_chunk(HEAD),
        chunk(HEAD, {"reasoning_content": "Hm."}),
        chunk(HEAD, {"content": "A"}),
        stop(),
        END,
    ]
    assert fold_ollama(chat(), chunks) == {**piece("A", thinking="Hm."), **LAST}
    assert fold_ollama(generate(prompt="Hi"), chunks) == {
        "model": "m",
        "created_at": NOW,
        "response": "A",
        "thinking": "Hm.",
        **LAST,
    }


def test_no_line_is_split_by_a_sign_in_a_text() -> None:
    writer = OllamaLines(chat())
    [*writer.begin()]
    [line] = writer.chunk(chunk(HEAD, {"content": "a\u2028b\x85c\nd\ud83d"}))
    assert line.count(b"\n") == 1
    assert line.decode().splitlines() == [line.decode().rstrip("\n")]
    assert json.loads(line)["message"]["content"] == "a\u2028b\x85c\nd\ud83d"


def test_a_stream_is_kept_alive_by_lines_with_no_text() -> None:
    writer = OllamaLines(chat())
    [*writer.begin()]
    assert writer.is_open
    assert json.loads(writer.comment("queued, position 3")) == piece()
    assert writer.keep_alive() == b""
    assert json.loads(writer.progress("queued\n")) == piece(thinking="queued\n")


def test_a_stream_is_kept_alive_while_a_call_is_written() -> None:
    clock = Seconds()
    writer = OllamaLines(chat(clock=clock))
    [*writer.begin()]
    written: list[bytes] = []
    for delta in call_deltas(0, "call_a", "f", "x" * 4096 * 10):
        clock.value += 2
        written += writer.chunk(chunk(HEAD, delta))
    assert [json.loads(line) for line in written] == [piece()] * 3


def test_an_error_ends_a_stream_in_one_line() -> None:
    writer = OllamaLines(chat())
    [*writer.begin(), *writer.chunk(chunk(HEAD, {"content": "A"}))]
    assert not writer.is_complete
    assert json.loads(writer.error(DeadlinePassed())) == {
        "error": "The answer did not come within the time that this proxy waits for one."
    }
    assert writer.end() == b""


def test_durations_are_in_nanoseconds_and_divide_the_queue_from_the_model() -> None:
    clock = Seconds()
    question = chat(clock=clock)
    clock.value = 10.0
    summary = {**END, "horde": {"queue_seconds": 6.0, "generation_seconds": 3.0}}
    answer = fold_ollama(question, [chunk(HEAD, {"content": "A"}), stop(), summary])
    assert {name: answer[name] for name in answer if "duration" in name} == {
        "total_duration": 10_000_000_000,
        "load_duration": 6_000_000_000,
        "prompt_eval_duration": 1,
        "eval_duration": 3_000_000_000,
    }


def test_elsewhere_the_wait_ends_with_the_first_text() -> None:
    clock = Seconds()
    writer = OllamaLines(chat(clock=clock))
    [*writer.begin()]
    clock.value = 4.0
    [*writer.chunk(chunk(HEAD, {"content": "A"}))]
    clock.value = 6.0
    [*writer.chunk(stop()), *writer.chunk({**END, "horde": "x"})]
    last = json.loads(writer.end())
    assert (last["load_duration"], last["eval_duration"]) == (4_000_000_000, 2_000_000_000)


def test_a_refusal_to_answer_is_the_text() -> None:
    chunks = [chunk(HEAD, {"refusal": "No JSON came."}), stop()]
    assert lines(*chunks)[1] == piece("No JSON came.")
    assert fold_ollama(chat(), chunks)["message"]["content"] == "No JSON came."


def test_a_missing_key_is_unauthorized() -> None:
    facts = ErrorFacts(401, "You didn't provide an API key.", "invalid_request_error")
    assert ollama_shape(facts) == {"error": "unauthorized"}


# Models.

ENTRY = {
    "id": "koboldcpp/org/Qwen3-8B-Q4_K_M",
    "context_length": 16384,
    "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
    "horde": {},
}


def test_a_model_is_listed_without_a_null() -> None:
    assert listed_model(ENTRY, NOW, describes_pictures=True) == {
        "name": "koboldcpp/org/Qwen3-8B-Q4_K_M:latest",
        "model": "koboldcpp/org/Qwen3-8B-Q4_K_M:latest",
        "modified_at": NOW,
        "size": 4_800_000_000,
        "digest": "af521fafe93f56036c376f3e807c29c442160c946b2cedc14380a06ac3f924b7",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "qwen3",
            "families": ["qwen3"],
            "parameter_size": "8.0B",
            "quantization_level": "Q4_K_M",
            "context_length": 16384,
            "embedding_length": 4096,
        },
        "capabilities": ["completion", "tools", "vision", "thinking"],
    }


@pytest.mark.parametrize(
    "entry", [ENTRY, {"id": "x"}, {"id": "Ω:ß", "created": None, "quantization": None}]
)
def test_no_entry_has_a_null(entry: dict[str, Any]) -> None:
    for document in (
        listed_model(entry, NOW, describes_pictures=False),
        shown_model(entry, NOW, describes_pictures=False, inserts=True),
        running_model(entry, NOW),
    ):
        assert "null" not in json.dumps(document)
    ollama.ListResponse.model_validate(
        {"models": [listed_model(entry, NOW, describes_pictures=False)]}
    )
    ollama.ShowResponse.model_validate(
        shown_model(entry, NOW, describes_pictures=False, inserts=False)
    )
    ollama.ProcessResponse.model_validate({"models": [running_model(entry, NOW)]})


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("koboldcpp/X", "koboldcpp/X:latest"),
        ("llama3.2:1b", "llama3.2:1b"),
        ("host:80/X", "host:80/X:latest"),
    ],
)
def test_a_name_without_a_tag_gets_one(name: str, listed: str) -> None:
    assert tagged(name) == listed


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("qwen3:8b", "qwen3"),
        ("koboldcpp/Qwen3-8B", "qwen3"),
        ("koboldcpp/L3-8B-Stheno-v3.2", "l3stheno"),
        ("cloud/hf.co/org/Gemma 3 4B", "gemma3"),
        ("8B", "8b"),
        ("Ω", "llama"),
    ],
)
def test_the_architecture_is_the_family_without_signs(name: str, architecture: str) -> None:
    details = listed_model({"id": name}, NOW, describes_pictures=False)["details"]
    assert details["family"] == architecture


def test_what_is_shown_of_a_model_has_what_clients_read() -> None:
    shown = shown_model(ENTRY, NOW, describes_pictures=False, inserts=False)
    info = shown["model_info"]
    # VS Code
    assert info[f"{info['general.architecture']}.context_length"] == 16384
    assert info["general.basename"] == "koboldcpp/org/Qwen3-8B-Q4_K_M"
    assert "tools" in shown["capabilities"]
    # litellm, Continue
    assert "tools" in shown["template"]
    assert ".Suffix" not in shown["template"]
    assert shown["parameters"].split() == ["num_ctx", "16384"]
    inserting = shown_model(ENTRY, NOW, describes_pictures=False, inserts=True)
    assert ".Suffix" in inserting["template"]
    assert inserting["capabilities"][-1] == "insert"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"id": "nomic-embed-text"}, ["embedding"]),
        ({"id": "llava:13b"}, ["completion", "tools", "vision"]),
        ({"id": "x", "capabilities": ["completion"]}, ["completion"]),
        ({"id": "x", "capabilities": ["completion", "tools"]}, ["completion", "tools"]),
        ({"id": "whisper-1"}, []),
    ],
)
def test_capabilities_are_ollamas_words(entry: dict[str, Any], words: list[str]) -> None:
    assert capabilities(entry, describes_pictures=True) == words


# Embeddings.


def test_texts_to_embed_become_openais_body() -> None:
    openai = {"model": "m", "encoding_format": "float"}
    assert embed_body({"model": "m", "input": "x"}) == {**openai, "input": ["x"]}
    body = {"model": "m", "input": ["x", "y"], "dimensions": 64, "truncate": True}
    assert embed_body(body) == {**openai, "input": ["x", "y"], "dimensions": 64}
    assert older_embed_body({"name": "m", "prompt": "x"}) == {**openai, "input": ["x"]}
    assert embed_body({"model": "m", "input": ""})["input"] == []
    assert older_embed_body({"model": "m"})["input"] == []


@pytest.mark.parametrize(
    "body", [[], {"input": "x"}, {"model": "m", "input": [1]}, {"model": "m", "input": {"a": 1}}]
)
def test_a_broken_body_is_not_embedded(body: Any) -> None:
    with pytest.raises(InvalidRequest):
        embed_body(body)


def test_vectors_come_in_the_order_of_the_texts() -> None:
    data = [{"index": 1, "embedding": [2.0]}, {"index": 0, "embedding": [1.0]}]
    vectors = vectors_in({"data": data}, 2)
    assert vectors == [[1.0], [2.0]]
    assert embed_answer("m", vectors, {"prompt_tokens": 3, "total_tokens": 3}, 0.5) == {
        "model": "m",
        "embeddings": [[1.0], [2.0]],
        "total_duration": 500_000_000,
        "load_duration": 1,
        "prompt_eval_count": 3,
    }
    assert older_embed_answer(vectors) == {"embedding": [1.0]}
    assert older_embed_answer([]) == {"embedding": []}


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {"data": []},
        {"data": [{"embedding": "x"}]},
        {"data": [{"embedding": [None]}]},
        {"data": [5]},
    ],
)
def test_an_answer_without_vectors_is_the_servers_fault(answer: Any) -> None:
    with pytest.raises(UpstreamFailed):
        vectors_in(answer, 1)

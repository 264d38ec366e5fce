"""Reads the bodies of /api/chat and /api/generate: OllamaQuestions out. Pure.

chat                        OpenAI's chat, which read_chat reads
generate                    a chat of one turn, with the system prompt before it
generate, raw or suffix     OpenAI's text completion, which read_completion reads
no messages, no prompt      no request: "load" or "unload" the model, which needs no answer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat import read_chat
from horde_proxy.protocol.completions import read_completion
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.ollama.messages import openai_messages
from horde_proxy.protocol.ollama.options import openai_options
from horde_proxy.protocol.validation import invalid_type

_LEVELS = {"low": "low", "medium": "medium", "high": "high", "max": "high"}
"""The levels of `think`, with OpenAI's efforts, of which "high" is the highest that all know."""
# Fields that change the answer on an Ollama and cannot be honoured here, where they are set.
_UNSUPPORTED = ("logprobs", "top_logprobs", "_debug_render_only")
_UNSUPPORTED_PROMPT = (*_UNSUPPORTED, "template", "context")
_OF_PICTURES = ("width", "height", "steps")
"""Fields of /api/generate for models that make pictures."""
_LONGEST_SHOWN_NAME = 200
"""Characters of a client's name that an error repeats; it may be megabytes long."""
_NOT_RAW = ("template", "system", "context")
"""Fields that shape a prompt, which a raw prompt does without."""

FillIn = Callable[[str, str, str], tuple[str, Sequence[str]] | None]
"""fill_in(model, before, after): (the prompt with which a model fills a gap, the stops after it).

None if the model cannot."""


@dataclass(frozen=True)
class AnswerTimes:
    """The clocks for the times in an answer.

    `written_now` is the time as Go writes it, "2026-11-29T21:30:00.000000Z"; `clock` counts seconds
    from any start, and the request `began` at one of them.
    """

    written_now: Callable[[], str]
    clock: Callable[[], float]
    began: float


@dataclass(frozen=True)
class ReadingRules:
    """How bodies are read, see read_chat; `default_tokens` is the length of raw answers."""

    strict: bool = False
    keeps_pictures: bool = False
    default_tokens: int = 256


@dataclass(frozen=True)
class OllamaQuestion:
    """What a client asks for.

    `model` is the name that the client wrote, which the answer repeats. `shows_thoughts`: the
    client has not turned them off. `unloads`: where there is nothing to answer, the model is to
    leave the memory, and not to be loaded.
    """

    route: Literal["chat", "generate"]
    model: str
    requests: tuple[GenerationRequest]
    times: AnswerTimes = field(repr=False, compare=False)
    shows_thoughts: bool = True
    unloads: bool = False

    @property
    def loads_only(self) -> bool:
        """Whether there is nothing to answer."""
        return not self.requests[0].messages


def read_ollama_chat(body: Any, rules: ReadingRules, times: AnswerTimes) -> OllamaQuestion:
    """The question in the decoded body of /api/chat. Raises InvalidRequest."""
    document = _object(body)
    model, leniency = model_of(document), Leniency(strict=rules.strict)
    question = _question("chat", document, model, times)
    messages = document.get("messages")
    if messages is None or messages == []:
        return question
    if not isinstance(messages, list):
        raise invalid_type("messages", "an array", messages)
    _warn_of_unsupported(document, _UNSUPPORTED, leniency)
    chat = {**_common(document, model, leniency), "messages": openai_messages(messages)}
    # ollama for Python sends an empty list of tools with each chat.
    if document.get("tools"):
        chat["tools"] = document["tools"]
        if document.get("tool_choice") is not None:
            chat["tool_choice"] = document["tool_choice"]
    return _with_chat(question, chat, rules, leniency)


def read_generate(
    body: Any, rules: ReadingRules, times: AnswerTimes, fill_in: FillIn
) -> OllamaQuestion:
    """The question in the decoded body of /api/generate. Raises InvalidRequest."""
    document = _object(body)
    model, leniency = model_of(document), Leniency(strict=rules.strict)
    question = _question("generate", document, model, times)
    prompt, suffix, is_raw = _text(document, "prompt"), _text(document, "suffix"), _is_raw(document)
    if not (prompt or suffix or (document.get("images") and not is_raw)):
        return question
    _warn_of_unsupported(document, _UNSUPPORTED_PROMPT, leniency)
    common = _common(document, model, leniency)
    if not suffix and not is_raw:
        chat = {**common, "messages": openai_messages(_turns(document, prompt))}
        return _with_chat(question, chat, rules, leniency)
    for name in ("system", "images"):
        if document.get(name):
            _tolerate(name, "left out of a prompt that is raw or has a suffix", leniency)
    raw = _filled(common, prompt, suffix, fill_in) if suffix else {**common, "prompt": prompt}
    return _with_prompt(question, raw, rules, leniency)


def _is_raw(document: Mapping[str, Any]) -> bool:
    """Whether the prompt is to be sent as it is. Raises InvalidRequest for what excludes it."""
    if any(document.get(name) for name in _OF_PICTURES):
        raise InvalidRequest(
            "Pictures are made by POST /v1/images/generations, not by /api/generate.",
            param="width",
            code="unsupported_parameter",
        )
    is_raw = document.get("raw") is True
    if is_raw and any(document.get(name) for name in _NOT_RAW):
        raise InvalidRequest("raw mode does not support template, system, or context", param="raw")
    return is_raw


def _filled(common: Mapping[str, Any], prompt: str, suffix: str, fill_in: FillIn) -> dict[str, Any]:
    """OpenAI's body for the gap between two texts. Raises InvalidRequest."""
    filled = fill_in(common["model"], prompt, suffix)
    if filled is None:
        name = common["model"][:_LONGEST_SHOWN_NAME]
        raise InvalidRequest(f'"{name}" does not support insert', param="suffix")
    text, stops = filled
    given = common.get("stop") or []
    own = [given] if isinstance(given, str) else given
    return {**common, "prompt": text, "stop": [*own, *stops]}


def model_of(document: Mapping[str, Any]) -> str:
    """The model that a body names; `name` is the older word. Raises InvalidRequest."""
    model = document.get("model") or document.get("name")
    if model is None or model == "":
        raise InvalidRequest("model is required", param="model", code="missing_required_parameter")
    if not isinstance(model, str):
        raise invalid_type("model", "a string", model)
    return model


def _object(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    return body


def _question(
    route: Literal["chat", "generate"], document: Mapping[str, Any], model: str, times: AnswerTimes
) -> OllamaQuestion:
    """The question without its messages. Ollama answers that in one piece also where it streams."""
    return OllamaQuestion(
        route,
        model,
        (GenerationRequest(model, ()),),
        times,
        shows_thoughts=document.get("think") is not False,
        unloads=is_zero_duration(document.get("keep_alive")),
    )


def is_zero_duration(keep_alive: Any) -> bool:
    """Whether `keep_alive` is 0: seconds as a number, or a duration as Go writes it, "0s"."""
    if isinstance(keep_alive, str):
        return keep_alive.strip().rstrip("hmsnuµ") in ("0", "0.0")
    return isinstance(keep_alive, int | float) and keep_alive == 0 and keep_alive is not False


def _common(document: Mapping[str, Any], model: str, leniency: Leniency) -> dict[str, Any]:
    """OpenAI's fields that chats and prompts have in common."""
    stream = document.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise invalid_type("stream", "a boolean", stream)
    fields = {
        "model": model,
        # Absent is true, unlike in OpenAI's API.
        "stream": stream is not False,
        **openai_options(document.get("options"), leniency),
        **_format(document.get("format")),
        **_thinking(document.get("think")),
    }
    if document.get("horde") is not None:
        fields["horde"] = document["horde"]
    return fields


def _format(given: Any) -> dict[str, Any]:
    """OpenAI's response_format for `format`: "json" or a JSON schema."""
    if given is None or given == "":
        return {}
    if given == "json":
        return {"response_format": {"type": "json_object"}}
    if isinstance(given, dict):
        schema = {"name": "answer", "schema": given}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    raise InvalidRequest(
        "Invalid value for 'format': expected \"json\" or a JSON schema.",
        param="format",
        code="invalid_value",
    )


def _thinking(think: Any) -> dict[str, Any]:
    """OpenAI's fields for `think`.

    False never fails: Home Assistant and the AI SDK's provider send it with each request. It is
    what Ollama reads in `reasoning`, and vLLM, SGLang and llama.cpp in `chat_template_kwargs`.
    """
    if think is None or think is True:
        return {}
    if think is False:
        return {
            "reasoning": {"effort": "none"},
            "chat_template_kwargs": {"enable_thinking": False},
        }
    if isinstance(think, str) and think.lower() in _LEVELS:
        return {"reasoning_effort": _LEVELS[think.lower()]}
    raise InvalidRequest(
        'Invalid value for \'think\': expected "high", "medium", "low", true or false.',
        param="think",
        code="invalid_value",
    )


def _turns(document: Mapping[str, Any], prompt: str) -> list[dict[str, Any]]:
    """A prompt as the messages of a chat."""
    user = {"role": "user", "content": prompt, "images": document.get("images")}
    system = _text(document, "system")
    return [{"role": "system", "content": system}, user] if system else [user]


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid_type(name, "a string", value)
    return value or ""


def _with_chat(
    question: OllamaQuestion, chat: dict[str, Any], rules: ReadingRules, leniency: Leniency
) -> OllamaQuestion:
    request = read_chat(chat, strict=rules.strict, keeps_pictures=rules.keeps_pictures)
    return _with_request(question, request, leniency)


def _with_prompt(
    question: OllamaQuestion, completion: dict[str, Any], rules: ReadingRules, leniency: Leniency
) -> OllamaQuestion:
    if completion.pop("response_format", None) is not None:
        _tolerate("format", "left out of a raw prompt", leniency)
    for name in ("reasoning", "chat_template_kwargs", "reasoning_effort"):
        completion.pop(name, None)
    read = read_completion(completion, default_tokens=rules.default_tokens, strict=rules.strict)
    return _with_request(question, read.requests[0], leniency)


def _with_request(
    question: OllamaQuestion, request: GenerationRequest, leniency: Leniency
) -> OllamaQuestion:
    own = leniency.warnings()
    warned = replace(request, warnings=(*own, *request.warnings), front_warnings=own)
    return replace(question, requests=(warned,))


def _warn_of_unsupported(
    document: Mapping[str, Any], names: tuple[str, ...], leniency: Leniency
) -> None:
    for name in names:
        if document.get(name):
            _tolerate(name, "not supported", leniency)
    # Both are true by default.
    for name in ("truncate", "shift"):
        if document.get(name) is False:
            _tolerate(name, "false is not supported", leniency)


def _tolerate(name: str, outcome: str, leniency: Leniency) -> None:
    error = InvalidRequest(
        f"Unsupported parameter: '{name}'.", param=name, code="unsupported_parameter"
    )
    leniency.tolerate(error, outcome)

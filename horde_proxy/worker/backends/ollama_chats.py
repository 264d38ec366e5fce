"""A chat in the words of Ollama's own API, POST /api/chat, and its lines as OpenAI's chunks. Pure.

Source: Ollama's docs/api.md, "Generate a chat completion", and its server's routes.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from horde_proxy.protocol.models import as_mapping
from horde_proxy.upstreams.openai.events import Event
from horde_proxy.worker.backends.base import JobRefused

# OpenAI's name, or another server's -> Ollama's in `options`.
_OPTIONS: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "stop": "stop",
    "top_k": "top_k",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty": "repeat_penalty",
    "repeat_last_n": "repeat_last_n",
}
_OTHER_FIELDS = frozenset({"messages", "tools", "tool_choice", "response_format"})
_OTHER_FIELDS |= {"reasoning_effort", "think", "chat_template_kwargs"}
_SAME_NAMES = ("logprobs", "top_logprobs")
_IDLE_FIELDS = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
)
"""They change nothing of an answer."""
_NO_THINKING = ("none", "minimal")
_LEVELS = ("low", "medium", "high")


def chat_fields(chat: Mapping[str, Any], model: str) -> tuple[dict[str, Any], list[str]]:
    """(the fields of Ollama's body, the names of what it does not know). Raises JobRefused."""
    fields: dict[str, Any] = {
        "messages": ollama_messages(chat.get("messages")),
        "options": {theirs: chat[name] for name, theirs in _OPTIONS.items() if name in chat},
    }
    stop = fields["options"].get("stop")
    if isinstance(stop, str):
        fields["options"]["stop"] = [stop]
    fields |= {name: chat[name] for name in _SAME_NAMES if chat.get(name)}
    choice = chat.get("tool_choice", "auto")
    if chat.get("tools") and choice != "none":
        fields["tools"] = chat["tools"]
    if (form := _format(chat.get("response_format"))) is not None:
        fields["format"] = form
    if (think := _think(chat, model)) is not None:
        fields["think"] = think
    known = {*_OPTIONS, *_OTHER_FIELDS, *_SAME_NAMES, *_IDLE_FIELDS}
    unknown = [name for name, value in chat.items() if name not in known and value not in ({}, [])]
    # Ollama lets the model choose.
    unknown += [] if choice in ("auto", "none") else ["tool_choice"]
    return fields, unknown


def ollama_messages(messages: Any) -> list[dict[str, Any]]:
    """The messages of a chat as Ollama has them. Raises JobRefused for images and the like."""
    names: dict[str, str] = {}
    translated = []
    for message in messages if isinstance(messages, list) else ():
        message = as_mapping(message)
        calls = _calls_of(message)
        for call in calls:
            names[str(call.get("id"))] = str(as_mapping(call.get("function")).get("name"))
        translated.append(_message(message, calls, names))
    return translated


def as_events(lines: Iterable[Event | None]) -> Iterator[Event | None]:
    """OpenAI's chunks for the lines of an answer. The line with `done` is the last."""
    calls = 0
    for reply in lines:
        message = as_mapping(as_mapping(reply).get("message"))
        delta = {name: message.get(name) for name in ("content", "thinking")}
        new = _calls_of(message)
        if new:
            # They are whole, and counted anew in each line.
            delta["tool_calls"] = [_call(call, calls + place) for place, call in enumerate(new)]
            calls += len(new)
        yield _chunk(as_mapping(reply), delta)
        if as_mapping(reply).get("done"):
            yield None
            return


def _calls_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    return [as_mapping(call) for call in calls] if isinstance(calls, list) else []


def _chunk(reply: Mapping[str, Any], delta: Mapping[str, Any]) -> Event:
    choice: dict[str, Any] = {"index": 0, "delta": delta}
    logprobs = reply.get("logprobs")
    if isinstance(logprobs, list):
        choice["logprobs"] = {"content": logprobs}
    if not reply.get("done"):
        return {"choices": [choice]}
    choice["finish_reason"] = reply.get("done_reason") or "stop"
    usage = {
        "prompt_tokens": reply.get("prompt_eval_count"),
        "completion_tokens": reply.get("eval_count"),
    }
    return {"choices": [choice], "usage": usage}


def _call(call: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A tool call as OpenAI has it: its arguments are a text."""
    function = as_mapping(call.get("function"))
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    name = function.get("name")
    return {
        "index": index,
        "id": call.get("id"),
        "function": {"name": name, "arguments": arguments},
    }


def _message(
    message: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], names: Mapping[str, str]
) -> dict[str, Any]:
    """One message. `names` are those of the called tools, by the ids of the calls so far."""
    role = str(message.get("role"))
    # "developer" is OpenAI's newer name of the role, "function" the older one of "tool".
    role = {"developer": "system", "function": "tool"}.get(role, role)
    # Parts of an answer follow each other; those of a user, as other servers have them, are lines.
    between = "" if role == "assistant" else "\n"
    content = between.join(_texts(message.get("content")))
    translated: dict[str, Any] = {"role": role, "content": content}
    if thinking := message.get("reasoning_content"):
        translated["thinking"] = thinking
    if calls:
        translated["tool_calls"] = [_called(call) for call in calls]
    if role == "tool":
        call_id = str(message.get("tool_call_id") or "")
        translated["tool_name"] = names.get(call_id) or str(message.get("name") or "")
        translated |= {"tool_call_id": call_id} if call_id else {}
    return translated


def _called(call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call of an earlier answer: Ollama has its arguments as an object."""
    function = as_mapping(call.get("function"))
    arguments = function.get("arguments")
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        # What a model wrote there need not be JSON.
        value = None
    if not isinstance(value, dict):
        value = {"arguments": arguments} if arguments else {}
    named = {"id": call["id"]} if call.get("id") else {}
    return {**named, "function": {"name": function.get("name"), "arguments": value}}


def _texts(content: Any) -> list[str]:
    """The texts of a content, which may be a list of parts. Raises JobRefused."""
    if content is None or isinstance(content, str):
        return [content or ""]
    parts = content if isinstance(content, list) else [content]
    texts = [part if isinstance(part, str) else as_mapping(part).get("text") for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise JobRefused("its chat has images or files", "this worker reads no images or files")
    return list(map(str, texts))


def _format(response_format: Any) -> Any:
    """Ollama's `format`: "json" or a JSON schema; None for text."""
    form = as_mapping(response_format)
    if form.get("type") == "json_schema":
        return as_mapping(form.get("json_schema")).get("schema") or "json"
    return "json" if form.get("type") == "json_object" else None


def _think(chat: Mapping[str, Any], model: str) -> Any:
    """Ollama's `think`; None leaves it to the model, as for one that cannot think."""
    if "think" in chat:
        return chat["think"]
    effort = chat.get("reasoning_effort")
    # The second is vLLM's and llama.cpp's way to turn it off.
    switch = as_mapping(chat.get("chat_template_kwargs")).get("enable_thinking")
    if effort in _NO_THINKING or switch is False:
        return False
    # Only gpt-oss has levels. Other models that think do so anyway, and those that do not
    # would refuse it.
    return effort if effort in _LEVELS and "gpt-oss" in model.casefold() else None

"""Requests with messages instead of a prompt: their checks, their texts, and their results.

    submit   chat {"messages", "tools", ...}   read(): checks, texts for filters and prices
    pop      chat, and after a lost worker the partial answer: continued()
    submit of a result   a transcript (aihorde.transcript) --> delivered()

A chat is passed on as it came: a worker's model server reads it. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from horde_proxy.aihorde import transcript
from horde_proxy.aihorde.chat_media import is_to_be_fetched
from horde_proxy.aihorde.transcript import BadTranscript, ChatResult
from horde_proxy.private_horde.errors import MOST_ERRORS, invalid, refusal
from horde_proxy.private_horde.records import Payload

Chat = dict[str, Any]
Replace = Callable[[str], str]

LARGEST = 4_000_000
"""Characters of a chat's JSON: the longest context, a million tokens, has about as many."""
MOST_VALUES = 200_000
"""Values in a chat's JSON: 5,000 messages with calls and 200 large tools have half as many. Each
walk through so many takes a tenth of a second."""
MOST_LINES = 100_000
"""Lines of a transcript. A line has a token or more, and a job 4,096 tokens; some jobs may fail."""
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")

_BETWEEN = "\n\0\n"
"""What separates the texts of a chat where they are searched: no text contains NUL, and hardly a
filter matches it, so that no words of two messages are taken for a phrase."""

_NO_TEXTS = frozenset(
    {"role", "type", "id", "tool_call_id", "image_url", "input_audio", "file", "detail"}
)
"""Fields of messages that no model reads as words: names of kinds, ids, and media in base64."""

_ELSEWHERE = {
    "model": "Name the models in the field models of the request.",
    "stream": "Leave it out. Every request can be read as a stream.",
    "n": "Put it into params.n of the request.",
    "max_tokens": "Put it into params.max_length of the request.",
    "max_completion_tokens": "Put it into params.max_length of the request.",
}
"""Fields of OpenAI's body that would contradict those of the request."""

_GRAMMARS = frozenset({"grammar", "json_schema", "structured_outputs"})
_GRAMMAR_PREFIX = "guided_"
"""Fields that make a server write by a grammar: llama.cpp's, and those of vLLM."""


@dataclass(frozen=True)
class SubmittedChat:
    """A chat that was checked. `text`: its texts as one, which can be searched (see `text_of`).

    `length` are the characters of the messages' texts, for which it pays as for a prompt.
    """

    body: Chat = field(repr=False)
    text: str = field(repr=False)
    length: int

    def with_text(self, new: str) -> SubmittedChat:
        """The chat with other texts. Raises CorruptPrompt (400) if they are not as many."""
        if new == self.text:
            return self
        texts = new.split(_BETWEEN)
        count = 0

        def replace(part: str) -> str:
            nonlocal count
            count += 1
            return texts[count - 1] if count <= len(texts) else part

        changed = _mapped(self.body, replace)
        # What was replaced may reach from one message into the next.
        if len(texts) != count:
            raise refusal("CorruptPrompt")
        return _searchable(changed)


def read(fields: Mapping[str, Any]) -> SubmittedChat | None:
    """The chat of a request; None for one with a prompt. Raises HordeError (400).

    `fields`: see `schema.SUBMIT`. It takes long for a large chat, so no transaction is open.
    """
    chat = fields["chat"]
    if chat is None:
        return None
    if fields["prompt"]:
        reason = "A request has a prompt or a chat. Leave one of them out."
        raise refusal("BadRequest", reason=reason)
    if _has_too_many_values(chat):
        raise refusal("BadRequest", reason=f"A chat has at most {MOST_VALUES:,} values of JSON.")
    if len(json.dumps(chat, ensure_ascii=False)) > LARGEST:
        raise refusal("BadRequest", reason=f"A chat has at most {LARGEST:,} characters of JSON.")
    if faults := dict(islice(_faults(chat), MOST_ERRORS)):
        raise invalid(faults)
    return _searchable(chat)


def _has_too_many_values(chat: Chat) -> bool:
    left, level = MOST_VALUES, list(chat.values())
    while level and left >= 0:
        left -= len(level)
        containers = (value for value in level if isinstance(value, dict | list))
        inner = (value.values() if isinstance(value, dict) else value for value in containers)
        level = [value for values in inner for value in values]
    return left < 0


def _faults(chat: Chat) -> Iterator[tuple[str, str]]:
    """(dotted field, what is wrong with it). By hand: a schema takes a second for many messages."""
    for name in _ELSEWHERE.keys() & chat.keys():
        yield f"chat.{name}", _ELSEWHERE[name]
    if not (chat.get("tools") is None or _is_list_of_objects(chat["tools"])):
        yield "chat.tools", "It is a list of objects."
    if not isinstance(chat.get("continue"), bool | None):
        yield "chat.continue", "It is true or false."
    messages = chat.get("messages", [])
    if not isinstance(messages, list) or not messages:
        yield "chat.messages", "It is a list of one message or more."
        return
    for number, message in enumerate(messages):
        for name, fault in _message_faults(message):
            yield f"chat.messages.{number}{name}", fault


def _message_faults(message: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(message, dict):
        yield "", "A message is an object."
        return
    if message.get("role") not in _ROLES:
        yield ".role", f"It is one of {', '.join(_ROLES)}."
    content, reasoning = message.get("content"), message.get("reasoning_content")
    if not (content is None or isinstance(content, str) or _is_list_of_objects(content)):
        yield ".content", "It is a text, a list of objects, or null."
    elif isinstance(content, list) and any(map(is_to_be_fetched, content)):
        yield ".content", "Its media are data: URLs. No worker fetches an address."
    if not (reasoning is None or isinstance(reasoning, str)):
        yield ".reasoning_content", "It is a text or null."
    if not (message.get("tool_calls") is None or _is_list_of_objects(message["tool_calls"])):
        yield ".tool_calls", "It is a list of objects."


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(element, dict) for element in value)


def _searchable(chat: Chat) -> SubmittedChat:
    texts: list[str] = []

    def note(part: str) -> str:
        texts.append(part)
        return part

    _message_texts(chat["messages"], note)
    length = sum(map(len, texts))
    for name, mapped in _OTHER_TEXTS.items():
        mapped(chat.get(name), note)
    return SubmittedChat(chat, _BETWEEN.join(texts), length)


def text_of(payload: Payload) -> str:
    """What of a payload can be searched for words: its prompt, or the texts of its chat.

    Those are the texts of messages, descriptions of tools, and what templates put beside them.
    """
    return _searchable(payload.chat).text if payload.chat else payload.prompt


def _mapped(chat: Chat, replace: Replace) -> Chat:
    """The chat with each text replaced, always in the same order."""
    changed = {**chat, "messages": _message_texts(chat["messages"], replace)}
    for name, mapped in _OTHER_TEXTS.items():
        if name in chat:
            changed[name] = mapped(chat[name], replace)
    return changed


def _message_texts(value: Any, replace: Replace) -> Any:
    if isinstance(value, str):
        return replace(value)
    if isinstance(value, list):
        return [_message_texts(inner, replace) for inner in value]
    if isinstance(value, dict):
        return {
            name: inner if name in _NO_TEXTS else _message_texts(inner, replace)
            for name, inner in value.items()
        }
    return value


def _descriptions(value: Any, replace: Replace) -> Any:
    """Tools with their descriptions replaced: other texts of a tool are names."""
    if isinstance(value, list):
        return [_descriptions(inner, replace) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        name: replace(inner)
        if name == "description" and isinstance(inner, str)
        else _descriptions(inner, replace)
        for name, inner in value.items()
    }


_OTHER_TEXTS: Mapping[str, Callable[[Any, Replace], Any]] = {
    "tools": _descriptions,
    # Of llama.cpp and vLLM: what their templates put into the prompt.
    "documents": _message_texts,
    "chat_template": _message_texts,
    "chat_template_kwargs": _message_texts,
}
"""How the texts in further fields of a chat are replaced."""


# Results.


@dataclass(frozen=True)
class DeliveredChat:
    """A delivered job: the whole transcript of its result, and what that amounts to.

    `written` are the characters that this job's worker wrote.
    """

    transcript: str
    written: int
    result: dict[str, Any]


def delivered(begun: str, own: str, state: str) -> DeliveredChat:
    """What a worker submits, after what lost workers had begun. Raises BadTranscript.

    A censored result may be any text, such as a notice: that is its content.
    """
    if own and not own.endswith("\n"):
        own += "\n"
    try:
        _check_lines(own.count("\n"))
        entries = transcript.read(own)
    except BadTranscript:
        if state == "ok":
            raise
        own = transcript.line({"content": own.removesuffix("\n")})
        entries = transcript.read(own)
    whole = transcript.fold([*transcript.read(begun), *entries])
    return DeliveredChat(begun + own, transcript.fold(entries).written, result(whole))


def result(folded: ChatResult) -> dict[str, Any]:
    """The `chat` of a generation: message, finish reason, usage, and log-probabilities if any."""
    body: dict[str, Any] = {
        "message": folded.message(),
        "finish_reason": folded.finish_reason,
        "usage": folded.usage,
    }
    if folded.logprobs:
        body["logprobs"] = {"content": folded.logprobs}
    return body


def content(chat: Mapping[str, Any]) -> str:
    """The text of a generation with this `chat`, for clients that read no messages."""
    return chat["message"]["content"] or ""


def new_lines(known: str, piece: str) -> str:
    """The whole lines of the piece of a transcript that comes after this one.

    Raises BadTranscript for one that cannot be read, or for too many.
    """
    lines = transcript.whole_lines(piece)
    _check_lines(known.count("\n") + lines.count("\n"))
    transcript.read(lines)
    return lines


def _check_lines(count: int) -> None:
    if count > MOST_LINES:
        raise BadTranscript(f"a transcript has at most {MOST_LINES:,} lines")


# Answers that a lost worker has begun.


def resumed(begun: str, chat: Chat) -> str:
    """The transcript after which the next worker writes, from the one of a lost worker.

    It ends with "again" where nobody can go on from there: in the middle of a tool call, after the
    end, or within a grammar, which a server would begin anew.
    """
    try:
        folded = transcript.fold(transcript.read(begun))
    except BadTranscript:
        # The pieces of two workers, mixed by processes that died: nothing of it can be read.
        return transcript.AGAIN
    ends = folded.calls or folded.refusal or folded.finish_reason
    if ends or (folded.written and _has_grammar(chat)):
        return begun + transcript.AGAIN
    return begun


def of_slot(chat: Chat, slot: int) -> Chat:
    """The chat for one of several results. Each has a seed of its own.

    With the same seed, a server writes the same text for all of them. One below 0 means a random
    one to llama.cpp.
    """
    seed = chat.get("seed")
    if not slot or not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        return chat
    return {**chat, "seed": seed + slot}


def continued(chat: Chat, begun: ChatResult) -> Chat:
    """The chat with the partial answer as its last message, for the worker that goes on."""
    messages, partial = list(chat["messages"]), begun.message()
    if chat.get("continue") and messages[-1].get("role") == "assistant":
        # The client's own partial answer comes first: two of them would be two turns.
        partial = _appended(messages.pop(), partial)
    return {**chat, "messages": [*messages, partial]}


def _appended(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    before, after = first.get("content"), second["content"]
    message = dict(first)
    if isinstance(before, list):
        message["content"] = [*before, {"type": "text", "text": after}] if after else before
    else:
        message["content"] = (before or "") + after
    if reasoning := (first.get("reasoning_content") or "") + second.get("reasoning_content", ""):
        message["reasoning_content"] = reasoning
    return message


def _has_grammar(chat: Chat) -> bool:
    form = chat.get("response_format")
    if isinstance(form, dict) and form.get("type", "text") != "text":
        return True
    return any(
        chat[name] is not None and (name in _GRAMMARS or name.startswith(_GRAMMAR_PREFIX))
        for name in chat
    )

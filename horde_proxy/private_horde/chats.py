"""Requests with messages instead of a prompt: their checks, their texts, and their results.

    submit   chat {"messages", "tools", ...}   check(), texts for filters and prices
    pop      chat, and after a lost worker the partial answer: continued()
    submit of a result   a transcript (aihorde.transcript) --> delivered()

A chat is passed on as it came: a worker's model server reads it. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.aihorde import transcript
from horde_proxy.aihorde.transcript import BadTranscript, ChatResult
from horde_proxy.private_horde import schema
from horde_proxy.private_horde.errors import invalid, refusal
from horde_proxy.private_horde.records import Payload

Chat = dict[str, Any]
Replace = Callable[[str], str]

LARGEST = 4_000_000
"""Characters of a chat's JSON: the longest context, a million tokens, has about as many."""

_BETWEEN = "\n\0\n"
"""What separates the texts of a chat where they are searched: no text contains NUL, and hardly a
filter matches it, so that no words of two messages are taken for a phrase."""

_NO_TEXTS = frozenset(
    {"role", "type", "id", "tool_call_id", "image_url", "input_audio", "file", "detail"}
)
"""Fields of messages that no model reads as words: names of kinds, ids, and media in base64."""

_ELSEWHERE = {
    "model": "Name the models in the field models of the request.",
    "stream": "Leave it out. The stream of a request needs no wish.",
    "n": "Put it into params.n of the request.",
    "max_tokens": "Put it into params.max_length of the request.",
    "max_completion_tokens": "Put it into params.max_length of the request.",
}
"""Fields of OpenAI's body that would contradict those of the request."""

_GRAMMARS = frozenset({"grammar", "json_schema", "structured_outputs"})
_GRAMMAR_PREFIX = "guided_"
"""Fields that make a server write by a grammar: llama.cpp's, and those of vLLM."""


def check(fields: Mapping[str, Any]) -> None:
    """Refuse (400) a request with a chat that cannot be read, or with a prompt beside it."""
    chat = fields["chat"]
    if chat is None:
        return
    if fields["prompt"]:
        reason = "A request has a prompt or a chat. Leave one of them out."
        raise refusal("BadRequest", reason=reason)
    errors = schema.CHAT.errors(chat)
    errors |= {name: hint for name, hint in _ELSEWHERE.items() if name in chat}
    if chat.get("messages", []) == []:
        errors["messages"] = "A chat has one message at least."
    if errors:
        raise invalid({f"chat.{name}".rstrip("."): text for name, text in errors.items()})
    if len(json.dumps(chat, ensure_ascii=False)) > LARGEST:
        raise refusal("BadRequest", reason=f"A chat has at most {LARGEST:,} characters of JSON.")


def text(chat: Chat) -> str:
    """The texts of messages, and the descriptions of tools, as one text that can be searched."""
    texts: list[str] = []

    def note(part: str) -> str:
        texts.append(part)
        return part

    _mapped(chat, note)
    return _BETWEEN.join(texts)


def with_text(chat: Chat, new: str) -> Chat | None:
    """The chat with the texts of one that `text` made; None where they are not as many."""
    texts = new.split(_BETWEEN)
    count = 0

    def replace(part: str) -> str:
        nonlocal count
        count += 1
        return texts[count - 1] if count <= len(texts) else part

    changed = _mapped(chat, replace)
    # A chat without any text makes one empty text.
    return changed if len(texts) == max(count, 1) else None


def text_of(payload: Payload) -> str:
    """What of a payload can be searched for words: its prompt, or the texts of its chat."""
    return text(payload.chat) if payload.chat else payload.prompt


def length(chat: Chat) -> int:
    """The characters of the messages' texts, for which a request pays as for a prompt."""
    total = 0

    def count(part: str) -> str:
        nonlocal total
        total += len(part)
        return part

    _message_texts(chat["messages"], count)
    return total


def _mapped(chat: Chat, replace: Replace) -> Chat:
    """The chat with each text replaced, always in the same order."""
    changed = {**chat, "messages": _message_texts(chat["messages"], replace)}
    if "tools" in chat:
        changed["tools"] = _descriptions(chat["tools"], replace)
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


def new_lines(piece: str) -> str:
    """The whole lines of a transcript's piece. Raises BadTranscript."""
    lines = transcript.whole_lines(piece)
    transcript.read(lines)
    return lines


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

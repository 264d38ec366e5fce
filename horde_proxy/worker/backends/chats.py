"""The chat of a job: what a server gets of it, and the transcript of what the server writes. Pure.

    payload["chat"]  -> request_fields -> the body of POST /v1/chat/completions
    a server's events -> transcript_lines -> the lines of a transcript (`aihorde.transcript`)

Answers are tidied by `upstreams.openai.tidy`, as those of the proxy's own upstreams are. What
Ollama's own API has instead is in `ollama_chats`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from horde_proxy.aihorde.chat_media import is_to_be_fetched
from horde_proxy.aihorde.kudos import counted_tokens
from horde_proxy.aihorde.transcript import MOST_CALLS, fold, line, read
from horde_proxy.errors import UpstreamFailed
from horde_proxy.numbers import finite
from horde_proxy.protocol.chunks import Head
from horde_proxy.protocol.models import as_mapping
from horde_proxy.protocol.usage import counts_of, estimate_answer, usages_in
from horde_proxy.upstreams.openai.events import Event
from horde_proxy.upstreams.openai.tidy import ForeignAnswer
from horde_proxy.worker.backends.base import Payload
from horde_proxy.worker.formatting import formatted

# Fields that the worker sets itself, and `continue`, which is the horde's and no server's.
_OWN_FIELDS = frozenset(
    {"model", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "continue"}
)
# Fields by which a stranger would get more than was paid for, or change what is the owner's. They
# are llama.cpp's (n_predict comes before max_tokens there) and vLLM's (kv_transfer_params name
# hosts that it connects to, logits_processors functions of Python).
_OWNERS_FIELDS = frozenset(
    {"n_predict", "n_cmpl", "best_of", "use_beam_search", "id_slot", "lora", "priority"}
    | {"kv_transfer_params", "logits_processors", "prompt_logprobs", "mm_processor_kwargs"}
)
# "top_k", "dry_allowed_length", "chat_template_kwargs": parameters of all servers. Others are only
# for what they do to logs, and to searches for them in refusals.
_NAME = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)
_TEXTS = ("content", "reasoning_content", "refusal")


@dataclass(frozen=True)
class BegunAnswer:
    """An answer that is to be continued: the last message of a chat.

    `is_clients`: a client has begun it, so that it cannot be left out; else it is a lost worker's.
    """

    message: Mapping[str, Any]
    is_clients: bool

    @property
    def content(self) -> str:
        """Its text; that of all parts, where a client wrote parts."""
        content = self.message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        return "".join(str(as_mapping(part).get("text") or "") for part in parts)

    @property
    def reasoning(self) -> str:
        return str(self.message.get("reasoning_content") or "")


def is_chat(payload: Payload) -> bool:
    """Whether a job is a chat; otherwise it has a prompt."""
    return isinstance(payload.get("chat"), Mapping)


def begun_answer(payload: Payload) -> BegunAnswer | None:
    """The answer that a job continues; None for one that begins."""
    messages = payload["chat"].get("messages")
    last = as_mapping(messages[-1]) if isinstance(messages, list) and messages else {}
    is_clients = payload["chat"].get("continue") is True
    is_begun = is_clients or payload.get("continue") is True
    return BegunAnswer(last, is_clients) if is_begun and last.get("role") == "assistant" else None


def begins_anew(payload: Payload, begun: BegunAnswer, most: int) -> Payload:
    """The payload of a job that continues an answer, without the answer's beginning.

    Its length was made shorter by the tokens of the beginning; `most` is the longest that can be
    written.
    """
    chat = {**payload["chat"], "messages": payload["chat"]["messages"][:-1]}
    anew = {**payload, "chat": chat, "continue": False}
    if length := payload.get("max_length"):
        written = counted_tokens(len(begun.content) + len(begun.reasoning), most)
        anew["max_length"] = max(length, min(length + written, most))
    return anew


def request_fields(payload: Payload) -> dict[str, Any]:
    """The fields of the chat as they are, without nulls, and what the worker or its owner sets."""
    chat = payload["chat"]
    return {
        name: value
        for name, value in chat.items()
        if value is not None and name not in _OWN_FIELDS | _OWNERS_FIELDS and _NAME.fullmatch(name)
    }


def is_to_fetch(payload: Payload) -> bool:
    """Whether the server would fetch media of a chat from an address."""
    messages = payload["chat"].get("messages")
    contents = [as_mapping(msg).get("content") for msg in _list(messages)]
    return any(is_to_be_fetched(part) for parts in contents for part in _list(parts))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def with_plain_choice(body: dict[str, Any]) -> dict[str, Any]:
    """The body of a chat whose tool choice is a word: only the tools that may be called are left.

    llama.cpp takes any other choice for "auto", and only logs it ("Wrong type supplied for
    parameter 'tool_choice'"). LM Studio refuses it, and Ollama reads no choice at all.
    """
    choice = as_mapping(body.get("tool_choice"))
    # {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [...]}}, or
    # {"type": "function", "function": {"name": "f"}}.
    allowed = as_mapping(choice.get("allowed_tools"))
    listed, mode = (
        (allowed.get("tools"), allowed.get("mode")) if allowed else ([choice], "required")
    )
    names = [_tool_name(tool) for tool in listed] if isinstance(listed, list) else []
    tools = body.get("tools")
    if not any(names) or not isinstance(tools, list):
        return body
    left = [tool for tool in tools if _tool_name(tool) in names]
    return {**body, "tools": left, "tool_choice": mode or "auto"}


def _tool_name(tool: Any) -> Any:
    return as_mapping(as_mapping(tool).get("function")).get("name")


def transcript_lines(events: Iterable[Event | None]) -> Iterator[str]:
    """The transcript of an answer in OpenAI's chunks, or as one chat completion.

    The last line has the finish_reason, and the usage where the server counts. Raises
    UpstreamFailed for an answer that is empty or broken off.
    """
    seen = _Observed(events)
    finish_reason = None
    for chunk in ForeignAnswer(Head("", 0, "")).chunks(seen):
        for choice in chunk["choices"]:
            finish_reason = choice["finish_reason"] or finish_reason
            if delta := _written(choice["delta"]):
                if any(part["index"] >= MOST_CALLS for part in delta.get("tool_calls", ())):
                    raise UpstreamFailed("it made more tool calls than a transcript may have")
                yield line(delta, logprobs=seen.new_logprobs())
    yield line(finish_reason=finish_reason, usage=seen.usage(), logprobs=seen.new_logprobs())


def formatted_transcript(transcript: str, payload: Payload) -> str:
    """The transcript of a whole answer, its content formatted as the payload says."""
    result = fold(read(transcript))
    message = result.message()
    deltas: list[dict[str, Any]] = [
        {name: formatted(text, payload) if name == "content" else text}
        for name in ("reasoning_content", "content", "refusal")
        if (text := message.get(name))
    ]
    deltas += [
        {"tool_calls": [{"index": index, **call}]}
        for index, call in enumerate(message.get("tool_calls", ()))
    ]
    # The log probabilities are those of another text, so they are left out.
    end = line(finish_reason=result.finish_reason, usage=result.usage)
    return "".join(map(line, deltas)) + end


def tokens_of(transcript: str) -> int:
    """The tokens that the model wrote: those of the usage, else an estimate."""
    result = fold(read(transcript))
    return result.usage["completion_tokens"] if result.usage else estimate_answer(result.written)


class _Observed:
    """The events of an answer, of which it notes what a legal chunk has no place for."""

    def __init__(self, events: Iterable[Event | None]) -> None:
        self._events = events
        self._logprobs: list[Any] = []
        self._usage: Event = {}
        self._cached: int | None = None

    def __iter__(self) -> Iterator[Event | None]:
        for event in self._events:
            if event is not None:
                self._note(event)
            yield event

    def new_logprobs(self) -> dict[str, Any] | None:
        """The log probabilities that have come since the last call, as OpenAI has them."""
        logprobs, self._logprobs = self._logprobs, []
        return {"content": logprobs} if logprobs else None

    def usage(self) -> dict[str, int] | None:
        """The token counts of the answer; None where the server did not count."""
        prompt, completion, total = counts_of(self._usage)
        if not prompt:
            return None
        usage = {"prompt_tokens": prompt, "completion_tokens": max(completion, total - prompt)}
        details = (
            ("reasoning_tokens", "completion_tokens_details", None),
            ("cached_tokens", "prompt_tokens_details", self._cached),
        )
        for name, place, default in details:
            count = finite(as_mapping(self._usage.get(place)).get(name, default))
            if count is not None and count > 0:
                usage[name] = int(count)
        return usage

    def _note(self, event: Event) -> None:
        for usage in usages_in(event):
            self._usage = usage or self._usage
        # llama.cpp counts the tokens that it had in its cache beside the usage.
        cached = finite(as_mapping(event.get("timings")).get("cache_n"))
        self._cached = int(cached) if cached is not None else self._cached
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            logprobs = as_mapping(as_mapping(choice).get("logprobs")).get("content")
            self._logprobs += logprobs if isinstance(logprobs, list) else []


def _written(delta: Mapping[str, Any]) -> dict[str, Any]:
    """What a legal delta adds to the answer, without NUL, which hordes refuse in texts."""
    written: dict[str, Any] = {
        name: text for name in _TEXTS if (text := (delta.get(name) or "").replace("\0", ""))
    }
    return {**written, "tool_calls": delta["tool_calls"]} if "tool_calls" in delta else written

"""The border for answers of OpenAI-compatible servers: any server's events in, legal chunks out.

A legal answer is what OpenAI itself sends: one id, time and model; for each choice its role first
and one of OpenAI's five finish_reasons last; whole tool calls; the usage at the end. What cannot
be made legal, or is not complete, is an UpstreamFailed. Nothing behind this module doubts a chunk.
It does no I/O. Fields that OpenAI does not have are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from horde_proxy.errors import UpstreamFailed
from horde_proxy.numbers import finite
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Chunk, FinishReason, Head
from horde_proxy.protocol.usage import cached_by_timings, cached_of, estimate_answer, tidy_usage
from horde_proxy.upstreams.base import Spent
from horde_proxy.upstreams.openai.calls import ForeignCalls
from horde_proxy.upstreams.openai.texts import HalfPairs, whole_characters

Object = dict[str, Any]

_LONGEST_LABEL = 1_000
"""Characters of an answer's id or model. Longer ones are replaced: each chunk repeats them."""
# finish_reasons in lower case. Those of OpenAI; Anthropic and what translates it (end_turn,
# max_tokens, tool_use, refusal); Gemini (STOP, MAX_TOKENS, SAFETY, ...); Mistral (model_length);
# TGI (eos_token); Zhipu (sensitive). Any other reason is a "stop".
_LENGTH = {"length", "max_tokens", "max_output_tokens", "max_length", "model_length"}
_LENGTH |= {"model_context_window_exceeded", "context_length_exceeded", "token_limit"}
_CALLS = {"tool_calls", "tool_call", "tool_use", "function_call", "functioncall"}
_FILTERED = {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii"}
_FILTERED |= {"refusal", "sensitive", "content_filtered", "image_safety"}
# The server gave up: OpenRouter, vLLM and SGLang, Zhipu, DeepSeek, Gemini.
_BROKEN = {"error", "abort", "aborted", "cancelled", "canceled", "network_error"}
_BROKEN |= {"insufficient_system_resource", "malformed_function_call"}
_NOT_YET = {"", "null", "none"}
"""What some servers (DashScope, older LocalAI) send as finish_reason until an answer ends."""
# The reasoning is in the first of these that has text: DeepSeek and vLLM, OpenRouter and Ollama,
# Cohere and some gateways, OpenRouter's newer list. vLLM and OpenRouter send two of them at once.
_REASONING = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_TEXTS = ("text", "content", "thinking", "reasoning", "refusal", "summary")
"""Where a part of a content has its text."""


class ForeignAnswer:
    """One answer of a server. Give its events to `chunks`, once.

    `head` has the id, time and model for a server that tells none. `n` choices were requested.
    `legacy_functions`: calls are written as `function_call`. `prompt_tokens` are an estimate, for
    a server that does not count.
    """

    def __init__(
        self, head: Head, *, n: int = 1, legacy_functions: bool = False, prompt_tokens: int = 0
    ) -> None:
        self._head, self._n, self._legacy = head, n, legacy_functions
        self._prompt_tokens = prompt_tokens
        self._choices: dict[int, _ForeignChoice] = {}
        self._indexes: dict[str, int] = {}
        self._usage: Object = {}
        self._cached: int | None = None
        self._horde: Object = {}

    def chunks(self, events: Iterable[Object | None]) -> Iterator[Chunk]:
        """The answer's legal chunks. None among the events says that the answer is complete.

        Raises UpstreamFailed for an answer that is empty, broken off, or beyond all measure.
        """
        is_complete = False
        try:
            for event in events:
                if event is None:
                    is_complete = True
                    break
                yield from self._event(event)
            yield from self._end(is_complete=is_complete)
        except RecursionError as exc:
            raise UpstreamFailed("it sent an event that is nested too deeply") from exc

    def spent(self) -> Spent:
        """The cost so far, for an answer that ends before its usage came."""
        usage = self._counted()
        return Spent(usage["prompt_tokens"], usage["completion_tokens"])

    def _event(self, event: Object) -> Iterator[Chunk]:
        choices = event.get("choices")
        choices = [choice for choice in _list(choices) if isinstance(choice, dict)]
        if choices and not self._choices:
            # Azure's first event has no choices, and neither id nor model.
            self._head = _head(event, self._head)
        # Moonshot puts the usage into the choice.
        for usage in (event.get("usage"), *(choice.get("usage") for choice in choices)):
            self._usage = usage if usage and isinstance(usage, dict) else self._usage
        self._cached = self._cached or cached_by_timings(event)
        if isinstance(event.get("horde"), dict):
            # Another proxy of this kind tells what the horde cost.
            text = json.dumps(event["horde"], ensure_ascii=False)
            self._horde = json.loads(whole_characters(text))
        for position, choice in enumerate(choices):
            index = self._index(choice.get("index"), position)
            if index is not None:
                yield from self._choice(index, choice)

    def _choice(self, index: int, choice: Object) -> Iterator[Chunk]:
        if index not in self._choices:
            self._choices[index] = _ForeignChoice(legacy_functions=self._legacy)
            yield chunks.role_chunk(self._head, index)
        for delta in self._choices[index].add(choice):
            yield chunks.chunk(self._head, delta, index=index)

    def _index(self, index: Any, position: int) -> int | None:
        """Our index for a server's; None for a choice more than was requested.

        Servers begin at 1, or write "0" or null. What counts is only which indexes differ.
        """
        number = index if isinstance(index, str) else finite(index)
        key = str(int(number) if isinstance(number, float) else number)
        key = str(position) if number is None else key
        if key not in self._indexes:
            free = set(range(self._n)) - {*self._indexes.values()}
            if not free:
                return None
            same = int(key) if key.isdecimal() and len(key) < 4 else -1
            self._indexes[key] = same if same in free else min(free)
        return self._indexes[key]

    def _end(self, *, is_complete: bool) -> Iterator[Chunk]:
        """The ends of all choices, and the usage."""
        if not self._choices:
            raise UpstreamFailed("its answer is empty")
        for choice in self._choices.values():
            choice.check_end(is_complete=is_complete)
        for index, choice in sorted(self._choices.items()):
            for delta in choice.end():
                yield chunks.chunk(self._head, delta, index=index)
            yield chunks.chunk(self._head, {}, index=index, finish_reason=choice.finish_reason())
        last = {**chunks.chunk(self._head, {}), "choices": [], "usage": self._counted()}
        horde = {**self._stop(), **self._horde}
        yield {**last, "horde": horde} if horde else last

    def _stop(self) -> Object:
        """The stop string that ended the only choice, for Anthropic's API, where a server tells."""
        stops = [choice.stop for choice in self._choices.values()]
        return {"stop_sequence": stops[0]} if len(stops) == 1 and stops[0] is not None else {}

    def _counted(self) -> Object:
        """OpenAI's usage object: the server's; estimated where the server does not count."""
        counts = {name: value for name, value in self._usage.items() if _is_usable(name, value)}
        if not (counts.get("prompt_tokens") or counts.get("input_tokens")):
            # Some servers tell only the total.
            total = counts.get("total_tokens") or self._prompt_tokens
            counts["prompt_tokens"] = min(self._prompt_tokens, total)
        usage = tidy_usage(counts)
        if self._cached is not None and cached_of(usage) is None:
            usage["prompt_tokens_details"] = {"cached_tokens": self._cached}
        if not usage["completion_tokens"]:
            characters = sum(choice.characters for choice in [*self._choices.values()])
            usage["completion_tokens"] = estimate_answer(characters)
        sum_of_both = usage["prompt_tokens"] + usage["completion_tokens"]
        return {**usage, "total_tokens": max(usage["total_tokens"], sum_of_both)}


class _ForeignChoice:
    """One choice, as far as it has come. `stop` is the stop string that ended it, where told."""

    def __init__(self, *, legacy_functions: bool) -> None:
        self.stop: str | None = None
        self._legacy = legacy_functions
        self._texts = {name: HalfPairs() for name in ("reasoning_content", "content", "refusal")}
        self._calls = ForeignCalls()
        self._characters = 0
        self._has_begun = False
        self._content: list[str] = []
        self._finish: FinishReason | None = None

    @property
    def characters(self) -> int:
        """The length of its texts and calls."""
        return self._characters + self._calls.characters

    def add(self, choice: Object) -> Iterator[Object]:
        """The legal deltas for what one event says of the choice."""
        self._finish = _finish_reason(choice.get("finish_reason")) or self._finish
        # vLLM and SGLang tell it so; an end token is a number there.
        stop = choice.get("stop_reason") or choice.get("matched_stop")
        self.stop = whole_characters(stop) if isinstance(stop, str) else self.stop
        delta, message = choice.get("delta"), choice.get("message")
        if not isinstance(delta, dict):
            # A whole answer has a message, an older completion a text.
            delta = message if isinstance(message, dict) else {"content": choice.get("text")}
            delta = {} if self._is_repeated(delta) else delta
        for name, text in _texts_of(delta).items():
            yield from self._text(name, self._texts[name].add(text))
        calls = delta.get("tool_calls")
        # Servers that write the older form beside the newer one mean the same call.
        if isinstance(delta.get("function_call"), dict) and not calls:
            calls = [{"index": 0, "function": delta["function_call"]}]
        yield from self._written(self._calls.add(calls))
        self._has_begun = self._has_begun or self._characters > 0 or bool(self._calls)

    def check_end(self, *, is_complete: bool) -> None:
        """Raises UpstreamFailed for a choice that is not at its end."""
        if self._finish is None and not is_complete:
            raise UpstreamFailed("it broke the answer off")
        if self._finish is None and not self._has_begun:
            raise UpstreamFailed("its answer is empty")

    def end(self) -> Iterator[Object]:
        """The deltas that are still due."""
        for name, halves in self._texts.items():
            yield from self._text(name, halves.rest())
        yield from self._written(self._calls.end())

    def finish_reason(self) -> FinishReason:
        """OpenAI's reason. With calls it is never "stop", and without them never "tool_calls".

        opencode repeats a request without end where "tool_calls" comes without a call.
        """
        if self._finish in ("length", "content_filter"):
            return self._finish
        if not self._calls:
            return "stop"
        return "function_call" if self._legacy else "tool_calls"

    def _is_repeated(self, message: Object) -> bool:
        """Whether a message is all that was streamed, as MiniMax sends it in the last event."""
        text = _texts_of(message)["content"]
        is_as_long = self._has_begun and len(text) == sum(map(len, self._content))
        return is_as_long and text == "".join(self._content)

    def _text(self, name: str, text: str) -> Iterator[Object]:
        self._characters += len(text)
        if name == "content":
            self._content.append(text)
        return ({name: piece} for piece in chunks.pieces(text))

    def _written(self, deltas: Iterable[Object]) -> Iterator[Object]:
        """The calls' deltas as the client expects them; the older form has only the first call."""
        for delta in deltas:
            if not self._legacy:
                yield delta
            elif delta["tool_calls"][0]["index"] == 0:
                yield chunks.as_legacy(delta)


def _head(event: Object, default: Head) -> Head:
    """The id, time and model of an event where they are usable, else those of the default."""
    created = finite(event.get("created"))
    return replace(
        default,
        id=_label(event.get("id")) or default.id,
        model=_label(event.get("model")) or default.model,
        created=int(created or default.created),
    )


def _label(value: Any) -> str:
    """An id or a model's name; "" for what is none."""
    is_usable = isinstance(value, str) and len(value) <= _LONGEST_LABEL
    return whole_characters(value).strip() if is_usable else ""


def _finish_reason(value: Any) -> FinishReason | None:
    """OpenAI's reason for a server's; None for a choice that goes on. Raises UpstreamFailed."""
    if isinstance(value, dict):
        value = value.get("type")  # SGLang's own API: {"type": "length", "length": 9}
    if not isinstance(value, str):
        return "stop" if value else None
    reason = value.strip().lower().replace("-", "_")
    if reason in _NOT_YET:
        return None
    if reason in _BROKEN:
        raise UpstreamFailed(f"it broke the answer off: {reason}")
    if reason in _LENGTH:
        return "length"
    if reason in _FILTERED:
        return "content_filter"
    return "tool_calls" if reason in _CALLS else "stop"


def _texts_of(delta: Object) -> dict[str, str]:
    """Reasoning, content and refusal of a delta, in the order in which they are meant."""
    texts = {"reasoning_content": "", "content": "", "refusal": _plain(delta.get("refusal"))}
    reasoning = (_plain(delta.get(name)) for name in _REASONING)
    texts["reasoning_content"] = next(filter(None, reasoning), "")
    content = delta.get("content")
    for part in content if isinstance(content, list) else [content]:
        texts[_field_of(part)] += _plain(part)
    return texts


def _field_of(part: Any) -> str:
    """Where a part of a content belongs: Mistral and Anthropic write the reasoning as a part."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("thinking", "reasoning", "redacted_thinking"):
        return "reasoning_content"
    return "refusal" if kind == "refusal" else "content"


def _plain(value: Any) -> str:
    """The text in a value: a text, a part with one, or a list of these.

    Some servers send the JSON of a JSON mode as the value that it is: its text comes back.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list):
        return "".join(map(_plain, value))
    if isinstance(value, dict) and ("type" in value or not value.keys().isdisjoint(_TEXTS)):
        return _plain(next((value[name] for name in _TEXTS if value.get(name)), None))
    return json.dumps(value, ensure_ascii=False)


def _is_usable(name: str, value: Any) -> bool:
    """Whether a field of a usage is what OpenAI has there: a number, or counts in `..._details`."""
    if name.endswith("_details"):
        counts = list(value.values()) if isinstance(value, dict) else [None]
        return all(isinstance(count, int) and finite(count) is not None for count in counts)
    return finite(value) is not None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []

"""OpenAI's older completions: raw prompts in, text out. Pure. Source: POST /v1/completions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chunks import ChatEvents, Chunk
from horde_proxy.protocol.generation_request import GenerationRequest, Message
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.sampled_body import (
    MOST_ELEMENTS,
    Int,
    SampledBody,
    common_request,
    warn_of_unsupported,
)
from horde_proxy.protocol.validation import validated

# The horde's workers cannot do these. X-Horde-Warnings tells the client.
_UNSUPPORTED = ("seed", "logit_bias", "logprobs", "best_of")


@dataclass(frozen=True)
class CompletionRequest:
    """One request for each prompt. With `echo`, each text begins with its prompt."""

    prompts: tuple[str, ...]
    requests: tuple[GenerationRequest, ...]
    echo: bool

    def echoed(self) -> dict[int, str]:
        """The beginning of each choice's text, by the choice's index."""
        n = self.requests[0].n
        return {
            position * n + index: prompt if self.echo else ""
            for position, prompt in enumerate(self.prompts)
            for index in range(n)
        }


class CompletionBody(SampledBody):
    prompt: str | Annotated[list[Any], Field(min_length=1, max_length=MOST_ELEMENTS)]
    echo: bool | None = None
    suffix: str | None = None
    best_of: Int | None = None


def read_completion(
    body: Any, *, default_tokens: int, max_n: int = 4, max_prompts: int = 20, strict: bool = False
) -> CompletionRequest:
    """The CompletionRequest in a decoded JSON body. Raises InvalidRequest with param and code.

    `default_tokens` is the max_tokens of a body without it.
    """
    completion, leniency = validated(CompletionBody, body), Leniency(strict=strict)
    if completion.suffix:
        raise _unsupported("suffix", "'suffix' is not supported: no text can be inserted.")
    warn_of_unsupported(completion, _unsupported_fields(completion), leniency)
    request = common_request(completion, leniency, max_n=max_n)
    request = replace(
        request,
        max_tokens=request.max_tokens or default_tokens,
        raw=True,
        warnings=leniency.warnings(),
    )
    prompts = _prompts(completion.prompt, max_prompts)
    requests = tuple(
        replace(
            request, messages=(Message("assistant", prompt),), source={**body, "prompt": prompt}
        )
        for prompt in prompts
    )
    return CompletionRequest(prompts, requests, bool(completion.echo))


class CompletionEvents(ChatEvents):
    """Writes a text completion as OpenAI's server-sent events."""

    def __init__(self, question: CompletionRequest) -> None:
        super().__init__(include_usage=question.requests[0].include_usage)
        self._echoed = question.echoed()

    def shaped(self, chunk: Chunk) -> Chunk:
        return completion_chunk(chunk, self._echoed)


def completion_chunk(chunk: Chunk, echoed: Mapping[int, str]) -> Chunk:
    """A chat's chunk as a chunk of a text completion."""
    return {
        **chunk,
        "id": chunk["id"].replace("chatcmpl-", "cmpl-"),
        "object": "text_completion",
        "choices": [_choice(choice, echoed) for choice in chunk["choices"]],
    }


def fold_completion(chunks: Iterable[Chunk], echoed: Mapping[int, str]) -> dict[str, Any]:
    """The text completion that all chat chunks of an answer add up to."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        chunk = completion_chunk(chunk, echoed)
        answer = {**answer, **chunk}
        for part in chunk["choices"]:
            choice = choices.setdefault(part["index"], {**part, "text": ""})
            choice["text"] += part["text"]
            choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
    return {**answer, "choices": [choices[index] for index in sorted(choices)]}


def _choice(part: Mapping[str, Any], echoed: Mapping[int, str]) -> dict[str, Any]:
    delta = part["delta"]
    # Each choice starts with one chunk that has its role: that becomes the echoed prompt.
    text = echoed.get(part["index"], "") if "role" in delta else delta.get("content") or ""
    return {
        "text": text,
        "index": part["index"],
        "logprobs": None,
        "finish_reason": part["finish_reason"],
    }


def _unsupported_fields(body: CompletionBody) -> tuple[str, ...]:
    # best_of=1 is OpenAI's default and changes nothing.
    return _UNSUPPORTED if (body.best_of or 1) > 1 else _UNSUPPORTED[:-1]


def _prompts(prompt: str | list[Any], most: int) -> tuple[str, ...]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not all(isinstance(text, str) for text in prompts):
        raise _unsupported("prompt", "Prompts must be texts: token ids are not supported.")
    if len(prompts) > most:
        raise InvalidRequest(
            f"Invalid value for 'prompt': at most {most} prompts are allowed in one request.",
            param="prompt",
            code="array_above_max_length",
        )
    if not all(prompts):
        raise InvalidRequest(
            "Invalid value for 'prompt': it is empty.", param="prompt", code="invalid_value"
        )
    return tuple(prompts)


def _unsupported(param: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="unsupported_parameter")

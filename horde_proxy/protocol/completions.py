"""The older completions: raw prompts in, text out, in the shapes that OpenAI gave them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Field

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.chat import (
    MOST_ELEMENTS,
    GenerationRequest,
    Int,
    Message,
    Sampled,
    common,
)
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.validation import parsed

_IGNORED = ("seed", "logit_bias", "logprobs", "best_of")


@dataclass(frozen=True)
class CompletionRequest:
    """One request for each prompt; `echo`: the text begins with its prompt."""

    prompts: tuple[str, ...]
    requests: tuple[GenerationRequest, ...]
    echo: bool

    def echoed(self) -> dict[int, str]:
        """What each choice's text begins with, by its index."""
        n = self.requests[0].n
        return {
            place * n + index: prompt if self.echo else ""
            for place, prompt in enumerate(self.prompts)
            for index in range(n)
        }


class _Body(Sampled):
    prompt: str | Annotated[list[Any], Field(min_length=1, max_length=MOST_ELEMENTS)]
    echo: bool | None = None
    suffix: str | None = None
    best_of: Int | None = None


def read_text(
    body: Any, *, default_tokens: int, max_n: int = 4, max_prompts: int = 20, strict: bool = False
) -> CompletionRequest:
    """The TextRequest in a decoded JSON body. Raises InvalidRequest with param and code.

    `default_tokens`: for clients that name no limit. Source: POST /v1/completions.
    """
    asked = parsed(_Body, body)
    if asked.suffix:
        raise _unsupported("suffix", "Text cannot be inserted here: 'suffix' is not supported.")
    request = replace(
        common(asked, _ignored(asked), max_n=max_n, strict=strict),
        max_tokens=asked.max_tokens or default_tokens,
        raw=True,
    )
    prompts = _prompts(asked.prompt, max_prompts)
    requests = tuple(
        replace(
            request, messages=(Message("assistant", prompt),), source={**body, "prompt": prompt}
        )
        for prompt in prompts
    )
    return CompletionRequest(prompts, requests, bool(asked.echo))


def text_chunk(chunk: Chunk, begins: Mapping[int, str]) -> Chunk:
    """A chat's chunk as one of text; where the chat names its role, the text begins."""
    return {
        **chunk,
        "id": chunk["id"].replace("chatcmpl-", "cmpl-"),
        "object": "text_completion",
        "choices": [_choice(each, begins) for each in chunk["choices"]],
    }


def bare_chunk(chunk: Chunk) -> Chunk:
    """A chunk without news, which keeps a stream alive."""
    choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": None}
    return {**chunk, "choices": [choice]}


def fold_text(chunks: Iterable[Chunk]) -> dict[str, Any]:
    """The completion that a whole stream of text chunks amounts to."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for each in chunks:
        answer = {**answer, **each}
        for part in each["choices"]:
            choice = choices.setdefault(part["index"], {**part, "text": ""})
            choice["text"] += part["text"]
            choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
    return {**answer, "choices": [choices[index] for index in sorted(choices)]}


def _choice(part: Mapping[str, Any], begins: Mapping[int, str]) -> dict[str, Any]:
    delta = part["delta"]
    text = begins.get(part["index"], "") if "role" in delta else delta.get("content") or ""
    return {
        "text": text,
        "index": part["index"],
        "logprobs": None,
        "finish_reason": part["finish_reason"],
    }


def _ignored(body: _Body) -> tuple[str, ...]:
    named = [name for name in _IGNORED if getattr(body, name)]
    return tuple(name for name in named if name != "best_of" or (body.best_of or 1) > 1)


def _prompts(prompt: str | list[Any], most: int) -> tuple[str, ...]:
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not all(isinstance(each, str) for each in prompts):
        raise _unsupported("prompt", "Prompts are texts here: token numbers are not supported.")
    if len(prompts) > most:
        raise InvalidRequest(
            f"Invalid value for 'prompt': at most {most} prompts are taken at a time.",
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

"""Prompts with which a model fills a gap in a text, for editors that complete code. Pure.

Only models that were trained for it can do it, each family with tags of its own. They are special
tokens of its tokenizer, which workers recognise in a prompt.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class FilledPrompt(NamedTuple):
    """The prompt, and the texts at which the model has left the gap."""

    prompt: str
    stops: tuple[str, ...]


class _FillInFamily(NamedTuple):
    names: re.Pattern[str]
    template: str
    stops: tuple[str, ...]


def _family(names: str, template: str, *stops: str) -> _FillInFamily:
    return _FillInFamily(re.compile(rf"(?<![a-z])(?:{names})", re.IGNORECASE), template, stops)


_OF_QWEN = "<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"
_OF_STARCODER = "<fim_prefix>{before}<fim_suffix>{after}<fim_middle>"
# Sources: the model cards, and the templates with .Suffix in Ollama's library.
_FAMILIES = (
    # Qwen2.5-Coder-7B, qwen3-coder:30b, CodeQwen1.5-7B
    _family(
        r"qwen[0-9.]*-?coder|codeqwen", _OF_QWEN, "<|endoftext|>", "<|fim_pad|>", "<|file_sep|>"
    ),
    _family("codegemma", _OF_QWEN, "<|file_separator|>", "<|fim_prefix|>", "<|fim_suffix|>"),
    # DeepSeek-Coder-V2-Lite, deepseek-coder:6.7b
    _family(
        "deepseek-coder",
        "<｜fim▁begin｜>{before}<｜fim▁hole｜>{after}<｜fim▁end｜>",
        "<｜end▁of▁sentence｜>",
    ),
    # CodeLlama-13b-hf, codellama:7b-code; the 34B was not trained for it
    _family(r"codellama(?!.*34b)", "<PRE> {before} <SUF>{after} <MID>", "<EOT>"),
    _family("codestral", "[SUFFIX]{after}[PREFIX]{before}", "[PREFIX]", "[SUFFIX]"),
    # starcoder2-7b, granite-8b-code-base, stable-code-3b
    _family(
        r"starcoder|granite-[0-9a-z.-]*code|stable-?code",
        _OF_STARCODER,
        "<|endoftext|>",
        "<file_sep>",
        "<fim_pad>",
    ),
)


def can_fill_in(model: str) -> bool:
    """Whether a model of this name can fill a gap."""
    return _of(model) is not None


def fill_in_prompt(model: str, before: str, after: str) -> FilledPrompt | None:
    """The prompt for a gap between two texts; None for a model that cannot fill one."""
    family = _of(model)
    if family is None:
        return None
    # Not str.format: code is full of braces.
    texts = {"{before}": before, "{after}": after}
    parts = re.split(r"(\{before\}|\{after\})", family.template)
    return FilledPrompt("".join(texts.get(part, part) for part in parts), family.stops)


def _of(model: str) -> _FillInFamily | None:
    plain = re.sub(r"[\s_]+", "-", model.rpartition("/")[2])
    return next((family for family in _FAMILIES if family.names.search(plain)), None)

"""Reads the `options` of a request: Ollama's samplers and limits in, OpenAI's fields out. Pure.

Source: struct Options and struct Runner in Ollama's api/types.go. Clients fill in a whole form of
them, so that a value of a wrong type is left out with a warning, and does not end the chat.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.errors import InvalidRequest
from horde_proxy.protocol.leniency import Leniency
from horde_proxy.protocol.sampled_body import MOST_ELEMENTS
from horde_proxy.protocol.validation import invalid_type

_NUMBERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "tfs_z": "tfs",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}
"""Options that are any number, with the names that SampledBody knows."""
_COUNTS = {
    "num_predict": "max_tokens",
    "top_k": "top_k",
    "repeat_last_n": "rep_pen_range",
    "seed": "seed",
}
"""Options that are whole numbers. Below 0, each of them means "no limit" or "any"."""
# How a model is loaded, which is the business of whoever runs it. num_ctx is among them: Home
# Assistant sends 8192 with each chat, and a prompt that is too long is shortened or refused anyway.
_OF_LOADING = frozenset(
    {
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "use_mmap",
        "use_mlock",
        "use_mlx",
        "num_thread",
        "numa",
        "low_vram",
        "f16_kv",
        "vocab_only",
        "logits_all",
        "embedding_only",
    }
)
# These would change the answer, so that the client is told. The last one speeds up models.
_UNSUPPORTED = frozenset(
    {
        "mirostat",
        "mirostat_tau",
        "mirostat_eta",
        "num_keep",
        "penalize_newline",
        "draft_num_predict",
    }
)
_LARGEST = 2.0**63
"""A seed is a 64-bit integer; nothing else comes near."""


def openai_options(given: Any, leniency: Leniency) -> dict[str, Any]:
    """OpenAI's fields for `options`. Raises InvalidRequest if it is no object."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise invalid_type("options", "an object", given)
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if value is None or name in _OF_LOADING:
            continue
        if name in _NUMBERS:
            _add(fields, _NUMBERS[name], _number(value), name, leniency)
        elif name in _COUNTS:
            _add_count(fields, name, value, leniency)
        elif name == "stop":
            _add(fields, "stop", _stops(value), name, leniency)
        elif name not in _UNSUPPORTED or value:
            shown = f"{name} not supported" if name in _UNSUPPORTED else "unknown one left out"
            leniency.tolerate(_error(f"Unsupported option: '{_plain(name)}'."), shown)
    return fields


def _add(fields: dict[str, Any], field: str, value: Any, name: str, leniency: Leniency) -> None:
    """Set a field. None is a value of a wrong type, which is left out with a warning."""
    if value is None:
        error = _error(f"Invalid type for 'options.{name}'.")
        leniency.tolerate(error, f"{name} of a wrong type left out")
    else:
        fields[field] = value


def _add_count(fields: dict[str, Any], name: str, value: Any, leniency: Leniency) -> None:
    number = _number(value)
    count = int(number) if number is not None and number == int(number) else None
    # 0 tokens would be no answer: it is the zero of a form that was not filled in.
    if count is not None and (count < 0 or (name == "num_predict" and count == 0)):
        return
    _add(fields, _COUNTS[name], count, name, leniency)


def _number(value: Any) -> float | int | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and -_LARGEST <= value <= _LARGEST else None


def _stops(value: Any) -> str | list[str] | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) <= MOST_ELEMENTS:
        return [stop for stop in value if isinstance(stop, str)]
    return None


def _plain(name: str) -> str:
    return name if name in _UNSUPPORTED else "unknown"


def _error(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="options", code="unsupported_parameter")

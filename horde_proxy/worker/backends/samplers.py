"""The sampling parameters of a job, in the words of each kind of server. Pure.

A `Dialect` lists what a kind of server reads, by the horde's names. What it does not read is left
out, and named to the caller, unless the value means "off". How a text is formatted afterwards
(`singleline`, `frmt...`) is `worker.formatting`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.worker.backends.base import Payload

Converter = Callable[[Any, Payload], Mapping[str, Any]]
"""(the value of a parameter, the whole payload) -> the fields of the server's body."""

# Values with which a sampler does nothing. The horde sends those of min_p, smoothing_factor and the
# dynatemp_... with every job (capture text_pop_defaults), whatever the client asked for.
_OFF: Mapping[str, tuple[Any, ...]] = {
    "min_p": (0,),
    "smoothing_factor": (0,),
    "dynatemp_range": (0,),
    "top_a": (0,),
    "top_k": (0,),
    "top_p": (1,),
    "tfs": (1,),
    "typical": (1,),
    "rep_pen": (1,),
    "rep_pen_slope": (0, 1),
    "use_default_badwordsids": (False,),
    "frmtadsnsp": (False,),
    "sampler_order": ([],),
    "stop_sequence": ([],),
}
# Not sampling: the worker's own business, or fields that no server but KoboldAI's reads.
_OTHER_FIELDS = frozenset(
    {
        "prompt",
        "chat",
        "continue",
        "n",
        "max_context_length",
        "singleline",
        "frmttriminc",
        "frmtrmblln",
        "frmtrmspch",
        "quiet",
        "softprompt",
    }
)
# These only change a sampler that another parameter turns on.
_DEPENDENT: Mapping[str, str] = {
    "dynatemp_exponent": "dynatemp_range",
    "rep_pen_range": "rep_pen",
    "rep_pen_slope": "rep_pen",
}


@dataclass(frozen=True)
class Dialect:
    """What one kind of server reads. `names` are its names by the horde's.

    `converted` are for parameters that need more than another name.
    """

    names: Mapping[str, str]
    converted: Mapping[str, Converter] = field(default_factory=dict)

    def translated(self, payload: Payload) -> tuple[dict[str, Any], list[str]]:
        """(the fields of the server's body, the horde's names of what it does not know)."""
        body: dict[str, Any] = {}
        unknown = []
        for name, value in payload.items():
            if value is None or (name in _OTHER_FIELDS and name not in self.names):
                continue
            if name in self.converted:
                body.update(self.converted[name](value, payload))
            elif name in self.names:
                body[self.names[name]] = value
            elif not _is_off(name, payload):
                unknown.append(name)
        return body, unknown


def _is_off(name: str, payload: Payload) -> bool:
    """Whether a parameter has a value with which it does nothing."""
    switch = _DEPENDENT.get(name)
    if switch and _is_off(switch, payload):
        return True
    value = payload.get(name)
    return value is None or value in _OFF.get(name, ())


# KoboldAI's numbers of samplers in `sampler_order`, as llama.cpp calls them: 0 top_k, 1 top_a,
# 2 top_p, 3 tfs, 4 typical, 5 temperature, 6 repetition penalty. KoboldCpp applies min_p together
# with top_p; llama.cpp has no top_a, and no tfs since the end of 2024.
_LLAMA_SAMPLERS: Mapping[int, tuple[str, ...]] = {
    0: ("top_k",),
    2: ("top_p", "min_p"),
    4: ("typ_p",),
    5: ("temperature",),
    6: ("penalties",),
}


def _llama_samplers(order: Any, payload: Payload) -> Mapping[str, Any]:
    numbers = order if isinstance(order, list) else []
    names = [
        name
        for number in numbers
        if isinstance(number, int)
        for name in _LLAMA_SAMPLERS.get(number, ())
    ]
    return {"samplers": names} if names else {}


def _vllm_top_k(value: Any, payload: Payload) -> Mapping[str, Any]:
    # vLLM before 0.8 and SGLang refuse 0; -1 turns it off in all of their versions.
    return {"top_k": value or -1}


def _vllm_penalty(value: Any, payload: Payload) -> Mapping[str, Any]:
    # SGLang refuses more than 2, and the horde allows 3.
    return {"repetition_penalty": min(value, 2.0)}


def _tabby_temperatures(value: Any, payload: Payload) -> Mapping[str, Any]:
    """TabbyAPI has the ends of the range, where the horde has its half width."""
    if not value:
        return {}
    middle = float(payload.get("temperature", 1.0))
    return {
        "min_temp": max(middle - float(value), 0.0),
        "max_temp": middle + float(value),
        "temp_exponent": payload.get("dynatemp_exponent", 1.0),
    }


def _nothing(value: Any, payload: Payload) -> Mapping[str, Any]:
    return {}


_OPENAI = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "stop_sequence": "stop",
    "max_length": "max_tokens",
}

LLAMA_CPP = Dialect(
    names={
        **_OPENAI,
        "rep_pen": "repeat_penalty",
        "rep_pen_range": "repeat_last_n",
        "typical": "typical_p",
        "dynatemp_range": "dynatemp_range",
        "dynatemp_exponent": "dynatemp_exponent",
        # KoboldCpp's meaning of it: the model may not end its text.
        "use_default_badwordsids": "ignore_eos",
    },
    converted={"sampler_order": _llama_samplers},
)
"""llama.cpp's tools/server/README.md, POST /completion: its /v1/completions reads the same."""

VLLM = Dialect(
    names={**_OPENAI, "use_default_badwordsids": "ignore_eos"},
    converted={"top_k": _vllm_top_k, "rep_pen": _vllm_penalty},
)
"""vLLM's and SGLang's sampling parameters."""

TABBY_API = Dialect(
    names={
        **_OPENAI,
        "rep_pen": "repetition_penalty",
        "rep_pen_range": "penalty_range",
        "top_a": "top_a",
        "tfs": "tfs",
        "typical": "typical",
        "smoothing_factor": "smoothing_factor",
        "use_default_badwordsids": "ban_eos_token",
    },
    converted={"dynatemp_range": _tabby_temperatures, "dynatemp_exponent": _nothing},
)
"""TabbyAPI's common/sampling.py."""

LM_STUDIO = Dialect(
    names={
        **{name: theirs for name, theirs in _OPENAI.items() if name != "min_p"},
        "rep_pen": "repeat_penalty",
    }
)
"""LM Studio's "Supported payload parameters"."""

OLLAMA = Dialect(
    names={
        "temperature": "temperature",
        "top_p": "top_p",
        "top_k": "top_k",
        "min_p": "min_p",
        "typical": "typical_p",
        "rep_pen": "repeat_penalty",
        "rep_pen_range": "repeat_last_n",
        "stop_sequence": "stop",
        "max_length": "num_predict",
        "max_context_length": "num_ctx",
    }
)
"""Ollama's names in `options` (docs/modelfile.md)."""

KOBOLDCPP_CHAT = Dialect(
    names={
        **{name: name for name in (*_OFF, "rep_pen_range", "dynatemp_exponent", "temperature")},
        "max_length": "max_tokens",
        "use_default_badwordsids": "ban_eos_token",
        "stop_sequence": "stop",
    }
)
"""KoboldCpp's chats read its own samplers under KoboldAI's names, beside OpenAI's fields."""

OPENAI_COMPATIBLE = Dialect(
    names=_OPENAI,
    converted={
        # Servers of llama.cpp's family read the second name, all others the first.
        "rep_pen": lambda value, payload: {"repetition_penalty": value, "repeat_penalty": value}
    },
)
"""A server of unknown kind with OpenAI's completions."""

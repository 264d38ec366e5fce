"""Whether a server is up, its slots and its requests, in the words of each kind of server.

It asks through a callable that returns a text, or None after any failure. Nothing is kept here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from horde_proxy.json_reading import parse_json
from horde_proxy.numbers import finite
from horde_proxy.protocol.models import as_mapping
from horde_proxy.worker.backends.base import ServerState

Read = Callable[[str], str | None]
"""The text at a path below the server's root; None where there is none, whatever the reason."""

# A sample of Prometheus' text format, as in
# 'vllm:num_requests_running{engine="0",model_name="m"} 2.0' and "llamacpp:requests_processing 1".
_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^\n]*\})?[ \t]+([^ \t\n]+)", re.MULTILINE)

_REQUESTS = frozenset(
    {
        # llama.cpp with --metrics: what runs, and what waits for a slot.
        "llamacpp:requests_processing",
        "llamacpp:requests_deferred",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "sglang:num_running_reqs",
        "sglang:num_queue_reqs",
    }
)


def llama_cpp_state(read: Read) -> ServerState | None:
    """llama.cpp: GET /metrics where it was started with it, as only that tells who waits.

    Otherwise GET /slots, which it has unless it was started with --no-slots, and GET /health.
    """
    requests = _requests_in(read("/metrics"))
    if requests is not None:
        return ServerState(requests)
    slots = _json(read("/slots"))
    if isinstance(slots, list):
        busy = sum(as_mapping(slot).get("is_processing") is True for slot in slots)
        return ServerState(busy)
    return ServerState() if read("/health") is not None else None


def llama_cpp_slots(read: Read) -> int | None:
    """The slots of a llama.cpp, by its GET /props."""
    return _count(as_mapping(_json(read("/props"))).get("total_slots"))


def unknown_slots(read: Read) -> int | None:
    """None: a server that does not tell them. vLLM, for example, batches what it has memory for."""
    return None


def vllm_state(read: Read) -> ServerState | None:
    """vLLM, and SGLang with --enable-metrics."""
    requests = _requests_in(read("/metrics"))
    return ServerState(requests) if requests is not None else listing_state(read)


def listing_state(read: Read) -> ServerState | None:
    """A server that tells no more than its models."""
    return ServerState() if read("/v1/models") is not None else None


def ollama_state(read: Read) -> ServerState | None:
    """Ollama does not say what it is doing."""
    return ServerState() if read("/api/version") is not None else None


def kobold_state(read: Read) -> ServerState | None:
    """KoboldCpp: GET /api/extra/perf. KoboldAI tells nothing."""
    perf = as_mapping(_json(read("/api/extra/perf")))
    queue = _count(perf.get("queue"))
    if queue is not None and "idle" in perf:
        return ServerState(queue + (not perf["idle"]))
    return ServerState() if read("/api/v1/model") is not None else None


def _requests_in(metrics: str | None) -> int | None:
    """The requests that run or wait, by Prometheus' text; None if it has no such samples."""
    values = [
        finite(_number(value))
        for name, value in _SAMPLE.findall(metrics or "")
        if name in _REQUESTS
    ]
    known = [value for value in values if value is not None]
    return round(sum(known)) if known else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _count(value: Any) -> int | None:
    number = finite(value)
    return int(number) if number is not None and number >= 0 else None


def _json(text: str | None) -> Any:
    try:
        return parse_json((text or "").encode())
    except (ValueError, RecursionError):
        return None

"""The text kind of job: a chat in OpenAI's words as the body of a submit, and its status read.

Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from horde_proxy.aihorde import limits
from horde_proxy.errors import InvalidRequest
from horde_proxy.prompts.end_tokens import sent_stops
from horde_proxy.prompts.fit import Fitted
from horde_proxy.prompts.formats import Format
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.upstreams.horde.jobs import (
    JobKind,
    Status,
    count,
    generation_progress,
    generations,
)

_GREEDY_TEMPERATURE = 0.01
"""Backends divide by the temperature: 0, which means greedy, becomes this, with top_k 1."""
_MOST_REP_PEN = 1.3
"""A stronger repetition penalty makes models avoid words that an answer needs."""
# Workers would trim sentences, drop punctuation or ban tokens that formats and code need.
_NEVER_MANGLE = {
    "frmtrmspch": False,
    "frmttriminc": False,
    "frmtrmblln": False,
    "singleline": False,
    "use_default_badwordsids": False,
}


def to_payload(
    request: GenerationRequest,
    models: Sequence[str],
    format: Format,
    fitted: Fitted,
    options: Mapping[str, Any],
    n: int,
) -> dict[str, Any]:
    """The body of a submit. `options` are its fields about workers."""
    return {
        "prompt": fitted.prompt,
        "params": {
            "n": n,
            "max_length": fitted.max_length,
            "max_context_length": fitted.max_context_length,
            "stop_sequence": stop_sequence(request.stop, format),
            **to_sampling(request.sampling)[0],
            **_NEVER_MANGLE,
        },
        "models": list(models),
        **options,
    }


def stop_sequence(stops: Sequence[str], format: Format) -> list[str]:
    """The client's stops and the format's, as many as the horde takes.

    The others only let a worker write more than is needed: answers are cut at each stop here, too.
    """
    sent: dict[str, None] = {}
    characters = limits.MOST_STOP_CHARACTERS
    # The format's come first: without them, every answer would run on into the next turn.
    own = sent_stops(format)
    for stop in (*own, *stops):
        is_new = stop not in sent and len(sent) < limits.MOST_STOP_SEQUENCES
        if is_new and len(stop) <= characters:
            sent[stop] = None
            characters -= len(stop)
    return [stop for stop in dict.fromkeys([*stops, *own]) if stop in sent]


def to_sampling(sampling: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the horde's sampling params, names of those that could only be approximated).

    The horde refuses values out of its ranges, and has one penalty instead of OpenAI's two.
    """
    params = {name: value for name, value in sampling.items() if name in limits.SAMPLING}
    changed = [name for name in params if params[name] != _clamped(name, params[name])]
    params = {name: _clamped(name, value) for name, value in params.items()}
    if "temperature" in params and params["temperature"] < _GREEDY_TEMPERATURE:
        params.update(temperature=_GREEDY_TEMPERATURE, top_k=1)
    penalties = {name: sampling.get(name, 0) for name in ("frequency_penalty", "presence_penalty")}
    changed += [name for name, value in penalties.items() if value]
    if max(penalties.values()) > 0 and "rep_pen" not in params:
        params["rep_pen"] = min(1 + 0.1 * max(penalties.values()), _MOST_REP_PEN)
    if "sampler_order" in sampling:
        params["sampler_order"] = _sampler_order(sampling["sampler_order"])
    # The horde refuses a top_p of 0; the 0.001 that it becomes means the same.
    return params, [name for name in changed if name != "top_p"]


def _clamped(name: str, value: float) -> float:
    low, high = limits.SAMPLING[name]
    return min(max(value, low), high)


def _sampler_order(order: list[int]) -> list[int]:
    if len(set(order)) < limits.SAMPLERS:
        raise InvalidRequest(
            f"Invalid value for 'sampler_order': all {limits.SAMPLERS} samplers must be named.",
            param="sampler_order",
            code="invalid_value",
        )
    return order


def is_final(status: Status, n: int) -> bool:
    """Whether nothing more will come.

    `done` alone does not say so: after two restarts it is true while the retry is in flight
    (captured as text_status_done_but_processing).
    """
    if status.get("faulted") or count(status.get("finished")) >= n:
        return True
    return bool(status.get("done")) and not status.get("processing")


def is_censored(result: Mapping[str, Any]) -> bool:
    """Whether the worker held the text back. Some say so in `state`, some in the metadata only."""
    metadata = result.get("gen_metadata")
    entries = metadata if isinstance(metadata, list) else []
    return result.get("state") in ("censored", "csam") or any(
        isinstance(entry, dict) and entry.get("type") == "censorship" for entry in entries
    )


TEXT = JobKind(
    name="text",
    submit_path="generate/text/async",
    check_path="generate/text/status",
    status_path="generate/text/status",
    is_final=is_final,
    progress=generation_progress,
    results=generations,
)
STREAMED_TEXT = replace(TEXT, stream_path="generate/text/stream")
"""The same, read as it grows where the horde streams."""

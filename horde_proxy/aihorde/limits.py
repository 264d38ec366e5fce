"""What a text request may contain, and how long the horde keeps things.

The numbers are the real horde's. They are the defaults of settings that a proxy or a private horde
has for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Parameter(NamedTuple):
    """One field of `params`: JSON type, range (both ends included), and the default.

    Workers get a field without a default only if the client sent it.
    """

    type: str
    least: float | None = None
    most: float | None = None
    default: float | None = None
    items: str | None = None


# Contract: apis/models/kobold_v2.py:292-383, in its order. The defaults are those of capture
# text_pop_defaults. `max_length` went up to 4096 in February 2026; older hordes allow 1024.
TEXT_PARAMETERS: Mapping[str, Parameter] = {
    "n": Parameter("integer", 1, 20, 1),
    "max_context_length": Parameter("integer", 80, 1_048_576, 2048),
    "max_length": Parameter("integer", 16, 4096, 80),
    "rep_pen": Parameter("number", 1.0, 3.0),
    "rep_pen_range": Parameter("integer", 0, 4096),
    "rep_pen_slope": Parameter("number", 0.0, 10.0),
    "temperature": Parameter("number", 0.0, 5.0),
    "tfs": Parameter("number", 0.0, 1.0),
    "top_a": Parameter("number", 0.0, 1.0),
    "top_k": Parameter("integer", 0, 200),
    # 0 is refused, though OpenAI's API allows it.
    "top_p": Parameter("number", 0.001, 1.0),
    "typical": Parameter("number", 0.0, 1.0),
    "sampler_order": Parameter("array", items="integer"),
    "frmtadsnsp": Parameter("boolean"),
    "frmtrmblln": Parameter("boolean"),
    "frmtrmspch": Parameter("boolean"),
    "frmttriminc": Parameter("boolean"),
    "singleline": Parameter("boolean"),
    "use_default_badwordsids": Parameter("boolean"),
    "stop_sequence": Parameter("array", items="string"),
    "min_p": Parameter("number", 0.0, 1.0, 0.0),
    "smoothing_factor": Parameter("number", 0.0, 10.0, 0.0),
    "dynatemp_range": Parameter("number", 0.0, 5.0, 0.0),
    "dynatemp_exponent": Parameter("number", 0.0, 5.0, 1.0),
}

_NOT_SAMPLING = ("n", "max_context_length", "max_length")

SAMPLING: Mapping[str, tuple[float, float]] = {
    name: (parameter.least, parameter.most)
    for name, parameter in TEXT_PARAMETERS.items()
    if name not in _NOT_SAMPLING and parameter.least is not None and parameter.most is not None
}
"""The range (least, most) of each sampling parameter."""

MOST_TOKENS = 4096
"""The highest `max_length`."""

# Contract: validation.py:31-48; the refusals are captures err_400_ExcessiveStopSequence and
# err_400_MissingFullSamplerOrder.
MOST_STOP_SEQUENCES = 128
MOST_STOP_CHARACTERS = 2000
SAMPLERS = 7
"""A `sampler_order` must name this many different samplers."""

MOST_WORKERS = 5
"""The horde reads the first five of `workers` and ignores the rest (contract: base.py)."""

MOST_MODELS_OF_A_WORKER = 200
"""A pop with more models is refused (contract: base.py:556-808)."""

# Contract: user.py:301. Only results that no worker has popped yet are counted.
CONCURRENCY = 30
ANONYMOUS_CONCURRENCY = 500

JOB_SECONDS = 150.0
"""A worker that has not submitted a text by then loses the job (processing_generation.py:411)."""

REQUEST_SECONDS = 1200.0
"""A request is deleted this long after its last pop or delivery (utils.py:110)."""

WORKER_SECONDS = 300.0
"""A worker is offline this long after its last pop."""

MOST_FAULTS = 3
"""After this many failed jobs, a request is faulted, whatever it has delivered."""

# Contract: threads.py:712-748. A request's priority starts with its account's kudos.
AGEING_SECONDS = 10.0
AGEING_KUDOS = 50.0
DOWNGRADED_PRIORITY = -50.0


def least_speed(billions: float) -> float:
    """The tokens a second below which a worker is slow, by the size of its largest model.

    Slow workers get no requests with `slow_workers` false (contract: kobold/worker.py:131-151).
    """
    if billions >= 70:
        return 3.0
    return 4.0 if billions >= 20 else 5.0

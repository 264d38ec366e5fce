"""What is known of a horde's text model, as facts for its entry in GET /v1/models. Pure.

Context and length are those of one worker, the one with the largest context, so that they go
together. What a horde cannot do (images, seeds) is not told as possible.
"""

from __future__ import annotations

from horde_proxy.aihorde.model_traits import thinks
from horde_proxy.aihorde.names import parameters_of, quantisation_of
from horde_proxy.protocol.models import ModelFacts
from horde_proxy.protocol.sampled_body import SAMPLING_NAMES
from horde_proxy.upstreams.horde.catalog import ModelEntry
from horde_proxy.upstreams.horde.options import HordeOptions

_OF_CHATS = ("seed", "logit_bias", "logprobs", "top_logprobs")
"""What a worker that takes chats can do beside those below."""
SUPPORTED_PARAMETERS = (
    "max_tokens",
    "max_completion_tokens",
    "n",
    "stop",
    *SAMPLING_NAMES,
    "response_format",
    "structured_outputs",
)
"""What protocol.chat reads and workers are given. "structured_outputs" is OpenRouter's word for
response_format with a JSON schema. `seed`, `logit_bias` and `logprobs` are only warned of where no
worker takes chats."""
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")
_REASONING = ("reasoning", "include_reasoning")


def model_facts(
    entry: ModelEntry, options: HordeOptions, *, takes_chats: bool = False
) -> ModelFacts:
    """The facts of a model with its online workers. `takes_chats`: chats go to one as chats."""
    capacity = entry.largest_context_worker().capacity
    context = capacity.max_context_length
    has_tools = takes_chats or options.tool_style(entry.name) != "none"
    is_reasoning = thinks(entry.name)
    # A chain of jobs may be as long as the context. Clients subtract this from the context to see
    # what is left for a prompt, so that half of it is the most that can be told.
    longest = context // 2
    if not options.segments:
        longest = min(longest, max(worker.capacity.max_length for worker in entry.workers))
    return ModelFacts(
        context=context,
        max_output=longest or None,
        inputs=("text",),
        outputs=("text",),
        tools=has_tools,
        reasoning=is_reasoning,
        supported_parameters=(
            *SUPPORTED_PARAMETERS,
            *(_OF_CHATS if takes_chats else ()),
            *(_TOOLS if has_tools else ()),
            *(_REASONING if is_reasoning else ()),
        ),
        quantization=quantisation_of(entry.name),
        parameter_count=parameters_of(entry.name),
        is_free=True,
    )

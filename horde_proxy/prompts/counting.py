"""Counts the tokens of a chat's prompt before any model is chosen: an estimate. Pure."""

from __future__ import annotations

from horde_proxy.prompts.constrained import instruction
from horde_proxy.prompts.formats import FORMATS, render
from horde_proxy.prompts.tokens import estimate
from horde_proxy.prompts.turns import to_turns
from horde_proxy.protocol.generation_request import GenerationRequest

_FORMAT = FORMATS["chatml"]
"""The format of most models of hordes. In the others, a turn's tags are about as many tokens."""
_STYLE = "hermes"
"""The same for tools: see tool_calls.instructions."""


def prompt_tokens(request: GenerationRequest) -> int:
    """The estimated tokens of a request's prompt, tools and JSON format included.

    Pictures count as the notes that hold their places. It takes less than a millisecond a kB.
    Compared with SmolLM2's tokenizer: English -1 %, Python +5 %, opencode's tools +4 %, but German
    -35 % and Japanese -27 %, which that one hardly knows; a greeting has 21 tokens instead of 10.
    """
    prompt = render(_FORMAT, to_turns(request.messages, _FORMAT, _STYLE))
    return estimate(prompt) + estimate(instruction(request, _STYLE))

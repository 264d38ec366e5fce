"""The registry of grammars. To add a family, add a module with its grammar, and a line here."""

from __future__ import annotations

from horde_proxy.prompts.tool_calls.function_calls import FUNCTION_CALLS
from horde_proxy.prompts.tool_calls.gemma_calls import GEMMA_CALLS
from horde_proxy.prompts.tool_calls.glm_calls import GLM_CALLS
from horde_proxy.prompts.tool_calls.harmony_calls import HARMONY_CALLS
from horde_proxy.prompts.tool_calls.named_calls import NAMED_CALLS
from horde_proxy.prompts.tool_calls.object_calls import OBJECT_CALLS
from horde_proxy.prompts.tool_calls.own_tag_calls import OWN_TAG_CALLS
from horde_proxy.prompts.tool_calls.python_calls import PYTHON_CALLS
from horde_proxy.prompts.tool_calls.react_calls import REACT_CALLS
from horde_proxy.prompts.tool_calls.searching import Grammar

# The order matters, since several of them begin with a name before {, < or (.
GRAMMARS: tuple[Grammar, ...] = (
    OBJECT_CALLS,
    FUNCTION_CALLS,
    HARMONY_CALLS,
    GEMMA_CALLS,
    REACT_CALLS,
    NAMED_CALLS,
    GLM_CALLS,
    PYTHON_CALLS,
    OWN_TAG_CALLS,
)

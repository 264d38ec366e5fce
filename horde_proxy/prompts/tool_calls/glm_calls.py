"""The grammar of GLM-4.5 and later, after <tool_call>: a name, then keys and values in tags.

<tool_call>bash
<arg_key>command</arg_key>
<arg_value>ls</arg_value>
</tool_call>
"""

from __future__ import annotations

import re

from horde_proxy.prompts.tool_calls.searching import Findings, SearchedText
from horde_proxy.prompts.tool_calls.tagged_values import TagGrammar, read_tagged_call

# bash, if it is followed by a key, the end of the call, or the end of the text
_NAME = re.compile(r"\s*([A-Za-z_][\w.\-]{0,127})\s*(?=<arg_key>|</tool_call>|\Z)")
_GRAMMAR = TagGrammar(
    # <arg_key>command</arg_key>\n<arg_value>
    key=re.compile(r"\s*<arg_key>([^<]{1,128})</arg_key>\s*<arg_value>"),
    # </arg_value>, but only before another tag: a value may be a file that contains </arg_value>
    end=re.compile(r"</arg_value>(?=\s*(?:<arg_key>|</tool_call>|\Z))"),
    close=re.compile(r"\s*</tool_call>"),
)


def read_glm(searched: SearchedText, findings: Findings, opening: int, start: int) -> int | None:
    """Read a name and its arguments in tags."""
    name = _NAME.match(searched.text, start)
    return read_tagged_call(searched, findings, opening, name, _GRAMMAR) if name else None

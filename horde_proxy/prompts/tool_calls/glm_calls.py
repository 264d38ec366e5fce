"""The grammar of GLM-4.5 and later, after <tool_call>: a name, then keys and values in tags.

<tool_call>bash
<arg_key>command</arg_key>
<arg_value>ls</arg_value>
</tool_call>

GLM sometimes leaves out or doubles one of these tags, or writes attributes: read filePath="a.py".
"""

from __future__ import annotations

import re

from horde_proxy.prompts.tool_calls.arguments import make_call
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText
from horde_proxy.prompts.tool_calls.tagged_values import TagGrammar, read_tagged_call

# bash, if it is followed by a key, the end of the call, or the end of the text
_NAME = re.compile(
    r"(?P<name>[A-Za-z_][\w.\-]{0,127})\s*(?=<arg_key>|[\w.\-]{1,128}</arg_key>|</tool_call>|\Z)"
)
_GLM_TAGS = TagGrammar(
    # <arg_key>command</arg_key>\n<arg_value>; with a tag left out, but not two of them; with
    # </arg_key> or another tag written twice
    key=re.compile(
        r"\s*+(?:<arg_key>\s*+){0,2}(?P<key>[^<>\s][^<>\n]{0,127}?)\s*+"
        r"(?:(?:</arg_key>\s*){1,2}(?:<arg_value>){0,2}|(?:<arg_value>){1,2})"
    ),
    tags=re.compile(
        r"(?P<open><arg_value>)|(?P<close></arg_value>)"
        r"|(?P<call><arg_key>(?=[^<>\n]{1,128}(?:</arg_key>|<arg_value>))|<tool_call>)"
        r"|(?P<uncall></tool_call>)"
    ),
    # </arg_value>, but only before another tag: a value may be a file that contains </arg_value>
    follows=re.compile(r"\s*(?:<arg_key>|</arg_value>|</tool_call>|\Z)"),
    close=re.compile(r"(?:\s*</arg_value>)*\s*</tool_call>"),
    trims=False,
)
# read filePath="src/app.py" offset=3</tool_call>
_ATTRIBUTES = re.compile(
    r"(?P<name>[A-Za-z_][\w.\-]{0,127})"
    r"""(?P<all>(?:[ \t]+[\w\-]{1,64}=(?:"[^"\n]*"|'[^'\n]*'|[^\s"'<>]+)){1,40})"""
    r"\s*(?=</tool_call>|\Z)"
)
_ATTRIBUTE = re.compile(r"""([\w\-]+)=(?:"([^"]*)"|'([^']*)'|(\S+))""")


def read_glm(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read a name and its arguments in tags, or as attributes."""
    if context != "marked":
        return None
    name = _NAME.match(searched.text, start)
    if name:
        return read_tagged_call(searched, start, name["name"], name.end(), _GLM_TAGS)
    attributes = _ATTRIBUTES.match(searched.text, start)
    if attributes is None or searched.tool(attributes["name"]) is None:
        return None
    pairs = _ATTRIBUTE.findall(attributes["all"])
    arguments = {key: double or single or bare for key, double, single, bare in pairs}
    call = make_call(searched, attributes["name"], arguments)
    return Passage(start, attributes.end(), (call,) if call else ())


GLM_CALLS = Grammar("glm", read_glm)

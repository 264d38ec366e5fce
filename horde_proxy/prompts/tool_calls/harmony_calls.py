"""The grammar of gpt-oss, whose header names the recipient of a message.

<|channel|>commentary to=functions.bash <|constrain|>json<|message|>{"command": "ls"}. Without
its control tokens: commentary to=functions.bash json{...}. Pieces of the header may be repeated or
garbled; the recipient tells that it is a call.
"""

from __future__ import annotations

import re

from horde_proxy.prompts.tool_calls.named_calls import read_object_after, starts_well
from horde_proxy.prompts.tool_calls.searching import Context, Grammar, Passage, SearchedText

# <|start|>assistant<|channel|>commentary to=functions.bash, from its first part that is there
_RECIPIENT = (
    r"(?:<\|start\|>)?(?:assistant)?(?:<\|channel\|>)?(?:commentary|analysis)?\s{0,9}"
    # The namespace may be missing: to=bash
    r"\bto=(?:functions\.)?(?:[A-Za-z_][\w.\-]{0,127}+)"
)
# The rest of the header, with what a sampler may have garbled: <|channel|>commentary
# <|constrain|>json<|message|>. The quantifiers are possessive (+): a long text without a brace is
# read once.
_REST = r"[^{}`\n]{0,120}+\n?\s{0,9}+(?=\{)"
_HEAD = re.compile(_RECIPIENT.replace("(?:[A-Za-z_]", "(?P<name>[A-Za-z_]") + _REST)


def read_harmony(searched: SearchedText, start: int, context: Context) -> Passage | None:
    """Read a recipient and the object after it."""
    head = _HEAD.match(searched.text, start)
    if head is None or searched.tool(head["name"]) is None:
        return None
    # In the midst of a sentence, "commentary" is a word of it.
    begin = start if starts_well(searched.text, start) else searched.text.index("to=", start)
    return read_object_after(searched, begin, head["name"], head.end(), context="led")


HARMONY_CALLS = Grammar("harmony", read_harmony, sign=_RECIPIENT + _REST)

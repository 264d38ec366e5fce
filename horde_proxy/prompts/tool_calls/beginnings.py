"""Where a call may begin that the end of a growing text cuts off: "I look. <tool_c", "get_wea"."""

from __future__ import annotations

import re

from horde_proxy.prompts.tool_calls.code_blocks import ends_in_code
from horde_proxy.prompts.tool_calls.markers import partial_opening_at
from horde_proxy.prompts.tool_calls.named_calls import starts_well
from horde_proxy.prompts.tool_calls.searching import SearchedText, plain_name

# Words before a name: of gpt-oss ("commentary to=functions.bash"), Kimi ("functions.bash"), Gemma
# ("call:bash"), DeepSeek R1 ("functionbash") and ReAct ("Action: bash")
_CALL_WORDS = ("functions", "to", "commentary", "analysis", "assistant", "call", "action", "print")
_TAIL = 400
"""Characters at the end of a text in which a beginning is searched."""
# An object's beginning: `[`, `{`, `[{"na`, `{ 'name'`
_OBJECT = re.compile(r"""(?:\[\s{0,20}){0,3}(?:\{\s*(?:"[^"\n]{0,80}"?|'[^'\n]{0,80}'?)?\s*)?\Z""")
_BRACKET = re.compile(r"[\[{]")
# A name and half of what may follow it: `get_wea`, `bash:0`, `bash[CALL_ID]ab`, `bash\n```js`
_NAME = re.compile(
    r"(?<![A-Za-z0-9_.\-])[A-Za-z_][A-Za-z0-9_.\-]*+(?::\d{0,4})?[ \t]*+"
    r"(?:\[[A-Z_]{0,9}\]?\w{0,40}){0,2}(?:<｜tool▁sep｜>)?[ \t]*+(?:j(?:s(?:on?)?)?)?"
    r"\s*+(?:`{1,3}(?:j(?:s(?:on?)?)?)?\s*+)?\(?\s*+\Z"
)
# gpt-oss's header: <|channel|>commentary to=functions.bash <|constrain|>json
_HARMONY = re.compile(
    r"(?:<\|start\|>)?(?:assistant)?(?:<\|channel\|>)?(?:commentary|analysis)?\s{0,9}"
    r"\bt(?:o(?:=[^{}`\n]{0,300}\n?\s{0,9})?)?\Z"
    r"|(?:<\|start\|>)?(?:assistant)?(?:<\|channel\|>)?(?:commentary|analysis)\s{0,9}\Z"
    r"|(?:<\|(?:start|channel)\|>|\bassistant)[a-z]{0,20}(?:<\|?[a-z]{0,7}\|?>?[a-z]{0,12})?\s{0,9}\Z"
)
# ReAct's and Command R's heading, also without an input yet: **Action:** bash\n\nAction In
_ACTION = re.compile(
    r"^(?:\*{1,2}|\**A[action]{0,5}\**|\**Action\**:[^{\n]{0,150}"
    r"(?:\n+(?:\**(?:A[action]{0,5}(?: I?[nput]{0,4}\**:?[^{\n]{0,300})?)?)?)?)\Z",
    re.MULTILINE,
)
# A tag that may be a tool's own: <ba
_TAG = re.compile(r"<(\|?[A-Za-z_][\w.\-]{0,127}|\|?)\Z|<(?:function|invoke)[= ][^<>]{0,160}\Z")
# Before a name: the list of Python's calls, [get_wea, and Gemma's call:get_wea
_BEFORE_NAME = re.compile(r"\[\s{0,9}\Z|\bcall:\Z")
_WORD = re.compile(r"[A-Za-z0-9_.\-]+")
# The beginning of a code block, which may contain a call: "```", "```json\n"
_FENCE = re.compile(r"(?:```[ \t]{0,9}[\w+-]{0,20}\s*|`{1,2})\Z")


def beginning_at(searched: SearchedText, *, after: int) -> int:
    """Where a call may begin that is not in the text as a whole; the text's length without one."""
    text = searched.text
    start = max(after, len(text) - _TAIL)
    positions = [len(text), max(partial_opening_at(text), after)]
    brackets = (bracket.start() for bracket in _BRACKET.finditer(text, start))
    positions += [bracket for bracket in brackets if _OBJECT.match(text, bracket)][:1]
    for pattern in (_HARMONY, _ACTION):
        match = pattern.search(text, start)
        positions += [match.start()] if match else []
    tag = _TAG.search(text, start)
    if tag and (tag[1] is None or _may_be_name(searched, tag[1])):
        positions.append(tag.start())
    name = _NAME.search(text, start)
    if name:
        before = _BEFORE_NAME.search(text, max(after, name.start() - 40), name.start())
        begin = before.start() if before else name.start()
        positions.append(_call_at(searched, name, begin))
    # The fence before a call belongs to it: "```json\n{"
    begun = min(positions)
    fence = _FENCE.search(text, max(after, begun - 40), begun)
    return fence.start() if fence and not _ends_inline_code(text, fence) else begun


def _ends_inline_code(text: str, ticks: re.Match[str]) -> bool:
    """Whether a backtick closes another one of its line: `code`."""
    line = text[max(0, ticks.start() - _TAIL) : ticks.start()].rpartition("\n")[2]
    return not ticks[0].startswith("```") and ends_in_code(line)


def _call_at(searched: SearchedText, name: re.Match[str], begin: int) -> int:
    """Where a call may begin whose name is at the end of the text; the text's length without one.

    `begin`: where it begins if the whole name is its name.
    """
    text = searched.text
    word = _WORD.match(text, name.start())
    beginning = word[0] if word else ""
    if starts_well(text, begin) and _may_be_name(searched, beginning):
        return begin
    # Behind a full stop: "Let me look.bash"
    dots = [dot.end() for dot in re.finditer(r"\.", beginning)]
    ends = (dot for dot in dots if beginning[dot:] and _may_be_name(searched, beginning[dot:]))
    return name.start() + next(ends, len(text) - name.start())


def _may_be_name(searched: SearchedText, beginning: str) -> bool:
    """Whether a tool's name, or a word before one, begins so."""
    plain = plain_name(beginning)
    shorter = plain.removeprefix("function")
    return any(
        name.startswith((plain, shorter))
        for name in (*map(plain_name, searched.tools), *_CALL_WORDS)
    )

"""Separates the thoughts of a model from its answer: <think>, [THINK] and their kin.

A text is read from left to right:

    <think>plan</think> answer <think>doubt</think> more      thoughts at line starts are taken out
    plan</think> answer                                       the prompt had opened the thought
    <think>plan <tool_call>{...                               a call ends a thought without an end
    Tags such as <think> and </think> ...                     a text about tags stays as it is

gpt-oss has channels instead: see channels.py. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from horde_proxy.prompts.end_tokens import Use, held_back, may_become, use_of_tag
from horde_proxy.prompts.tool_calls.markers import next_closing, next_opening_at

_CLOSINGS = {
    # DeepSeek R1, Qwen3, GLM-4.5, MiniMax M2, Hermes 4 and most others
    "<think>": "</think>",
    # Models that were trained on outputs of Claude, or told so by a system prompt
    "<thinking>": "</thinking>",
    # EXAONE Deep, Gemini's imitations
    "<thought>": "</thought>",
    # Models trained with GRPO's usual prompt
    "<reasoning>": "</reasoning>",
    # Magistral, since 2507
    "[THINK]": "[/THINK]",
    # Seed-OSS
    "<seed:think>": "</seed:think>",
    # Kimi-VL
    "◁think▷": "◁/think▷",
    # Command A Reasoning
    "<|START_THINKING|>": "<|END_THINKING|>",
    # Gemma 4
    "<|channel>thought": "<channel|>",
}
_TAGS = (*_CLOSINGS, *_CLOSINGS.values())
_OPENINGS = "|".join(map(re.escape, _CLOSINGS))
_FIRST = re.compile(rf"\s*({_OPENINGS})")
_ANY_TAG = re.compile("|".join(map(re.escape, _TAGS)))
# A fence, or the opening of a later thought, at the start of a line: "```python", "<think>"
_LINE_HEAD = re.compile(rf"^[ \t]*(?:(?P<fence>```|~~~)|({_OPENINGS}))", re.MULTILINE)
# Command A begins its answer so; models close a thought twice.
_AFTER_CLOSING = r"(?:\s*(?:{closing}|<\|START_RESPONSE\|>))*"
_CLOSING_PATTERNS = {
    opening: re.compile(re.escape(closing) + _AFTER_CLOSING.format(closing=re.escape(closing)))
    for opening, closing in _CLOSINGS.items()
}
_MENTIONS = tuple(
    f" {word} " for word in ("and", "or", "tag", "tags", "block", "blocks", "is", "are", "marks")
)
"""What follows an opening tag that begins a text about tags: "<think> and </think> mark ..."."""
# "<think>...</think> holds the plan": nobody thinks an ellipsis.
_ELLIPSES = tuple(f"{dots}{closing} " for dots in ("...", "…") for closing in _CLOSINGS.values())
_LONGEST_MENTION = 32
# How a call, JSON or code begins, but no thought: "{", "```", "<div>", "bash{", "print(".
_NO_THOUGHT = re.compile(r"\s*(?:[\[{`<|]|[\w.:-]+(?:\[ARGS\])?[{(])")
# After a mentioned closing tag, its sentence goes on: "Use </think> here", "ends with </think>."
_GOES_ON = re.compile(r"[.,;:!?)]| [a-z(|=–—-]")
_LIKE_A_THOUGHT = (
    *("okay,", "okay ", "ok,", "ok ", "alright,", "all right,", "right,", "hm,", "hm ", "hmm"),
    *("wait,", "got it", "so,", "so the ", "so i ", "so we ", "thinking process", "**think"),
    *("let me think", "let me see", "let me look", "let me check", "let me start", "let me try"),
    *("let me break", "let me analy", "let me figure", "let me first", "let me recall"),
    *("let's think", "let's see", "let's break", "let's analy", "here's a thinking", "**analy"),
    *("first, i", "first, let", "first, we", "the user", "this user", "user asks", "user wants"),
    *("i need to ", "i should ", "i have to ", "i must ", "i think ", "user says", "user is "),
    *("we need ", "we have ", "we should ", "we are ", "we must ", "need to "),
    *("1.  **analy", "1. **analy", "1.  **understand", "1. **understand"),
    *("好的", "嗯", "首先", "用户", "让我"),
)
"""How thoughts begin whose opening tag was in the prompt, in lower case.

Only a text that begins so waits for its </think> in a stream; all others are sent as they come.
"""
# "<tool_call>{", "[TOOL_CALLS][", "<tool_call>bash\n": a call, not "the <tool_call> tag".
_CALL = re.compile(
    r"(?:<[^>]{0,80}>|\[\w+\])"
    r"(?:\s*(?:```\w*\s*)?[\[{<]|\n?[\w.:-]+(?:\[ARGS\]|\s*[({<]|[ \t]*(?:\n|\Z)))"
)
# The beginning of a marker of a call at the end of a text: "<tool_c", "[TOOL", "<|tool_call_be"
_HALF_MARKER = re.compile(r"[<\[](?:\S{0,20}(?:function|invoke) )?[^\s<>\[\]]{0,40}\Z")


@dataclass
class Separation:
    """The thoughts and the answer's texts, in their order.

    `was_unopened`: the first thought had no opening tag.
    """

    thoughts: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    was_unopened: bool = False
    ends_with_thought: bool = False

    def add_thought(self, text: str) -> None:
        self.thoughts.append(text)
        self.ends_with_thought = True

    def add_text(self, text: str) -> None:
        self.texts.append(text)
        self.ends_with_thought &= not text.strip()

    @property
    def reasoning(self) -> str:
        """The thoughts as one text."""
        bare = (thought.strip() for thought in self.thoughts)
        return "\n\n".join(thought for thought in bare if thought)

    @property
    def content(self) -> str:
        """The texts as one. Whitespace between an answer and a thought after it belongs to both."""
        text = "".join(self.texts)
        return text.rstrip() if self.ends_with_thought else text


def begins_with_thought(text: str) -> bool:
    """Whether a text begins with the opening tag of a thought, in any family's form."""
    return _FIRST.match(text) is not None


def separate_thoughts(
    text: str, *, is_open: bool, may_be_unopened: bool, may_call: bool
) -> Separation:
    """The thoughts and the answer in a text.

    `is_open`: more text may follow, so only what is certain is returned. `may_be_unopened`: text
    before a `</think>` without its `<think>` is a thought. `may_call`: tools are on offer.
    """
    if is_open:
        text = text[
            : len(text) - held_back(text[-_LONGEST_MENTION:], (*_TAGS, "<|START_RESPONSE|>"))
        ]
        if may_call and (beginning := _HALF_MARKER.search(text)):
            text = text[: beginning.start()]
    return _ThoughtReader(text, is_open, may_call).read(may_be_unopened)


def with_thought_closed(text: str) -> str:
    """A text that is only a thought, with what ends it, so that a model goes on with its answer."""
    bare = text.rstrip()
    if bare.endswith(tuple(_CLOSINGS.values())):
        return f"{bare}\n\n"
    openings = [match.group() for match in _ANY_TAG.finditer(text) if match.group() in _CLOSINGS]
    return f"{bare}\n{_CLOSINGS[openings[-1]] if openings else '</think>'}\n\n"


class _ThoughtReader:
    """Reads a text from left to right. What stands before `_position` is in the parts."""

    def __init__(self, text: str, is_open: bool, may_call: bool) -> None:
        self._text, self._is_open, self._may_call = text, is_open, may_call
        self._parts = Separation()
        self._position = 0
        # Where the first call at or after the last searched position begins.
        self._call_at = -1 if may_call else len(text)
        self._marker_at = -1
        # Families whose closing tags do not follow any more, or only in mentions: each text is
        # searched once for them.
        self._unclosed: set[str] = set()
        self._unsure: set[str] = set()

    def read(self, may_be_unopened: bool) -> Separation:
        if self._read_beginning(may_be_unopened):
            self._read_rest()
        return self._parts

    def _read_beginning(self, may_be_unopened: bool) -> bool:
        """Read the thoughts at the beginning. Whether the text after them may be read."""
        first = _FIRST.match(self._text)
        if first is not None and self._use_of_opening(first) != "mention":
            return self._read_thoughts(first)
        return self._read_unopened() if may_be_unopened else True

    def _read_thoughts(self, opening: re.Match[str] | None) -> bool:
        """Read a thought, and those directly after it. Whether the text goes on after them."""
        while opening is not None:
            use = self._use_of_opening(opening)
            if use != "use":
                return use == "mention"
            if not self._read_thought(opening[1], opening.end(), is_sure=True):
                return False
            opening = _FIRST.match(self._text, self._position)
        return True

    def _read_thought(self, tag: str, start: int, *, is_sure: bool) -> bool:
        """Read one thought, whose opening tag ends at `start`. Whether it has an end.

        `is_sure`: it is a thought also without an end.
        """
        closing, unsure = self._closing(tag, start)
        call = self._call_after(start)
        if closing is not None and not self._is_behind_call(tag, call, closing):
            return self._add_thought(start, closing)
        if self._is_open:
            if is_sure:
                marker = next_opening_at(self._text, start) if self._may_call else len(self._text)
                end = min(marker, unsure.start() if unsure else marker)
                self._parts.add_thought(self._text[start:end])
            return False
        if unsure is not None and unsure.start() < call:
            return self._add_thought(start, unsure)
        if call < len(self._text):
            self._parts.add_thought(self._text[start:call])
            self._position = call
            return True
        if is_sure:
            self._parts.add_thought(self._text[start:])
        self._unclosed.add(tag)
        return False

    def _add_thought(self, start: int, closing: re.Match[str]) -> bool:
        self._parts.add_thought(self._text[start : closing.start()])
        self._position = closing.end()
        return True

    def _is_behind_call(self, tag: str, call: int, closing: re.Match[str]) -> bool:
        """Whether a closing tag belongs to a text in a call, or to a thought after it.

        A call within a thought has its end there: "<think> <tool_call>{}</tool_call> </think>".
        """
        if call >= closing.start():
            return False
        between = self._text[call : closing.start()]
        if re.search(rf"^[ \t]*{re.escape(tag)}", between, re.MULTILINE):
            return True
        if self._marker_after(call) < closing.start():
            return False
        return self._is_open or self._marker_after(closing.end()) < len(self._text)

    def _read_unopened(self) -> bool:
        """Read a thought without an opening tag. Whether the text may be read on."""
        if _NO_THOUGHT.match(self._text):
            return True
        for match in _ANY_TAG.finditer(self._text, 0, self._call_after(0)):
            is_quoted = self._text[match.start() - 1 : match.start()] == "`"
            if match.group() in _CLOSINGS and not is_quoted:
                return True
            use: Use = "mention"
            if match.group() not in _CLOSINGS:
                use = self._use_of_closing(match.start(), match.end())
            if use == "open":
                return False
            if use == "use":
                self._parts.was_unopened = True
                tag = next(tag for tag, end in _CLOSINGS.items() if end == match.group())
                closing = _CLOSING_PATTERNS[tag].match(self._text, match.start())
                assert closing
                self._add_thought(0, closing)
                return self._read_thoughts(_FIRST.match(self._text, self._position))
        return not (self._is_open and _begins_like_a_thought(self._text))

    def _read_rest(self) -> None:
        """Read the answer, and thoughts at the beginning of its lines, but not within calls."""
        begins_with_thought, in_fence = bool(self._parts.thoughts), False
        position = self._position
        while position < len(self._text):
            call = self._call_after(position)
            head = _LINE_HEAD.search(self._text, position, call)
            # A call may write a file with any tags. Each step moves forward, whatever is in it.
            position = head.end() if head else max(self._marker_after(call), position + 1)
            if head is not None and head["fence"]:
                in_fence = not in_fence
            elif head is not None and not in_fence and head[2] not in self._unclosed:
                if not self._read_later_thought(head, begins_with_thought):
                    return
                position = max(position, self._position)
        self._parts.add_text(self._text[self._position :])

    def _read_later_thought(self, head: re.Match[str], is_sure: bool) -> bool:
        """Read the text before a tag, and the thought after it. Whether the text goes on.

        An answer without a thought at its beginning may be a text about tags, so without an end a
        later one is text.
        """
        use, start = self._use_of_opening(head), self._position
        if use == "mention":
            return True
        is_thought = use == "use" and self._read_thought(head[2], head.end(), is_sure=is_sure)
        if not (is_thought or is_sure or self._is_open):
            return True
        self._parts.texts.append(self._text[start : head.start()])
        return is_thought and self._read_thoughts(_FIRST.match(self._text, self._position))

    def _use_of_opening(self, match: re.Match[str]) -> Use:
        """Whether an opening tag is used, or begins a sentence about tags."""
        after = self._text[match.end() : match.end() + _LONGEST_MENTION]
        if after.startswith((*_MENTIONS, *_ELLIPSES)):
            return "mention"
        may_be = self._is_open and may_become(after, (*_MENTIONS, *_ELLIPSES))
        return "open" if may_be else "use"

    def _closing(self, tag: str, start: int) -> tuple[re.Match[str] | None, re.Match[str] | None]:
        """(the closing tag of a thought, the first one before it that may be a mention)."""
        unsure = None
        for match in _CLOSING_PATTERNS[tag].finditer(self._text, start):
            end = match.start() + len(_CLOSINGS[tag])
            if self._use_of_closing(match.start(), end) == "use":
                return match, unsure
            if self._text[match.start() - 1] != "`" or self._text[end : end + 1] != "`":
                unsure = unsure or match
            if unsure and tag in self._unsure:
                break
        self._unsure.add(tag)
        return None, unsure

    def _use_of_closing(self, start: int, end: int) -> Use:
        """Whether a closing tag is used or mentioned: in quotes, or as a word of a sentence."""
        if self._text[start - 1 : start] != " ":
            return use_of_tag(self._text, start, end, is_open=self._is_open)
        # A thought ends with a sentence: "I answer. </think>".
        if not self._text[start - 2 : start - 1].isalnum():
            return "use"
        after = self._text[end : end + 2]
        if self._is_open and len(after) < 2:
            return "open"
        return "mention" if _GOES_ON.match(after) else "use"

    def _call_after(self, position: int) -> int:
        """Where the first call from a position on begins; the text's length without one."""
        if self._call_at < position:
            self._call_at = self._next_call(position)
        return self._call_at

    def _marker_after(self, position: int) -> int:
        """Where the first closing marker of a call from a position on is, like _call_after."""
        if self._marker_at < position:
            marker = next_closing(self._text, position, len(self._text))
            self._marker_at = marker.start() if marker else len(self._text)
        return self._marker_at

    def _next_call(self, position: int) -> int:
        position = next_opening_at(self._text, position)
        while position < len(self._text) and not _CALL.match(self._text, position):
            position = next_opening_at(self._text, position + 1)
        return position


def _begins_like_a_thought(text: str) -> bool:
    """Whether a text begins like a thought, or is too short to know."""
    beginning = text.lstrip().lower()[:_LONGEST_MENTION]
    return beginning.startswith(_LIKE_A_THOUGHT) or may_become(beginning, _LIKE_A_THOUGHT)

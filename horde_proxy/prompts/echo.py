"""A repetition of the turn's opening at the beginning of an answer, which is none of its text.

A worker that drops control tokens leaves the role of <|im_start|>assistant. A list may begin with
the same word, so only what stands there as in the opening counts. Pure.
"""

from __future__ import annotations

import re
from functools import cache

from horde_proxy.prompts.end_tokens import may_become
from horde_proxy.prompts.formats import PLACEHOLDERS, Format

# The next line of a list that begins with "assistant": "user\n". Answers begin with capitals, or
# have more than a word in their first line.
_LIST_GOES_ON = r"(?![ \t]*[a-z0-9_.-]+[ \t]*\n)"
# The beginning of such a line: more text may make a list or an answer of it.
_HALF_LINE = re.compile(r"[ \t]*[a-z0-9_.-]*[ \t]*")
# Lines without text at the beginning of an answer. Its first line keeps its indentation.
_BLANK_LINES = re.compile(r"\A(?:[ \t\r\f\v]*\n)+")
_SPACES = re.compile(r" *")


def without_echo(text: str, format: Format) -> str:
    """The text without a repetition of the turn's opening tag."""
    bare = text.lstrip()
    tag = next((tag for tag in _openings(format) if bare.startswith(tag)), None)
    if tag is not None:
        return bare[len(tag) :]
    echo = _role_echo(role_names(format)).match(text)
    return text[echo.end() :] if echo else text


def may_be_echo(text: str, format: Format) -> bool:
    """Whether a text is too short to know whether it begins with the turn's opening tag."""
    bare = text.strip()
    if may_become(bare, (*role_names(format), *_openings(format))):
        return True
    first, _, second = text.lstrip().partition("\n")
    return first.rstrip() in role_names(format) and _HALF_LINE.fullmatch(second) is not None


def role_names(format: Format) -> tuple[str, ...]:
    """The names of the model's role with which a generation may begin by mistake.

    Merged models write "assistant", whatever their format is. "model" is Gemma's: elsewhere, it may
    be the head of a column.
    """
    names = ["assistant"]
    if format is PLACEHOLDERS:
        names.append("model")
    if format.role not in (None, "assistant"):
        names.append(str(format.role))
    return tuple(names)


def without_lead(text: str) -> str:
    """The text without the blank lines and the space that templates have before an answer."""
    text = _BLANK_LINES.sub("", text)
    spaces = _SPACES.match(text)
    # SentencePiece begins each text with a space, so code with 4 spaces of indentation has 5.
    if spaces and spaces.end() % 2:
        text = text[1:]
    return text if text.strip() else ""


def _openings(format: Format) -> tuple[str, ...]:
    """The tags of the model's turn, the longest first: with a thought that the prompt has begun."""
    tags = {format.opening.strip(), format.assistant[0].strip()} - {""}
    return tuple(sorted(tags, key=len, reverse=True))


@cache
def _role_echo(names: tuple[str, ...]) -> re.Pattern[str]:
    """What is left of the opening tag once its control tokens are dropped.

    "assistant\\n\\nHi" (Llama 3), "model\\nHi" (Gemma), "ai\\nHi" (MiniMax). Without the line break
    it is the beginning of a sentence.
    """
    return re.compile(rf"\s*(?:{'|'.join(map(re.escape, names))})\s*?\n{_LIST_GOES_ON}")

"""Separates the channels of gpt-oss: analysis is the thought, final and commentary the answer.

    <|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>four
    analysisEasy.assistantfinalfour                           from workers that drop control tokens

A message to a function, "commentary to=functions.bash", stays in the answer with its head, for the
reading of calls. The format is OpenAI's "harmony", whatever format a worker's tags are in. Pure.
"""

from __future__ import annotations

import re

from horde_proxy.prompts.end_tokens import held_back, may_become
from horde_proxy.prompts.thoughts import Separation

# <|start|>assistant<|channel|>analysis<|message|>, and what ended the message before it. Of a call:
# <|channel|>commentary to=functions.bash <|constrain|>json<|message|>, where models write the
# channel twice or put the function before it.
_HEAD = re.compile(
    r"(?:<\|(?:end|call)\|>\s*)?(?:<\|start\|>(?:assistant)?(?P<to>[^<]{0,80}))?"
    r"(?P<channel><\|channel\|>(?P<name>analysis|commentary|final)"
    r"(?P<rest>(?:(?!<\|message\|>).){0,200})<\|message\|>)",
    re.DOTALL,
)
# "<|channel|>analysis", and with the end of the prompt, "<|start|>assistant<|channel|>final"
_BEGINNING = re.compile(r"\s*(?:<\|start\|>assistant[^<]{0,80})?<\|channel\|>")
# What a text ends in that may become a _HEAD: "<|end|><|start|>assistant",
# "<|start|>assistant to=functions.bash<|channel|>comm"
_HALF_HEAD = re.compile(
    r"(?:<\|end\|>\s*)?(?:<\|start\|>[^<]{0,90})?"
    r"(?:<\|channel\|>(?:(?!<\|message\|>).){0,220})?\Z",
    re.DOTALL,
)
_MARKERS = ("<|end|>", "<|call|>", "<|start|>assistant", "<|channel|>", "<|message|>")
# "analysisWe need to", "assistantanalysisUser: ...": a name like analysisResult is no head.
_BARE_BEGINNING = re.compile(r"\s*(?:assistant)?analysis(?=[\"'“]?[A-Z][\w'’]*[ ,.:;!?]+[\w\"'“])")
_MAYBE_BARE = re.compile(r"\s*(?:assistant)?analysis(?:[\"'“]?[A-Z][\w'’]*[ ,.:;!?]*)?\Z|\s*\Z")
# "…four.assistantfinalfour", "….assistantcommentary to=functions.bash json{"
_BARE_HEAD = re.compile(r"assistant(?P<name>analysis|final|commentary)")
# The function that a message is for, also without its namespace: to=bash. gpt-oss's own tools are
# to=browser.search, to=python and to=container.exec; a result is to=assistant.
_RECIPIENT = re.compile(r"\s*to=(?!(?:browser|python|container|assistant)\b)\w")
_LONGEST_RECIPIENT = 20
"""Characters at the beginning of a message that are compared with "to=functions.", which has 13."""
_BARE_HEADS = ("assistantanalysis", "assistantfinal", "assistantcommentary")
_LONGEST_HALF = 400
"""Characters at the end of a text in which a head may have begun."""
_FINAL = "<|start|>assistant<|channel|>final<|message|>"


def has_channels(text: str) -> bool:
    """Whether a text begins with a channel, or goes on in one."""
    is_marked = _BEGINNING.match(text) or "<|start|>assistant<|channel|>" in text
    return bool(is_marked or _BARE_BEGINNING.match(text))


def may_have_channels(text: str) -> bool:
    """Whether a text is too short to know whether it begins with a channel."""
    names = ("<|channel|>", "<|start|>assistant", "assistantanalysis", "analysis")
    return may_become(text.lstrip(), names) or _MAYBE_BARE.match(text) is not None


def separate_channels(text: str, *, is_open: bool) -> Separation:
    """The thoughts and the answer in a text that has channels.

    `is_open`: more text may follow, so only what is certain is returned.
    """
    parts = Separation()
    beginning = _BARE_BEGINNING.match(text)
    heads = _BARE_HEAD if beginning else _HEAD
    if is_open:
        text = _certain(text, is_bare=beginning is not None)
    # Before the first head of all, the prompt's own opening counts: it opens the final channel.
    name, start = ("analysis", beginning.end()) if beginning else ("final", 0)
    for head in heads.finditer(text, start):
        _add(parts, name, text[start : head.start()])
        name, start = head["name"], head.end()
        if not beginning and _RECIPIENT.search(f"{head['to'] or ''}{head['rest']}"):
            # The reading of calls needs the head, which names the function.
            name, start = "call", head.start("to" if head["to"] else "channel")
    _add(parts, name, text[start:], is_open=is_open)
    return parts


def with_channel_closed(text: str) -> str:
    """A text that is only an analysis, with the head of the final channel after it."""
    if _BARE_BEGINNING.match(text):
        return f"{text.rstrip()}assistantfinal"
    return f"{text.rstrip().removesuffix('<|end|>')}<|end|>{_FINAL}"


def _certain(text: str, *, is_bare: bool) -> str:
    """The text without what may be the beginning of a head."""
    held = held_back(text[-_LONGEST_HALF:], _BARE_HEADS if is_bare else _MARKERS)
    text = text[: len(text) - held]
    half = None if is_bare else _HALF_HEAD.search(text, max(0, len(text) - _LONGEST_HALF))
    return text[: half.start()] if half else text


def _add(parts: Separation, name: str, body: str, *, is_open: bool = False) -> None:
    """Add a message of one channel to the parts."""
    bare = body.lstrip()
    if _RECIPIENT.match(bare):
        name, bare = "call", f"commentary {bare}"
    elif is_open and may_become(bare[:_LONGEST_RECIPIENT], ("to=functions.",)):
        return
    if not bare:
        return
    if name == "analysis":
        parts.add_thought(body)
    else:
        parts.add_text(f"\n\n{bare}" if parts.texts else bare)

"""The result of reading a text: the calls, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FoundCall:
    """A call in OpenAI's form: `arguments` is compact JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True)
class CallReading:
    """The content before the first call, the calls, and what went wrong.

    `unfinished`: the text ends inside a call; then `content` is the whole text. `problem` is a
    sentence for the model, if a call is unreadable or does not fit the tools.
    """

    content: str
    calls: tuple[FoundCall, ...]
    unfinished: bool
    problem: str | None

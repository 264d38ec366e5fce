"""The context diet: what a chat loses, step by step, before a turn of it is dropped.

    schemas            tools lose annotations, then long descriptions are shortened (slimming.py)
    repeated results   an older result is replaced by a note where a later one says the same
    long results       an old result loses its middle
    old calls          a call loses its long arguments, such as the content of a written file

User turns, the system prompt's own text, the newest calls and their results stay as they are. The
diet decides nothing about room: fit.py takes as many steps as are needed. The result of a step
depends on its own message, and for a repeated result on the later one; it does not change while
a conversation grows, so that a worker still knows the prompt's beginning. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from horde_proxy.prompts.json_schema.slimming import FULL, LESS_DETAIL, Detail
from horde_proxy.prompts.lenient_json import dumps
from horde_proxy.protocol.generation_request import Message, ToolCall

StepKind = Literal["schemas", "repeated results", "long results", "old calls"]
_LEAST_REPEATED = 200
"""Characters of a repeated result that is worth its note, which has about 80."""
_LONG_RESULT = 1_500
"""Characters from which an old result loses its middle: about 30 lines of code."""
_HEAD, _TAIL = 600, 400
"""Characters that stay of it. The beginning says what it is, the end how a command ended."""
_LONG_ARGUMENT = 200
"""Characters of an argument, as JSON, that an old call loses; paths and commands are shorter."""


@dataclass(frozen=True)
class Step:
    """A shorter message for the one at `index`."""

    kind: StepKind
    index: int
    message: Message


@dataclass(frozen=True)
class Diet:
    """How one request may be shortened.

    `instruction` gives, at each detail, the text about tools and formats that is the suffix of the
    first system message. `answer` is how many tokens of an answer need room. `drops_messages`:
    what the steps do not suffice for may cost old results and messages.
    """

    answer: int = 0
    instruction: Callable[[Detail], str] = lambda detail: ""
    is_on: bool = True
    drops_messages: bool = True

    @property
    def shortest_instruction(self) -> str:
        """The text about tools and formats after all steps."""
        return self.instruction(LESS_DETAIL[-1] if self.is_on else FULL)

    def detail_of(self, message: Message) -> Detail:
        """How much of tools and formats is still told in a message with an instruction."""
        told = message.suffix.lstrip()
        details = (FULL, *LESS_DETAIL)
        return next((detail for detail in details if self.instruction(detail) == told), FULL)

    def steps(self, messages: Sequence[Message]) -> Iterator[Step]:
        """All steps, in the order in which they are taken. Later ones of a message replace it."""
        if not self.is_on:
            return
        yield from self._schemas(messages)
        calls = _calls_of_results(messages)
        newest = _newest_call(messages)
        texts = [message.text for message in messages]
        for index, note in _repetitions(texts, calls, newest):
            texts[index] = note
            yield Step("repeated results", index, replace(messages[index], text=note))
        for index in calls:
            short = _without_middle(texts[index])
            if index < newest and short != texts[index]:
                yield Step("long results", index, replace(messages[index], text=short))
        for index, message in enumerate(messages[:newest]):
            if message.tool_calls:
                yield Step("old calls", index, _without_long_arguments(message))

    def _schemas(self, messages: Sequence[Message]) -> Iterator[Step]:
        # Other requests of the same answer, such as those for single values, have no instruction.
        if not messages or not has_instruction(messages[0]):
            return
        suffix = messages[0].suffix
        space = suffix[: len(suffix) - len(suffix.lstrip())]
        for detail in LESS_DETAIL:
            message = replace(messages[0], suffix=space + self.instruction(detail))
            yield Step("schemas", 0, message)


def has_instruction(message: Message) -> bool:
    """Whether a message ends with an instruction about tools and formats."""
    return message.role == "system" and message.suffix != ""


def diet_warning(counts: Mapping[StepKind, int], saved: int) -> str:
    """What the steps did, for X-Horde-Warnings; `counts` are messages, `saved` is in tokens."""
    parts = [
        "schemas shortened" if kind == "schemas" else f"{count} {kind} shortened"
        for kind, count in counts.items()
    ]
    return f"context diet: {', '.join(parts)}, about {saved} tokens saved"


def _newest_call(messages: Sequence[Message]) -> int:
    """The index of the last message with calls; results after it are the newest ones."""
    return max((index for index, message in enumerate(messages) if message.tool_calls), default=0)


def _calls_of_results(messages: Sequence[Message]) -> dict[int, ToolCall | None]:
    """The call that each tool result answers, by the result's index."""
    # Some clients use an id again, so that the nearest call before a result is its own.
    calls: dict[str, ToolCall] = {}
    answered: dict[int, ToolCall | None] = {}
    for index, message in enumerate(messages):
        calls |= {call.id: call for call in message.tool_calls}
        if message.role == "tool":
            answered[index] = calls.get(message.tool_call_id or "")
    return answered


def _repetitions(
    texts: Sequence[str], calls: Mapping[int, ToolCall | None], newest: int
) -> list[tuple[int, str]]:
    """The old results that a later one repeats, oldest first: (index, note that replaces it)."""
    last_text = {texts[index]: index for index in calls}
    last_call = {_key(call): index for index, call in calls.items() if call}
    notes = []
    for index, call in calls.items():
        text = texts[index]
        size = f"[{len(text):,} characters left out:"
        if index >= newest or len(text) < _LEAST_REPEATED:
            continue
        if last_text[text] > index:
            source = f" of {call.name}" if call else ""
            notes.append((index, f"{size} the same as a later result{source}]"))
        # A file that is read again may have changed: then the older text is out of date.
        elif call and last_call[_key(call)] > index:
            notes.append((index, f"{size} {call.name} was called again with the same arguments]"))
    return notes


def _key(call: ToolCall) -> tuple[str, str]:
    """The same for calls whose arguments are the same, in whatever order."""
    try:
        return call.name, json.dumps(json.loads(call.arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return call.name, call.arguments


def _without_middle(text: str) -> str:
    """The text, or its beginning and its end with a note between them where it is long."""
    if len(text) <= _LONG_RESULT:
        return text
    head, tail = text[:_HEAD], text[-_TAIL:]
    # Whole lines, where they are not much longer than what stays.
    head_end, tail_start = head.rfind("\n"), tail.find("\n")
    head = head[:head_end] if head_end > _HEAD // 2 else head
    tail = tail[tail_start + 1 :] if tail_start < _TAIL // 2 else tail
    size = len(text) - len(head) - len(tail)
    return f"{head}\n[{size:,} characters left out]\n{tail}"


def _without_long_arguments(message: Message) -> Message:
    """An assistant's message whose calls have no long arguments, with a note for each call."""
    short = [_without_long(call) for call in message.tool_calls]
    notes = [note for _, note in short if note]
    text = "\n".join([message.text, *notes] if message.text else notes)
    return replace(message, text=text, tool_calls=tuple(call for call, _ in short))


def _without_long(call: ToolCall) -> tuple[ToolCall, str]:
    """A call without its long arguments, and a note about them; "" if it has none.

    The arguments are missing rather than shortened. A model copies what it has seen: a call
    without a required argument is refused by its client, while a note in its place would be
    written into the file.
    """
    try:
        arguments = json.loads(call.arguments)
        values = arguments if isinstance(arguments, dict) else {}
        sizes = {name: len(dumps(value)) for name, value in values.items()}
    except (ValueError, RecursionError):  # half a call, as agents send it back, or NaN
        return call, ""
    long = {name: size for name, size in sizes.items() if size > _LONG_ARGUMENT}
    if not long:
        return call, ""
    kept = {name: value for name, value in values.items() if name not in long}
    names = " and ".join(long)
    note = f"[{call.name}: {sum(long.values()):,} characters of {names} left out]"
    return replace(call, arguments=dumps(kept)), note

"""The order of the turns of a Messages request: what templates of open models can render. Pure.

Anthropic takes a system message anywhere, and joins neighbours of one role itself. Many templates
know a system message at the beginning only, and roles that take turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from horde_proxy.protocol.generation_request import Message, MessagePicture

_REMINDER = "<system-reminder>\n{}\n</system-reminder>"
"""How Claude Code itself marks words of the system in a user's turn. Models of its kind know it."""


def joined_turns(system: Sequence[Message], turns: Iterable[Message]) -> list[Message]:
    """All turns, the system's first. Of neighbours, only results of tools have the same role."""
    groups: list[list[Message]] = [list(system)] if system else []
    for turn in _results_next_to_calls(turns):
        if turn.role == "system" and groups and groups[-1][0].role != "system":
            turn = replace(turn, role="user", text=_REMINDER.format(turn.text), pictures=())
        if groups and groups[-1][0].role == turn.role != "tool":
            groups[-1].append(turn)
        else:
            groups.append([turn])
    return list(map(_merged, groups))


def _results_next_to_calls(turns: Iterable[Message]) -> Iterator[Message]:
    """The turns; a system message between calls and their results comes behind the results."""
    held: list[Message] = []
    last: Message | None = None
    for turn in turns:
        if turn.role == "system" and last is not None and last.tool_calls:
            held.append(turn)
            continue
        if held and turn.role != "tool":
            yield from held
            held = []
        yield turn
        last = turn if turn.role != "tool" else last
    yield from held


def _merged(group: Sequence[Message]) -> Message:
    """Turns of the same role as one. Places of pictures move with their text."""
    first, *others = group
    if not others:
        return first
    between = "\n\n" if first.role == "system" else "\n"
    pictures: list[MessagePicture] = []
    position = 0
    for turn in group:
        pictures += (
            replace(picture, start=picture.start + position, end=picture.end + position)
            for picture in turn.pictures
        )
        position += len(turn.text) + len(between) if turn.text else 0
    return replace(
        first,
        text=between.join(turn.text for turn in group if turn.text),
        tool_calls=tuple(call for turn in group for call in turn.tool_calls),
        reasoning="\n".join(turn.reasoning for turn in group if turn.reasoning),
        pictures=tuple(pictures),
    )

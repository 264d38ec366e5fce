"""Turns as a prompt in a chat format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from horde_proxy.prompts.format_table import Format, Turn
from horde_proxy.prompts.neutral_texts import neutralise


def render(format: Format, turns: Sequence[Turn]) -> str:
    """The prompt that makes a model write the next assistant turn, or continue the last one.

    If the last turn is the assistant's, it is a prefill: it stays open and its text unchanged.
    """
    turns = _arranged(format, turns)
    prefill = turns[-1].text if turns and turns[-1].role == "assistant" else None
    finished = turns if prefill is None else turns[:-1]
    parts = [format.preamble] + [_closed(format, turn) for turn in finished]
    if prefill is None:
        return "".join(parts) + format.opening
    return "".join(parts) + max(format.opening, format.assistant[0], key=len) + prefill


def _closed(format: Format, turn: Turn) -> str:
    tags = {"system": format.system, "user": format.user, "assistant": format.assistant}
    before, after = tags[turn.role] or format.inline_system
    return before + (turn.text.strip() if format.trims else turn.text) + after


def _arranged(format: Format, turns: Sequence[Turn]) -> list[Turn]:
    """The turns in an order that the format allows: system placed, neighbours merged."""
    turns = [
        turn if turn.is_neutral else replace(turn, text=neutralise(turn.text, format))
        for turn in turns
    ]
    leading = next((i for i, turn in enumerate(turns) if turn.role != "system"), len(turns))
    system = "\n\n".join(turn.text for turn in turns[:leading] if turn.text)
    rest = turns[leading:]
    # Without a tag, a later system turn would look like a part of the turn before it.
    if format.alternates or format.system is None or not format.system[0]:
        rest = [Turn("user", turn.text) if turn.role == "system" else turn for turn in rest]
    if format.alternates:
        rest = _merged(rest)
    return _with_system(format, system or format.default_system, rest)


def _with_system(format: Format, system: str, rest: list[Turn]) -> list[Turn]:
    """The turns with the system text, as the first turn or in the first user turn."""
    if not system:
        return rest
    if format.system is not None:
        return [Turn("system", system), *rest]
    before, after = format.inline_system
    if rest and rest[0].role == "user":
        return [Turn("user", before + system + after + rest[0].text), *rest[1:]]
    return [Turn("user", (before + system + after).rstrip("\n")), *rest]


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    """The turns, with neighbouring turns of a role merged into one."""
    return [
        Turn(role, "\n\n".join(turn.text for turn in group))
        for role, group in groupby(turns, key=lambda turn: turn.role)
    ]

"""The tool calls of a foreign answer, made whole: one index, id, type and name, then arguments.

Servers leave out or repeat each of these in some delta. What belongs to which call is decided
here; how a call is written is the matter of protocol/chunks.py. No I/O.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from horde_proxy.errors import UpstreamFailed
from horde_proxy.protocol.chunks import argument_deltas, call_deltas
from horde_proxy.upstreams.call_ids import new_call_id
from horde_proxy.upstreams.openai.texts import HalfPairs, whole_characters

_MOST_CALLS = 1_000
"""Calls of one choice. A model in a loop writes hundreds; more would only fill the memory."""
_LONGEST_NAME = 256
"""Characters of an id or a name. OpenAI allows 64 for a name; ids of some servers have 100."""


@dataclass(frozen=True)
class _CallDelta:
    """What one delta says of a call. None and "": it does not say."""

    index: int | str | None
    id: str
    name: str
    arguments: str


@dataclass(eq=False)
class _ForeignCall:
    """One call, as far as it has come. `number` is its index for the client, once it was begun."""

    id: str = ""
    index: int | str | None = None
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    number: int | None = None
    halves: HalfPairs = field(default_factory=HalfPairs)

    def add(self, delta: _CallDelta) -> None:
        """Take over what a delta says."""
        self.id = self.id or delta.id
        if self.index is None:
            self.index = delta.index
        self._add_name(delta.name)
        self.add_arguments(self.halves.add(delta.arguments))

    def _add_name(self, name: str) -> None:
        """A name may come late, with each delta, or in pieces; no longer once it was sent."""
        if self.number is not None or not name:
            return
        self.name = name if name.startswith(self.name) else self.name + name
        if len(self.name) > _LONGEST_NAME:
            raise UpstreamFailed("it called a tool by a name that is too long")

    def add_arguments(self, piece: str) -> None:
        """Take over a piece of the arguments."""
        if piece:
            self.arguments.append(piece)
            self.unsent.append(piece)

    def text(self) -> str:
        """The arguments so far."""
        return "".join(self.arguments)

    def is_whole(self) -> bool:
        """Whether the arguments are a JSON object already."""
        # Most pieces end elsewhere, so that the whole text is seldom parsed.
        if not self.arguments or not self.arguments[-1].rstrip().endswith("}"):
            return False
        try:
            return isinstance(json.loads(self.text()), dict)
        except (ValueError, RecursionError):
            return False


class ForeignCalls:
    """The calls of one choice; `add` and `end` give the deltas that OpenAI would have sent.

    A call is begun once its first arguments are there, or the next call: until then its name may
    still go on. `characters` is the length of all names and arguments.
    """

    def __init__(self) -> None:
        self._calls: list[_ForeignCall] = []
        self._begun = 0
        self._ids: set[str] = set()
        self.characters = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, entries: Any) -> Iterator[dict[str, Any]]:
        """The deltas for a delta's `tool_calls`, whatever a server put there."""
        seen: list[_ForeignCall] = []
        entries = [entries] if isinstance(entries, dict) else entries
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                seen.append(self._add(_call_delta(entry), seen))
        yield from self._new_deltas(len(self._calls) - 1)

    def end(self) -> Iterator[dict[str, Any]]:
        """The deltas that are still due. Raises UpstreamFailed for a call without a name."""
        for call in self._calls:
            call.add_arguments(call.halves.rest())
            if not call.text().strip():
                # A call without parameters. Clients parse the arguments, and "" is not JSON.
                call.add_arguments("{}")
        yield from self._new_deltas(len(self._calls))
        if self._begun < len(self._calls):
            raise UpstreamFailed("it called a tool without a name")

    def _add(self, delta: _CallDelta, seen: Sequence[_ForeignCall]) -> _ForeignCall:
        """The call that a delta belongs to, with what it says. `seen`: those of the same chunk."""
        call = self._known(delta)
        if call is None or _begins_another(call, delta, is_seen=call in seen):
            call = _ForeignCall()
            self._calls.append(call)
            if len(self._calls) > _MOST_CALLS:
                raise UpstreamFailed("it made more tool calls than one answer may have")
        elif delta.name and delta.arguments and call.is_whole():
            # The whole call once more, as some servers send it with the finish_reason.
            return call
        call.add(delta)
        self.characters += len(delta.arguments)
        return call

    def _known(self, delta: _CallDelta) -> _ForeignCall | None:
        """The latest call with the delta's index, or its id, or the last one; None: a new one."""
        latest = self._calls[::-1]
        if delta.index is not None:
            for call in latest:
                if call.index == delta.index:
                    return call
        if delta.id:
            for call in latest:
                # Two calls with the same id have different indexes, and each has its name.
                is_other = delta.index is not None and call.index is not None and delta.name
                if call.id == delta.id and not is_other:
                    return call
        last = latest[0] if latest else None
        if last and (delta.index is None or (last.index is None and not delta.name)):
            return last
        return None

    def _new_deltas(self, unsettled: int) -> Iterator[dict[str, Any]]:
        """What was not sent yet. The call at the position `unsettled` needs arguments to begin."""
        for position, call in enumerate(self._calls):
            if call.number is None:
                # The calls keep their order: one whose name is not known holds back the next.
                if not call.name or (position == unsettled and not call.unsent):
                    return
                call.number, self._begun = self._begun, self._begun + 1
                self.characters += len(call.name)
                yield from call_deltas(call.number, self._unique_id(call), call.name, "")
            pieces, call.unsent = call.unsent, []
            yield from argument_deltas(call.number, "".join(pieces))

    def _unique_id(self, call: _ForeignCall) -> str:
        """The call's own id; a new one where it has none, or another call has the same."""
        is_usable = call.id and call.id not in self._ids and len(call.id) <= _LONGEST_NAME
        unique = call.id if is_usable else new_call_id()
        self._ids.add(unique)
        return unique


def _begins_another(call: _ForeignCall, delta: _CallDelta, *, is_seen: bool) -> bool:
    """Whether a delta begins another call than the one that its index, its id or its place says.

    Gemini gives all calls the index 0, Ollama gave them none, and vLLM once had a new id in each
    delta. So the arguments decide too: a call goes on until they are whole.
    `is_seen`: the same chunk had a delta of that call before.
    """
    is_same_id = bool(delta.id) and delta.id == call.id
    is_other_id = bool(delta.id and call.id) and not is_same_id
    is_same_index = delta.index is not None and delta.index == call.index
    if not delta.name:
        # Nothing else tells the calls apart but that "{" cannot follow a whole object.
        is_clear = is_same_index and not is_other_id
        return not is_clear and delta.arguments.lstrip().startswith("{") and call.is_whole()
    if not call.name:
        return False
    if is_seen and not (is_same_id and is_same_index):
        return True
    if call.is_whole():
        is_named_alike = (
            delta.name == call.name and not is_other_id and (is_same_id or is_same_index)
        )
        return not (is_named_alike and delta.arguments in ("", call.text()))
    return delta.name != call.name and (is_other_id or not (is_same_id or is_same_index))


def _call_delta(entry: dict[str, Any]) -> _CallDelta:
    """An entry of `tool_calls`, which some servers write without `function`."""
    function = entry.get("function")
    function = function if isinstance(function, dict) else entry
    return _CallDelta(
        _index(entry.get("index")),
        _string(entry.get("id")),
        _string(function.get("name")),
        _arguments_text(function.get("arguments")),
    )


def _index(value: Any) -> int | str | None:
    """What tells calls apart: 3, 3.0 and "3" alike, or another text; None for all else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        return int(value)
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_number or (isinstance(value, str) and value) else None


def _string(value: Any) -> str:
    """An id or a name; numbers as text, "" for all else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return whole_characters(value) if isinstance(value, str) else ""


def _arguments_text(value: Any) -> str:
    """Arguments as JSON text. Ollama's own API and some others send the object itself.

    An empty object and the text "null" may stand at the beginning of arguments that are still to
    come, so that they say as little as "" does.
    """
    if isinstance(value, str):
        return "" if value.strip() == "null" else value
    return json.dumps(value, ensure_ascii=False) if value else ""

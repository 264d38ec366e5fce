"""Several answers as one: their items interleaved, choices numbered on, usages added up.

One thread drives them all: each runs until it waits, and sleeps in its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

from horde_proxy.numbers import finite
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.upstreams.base import Accepted, LateKudos, Spent, StreamItem, Waiting

AT_ONCE = 4
"""How many run at a time: the more sleep in turn, the later each notices its own end."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
T = TypeVar("T")


def interleave(
    streams: Sequence[Generator[StreamItem, None, None]], n: int
) -> Generator[StreamItem, None, None]:
    """One stream of all, each of which has n choices. The first of them gives id and headers.

    The usage comes once, at the end. Closing this closes all of them.
    """
    merged = _Merged(n)
    with closing(take_turns(streams, AT_ONCE)) as turns:
        for position, item in turns:
            yield from merged.add(position, item)
    yield from merged.usage()


def take_turns(
    streams: Sequence[Generator[T, None, None]], at_once: int
) -> Generator[tuple[int, T], None, None]:
    """The items of several streams, each with the position of its stream.

    A stream goes on until it has yielded a Waiting; then it is the next one's turn. Closing this
    closes those that run.
    """
    pending = dict(enumerate(streams))
    running: dict[int, Generator[T, None, None]] = {}
    try:
        while running or pending:
            for position in list(pending)[: at_once - len(running)]:
                running[position] = pending.pop(position)
            for position, stream in list(running.items()):
                for item in stream:
                    yield position, item
                    if isinstance(item, Waiting):
                        break
                else:
                    del running[position]
    finally:
        for stream in running.values():
            stream.close()


class _Merged:
    """What several answers have in common, while they are put together."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._first: Chunk | None = None
        self._usages: list[Chunk] = []
        self._costs: dict[int, Callable[[], Spent]] = {}
        self._late: dict[int, LateKudos | None] = {}

    def add(self, position: int, item: StreamItem) -> Iterator[StreamItem]:
        """The items to give for an item of the answer at that position."""
        if isinstance(item, Waiting):
            yield item
        elif isinstance(item, Accepted):
            # Another upstream that takes over comes with a cost of its own.
            self._costs[position], self._late[position] = item.spent, item.late_kudos
            if position == 0:
                yield replace(
                    item,
                    spent=lambda: total_spent([*self._costs.values()]),
                    late_kudos=AllLateKudos(self._late),
                )
        elif item["choices"]:
            self._first = self._first or item
            yield _numbered(item, self._first, position * self._n)
        else:
            self._usages.append(item)

    def usage(self) -> Iterator[Chunk]:
        """The last chunk: the usage of all."""
        if self._first is not None and self._usages:
            usage = dict(self._usages[0]["usage"])
            for name in _COUNTS:
                usage[name] = sum(chunk["usage"][name] for chunk in self._usages)
            last = {**self._usages[0], "id": self._first["id"], "usage": usage}
            if "horde" in last:
                last["horde"] = _summed_horde([chunk.get("horde") or {} for chunk in self._usages])
            yield last


class AllLateKudos:
    """The kudos of several answers together, by position; not every upstream charges any."""

    def __init__(self, parts: Mapping[int, LateKudos | None]) -> None:
        self._parts = parts

    @property
    def kudos(self) -> float:
        return sum(part.kudos for part in [*self._parts.values()] if part)

    @property
    def expected(self) -> float:
        return sum(part.expected for part in [*self._parts.values()] if part)

    def on_change(self, listener: Callable[[], None]) -> None:
        for part in [*self._parts.values()]:
            if part:
                part.on_change(listener)


def _summed_horde(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first `horde` object, with what all of the answers cost."""
    horde = dict(parts[0])
    for name in ("kudos", "price"):
        if name in horde:
            horde[name] = round(sum(finite(part.get(name)) or 0.0 for part in parts), 2)
    if "kudos_settled" in horde:
        horde["kudos_settled"] = all(part.get("kudos_settled", True) for part in parts)
    return horde


def total_spent(costs: Sequence[Callable[[], Spent]]) -> Spent:
    """What several answers have cost by now, together."""
    parts = [cost() for cost in costs]
    return Spent(
        sum(part.prompt_tokens for part in parts),
        sum(part.completion_tokens for part in parts),
        sum(part.kudos for part in parts),
    )


def _numbered(chunk: Chunk, first: Chunk, offset: int) -> Chunk:
    """The chunk with the common id, and its choices numbered on after earlier answers."""
    choices = [{**choice, "index": choice["index"] + offset} for choice in chunk["choices"]]
    return {**chunk, "id": first["id"], "created": first["created"], "choices": choices}

"""Several answers as one: their items interleaved, choices numbered on, usages added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from horde_proxy.protocol.chunks import Chunk
from horde_proxy.upstreams.base import Accepted, Spent, StreamItem, Waiting

AT_ONCE = 4
"""One thread drives them all, and each sleeps in its turn."""
_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


def several(streams: Sequence[Iterator[StreamItem]], n: int) -> Iterator[StreamItem]:
    """One stream of all, each of which has n choices: that of the first names itself.

    The usage comes once, at the end. Closing it closes all that still run.
    """
    to_come = dict(enumerate(streams))
    running: dict[int, Iterator[StreamItem]] = {}
    last: list[Chunk] = []
    costs: list[Callable[[], Spent]] = []
    first: Chunk | None = None
    try:
        while running or to_come:
            for place in list(to_come)[: AT_ONCE - len(running)]:
                running[place] = to_come.pop(place)
            for place, stream in list(running.items()):
                for item in stream:
                    if isinstance(item, dict):
                        first = first or item
                        if item["choices"]:
                            yield _numbered(item, first, place * n)
                        else:
                            last.append(item)
                    elif isinstance(item, Accepted):
                        costs.append(item.spent)
                        if place == 0:
                            yield replace(item, spent=lambda: _sum(costs))
                    else:
                        yield item
                    if isinstance(item, Waiting):
                        break
                else:
                    del running[place]
        if first is not None and last:
            yield {**last[0], "id": first["id"], "usage": _added(last)}
    finally:
        for stream in running.values():
            close = getattr(stream, "close", None)
            if close:
                close()


def _sum(costs: Sequence[Callable[[], Spent]]) -> Spent:
    found = [cost() for cost in costs]
    return Spent(
        sum(each.prompt_tokens for each in found),
        sum(each.completion_tokens for each in found),
        sum(each.kudos for each in found),
    )


def _numbered(chunk: Chunk, first: Chunk, offset: int) -> Chunk:
    choices = [{**each, "index": each["index"] + offset} for each in chunk["choices"]]
    return {**chunk, "id": first["id"], "created": first["created"], "choices": choices}


def _added(chunks: Sequence[Chunk]) -> dict[str, Any]:
    usage = dict(chunks[0]["usage"])
    return {**usage, **{name: sum(each["usage"][name] for each in chunks) for name in _COUNTS}}

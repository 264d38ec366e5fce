"""What the client has seen of one answer, however many upstreams are asked for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from horde_proxy.protocol.chunks import Chunk
from horde_proxy.upstreams.base import Accepted, Spent, StreamItem, Waiting


class SplicedStream:
    """`content`: whether it has seen any, after which there is no way back."""

    def __init__(self) -> None:
        self.content = False
        self._accepted = False
        self._spent: Callable[[], Spent] = Spent
        self._first: Chunk | None = None
        self._roles: set[int] = set()

    def only_new(self, items: Iterator[StreamItem]) -> Iterator[StreamItem]:
        """The items but those that an earlier upstream gave; all chunks share one id.

        The cost is that of the last upstream, as in the usage of an answer that is whole.
        """
        for item in items:
            if isinstance(item, Accepted):
                self._spent = item.spent
                if not self._accepted:
                    yield replace(item, spent=lambda: self._spent())
                self._accepted = True
            elif isinstance(item, Waiting):
                yield item
            elif not self._is_repeated_role(item):
                yield self._same_id(item)

    def _is_repeated_role(self, chunk: Chunk) -> bool:
        roles = {each["index"] for each in chunk["choices"] if "role" in each["delta"]}
        is_repeated = bool(roles) and roles <= self._roles
        self._roles |= roles
        self.content = self.content or not roles
        return is_repeated

    def _same_id(self, chunk: Chunk) -> Chunk:
        if self._first is None:
            self._first = chunk
        if chunk["id"] == self._first["id"]:
            return chunk
        return {**chunk, "id": self._first["id"], "created": self._first["created"]}

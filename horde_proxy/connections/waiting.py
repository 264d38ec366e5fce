"""Connections that wait for their clients: in the order of their last sign of life, and bounded.

Nothing here closes a connection or reads a clock: it names those whose time is over, or that have
to go because there are too many.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

C = TypeVar("C")


@dataclass
class _Wait:
    """Since when a connection waits, when it last sent something (s), and its network."""

    began: float
    progressed: float
    network: str | None


class WaitingConnections(Generic[C]):
    """Connections, the one that has been silent for longest first.

    `most` bounds them all, `most_of_one` those of one network. Only the main thread uses it.
    """

    def __init__(self, most: int, most_of_one: int) -> None:
        self.most, self.most_of_one = most, most_of_one
        self._waits: OrderedDict[C, _Wait] = OrderedDict()
        self._networks: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waits)

    def __contains__(self, connection: object) -> bool:
        return connection in self._waits

    def __iter__(self) -> Iterator[C]:
        return iter(list(self._waits))

    def add(self, connection: C, now: float, network: str | None = None) -> None:
        """Let a connection wait. One without a network counts only towards the bound for all."""
        self._waits[connection] = _Wait(now, now, network)
        if network is not None:
            self._networks[network] += 1

    def progressed(self, connection: C, now: float) -> None:
        """Note that the client has sent something."""
        self._waits[connection].progressed = now
        self._waits.move_to_end(connection)

    def remove(self, connection: C) -> None:
        """The connection waits no longer. One that did not wait is ignored."""
        wait = self._waits.pop(connection, None)
        if wait is not None and wait.network is not None:
            self._networks[wait.network] -= 1
            if not self._networks[wait.network]:
                del self._networks[wait.network]

    def silent(self, now: float, seconds: float) -> list[C]:
        """Those that have sent nothing for so long."""
        silent = []
        for connection, wait in self._waits.items():
            if now - wait.progressed < seconds:
                break
            silent.append(connection)
        return silent

    def older(self, now: float, seconds: float) -> list[C]:
        """Those that have waited for so long, whatever they sent."""
        return [item for item, wait in self._waits.items() if now - wait.began >= seconds]

    def one_too_many(self, network: str | None = None) -> C | None:
        """The connection that has to go before another one of this network may wait, if any.

        It is the one that has been silent for longest: a client that sends its request at once is
        gone again before its turn comes.
        """
        if network is not None and self._networks[network] >= self.most_of_one:
            return self.most_silent(lambda item: self._waits[item].network == network)
        return self.most_silent() if len(self._waits) >= self.most else None

    def most_silent(self, is_meant: Callable[[C], bool] = lambda _: True) -> C | None:
        """Of those that are meant, the one that has been silent for longest, if any."""
        return next((connection for connection in self._waits if is_meant(connection)), None)

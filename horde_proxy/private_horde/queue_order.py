"""The order of the queue: what sorts requests, and several queues as one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge

from horde_proxy.private_horde.records import TextRequest


def order_of(request: TextRequest) -> tuple[float, float, str]:
    """The key for sorting requests: the least comes first."""
    return request.order


def merged(queues: Iterable[Iterable[TextRequest]]) -> Iterator[TextRequest]:
    """The requests of several queues in order; one that names two models is in two of them."""
    before = None
    for request in merge(*queues, key=order_of):
        if before is None or request.order != before.order:
            yield request
        before = request

"""The order of the queue: what sorts requests, and several queues as one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import merge

from horde_proxy.private_horde.records import ALCHEMY, IMAGE, TEXT, HordeRequest

_OTHER_KINDS = (f"{IMAGE}:", f"{ALCHEMY}:")


def order_of(request: HordeRequest) -> tuple[float, float, str]:
    """The key for sorting requests: the least comes first."""
    return request.order


def queue_name(kind: str, model: str) -> str:
    """The queue of a model in the index of the queue; the model "" is any.

    Requests of another kind than texts wait in queues of their own, as "image:SDXL 1.0", so that no
    worker searches requests that it cannot take.
    """
    return model if kind == TEXT else f"{kind}:{model}"


def model_of(kind: str, name: str) -> str | None:
    """The model of a name that `queue_name` made; None if it is of another kind."""
    if kind == TEXT:
        return None if name.startswith(_OTHER_KINDS) else name
    head = f"{kind}:"
    return name.removeprefix(head) if name.startswith(head) else None


def queues_of(request: HordeRequest) -> list[str]:
    """The queues in which a request waits."""
    return [queue_name(request.kind, model) for model in dict.fromkeys(request.models) or ("",)]


def merged(queues: Iterable[Iterable[HordeRequest]]) -> Iterator[HordeRequest]:
    """The requests of several queues in order; one that names two models is in two of them."""
    before = None
    for request in merge(*queues, key=order_of):
        if before is None or request.order != before.order:
            yield request
        before = request

"""Messages to the owners of workers, which pops carry until they expire. Rules over the store."""

from __future__ import annotations

from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import Worker, WorkerMessage

TO_ALL = ""
"""The worker's id of a message to all workers."""


def current(op: Operation, worker: Worker) -> list[WorkerMessage]:
    """The messages to a worker that have not expired, the oldest first."""
    messages = [
        *op.tx.find(WorkerMessage, worker_id=worker.id),
        *op.tx.find(WorkerMessage, worker_id=TO_ALL),
    ]
    alive = (message for message in messages if message.expires > op.now)
    return sorted(alive, key=lambda message: (message.created, message.id))

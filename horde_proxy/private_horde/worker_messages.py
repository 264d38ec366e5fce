"""Messages to the owners of workers, which pops carry until they expire. Rules over the store."""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import HordeAccount, Worker, WorkerMessage

TO_ALL = ""
"""The worker's id of a message to all workers."""


def current(op: Operation, worker: Worker) -> list[WorkerMessage]:
    """The messages to a worker that have not expired, the oldest first."""
    # Each pop comes here, and most hordes have no messages: then one row tells.
    last = op.tx.page(WorkerMessage, "expires", descending=True, offset=0, limit=1)
    if not last or last[0].expires <= op.now:
        return []
    messages = [
        *op.tx.find(WorkerMessage, worker_id=worker.id),
        *op.tx.find(WorkerMessage, worker_id=TO_ALL),
    ]
    alive = (message for message in messages if message.expires > op.now)
    return sorted(alive, key=lambda message: (message.created, message.id))


_MOST_LISTED = 1000


def send(op: Operation, author: HordeAccount, fields: dict[str, Any]) -> WorkerMessage:
    """A new message. `fields`: see `moderation_schema.MESSAGE`.

    Owners write to their own workers, moderators to any, or to all at once. Raises NotModerator
    and WorkerNotFound.
    """
    worker_id = (fields["worker_id"] or TO_ALL).lower()
    worker = op.tx.get(Worker, worker_id) if worker_id else None
    if worker_id and worker is None:
        raise refusal("WorkerNotFound", id=worker_id)
    is_own = worker is not None and worker.owner_id == author.id
    if not author.moderator and not is_own:
        raise refusal("NotModerator")
    _drop_expired(op)
    origin = fields["origin"] or author.username
    expires = op.now + 3600.0 * fields["expiry"]
    message = WorkerMessage(
        op.rules.new_id(), worker_id, fields["message"], origin, op.now, expires, author.id
    )
    op.tx.add(message)
    return message


def written_by(op: Operation, reader: HordeAccount) -> list[WorkerMessage]:
    """What an account has written; for moderators all messages (captures worker_messages_*)."""
    messages = op.tx.page(WorkerMessage, "created", descending=True, offset=0, limit=_MOST_LISTED)
    return [
        message
        for message in messages
        if message.expires > op.now and (reader.moderator or message.account_id == reader.id)
    ]


def find(op: Operation, message_id: str) -> WorkerMessage:
    """A message by its id. Raises MessageNotFound (404)."""
    message = op.tx.get(WorkerMessage, message_id.lower())
    if message is None or message.expires <= op.now:
        raise refusal("MessageNotFound", id=message_id)
    return message


def delete(op: Operation, actor: HordeAccount, message_id: str) -> None:
    """Remove a message. Raises MessageNotFound, and NotModerator if another account wrote it."""
    message = find(op, message_id)
    if not actor.moderator and message.account_id != actor.id:
        raise refusal("NotModerator")
    op.tx.delete(message)


def _drop_expired(op: Operation) -> None:
    oldest = op.tx.page(WorkerMessage, "expires", descending=False, offset=0, limit=100)
    for message in oldest:
        if message.expires <= op.now:
            op.tx.delete(message)

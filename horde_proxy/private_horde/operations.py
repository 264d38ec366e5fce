"""The routes of time-outs of addresses, a method for each; all are for moderators.

Bodies come in as parsed JSON, answers go out as plain dicts, refusals as HordeError. The rules are
in address_timeouts. Only here may a caller see addresses of others.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde import accounts, address_timeouts, moderation_schema, schema
from horde_proxy.private_horde.address_timeouts import AddressTimeout
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.records import Worker

Body = dict[str, Any]

_DONE = {"message": "OK"}
_HOUR, _DAY = 3600.0, 86_400.0


class Operations:
    """What moderators do against abuse. Thread-safe."""

    def __init__(self, changing: Begin, reading: Begin) -> None:
        self._changing, self._reading = changing, reading

    def timeouts(self, api_key: str) -> list[Body]:
        """GET operations/ipaddr: all time-outs, the longest first. Raises NotModerator."""
        with self._reading() as op:
            accounts.require_moderator(op, api_key)
            return [_shown(op, timeout) for timeout in address_timeouts.listed(op)]

    def timeouts_of(self, api_key: str, address: str) -> list[Body]:
        """GET operations/ipaddr/{address}: those that hold for it. Raises BadRequest, too."""
        network = address_timeouts.canonical(address)
        with self._reading() as op:
            accounts.require_moderator(op, api_key)
            return [_shown(op, timeout) for timeout in address_timeouts.matching(op, network)]

    def add_timeout(self, api_key: str, body: Any) -> Body:
        """POST operations/ipaddr. Raises what `address_timeouts.add` raises."""
        fields = schema.read(moderation_schema.NEW_TIMEOUT, body)
        with self._changing() as op:
            author = accounts.require_moderator(op, api_key)
            address_timeouts.add(op, author, fields["ipaddr"], fields["hours"] * _HOUR)
            return _DONE

    def delete_timeout(self, api_key: str, body: Any) -> Body:
        """DELETE operations/ipaddr. Raises what `address_timeouts.delete` raises."""
        fields = schema.read(moderation_schema.TIMEOUT, body)
        with self._changing() as op:
            accounts.require_moderator(op, api_key)
            address_timeouts.delete(op, fields["ipaddr"])
            return _DONE

    def block_worker(self, api_key: str, worker_id: str, body: Any) -> Body:
        """PUT operations/block_worker_ipaddr/{id}: a time-out for its last address.

        Raises WorkerNotFound, and BadRequest where its address is not known.
        """
        fields = schema.read(moderation_schema.WORKER_TIMEOUT, body)
        with self._changing() as op:
            author = accounts.require_moderator(op, api_key)
            address = address_timeouts.address_of(_worker(op, worker_id))
            address_timeouts.add(op, author, address, fields["days"] * _DAY)
            return _DONE

    def unblock_worker(self, api_key: str, worker_id: str) -> Body:
        """DELETE operations/block_worker_ipaddr/{id}. Raises as `block_worker`."""
        with self._changing() as op:
            accounts.require_moderator(op, api_key)
            address_timeouts.delete(op, address_timeouts.address_of(_worker(op, worker_id)))
            return _DONE


def _worker(op: Operation, worker_id: str) -> Worker:
    worker = op.tx.get(Worker, worker_id.lower())
    if worker is None:
        raise refusal("WorkerNotFound", id=worker_id)
    return worker


def _shown(op: Operation, timeout: AddressTimeout) -> Body:
    seconds = address_timeouts.seconds_left(op, timeout)
    return {"ipaddr": timeout.id, "seconds": seconds}

"""The routes of workers: what everybody sees of them, and what owners and moderators change.

Bodies come in as parsed JSON, answers go out as plain dicts, refusals as HordeError. The rules are
in worker_changes.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde import (
    accounts,
    fleet_responses,
    schema,
    worker_changes,
    worker_messages,
)
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.fleet_responses import Privilege, WorkerView
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.records import HordeAccount, Worker, WorkerTeam

Body = dict[str, Any]


class Fleet:
    """The workers of a horde, as its routes show and change them. Thread-safe."""

    def __init__(self, changing: Begin, reading: Begin) -> None:
        self._changing, self._reading = changing, reading

    def workers(self, kind: str | None = None, name: str | None = None) -> list[Body]:
        """GET workers: the workers that are online; [] for a kind that there is not."""
        with self._reading() as op:
            workers = op.view.read(lambda view: list(view.workers.all))
            named = [
                worker
                for worker in workers
                if name in (None, worker.name) and kind in (None, worker.kind)
            ]
            return [_view(op, worker, Privilege.PUBLIC) for worker in named]

    def worker(self, worker_id: str, api_key: str | None = None) -> Body:
        """GET workers/{id}: one worker, online or not; more of it for its owner and moderators.

        Raises WorkerNotFound.
        """
        with self._reading() as op:
            worker = op.tx.get(Worker, worker_id.lower())
            return _for_caller(op, worker, worker_id, api_key)

    def worker_named(self, name: str, api_key: str | None = None) -> Body:
        """GET workers/name/{name}: as `worker`."""
        with self._reading() as op:
            worker = next(iter(op.tx.find(Worker, name=name)), None)
            return _for_caller(op, worker, name, api_key)

    def change_worker(self, api_key: str | None, worker_id: str, body: Any) -> Body:
        """PUT workers/{id}: what was changed. Raises what `worker_changes.change` raises."""
        fields = schema.read(schema.WORKER_CHANGE, body)
        with self._changing() as op:
            actor = accounts.require(op, api_key or "")
            return worker_changes.change(op, actor, _locked(op, worker_id), fields)

    def delete_worker(self, api_key: str | None, worker_id: str) -> Body:
        """DELETE workers/{id}: its id and name. Raises what `worker_changes.delete` raises."""
        with self._changing() as op:
            actor = accounts.require(op, api_key or "")
            return worker_changes.delete(op, actor, _locked(op, worker_id))


def _locked(op: Operation, worker_id: str) -> Worker:
    worker = op.tx.lock(Worker, worker_id.lower())
    if worker is None:
        raise refusal("WorkerNotFound", id=worker_id)
    return worker


def _for_caller(op: Operation, worker: Worker | None, searched: str, api_key: str | None) -> Body:
    if worker is None:
        raise refusal("WorkerNotFound", id=searched)
    caller = accounts.find(op, api_key) if api_key else None
    privilege = Privilege.PUBLIC
    if caller is not None and accounts.moderates(caller):
        privilege = Privilege.MODERATOR
    elif caller is not None and caller.id == worker.owner_id:
        privilege = Privilege.OWNER
    return _view(op, worker, privilege)


def _view(op: Operation, worker: Worker, privilege: Privilege) -> Body:
    """A worker as an answer shows it, with its team, owner and messages."""
    online = op.view.read(lambda view: view.workers.get(worker.id) is not None)
    team = None if worker.team_id is None else op.tx.get(WorkerTeam, worker.team_id)
    owner = op.tx.get(HordeAccount, worker.owner_id)
    # An account may say that everybody may know its workers (PUT users/{id}, public_workers).
    if owner is not None and privilege is not Privilege.MODERATOR and not owner.public_workers:
        owner = None
    is_public = privilege is Privilege.PUBLIC
    messages = [] if is_public else worker_messages.current(op, worker)
    return fleet_responses.worker(WorkerView(worker, online, privilege, team, owner, messages))

"""What owners and moderators change at a worker, and who may. Pure rules over the store.

Callers have locked the worker. The refusals are those of captures worker_put_* and worker_delete*.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import HordeAccount, Job, Worker, WorkerTeam

Fields = dict[str, Any]


def change(op: Operation, actor: HordeAccount, worker: Worker, fields: Fields) -> Fields:
    """What was changed, by field. `fields`: see `schema.WORKER_CHANGE`.

    Raises NotOwner and NotModerator (403), WorkerNameAlreadyExists and NoWorkerModSelected (400),
    and TeamNotFound (404).
    """
    changes = {name: value for name, value in fields.items() if value is not None}
    if not changes or set(changes) == {"maintenance_msg"}:
        raise refusal("NoWorkerModSelected")
    if "paused" in changes and not actor.moderator:
        raise refusal("NotModerator")
    if set(changes) != {"paused"} and actor.id != worker.owner_id and not actor.moderator:
        raise refusal("NotOwner")
    return _apply(op, worker, changes)


def _apply(op: Operation, worker: Worker, changes: Fields) -> Fields:
    done: Fields = {}
    if "maintenance" in changes:
        worker.maintenance = done["maintenance"] = changes["maintenance"]
        worker.maintenance_message = changes.get("maintenance_msg", "")
    if "paused" in changes:
        worker.paused = done["paused"] = changes["paused"]
    if "info" in changes:
        worker.info = done["info"] = changes["info"]
    if "name" in changes:
        worker.name = done["name"] = _free_name(op, worker, changes["name"])
    if "team" in changes:
        done["team"] = _join(op, worker, changes["team"])
    op.tx.save(worker)
    return done


def _free_name(op: Operation, worker: Worker, name: str) -> str:
    if any(other.id != worker.id for other in op.tx.find(Worker, name=name)):
        raise refusal("WorkerNameAlreadyExists", name=name)
    return name


def _join(op: Operation, worker: Worker, team_id: str) -> str:
    """Put the worker into a team, or out of its team. The team's name."""
    if not team_id:
        worker.team_id = None
        # As captured (worker_put_team_none): the word, not null.
        return "None"
    team = op.tx.get(WorkerTeam, team_id.lower())
    if team is None:
        raise refusal("TeamNotFound", id=team_id)
    worker.team_id = team.id
    return team.name


def delete(op: Operation, actor: HordeAccount, worker: Worker) -> Fields:
    """Remove a worker. Raises NotModerator (403), and Locked (423) while it has jobs."""
    if actor.id != worker.owner_id and not actor.moderator:
        raise refusal("NotModerator")
    # Running jobs are those with a deadline.
    running = op.tx.due_after(Job, op.now - op.rules.job_ttl)
    if any(job.worker_id == worker.id for job in running):
        raise refusal("Locked")
    remove(op, worker)
    return {"deleted_id": worker.id, "deleted_name": worker.name}


def remove(op: Operation, worker: Worker) -> None:
    """Remove a worker, whatever it is doing."""
    # So that it is offline at once for what watches the commits (see `view`).
    worker.last_seen = 0.0
    op.tx.delete(worker)

"""Teams of workers. Pure rules over the store; the refusals are those of captures team_*."""

from __future__ import annotations

from typing import Any

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import HordeAccount, Worker, WorkerTeam

MOST_LISTED = 1000
"""Teams of GET teams."""


def create(op: Operation, creator: HordeAccount, fields: dict[str, Any]) -> WorkerTeam:
    """A new team. Raises UntrustedTeamCreation (403) and TeamNameAlreadyExists (400)."""
    if not creator.trusted and not creator.moderator:
        raise refusal("UntrustedTeamCreation")
    _check_name(op, fields["name"])
    team = WorkerTeam(op.rules.new_id(), fields["name"], fields["info"] or "", creator.id, op.now)
    op.tx.add(team)
    return team


def find(op: Operation, team_id: str) -> WorkerTeam:
    """A team by its id. Raises TeamNotFound (404)."""
    team = op.tx.get(WorkerTeam, team_id.lower())
    if team is None:
        raise refusal("TeamNotFound", id=team_id)
    return team


def change(
    op: Operation, actor: HordeAccount, team_id: str, fields: dict[str, Any]
) -> dict[str, Any]:
    """What was changed of name and info. Raises NotModerator (403) and NoTeamModSelected (400)."""
    team = _changeable(op, actor, team_id)
    changes = {name: value for name, value in fields.items() if value is not None}
    if not changes:
        raise refusal("NoTeamModSelected")
    if "name" in changes and changes["name"] != team.name:
        _check_name(op, changes["name"])
    for name, value in changes.items():
        setattr(team, name, value)
    op.tx.save(team)
    return changes


def delete(op: Operation, actor: HordeAccount, team_id: str) -> WorkerTeam:
    """Remove a team; its workers are in none then. Raises NotModerator (403)."""
    team = _changeable(op, actor, team_id)
    for worker in op.tx.find(Worker, team_id=team.id):
        worker.team_id = None
        op.tx.save(worker)
    op.tx.delete(team)
    return team


def _changeable(op: Operation, actor: HordeAccount, team_id: str) -> WorkerTeam:
    find(op, team_id)
    team = op.tx.lock(WorkerTeam, team_id.lower())
    if team is None:
        raise refusal("TeamNotFound", id=team_id)
    if team.creator_id != actor.id and not actor.moderator:
        raise refusal("NotModerator")
    return team


def _check_name(op: Operation, name: str) -> None:
    if op.tx.find(WorkerTeam, name=name):
        raise refusal("TeamNameAlreadyExists", name=name)

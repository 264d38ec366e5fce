"""The JSON objects of answers about workers, each made by one function.

Records in, plain dicts out, with fields in the real horde's order (captures worker_*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from typing import Any

from horde_proxy.private_horde.records import HordeAccount, Worker, WorkerMessage, WorkerTeam

Body = dict[str, Any]


class Privilege(Enum):
    """Who reads an answer about a worker."""

    PUBLIC = "public"
    OWNER = "owner"
    MODERATOR = "moderator"


@dataclass(frozen=True)
class WorkerView:
    """A worker with what belongs to it. `owner` is set where the reader may know it."""

    worker: Worker
    online: bool
    privilege: Privilege = Privilege.PUBLIC
    team: WorkerTeam | None = None
    owner: HordeAccount | None = None
    messages: Sequence[WorkerMessage] = ()


def worker(view: WorkerView) -> Body:
    """An element of GET workers. `performance` is a sentence, `uptime` whole seconds.

    Moderators also see what a worker must not learn: that it is paused or suspicious. Optional
    fields without a value are left out, as in the real horde.
    """
    record, team = view.worker, view.team
    is_moderator = view.privilege is Privilege.MODERATOR
    suspects = is_moderator and record.suspicions
    messages = [popped_message(message) for message in view.messages]
    return {
        "requests_fulfilled": record.fulfilled,
        "kudos_rewards": round(record.kudos, 2),
        "kudos_details": _kudos_details(record),
        "performance": _performance(record),
        "threads": record.threads,
        "uptime": int(record.uptime),
        "maintenance_mode": record.maintenance,
        **({"paused": record.paused} if is_moderator else {}),
        **({"info": record.info} if record.info else {}),
        "nsfw": record.nsfw,
        **({"owner": view.owner.username} if view.owner else {}),
        **({"ipaddr": record.address} if is_moderator else {}),
        "trusted": record.trusted,
        "flagged": False,
        **({"suspicious": len(record.suspicions)} if is_moderator else {}),
        # Ours: why, where there is a reason.
        **({"suspicions": list(record.suspicions)} if suspects else {}),
        "uncompleted_jobs": record.uncompleted,
        "models": list(record.models),
        "team": {"name": team.name if team else None, "id": team.id if team else None},
        "bridge_agent": record.bridge_agent,
        # Ours: workers of AI-Horde have none.
        **({"extensions": list(record.extensions)} if record.extensions else {}),
        "max_length": record.max_length,
        "max_context_length": record.max_context_length,
        **({"messages": messages} if messages or is_moderator else {}),
        "type": "text",
        "name": record.name,
        "id": record.id,
        "online": view.online,
    }


def popped_message(message: WorkerMessage) -> Body:
    """An element of `messages` of a pop (capture image_pop_with_message)."""
    return {
        "id": message.id,
        "message": message.message,
        "origin": message.origin,
        # As the real horde writes it: "Sun, 29 Nov 2026 17:37:10 -0000".
        "expiry": formatdate(message.expires),
    }


def _kudos_details(record: Worker) -> Body:
    generated = record.kudos - record.uptime_kudos
    return {
        "generated": round(generated, 2) if record.fulfilled else None,
        "uptime": round(record.uptime_kudos, 2) if record.uptime_kudos else None,
    }


def _performance(record: Worker) -> str:
    # Clients parse the number out of this sentence.
    speed = record.speed
    return "No requests fulfilled yet" if speed is None else f"{speed:.1f} tokens per second"

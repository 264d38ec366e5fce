"""The JSON objects of answers about workers, each made by one function.

Records in, plain dicts out, with fields in the real horde's order (captures worker_*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from typing import Any

from horde_proxy.private_horde.records import (
    ALCHEMY,
    IMAGE,
    HordeAccount,
    Worker,
    WorkerMessage,
    WorkerTeam,
)

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
    # The models of an alchemist are forms.
    offered = "forms" if record.kind == ALCHEMY else "models"
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
        offered: list(record.models),
        "team": {"name": team.name if team else None, "id": team.id if team else None},
        "bridge_agent": record.bridge_agent,
        # Ours: workers of AI-Horde have none.
        **({"extensions": list(record.extensions)} if record.extensions else {}),
        **_abilities(record),
        **({"messages": messages} if messages or is_moderator else {}),
        "type": record.kind,
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
    if speed is None:
        return "No requests fulfilled yet"
    if record.kind == IMAGE:
        return f"{speed / 1_000_000:.1f} megapixelsteps per second"
    if record.kind == ALCHEMY:
        return f"{1 / speed:.1f} seconds per form"
    return f"{speed:.1f} tokens per second"


def _abilities(record: Worker) -> Body:
    """What only workers of one kind have."""
    can = record.abilities
    if record.kind == IMAGE:
        return {
            "max_pixels": can["max_pixels"],
            "megapixelsteps_generated": round(record.work_done / 1_000_000, 2),
            "img2img": can["allow_img2img"],
            "painting": can["allow_painting"],
            "post-processing": can["allow_post_processing"],
            "lora": can["allow_lora"],
            "controlnet": can["allow_controlnet"],
            "sdxl_controlnet": can["allow_sdxl_controlnet"],
        }
    if record.kind == ALCHEMY:
        return {}
    return {
        "max_length": record.max_length,
        "max_context_length": record.max_context_length,
    }

"""The modes of the horde, kept in the store: maintenance, by invitation only, raid.

In maintenance, new requests are refused; those that wait are served. With `invite_only_mode`, only
accounts that a moderator has invited (PUT users/{id}, worker_invited) add workers. `raid_mode` is
kept for the API: in the real horde, it concerns images only.
"""

from __future__ import annotations

import json

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import HordeAccount, HordeSetting, Worker

_SETTING = "modes"
_NAMES = ("maintenance_mode", "invite_only_mode", "raid_mode")


def current(op: Operation) -> dict[str, bool]:
    """Whether each mode is on, by its name."""
    setting = op.tx.get(HordeSetting, _SETTING)
    stored = {} if setting is None else json.loads(setting.value)
    return {name: bool(stored.get(name)) for name in _NAMES}


def change(op: Operation, changes: dict[str, bool]) -> None:
    """Switch some modes."""
    modes = json.dumps({**current(op), **changes})
    setting = op.tx.lock(HordeSetting, _SETTING)
    if setting is None:
        op.tx.add(HordeSetting(_SETTING, modes))
    else:
        setting.value = modes
        op.tx.save(setting)


def check_new_worker(op: Operation, owner: HordeAccount) -> None:
    """Raises WorkerInviteOnly (403) if the mode forbids another worker of this account."""
    if not current(op)["invite_only_mode"] or owner.moderator:
        return
    if len(op.tx.find(Worker, owner_id=owner.id)) >= owner.worker_invited:
        raise refusal("WorkerInviteOnly")

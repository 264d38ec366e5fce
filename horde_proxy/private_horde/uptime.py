"""How long workers were online without a break, and what that earns.

A pop counts the time since the one before. The reward is paid in a transaction of its own, after
the pop: accounts are locked before workers (see `store.base`).
"""

from __future__ import annotations

from horde_proxy.aihorde import kudos
from horde_proxy.private_horde import balances
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import ALCHEMY, IMAGE, HordeAccount, Worker

_IMAGE_KUDOS, _MODEL_KUDOS, _LORA_KUDOS, _ALCHEMY_KUDOS = 50.0, 2.0, 30.0, 40.0
"""What UPTIME_SECONDS of an image worker earn, with what for each model and for LoRAs, and what
those of an alchemist do (horde-api-2.md, section 4)."""


def count(worker: Worker, silence: float, offline_after: float) -> None:
    """Add the seconds since a worker's last pop to its uptime, if it was online meanwhile."""
    if 0 <= silence < offline_after and not worker.maintenance and not worker.paused:
        worker.uptime += silence
    else:
        # After a break, the next reward needs its full time again (contract: worker.py, check_in).
        worker.rewarded_uptime = worker.uptime


def is_due(worker: Worker) -> bool:
    """Whether a worker has been online for long enough to be paid."""
    return worker.uptime - worker.rewarded_uptime >= kudos.UPTIME_SECONDS


def pay(op: Operation, worker_id: str, owner_id: int) -> None:
    """Pay a worker's owner for its uptime, unless another thread just did."""
    owner = op.tx.lock(HordeAccount, owner_id)
    worker = op.tx.lock(Worker, worker_id)
    if owner is None or worker is None or not is_due(worker):
        return
    amount = _reward(op, worker)
    worker.rewarded_uptime = worker.uptime
    worker.kudos += amount
    worker.uptime_kudos += amount
    op.tx.save(worker)
    balances.earn(op, owner, amount, balances.UPTIME)


def _reward(op: Operation, worker: Worker) -> float:
    if worker.kind == IMAGE:
        has_loras = bool(worker.abilities.get("allow_lora"))
        return _IMAGE_KUDOS + _MODEL_KUDOS * len(worker.models) + _LORA_KUDOS * has_loras
    if worker.kind == ALCHEMY:
        return _ALCHEMY_KUDOS
    return kudos.uptime_reward(
        worker.max_context_length,
        size=op.rules.sizes.largest(worker.models),
        validated=worker.validated,
    )

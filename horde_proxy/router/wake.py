"""Waiting for the machine of an endpoint to wake up, before a request is sent there.

    a client's request    awake(): a short look; wakes the machine; Waitings until it has booted
    put off               wake_later(): another endpoint answers, and the machine boots meanwhile

How a machine is woken, and what its states are, is in upstreams/power.py.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING

from horde_proxy.upstreams.base import Caller, Sleeper, Waiting
from horde_proxy.upstreams.power import Power

if TYPE_CHECKING:
    from horde_proxy.router.endpoint import Endpoint

WAKING = "waking"
"""The state of a Waiting while a machine boots."""
_SECONDS = 0.5
"""Between two looks at the state of a machine: its boot may end at any moment."""


def awake(power: Power, caller: Caller) -> Generator[Waiting, None, None]:
    """Waitings until the machine is awake; none if it is.

    Raises Unreachable if it stays asleep, and DeadlinePassed.
    """
    if power.check():
        return
    wake_up, sleeper = power.wake(), caller.sleeper or Sleeper()
    while not wake_up.has_ended:
        yield Waiting(WAKING, None, math.ceil(power.seconds_to_wake()))
        sleeper.wait(_SECONDS)
        caller.check_deadline(power.clock())
    if wake_up.error is not None:
        raise wake_up.error


def wake_later(endpoints: Iterable[Endpoint]) -> None:
    """Begin to wake the machines of these endpoints that sleep."""
    for endpoint in endpoints:
        if endpoint.power is not None and not endpoint.power.is_awake:
            endpoint.power.wake()

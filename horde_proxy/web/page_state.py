"""The state that the page keeps between requests, also when the settings are reloaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from horde_proxy.api.slots import Slots
from horde_proxy.web.history import History
from horde_proxy.web.sessions import Sessions

MOST_WATCHERS = 16
"""Open pages with a stream of events; each of them holds a thread of the server."""


@dataclass(frozen=True)
class PageState:
    """The last day, sessions, and pages with a stream of events."""

    history: History = field(default_factory=History)
    sessions: Sessions = field(default_factory=Sessions)
    watchers: Slots = field(default_factory=lambda: Slots(MOST_WATCHERS))

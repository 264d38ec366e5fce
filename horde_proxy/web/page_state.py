"""The state that the page keeps between requests, also when the settings are reloaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from horde_proxy.api.slots import Slots
from horde_proxy.web.first_run_claim import FirstRunClaim
from horde_proxy.web.history import History
from horde_proxy.web.live_parts import Versions
from horde_proxy.web.sessions import Sessions
from horde_proxy.web.week import Week

MOST_WATCHERS = 16
"""Open pages with a stream of events; each of them holds a thread of the server."""


@dataclass(frozen=True)
class PageState:
    """The last day and week, sessions, pages with a stream of events, and what tabs show."""

    history: History = field(default_factory=History)
    week: Week = field(default_factory=Week)
    sessions: Sessions = field(default_factory=Sessions)
    first_run: FirstRunClaim = field(default_factory=FirstRunClaim)
    watchers: Slots = field(default_factory=lambda: Slots(MOST_WATCHERS))
    versions: Versions = field(default_factory=Versions)

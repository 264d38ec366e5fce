"""What the page keeps from one request to the next. New settings leave it as it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from horde_proxy.api.slots import Places
from horde_proxy.web.account_cache import Balances
from horde_proxy.web.history import History
from horde_proxy.web.sessions import Sessions

MOST_WATCHERS = 16


@dataclass(frozen=True)
class PageState:
    """The last day, who has logged in, places for those who watch, and the horde's accounts."""

    history: History = field(default_factory=History)
    sessions: Sessions = field(default_factory=Sessions)
    watchers: Places = field(default_factory=lambda: Places(MOST_WATCHERS))
    balances: Balances = field(default_factory=Balances)

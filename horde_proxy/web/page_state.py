"""What the page keeps from one request to the next. New settings leave it as it is."""

from __future__ import annotations

from dataclasses import dataclass, field

from horde_proxy.api.slots import Slots
from horde_proxy.web.account_cache import AccountCache
from horde_proxy.web.history import History
from horde_proxy.web.sessions import Sessions

MOST_WATCHERS = 16


@dataclass(frozen=True)
class PageState:
    """The last day, who has logged in, places for those who watch, and the horde's accounts."""

    history: History = field(default_factory=History)
    sessions: Sessions = field(default_factory=Sessions)
    watchers: Slots = field(default_factory=lambda: Slots(MOST_WATCHERS))
    balances: AccountCache = field(default_factory=AccountCache)

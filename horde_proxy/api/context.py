"""What the views share. It holds values and objects that `app` made, and no behaviour.

Three parts: what the operator configured (`serving`), who may do how much (`access`), and what
changes while requests run (`live`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from horde_proxy.api.addresses import TrustedProxies
from horde_proxy.api.in_flight import InFlight
from horde_proxy.api.kept_inspections import Inspections
from horde_proxy.api.loop_guard import LoopGuard
from horde_proxy.api.request_guard import RequestGuard
from horde_proxy.api.slots import Slots
from horde_proxy.api.this_request import serving_app
from horde_proxy.ledger import KeyLimits, KeyRing, UsageRecorder
from horde_proxy.metrics import Metrics
from horde_proxy.router import Router
from horde_proxy.shutdown import Shutdown
from horde_proxy.stats.history.hourly_facts import HourlyFacts
from horde_proxy.store import AnswerStore, PictureStore
from horde_proxy.upstreams.base import Sleeper
from horde_proxy.upstreams.beside import HelperThreads
from horde_proxy.upstreams.disconnects import DisconnectMonitor
from horde_proxy.web.admin_tools import AdminTools
from horde_proxy.web.page_state import PageState
from horde_proxy.wrong_keys import WrongKeys

if TYPE_CHECKING:
    from horde_proxy.api.settings_access import SettingsAccess
    from horde_proxy.api.webhooks import WebhookOptions
    from horde_proxy.notices.watch import NoticeOptions
    from horde_proxy.stats.service import StatsService
    from horde_proxy.store.job_runner import JobRunner
    from horde_proxy.upstreams.horde.upstream import HordeUpstream

_DECODING = 2
"""Requests whose pictures are decoded at the same time: one of 8K needs 250 MB for a moment."""
KeepAlive = Literal["chunk", "comment", "off"]


@dataclass(frozen=True)
class ServingOptions:
    """How answers are served, from the settings. Times are in seconds, `max_upload` in bytes.

    `strict`: parameters that cannot be honoured are refused. `completion_tokens`: max_tokens of
    a text completion that names none. `reattach`: a retry shares the answer of the request that
    it repeats. `keeps_pictures`: chats keep their pictures, for models that see and for
    descriptions. `offers_images`: models are offered a function that makes pictures, where a
    request does not say otherwise. `background_timeout`: how long an answer in the background may
    take. `has_horde_pages`: a private horde has pages of its own below /page/horde.
    `default_embedding`: the model that embeds where a client names an unknown one. `public_url`:
    where clients reach this proxy, for links in answers.
    """

    timeout: float
    stream_timeout: float
    keepalive: KeepAlive
    keepalive_interval: float
    max_n: int
    strict: bool
    completion_tokens: int = 256
    max_upload: int = 512 * 1024 * 1024
    reattach: bool = True
    keeps_pictures: bool = False
    offers_images: bool = False
    background_timeout: float = 7200.0
    version: str = ""
    default_embedding: str | None = None
    has_horde_pages: bool = False
    public_url: str | None = None


@dataclass(frozen=True)
class Access:
    """Who may do how much, and what was used.

    `passthrough`: a client's key is its key for the horde. `requires_key`: only clients with one
    of `keys` are served. `admins` are names of keys. `trusted_proxies` are those whose
    X-Forwarded-For is believed. `guard` refuses requests before their key is looked at.
    """

    passthrough: bool
    requires_key: bool
    keys: KeyRing
    limits: KeyLimits
    usage: UsageRecorder
    admins: tuple[str, ...] = ()
    trusted_proxies: TrustedProxies = field(default_factory=TrustedProxies)
    guard: RequestGuard = field(default_factory=RequestGuard)


@dataclass
class SettingsStatus:
    """When the settings in use were read (Unix time), and why newer ones are not in use, if so.

    Written by whoever reloads, one thread at a time; readers need no lock.
    """

    loaded_at: float = 0.0
    problem: str | None = None


@dataclass(frozen=True)
class LiveState:
    """What changes while requests run; each object guards itself with its own lock.

    `helpers` send the calls whose clients get keep-alives meanwhile. `new_sleeper(longest,
    time_left)` makes the sleeper of one answer. Whoever decodes pictures of
    clients holds `decoding` meanwhile: no I/O happens under it.
    """

    shutdown: Shutdown
    slots: Slots
    in_flight: InFlight
    loop_guard: LoopGuard
    disconnects: DisconnectMonitor = field(default_factory=DisconnectMonitor)
    helpers: HelperThreads = field(default_factory=HelperThreads)
    new_sleeper: Callable[[float, Callable[[], float]], Sleeper] = Sleeper
    metrics: Metrics = field(default_factory=Metrics)
    page: PageState = field(default_factory=PageState)
    settings: SettingsStatus = field(default_factory=SettingsStatus)
    wrong_keys: WrongKeys = field(default_factory=WrongKeys)
    hourly: HourlyFacts = field(default_factory=HourlyFacts)
    inspections: Inspections = field(default_factory=Inspections)
    decoding: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(_DECODING))


@dataclass(frozen=True)
class HordeEndpoint:
    """An endpoint that is a horde, and the statistics of that horde."""

    upstream: HordeUpstream
    statistics: StatsService


@dataclass(frozen=True)
class AppContext:
    """Everything that a view may use. `hordes` are by the names of their endpoints.

    `image_router` finds who makes pictures, `router` who writes texts.

    `jobs` runs the stored jobs, `webhooks` is where the ends of responses and batches are posted,
    `notices` whom the operator's notices go to, `settings` how pages change the settings,
    `admin` what else the operator's pages change.
    `clock` counts seconds from any start, `now` is Unix time (s).
    """

    router: Router
    image_router: Router
    pictures: PictureStore
    store: AnswerStore
    serving: ServingOptions
    access: Access
    live: LiveState
    hordes: Mapping[str, HordeEndpoint] = field(default_factory=dict)
    jobs: JobRunner | None = None
    webhooks: WebhookOptions | None = None
    notices: NoticeOptions | None = None
    settings: SettingsAccess | None = None
    admin: AdminTools = field(default_factory=AdminTools)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time

    def was_offered(self, name: str) -> bool:
        """Whether a name is that of a model of texts or pictures which was available of late."""
        return self.router.was_offered(name) or self.image_router.was_offered(name)

    @property
    def horde(self) -> HordeUpstream | None:
        """The first horde, which is meant where none is named."""
        return next((horde.upstream for horde in self.hordes.values()), None)


def current_context() -> AppContext:
    """The context of the app that serves the current request."""
    return cast(AppContext, serving_app().extensions["horde_proxy"])

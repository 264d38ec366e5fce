"""Records of workers: what they offer, how they do, their teams and messages. See `records`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from horde_proxy.aihorde.agents import is_validated
from horde_proxy.aihorde.baselines import is_inpainting
from horde_proxy.private_horde.request_records import IMAGE, TEXT, HordeRequest

_SPEEDS_KEPT = 50
"""A worker's speed is the mean of this many jobs, so that one short answer changes it little."""


@dataclass(frozen=True)
class WorkerOffer:
    """What a worker declares at a pop; lengths are in tokens.

    The models of an alchemist are the forms that it takes. `abilities` are what else decides about
    images and alchemy, by the names of the pop: max_pixels, allow_img2img, max_tiles.
    """

    models: tuple[str, ...]
    max_length: int
    max_context_length: int
    threads: int
    nsfw: bool
    bridge_agent: str
    blacklist: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    kind: str = TEXT
    abilities: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Worker:
    """A worker: its owner, what it offers, and how it has done so far. See `WorkerOffer`.

    Its speeds are in tokens/s, for images in pixel-steps/s, for alchemy in forms/s.

    `trusted` is its owner's trust at the last pop. `speeds` are (model, tokens/s) of its last jobs.
    Prompts with a word of its `blacklist` do not go to it. `faults` are the times of its failed
    jobs of the last hour. `suspicions` are sentences for moderators. `rewarded_uptime` is the
    uptime (s) that was paid or forfeited, `uptime_kudos` what it earned. `address` is the last.
    `extensions` are those beyond AI-Horde's API that decide what it gets: "chat". `work_done` are
    the pixel-steps or forms that it has delivered.
    """

    id: str
    name: str
    owner_id: int
    created: float
    last_seen: float
    models: tuple[str, ...]
    max_length: int
    max_context_length: int
    threads: int
    nsfw: bool
    bridge_agent: str
    trusted: bool = False
    maintenance: bool = False
    uptime: float = 0.0
    fulfilled: int = 0
    uncompleted: int = 0
    kudos: float = 0.0
    speeds: tuple[tuple[str, float], ...] = ()
    blacklist: tuple[str, ...] = ()
    maintenance_message: str = ""
    paused: bool = False
    info: str = ""
    team_id: str | None = None
    faults: tuple[float, ...] = ()
    suspicions: tuple[str, ...] = ()
    rewarded_uptime: float = 0.0
    uptime_kudos: float = 0.0
    address: str = ""
    extensions: tuple[str, ...] = ()
    kind: str = TEXT
    abilities: dict[str, Any] = field(default_factory=dict)
    work_done: int = 0

    @property
    def offer(self) -> WorkerOffer:
        """What it declared at its last pop."""
        return WorkerOffer(
            self.models,
            self.max_length,
            self.max_context_length,
            self.threads,
            self.nsfw,
            self.bridge_agent,
            self.blacklist,
            self.extensions,
            self.kind,
            self.abilities,
        )

    @property
    def validated(self) -> bool:
        """Whether the horde trusts the worker's software."""
        return is_validated(self.bridge_agent)

    @property
    def speed(self) -> float | None:
        """Mean speed of its last jobs; None before the first."""
        if not self.speeds:
            return None
        return sum(speed for _, speed in self.speeds) / len(self.speeds)

    def add_speed(self, model: str, speed: float) -> None:
        """Remember the speed of a delivered job."""
        self.speeds = (*self.speeds, (model, speed))[-_SPEEDS_KEPT:]

    def model_for(self, request: HordeRequest) -> str | None:
        """The model for a request: the first of the request's models that this worker serves.

        For a request without models, it is the worker's first model. None if no model matches.
        Images are inpainted by models for that, and these do nothing else unless a client names
        them.
        """
        # The real horde draws one at random. Here, the client's order decides.
        served = self.models
        if request.kind == IMAGE and not request.models:
            paints = request.needs.get("processing") == "inpainting"
            return next((model for model in served if is_inpainting(model) == paints), None)
        if not request.models:
            return served[0]
        return next((model for model in request.models if model in served), None)


@dataclass(eq=False)
class WorkerMessage:
    """A message to a worker's owner, which its pops carry until it expires.

    Without a `worker_id`, it is for all workers. `account_id` is its author.
    """

    id: str
    worker_id: str
    message: str
    origin: str
    created: float
    expires: float
    account_id: int


@dataclass(eq=False)
class WorkerTeam:
    """Workers that count together; `Worker.team_id` names it. Only its creator changes it."""

    id: str
    name: str
    info: str
    creator_id: int
    created: float

"""The horde's image models with the workers that serve them, as one catalog.

Joined from the documents status/models and workers of the type image, as catalog.py does for texts.
Nothing is loaded before an image model is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from horde_proxy.aihorde.agents import is_validated_dreamer
from horde_proxy.aihorde.baselines import Baseline, baseline_of, is_inpainting
from horde_proxy.aihorde.image_limits import MOST_PIXELS_FREE
from horde_proxy.aihorde.image_reference import NO_FACTS, ImageModelFacts
from horde_proxy.aihorde.names import is_name
from horde_proxy.caching.background import PATIENCE
from horde_proxy.caching.derived import Derived
from horde_proxy.caching.redis import Document
from horde_proxy.errors import ProxyError
from horde_proxy.upstreams.horde.catalog import number
from horde_proxy.upstreams.horde.documents import HordeDocuments
from horde_proxy.upstreams.horde.image_reference_loading import no_reference

Facts = Mapping[str, ImageModelFacts]

_ASSUMED_SPEED = 1_000_000.0
"""Pixel-steps a second of a worker that was not measured: 512x512 pixels, 20 steps, in 5 s."""

_SLOW = 500_000.0
"""Pixel-steps a second: requests without `slow_workers` go to faster ones (images-api.md 3.6)."""


@dataclass(frozen=True)
class ImageWorker:
    """One online image worker. What is unknown of it counts for it.

    `max_pixels` of a picture; `takes_sources`, `can_inpaint` and so on: what its owner allows.
    """

    id: str
    name: str = ""
    models: tuple[str, ...] = ()
    max_pixels: int = MOST_PIXELS_FREE
    threads: int = 1
    speed: float = 0.0
    trusted: bool = False
    validated: bool = True
    takes_nsfw: bool = True
    takes_sources: bool = True
    can_inpaint: bool = True
    can_post_process: bool = True
    can_use_loras: bool = True
    can_control: bool = True
    in_maintenance: bool = False

    @property
    def is_slow(self) -> bool:
        """Whether the horde calls it slow. One that was not measured is not."""
        return 0 < self.speed < _SLOW

    @property
    def takes_chats(self) -> bool:
        """Never; see workers.Filters."""
        return False


@dataclass(frozen=True)
class ImageModel:
    """One image model with its online workers.

    `queued` is in pixel-steps, `speed` in pixel-steps a second of one worker, `jobs` counts
    pictures, `first_seen` is in Unix seconds, `facts` are those of the reference.
    """

    name: str
    workers: tuple[ImageWorker, ...]
    queued: float = 0.0
    jobs: float = 0.0
    speed: float = _ASSUMED_SPEED
    first_seen: int = 0
    facts: ImageModelFacts = NO_FACTS

    @property
    def baseline(self) -> Baseline:
        """The family of the model, with what suits this one of it."""
        return self.facts.suited(baseline_of(self.name, self.facts.baseline))

    @property
    def is_inpainting(self) -> bool:
        """Whether it paints parts of pictures anew."""
        known = self.facts.is_inpainting
        return is_inpainting(self.name) if known is None else known

    @property
    def max_pixels(self) -> int:
        """Of the largest picture that one of its workers makes."""
        return max(worker.max_pixels for worker in self.workers)

    def queue_seconds(self) -> float:
        """Seconds until a picture that is requested now is begun."""
        threads = sum(worker.threads for worker in self.workers) or 1
        return self.queued / (self.speed * threads)


class ImageCatalog:
    """The image models of one horde by name, joined once for each pair of documents.

    `facts` returns those of the reference by name, the same object until they change.
    """

    def __init__(
        self,
        documents: HordeDocuments,
        *,
        facts: Callable[[], Facts] = no_reference,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._image, self._facts, self._now = documents.of("image"), facts, now
        self._models: Derived[tuple[Document, Document, Facts], Mapping[str, ImageModel]]
        self._models = Derived(self._load, self._build)

    def models(self) -> Mapping[str, ImageModel]:
        """The models with an online worker. Raises a ProxyError when nothing was ever loaded."""
        return self._models.get()

    def refresh(self, min_interval: float = PATIENCE) -> None:
        """Load both documents anew now; at most once in `min_interval` seconds."""
        self._image.status.refresh(min_interval)
        self._image.workers.refresh(min_interval)

    def error(self) -> ProxyError | None:
        """Why the models could not be loaded the last time; None when they were."""
        return self._image.status.error

    def _load(self) -> tuple[Document, Document, Facts]:
        # Both begin before one is waited for, so that they load side by side.
        self._image.status.load_if_due()
        self._image.workers.load_if_due()
        return self._image.status.get(), self._image.workers.get(), self._facts()

    def _build(self, documents: tuple[Document, Document, Facts]) -> Mapping[str, ImageModel]:
        statuses, workers, facts = documents
        before = self._models.peek() or {}
        return build_image_catalog(statuses.value, workers.value, int(self._now()), before, facts)


def build_image_catalog(
    statuses: Sequence[Mapping[str, Any]],
    workers: Sequence[Mapping[str, Any]],
    now: int,
    before: Mapping[str, ImageModel],
    facts: Facts = MappingProxyType({}),
) -> dict[str, ImageModel]:
    """The models that have an online worker, by name; `before` keeps each one's `first_seen`.

    The worker list lags behind: a model that only status/models counts a worker of gets one that
    can do everything.
    """
    serving: dict[str, list[ImageWorker]] = {}
    for worker in workers:
        if worker.get("online"):
            read = _read_worker(worker)
            for name in read.models:
                serving.setdefault(name, []).append(read)
    by_name = {str(status.get("name")): status for status in statuses}
    for name, status in by_name.items():
        if is_name(name) and status.get("count") and not serving.get(name):
            serving[name] = [ImageWorker("", models=(name,))]
    return {
        name: replace(
            _model(name, tuple(online), by_name.get(name, {}), before.get(name), now),
            facts=facts.get(name, NO_FACTS),
        )
        for name, online in sorted(serving.items())
    }


def _model(
    name: str,
    workers: tuple[ImageWorker, ...],
    status: Mapping[str, Any],
    before: ImageModel | None,
    now: int,
) -> ImageModel:
    return ImageModel(
        name,
        workers,
        queued=number(status.get("queued"), 0),
        jobs=number(status.get("jobs"), 0),
        speed=number(status.get("performance"), _ASSUMED_SPEED),
        first_seen=before.first_seen if before else now,
    )


def _read_worker(worker: Mapping[str, Any]) -> ImageWorker:
    agent, names = worker.get("bridge_agent"), worker.get("models")
    return ImageWorker(
        str(worker.get("id", "")),
        str(worker.get("name", "")),
        tuple(name for name in names if is_name(name)) if isinstance(names, list) else (),
        max_pixels=int(number(worker.get("max_pixels"), MOST_PIXELS_FREE)),
        threads=int(number(worker.get("threads"), 1)),
        speed=_speed(worker.get("performance")),
        trusted=bool(worker.get("trusted")),
        validated=agent is None or is_validated_dreamer(str(agent)),
        takes_nsfw=worker.get("nsfw") is not False,
        takes_sources=worker.get("img2img") is not False,
        can_inpaint=worker.get("painting") is not False,
        can_post_process=worker.get("post-processing") is not False,
        can_use_loras=worker.get("lora") is not False,
        can_control=worker.get("controlnet") is not False,
        in_maintenance=bool(worker.get("maintenance_mode")),
    )


def _speed(performance: Any) -> float:
    """Pixel-steps a second in "1.8 megapixelsteps per second"; 0 for one without jobs yet."""
    words = str(performance or "").split()
    return number(words[0], 0) * 1_000_000 if words else 0.0

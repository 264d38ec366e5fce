"""The pictures for one request: made by one job, fetched at once, in the format that was wanted.

    job --> generations --> fetch each link --> the format of the request --> Picture

What has come is never lost: fewer pictures than were asked for are an answer, and so are those
that were finished when the rest failed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field

from horde_proxy.errors import ClientGone, ContentPolicyViolation, ProxyError, ShuttingDown
from horde_proxy.protocol.image_request import Picture
from horde_proxy.upstreams.base import DeadlinePassed, Waiting
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.cost import AnswerCost
from horde_proxy.upstreams.horde.image_job import ImageGeneration, ImageJob
from horde_proxy.upstreams.horde.lifecycle import (
    Answered,
    Lifecycle,
    Submitted,
)
from horde_proxy.upstreams.horde.submit_queue import Ticket
from horde_proxy.upstreams.picture_formats import in_format
from horde_proxy.upstreams.picture_links import PictureLinks, PictureLost

_FETCH_SECONDS = 10.0
"""How long before the caller's deadline the pictures that are there are fetched (s)."""
ImageAnswerItem = Waiting | Submitted | Answered | Picture


@dataclass
class ImageAnswer:
    """The answer to one plan. `deadline` as the caller's; `cost` is added to."""

    horde: HordeContext
    job: ImageJob
    ticket: Ticket
    links: PictureLinks
    deadline: float | None = None
    cost: AnswerCost = field(default_factory=AnswerCost)

    def items(self) -> Generator[ImageAnswerItem, None, None]:
        """Waitings, what was submitted, and the pictures.

        Shortly before `deadline` it ends with what there is. Raises ContentPolicyViolation where
        all were censored, a ProxyError where there is none.
        """
        lifecycle = Lifecycle(self.horde, self.job, self.ticket, self.cost)
        error: ProxyError | None = None
        try:
            with closing(lifecycle.items()) as items:
                for item in items:
                    if isinstance(item, Waiting | Submitted | Answered):
                        # Before the front looks at the clock, which would end all of it.
                        self._check_time(item)
                        yield item
        # Those that are there already are the answer.
        except (ClientGone, ShuttingDown):
            raise
        except ProxyError as exc:
            error = exc
        yield from self._pictures(lifecycle.generations, error)

    def _pictures(
        self, generations: list[ImageGeneration], error: ProxyError | None
    ) -> Iterator[Picture]:
        count = 0
        for generation in generations:
            if generation.is_censored:
                continue
            if count and self._is_late(0.0):
                return
            try:
                picture = self._picture(generation)
            except PictureLost as exc:
                error = error or exc
                continue
            count += 1
            yield picture
        if count:
            return
        if any(generation.is_censored for generation in generations):
            raise ContentPolicyViolation("The horde censored the image.", param="prompt")
        raise error or PictureLost("The horde made no picture.")

    def _picture(self, generation: ImageGeneration) -> Picture:
        """The picture of a generation. Raises PictureLost."""
        data, raster = self.links.fetch(generation.image)
        request = self.job.plan.request
        width, height = raster.size
        return Picture(
            in_format(data, raster, request),
            request.output_format,
            width,
            height,
            model=generation.model,
            seed=generation.seed,
            worker=generation.worker,
            worker_name=generation.worker_name,
        )

    def _check_time(self, item: ImageAnswerItem) -> None:
        """Raises DeadlinePassed when the caller's time is over."""
        if isinstance(item, Waiting) and self._is_late(_FETCH_SECONDS):
            raise DeadlinePassed()

    def _is_late(self, margin: float) -> bool:
        """Whether the caller's time is over but for so many seconds."""
        return self.deadline is not None and self.horde.clock() >= self.deadline - margin

"""What makes pictures, as an upstream of its own: the router and the pipeline know no difference.

    ImageSource.stream: Accepted | Waiting | Picture  -->  chunks with a `picture` in their delta

Each picture is a choice of its own, complete with its only chunk; the usage comes last. So health,
aliases, failover, retries that join and the log are those of chats.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

from horde_proxy.errors import ProxyError
from horde_proxy.protocol import chunks
from horde_proxy.protocol.chunks import Head
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.image_request import ImageRequest, Picture
from horde_proxy.upstreams.base import (
    Accepted,
    Caller,
    ImageSource,
    Route,
    StreamItem,
    Upstream,
)


class PictureUpstream:
    """The pictures of an upstream. `images` is what makes them. It proxies where that does."""

    def __init__(
        self,
        upstream: Upstream,
        images: ImageSource,
        *,
        now: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.name, self.kind, self.url = upstream.name, upstream.kind, upstream.url
        self.cooldown_errors, self.proxy = upstream.cooldown_errors, upstream.proxy
        self._upstream, self._images, self._now, self._new_id = upstream, images, now, new_id

    @property
    def offers_any(self) -> bool:
        """Whether the upstream lists no models at all; see Upstream."""
        return self._upstream.offers_any

    def models(self) -> Sequence[dict[str, Any]]:
        """See Upstream."""
        return self._images.models()

    def refresh(self) -> None:
        """See Upstream."""
        self._images.refresh()

    def error(self) -> ProxyError | None:
        """See Upstream."""
        return self._images.error()

    def shared(self, models: Sequence[str]) -> tuple[str, ...]:
        """The first of the models: what is asked of one suits no other."""
        return tuple(models[:1])

    def stream(
        self, request: GenerationRequest | ImageRequest, route: Route, caller: Caller
    ) -> Generator[StreamItem, None, None]:
        """See Upstream. Closing it cancels what still runs."""
        assert isinstance(request, ImageRequest)
        head = Head(f"img-{self._new_id()}", int(self._now()), route.model)
        accepted, count = Accepted(), 0
        with closing(self._images.stream(request, route.model, caller)) as items:
            for item in items:
                if isinstance(item, Picture):
                    yield picture_chunk(head, count, item)
                    count += 1
                    continue
                if isinstance(item, Accepted):
                    accepted = item
                yield item
        spent, cost = accepted.spent(), accepted.late_kudos
        usage = chunks.usage(spent.prompt_tokens, spent.completion_tokens)
        yield chunks.usage_chunk(head, usage, {"kudos": cost.kudos} if cost else {})


def picture_chunk(head: Head, index: int, picture: Picture) -> dict[str, Any]:
    """The chunk of a complete picture."""
    return chunks.chunk(head, {"picture": picture}, index=index, finish_reason="stop")


def picture_in(chunk: dict[str, Any]) -> tuple[int, Picture] | None:
    """(its index, the picture) of a chunk; None for the chunk with the usage."""
    for choice in chunk["choices"]:
        picture = choice["delta"].get("picture")
        if isinstance(picture, Picture):
            return choice["index"], picture
    return None

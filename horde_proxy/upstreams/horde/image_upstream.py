"""The horde as an upstream of pictures: a request becomes a plan, the plan pictures.

The counterpart of upstream.py, which answers chats, on the same horde: submit queue, accounts,
retries and cancelling are the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any

from horde_proxy.aihorde.rest import ANONYMOUS_KEY
from horde_proxy.errors import ModelNotFound, ProxyError
from horde_proxy.protocol.image_request import ImageRequest, Picture
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.upstreams.base import Accepted, Caller, ImageItem, Spent
from horde_proxy.upstreams.horde.context import HordeContext
from horde_proxy.upstreams.horde.image_answer import ImageAnswer
from horde_proxy.upstreams.horde.image_catalog import ImageCatalog, ImageModel
from horde_proxy.upstreams.horde.image_job import (
    ImageJob,
    ImagePlan,
    make_image_plan,
    most_pixels,
)
from horde_proxy.upstreams.horde.lifecycle import Answered, Submitted
from horde_proxy.upstreams.horde.options import HordeOptions
from horde_proxy.upstreams.horde.workers import Filters
from horde_proxy.upstreams.picture_links import PictureLinks


class HordeImages:
    """The pictures of one horde. `name` is the endpoint's."""

    def __init__(
        self,
        horde: HordeContext,
        catalog: ImageCatalog,
        options: HordeOptions,
        links: PictureLinks,
        *,
        name: str,
    ) -> None:
        self._horde, self._catalog, self._options = horde, catalog, options
        self._links, self._name = links, name

    def models(self) -> Sequence[dict[str, Any]]:
        """Model objects of the image models with online workers, by name, with a `horde` object."""
        filters = self._options.filters.for_images()
        return [_model_object(model, filters) for model in self._catalog.models().values()]

    def refresh(self) -> None:
        """Load the image models anew; the next call of models() waits for it a moment."""
        self._catalog.refresh()

    def error(self) -> ProxyError | None:
        """Why the last load of the models failed; None when it did not."""
        return self._catalog.error()

    def stream(
        self, request: ImageRequest, model: str, caller: Caller
    ) -> Generator[ImageItem, None, None]:
        """Accepted with the first submit, Waitings, and the pictures as they are fetched.

        Closing it cancels what still runs. Raises InvalidRequest for what the model cannot do,
        ContentPolicyViolation for a censored picture, and whatever the horde refuses.
        """
        # A picture within a chat is no reason to go on with the chat here.
        if caller.journal is not None and caller.journal.is_empty:
            caller.journal.started_at(self._name, (model,))
        answer = self._answer(request, model, caller)
        count, request_id = 0, ""
        with closing(answer.items()) as items:
            for item in items:
                if isinstance(item, Submitted):
                    request_id = item.request_id
                    yield self._accepted(answer, request_id)
                elif not isinstance(item, Answered):
                    count += isinstance(item, Picture)
                    yield item
        if count < request.n:
            warning = f"n: {count} of {request.n} pictures came"
            yield self._accepted(answer, request_id, warning)

    def _answer(self, request: ImageRequest, name: str, caller: Caller) -> ImageAnswer:
        model = self._catalog.models().get(name)
        if model is None:
            raise ModelNotFound(name)
        api_key, options = self._options.key_for(caller.api_key), self._options
        plan = self._plan(request, model, api_key)
        job = ImageJob(
            self._horde,
            plan,
            request.n,
            api_key,
            caller,
            caller.kudos_left(request.horde.get("max_kudos", options.max_kudos)),
            slow_workers=plan.filters.slow,
        )
        ticket = self._horde.submit_queue.new_ticket(
            api_key, caller.client, is_background=caller.is_job, weight=caller.weight
        )
        return ImageAnswer(self._horde, job, ticket, self._links, caller.deadline)

    def _plan(self, request: ImageRequest, model: ImageModel, api_key: str) -> ImagePlan:
        account = self._horde.accounts.of(api_key)
        is_known = bool(account.name) and api_key != ANONYMOUS_KEY
        return make_image_plan(
            request,
            model,
            most_pixels=most_pixels(account.spendable, is_known),
            filters=self._options.filters.overridden(request.horde).for_images(),
        )

    def _accepted(self, answer: ImageAnswer, request_id: str, *warnings: str) -> Accepted:
        plan, cost = answer.job.plan, answer.cost
        style = plan.request.style
        headers = {
            "X-Horde-Request-Id": request_id,
            "X-Horde-Model": f"style:{style}" if style else plan.model.name,
            "X-Horde-Warnings": warnings_header((*plan.warnings, *warnings)),
            "X-Endpoint": self._name,
        }
        return Accepted(
            {name: value for name, value in headers.items() if value},
            self._name,
            lambda: Spent(0, 0, cost.kudos),
            late_kudos=cost,
        )


def _model_object(model: ImageModel, filters: Filters) -> dict[str, Any]:
    """The entry of GET /v1/models. `type` tells pickers that it makes pictures.

    Only workers that the settings admit count.
    """
    active = [
        worker for worker in model.workers if not worker.in_maintenance and filters.admits(worker)
    ]
    baseline = model.baseline
    return {
        "id": model.name,
        "object": "model",
        "created": model.first_seen,
        "owned_by": "ai-horde",
        "type": "image",
        "horde": {
            "available": bool(active),
            "workers": len(active),
            "threads": sum(worker.threads for worker in active),
            "baseline": baseline.name,
            "inpainting": model.is_inpainting,
            **({} if model.facts.is_nsfw is None else {"nsfw": model.facts.is_nsfw}),
            "max_pixels": model.max_pixels,
            "queued_pixelsteps": model.queued,
            "jobs": model.jobs,
            "pixelsteps_per_second": model.speed,
            "expected_seconds": round(_expected_seconds(model), 1),
        },
    }


def _expected_seconds(model: ImageModel) -> float:
    """Of one picture as the family is made by default."""
    baseline = model.baseline
    work = baseline.side**2 * baseline.steps_for("medium")
    return model.queue_seconds() + work / model.speed

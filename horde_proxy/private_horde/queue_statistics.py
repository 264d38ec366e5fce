"""What AI-Horde's public routes tell of models, load and deliveries. It changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from horde_proxy.private_horde import counters, responses
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.model_sizes import ModelSizes
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import IMAGE, TEXT
from horde_proxy.private_horde.view import QueueView

Body = dict[str, Any]

_MODEL_STATES = ["known", "custom", "all"]


class QueueStatistics:
    """The routes below status/ and stats/. `update` deals with what is overdue before a reading."""

    def __init__(
        self,
        reading: Callable[[], AbstractContextManager[Operation]],
        view: QueueView,
        sizes: ModelSizes,
        *,
        update: Callable[[], object],
    ) -> None:
        self._reading, self._view, self._sizes = reading, view, sizes
        self._update = update

    def models(
        self,
        kind: str = "image",
        model_state: str = "all",
        min_count: int | None = None,
        max_count: int | None = None,
    ) -> list[Body]:
        """GET status/models: the models of online workers; [] for a kind but "text" and "image".

        `kind` defaults to "image", as in the real horde.
        """
        if model_state not in _MODEL_STATES:
            reason = f"'model_state' needs to be one of {_MODEL_STATES}"
            raise refusal("BadRequest", reason=reason)
        if kind not in (TEXT, IMAGE):
            return []
        knows = self._sizes.knows
        # There is no list of image models: whatever workers serve is known.
        return [
            model
            for model in self._models(kind)
            if (
                model_state == "all"
                or (kind == IMAGE or knows(model["name"])) == (model_state == "known")
            )
            and (min_count is None or model["count"] >= min_count)
            and (max_count is None or model["count"] <= max_count)
        ]

    def model(self, name: str) -> list[Body]:
        """GET status/models/{name}: a list with the one model, or [] if no worker serves it."""
        models = [*self._models(TEXT), *self._models(IMAGE)]
        return [model for model in models if model["name"] == name]

    def performance(self) -> Body:
        """GET status/performance: the load of queue and workers."""
        with self._reading() as op:
            minute = {kind: counters.totals(op, "minute", kind)[1] for kind in (TEXT, IMAGE)}
        return self._view.read(lambda view: responses.performance(view, minute))

    def text_totals(self) -> Body:
        """GET stats/text/totals: delivered jobs and tokens by window."""
        with self._reading() as op:
            windows = (*counters.WINDOWS, "total")
            return responses.text_totals({name: counters.totals(op, name) for name in windows})

    def text_models(self) -> Body:
        """GET stats/text/models: delivered jobs by window and model."""
        with self._reading() as op:
            windows = ("day", "month", "total")
            return responses.text_models({name: counters.models(op, name) for name in windows})

    def image_totals(self) -> Body:
        """GET stats/img/totals: delivered images and pixel-steps by window."""
        with self._reading() as op:
            windows = (*counters.WINDOWS, "total")
            totals = {name: counters.totals(op, name, IMAGE) for name in windows}
            return responses.image_totals(totals)

    def image_models(self) -> Body:
        """GET stats/img/models: delivered images by window and model."""
        with self._reading() as op:
            windows = ("day", "month", "total")
            return responses.text_models(
                {name: counters.models(op, name, IMAGE) for name in windows}
            )

    def _models(self, kind: str) -> list[Body]:
        self._update()
        return self._view.read(lambda view: responses.models(view, kind))

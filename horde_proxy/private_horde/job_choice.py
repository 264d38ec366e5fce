"""Which requests one pop may take, and why it took none of the others."""

from __future__ import annotations

from collections import Counter

from horde_proxy.private_horde import chats
from horde_proxy.private_horde.matching import SKIPPED, has_listed_word, obstacle_to
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import IMAGE, HordeRequest, Payload, Worker
from horde_proxy.private_horde.view import QueueView

_MOST_COUNTED = 1000
"""Requests for other models that an empty pop counts: each pop of each worker looks at them."""


class JobChoice:
    """The search of one pop. It remembers what kept the worker from each request."""

    def __init__(self, op: Operation, worker: Worker) -> None:
        self._op, self._worker = op, worker
        # By request: a favoured account's request is looked at twice.
        self._obstacles: dict[str, str] = {}

    def fits(self, request: HordeRequest) -> bool:
        """Whether the worker may take the request."""
        reason = obstacle_to(self._worker, request, self._op.rules.sizes)
        # Last, because only this one reads the prompt.
        if reason is None and self._worker.blacklist and self._has_listed_word(request):
            reason = "blacklist"
        if reason is not None and reason in SKIPPED:
            self._obstacles[request.id] = reason
        return reason is None

    def _has_listed_word(self, request: HordeRequest) -> bool:
        payload = self._op.tx.get(Payload, request.id)
        return payload is not None and has_listed_word(self._worker, chats.text_of(payload))

    def skipped(self) -> dict[str, int]:
        """The number of requests by reason, `skipped` of a pop."""
        counts = Counter(self._obstacles.values())
        if self._worker.kind == IMAGE and (others := self._op.view.read(self._of_other_models)):
            counts["models"] = others
        return dict(counts)

    def _of_other_models(self, view: QueueView) -> int:
        """The images that wait for models which the worker has not; it never sees these requests.

        The real horde counts them for images only (capture image_pop_skipped_model).
        """
        waiting = view.waiting_requests(IMAGE)[:_MOST_COUNTED]
        return sum(self._worker.model_for(request) is None for request in waiting)

"""A worker for alchemy: it fetches a form's picture, and delivers words or another picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from horde_proxy.aihorde.image_kudos import tiles
from horde_proxy.pictures import Raster
from horde_proxy.upstreams.picture_links import PictureLost
from horde_proxy.worker.backends import JobRefused
from horde_proxy.worker.backends.alchemy import AlchemyBackend
from horde_proxy.worker.delivery import OpenLinks, links_of, webp_of
from horde_proxy.worker.horde import Job, Offer, Outcome
from horde_proxy.worker.kinds import JobSummary, PoppedJob

_MOST_BATCH = 20
"""Forms of one pop: AI-Horde's bound for `amount`."""

log = logging.getLogger(__name__)


class Alchemist:
    """Does the forms of one backend. `batch`: how many forms a pop may give.

    `links` opens the links of a form's horde.
    """

    path = "interrogate"

    def __init__(
        self, backend: AlchemyBackend, *, batch: int = 1, links: OpenLinks = links_of
    ) -> None:
        self.server: object = backend
        self.name = backend.name
        self._backend, self._batch, self._links = backend, batch, links

    def offer(self, threads: int) -> Offer:
        """All forms, and the largest picture."""
        fields = {
            "forms": sorted(self._backend.forms),
            "amount": self._batch,
            "threads": threads,
            "max_tiles": self._backend.max_tiles,
        }
        return Offer(fields, jobs_in=forms_in)

    def summary(self, job: Job) -> JobSummary:
        """The form."""
        return JobSummary(str(job.get("form")), self.name)

    def check(self, job: Job) -> None:
        """Raises JobRefused for a form that was not offered."""
        if job.get("form") not in self._backend.forms:
            raise JobRefused("its form is not offered here", "this worker has no such form")

    def work(self, popped: PoppedJob, cancelled: Callable[[], bool]) -> Outcome:
        """The result of a form, delivered. Raises BackendError."""
        form, links = str(popped.job["form"]), self._links(popped)
        try:
            source = links.fetch(str(popped.job.get("source_image") or ""))[1]
            if tiles(*source.size) > self._backend.max_tiles:
                return Outcome("faulted", reason="the picture is too large for this worker")
            payload = popped.job.get("payload")
            payload = payload if isinstance(payload, Mapping) else {}
            value = self._backend.transform(form, source, payload, cancelled)
            if isinstance(value, Raster) and not cancelled():
                upload = str(popped.job.get("r2_upload") or "")
                links.upload(upload, webp_of(value), "image/webp")
        except PictureLost as exc:
            log.warning("form %s: %s", popped.id, exc)
            return Outcome("faulted", reason="the picture cannot be fetched or delivered")
        return Outcome("ok", result={form: "R2" if isinstance(value, Raster) else value})

    def body(self, job_id: str, outcome: Outcome) -> dict[str, Any]:
        """The body of POST interrogate/submit, which has no field for a reason."""
        return {"id": job_id, "result": dict(outcome.result), "state": outcome.state}


def forms_in(answer: Mapping[str, Any]) -> Sequence[Job]:
    """The forms in an answer to a pop; none where `forms` is null."""
    forms = answer.get("forms")
    forms = forms[:_MOST_BATCH] if isinstance(forms, list) else []
    return [form for form in forms if isinstance(form, Mapping) and form.get("id")]

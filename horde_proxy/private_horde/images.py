"""The routes for images: what clients ask for, what workers make, and the pictures themselves.

    client: async --> check, check, ... --> status: links --> picture
    worker: pop: links for uploads --> upload, upload --> submit

Bodies come in as parsed JSON, answers go out as plain dicts, refusals as HordeError. Queue, kudos
and workers are those of texts; pictures are read before a transaction begins, as that takes long.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from horde_proxy.pictures import BadPicture, Raster, decoded
from horde_proxy.private_horde import (
    accounts,
    delivery,
    image_admission,
    image_responses,
    image_schema,
    image_sources,
    popping,
    queue,
    responses,
    schema,
    stored_pictures,
    webhooks,
)
from horde_proxy.private_horde.errors import HordeError, refusal
from horde_proxy.private_horde.image_submission import ImageSubmission
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.picture_links import GET, PUT
from horde_proxy.private_horde.popping import WorkerCall
from horde_proxy.private_horde.records import (
    IMAGE,
    HordeRequest,
    Job,
    StoredGeneration,
    WorkerOffer,
)
from horde_proxy.private_horde.stored_pictures import CheckedPicture, StoredPicture
from horde_proxy.private_horde.streams import outlook

if TYPE_CHECKING:
    from horde_proxy.private_horde.horde import PrivateHorde

Body = dict[str, Any]

MOST_UPLOAD_BYTES = 30_000_000
"""Of a picture that a worker made: four times as wide as 1024 pixels, as PNG, it has 25 MB."""
UPLOADED = "R2"
"""What a worker says in place of a picture that it has put behind its link."""
_NO_WORKERS = (
    "Warning: No available workers can fulfill this request. It will expire in {minutes:.0f} "
    "minutes unless a worker appears. Please confider reducing its size of the request or choosing "
    "a different model."
)
_NOT_UPLOADED = (
    "There is no picture of job {id}. PUT it to its r2_upload first, or send it as base64 in "
    "'generation'."
)
_BAD_LINK = "This link is wrong or has expired. Ask for a new one."
_TAKEN = "There is another picture behind this link already."


class Images:
    """The routes for images of a private horde. Thread-safe. `wake` sends webhooks."""

    def __init__(
        self, horde: PrivateHorde, changing: Begin, reading: Begin, wake: Callable[[], None]
    ) -> None:
        self._horde, self._changing, self._reading, self._wake = horde, changing, reading, wake

    # The routes for clients. `base` is the root of the URL that they called.

    def submit(self, api_key: str, body: Any, address: str, base: str) -> Body:
        """POST generate/async: {"id", "kudos", "message"?, "warnings"?}; {"kudos"} for a dry run.

        `kudos` are those of the whole request, taxes included.
        """
        fields = schema.read(image_schema.SUBMIT, body)
        image_admission.check(fields)
        sources = image_sources.read(fields)
        accepted = self._horde.accept(ImageSubmission(fields, sources, base), api_key, address)
        request = accepted.request
        if request is None:
            return {"kudos": accepted.kudos}
        answer: Body = {"id": request.id, "kudos": accepted.kudos}
        if not self._horde.has_worker(request):
            minutes = self._horde.time_limits["expiry"] / 60
            message = self._horde.with_reasons(_NO_WORKERS.format(minutes=minutes), request)
            answer["message"] = message
            answer["warnings"] = [{"code": "NoAvailableWorker", "message": message}]
        return answer

    def check(self, request_id: str) -> Body:
        """GET generate/check/{id}: the status without its images. Raises RequestNotFound."""
        with self._reading() as op:
            request = queue.find(op, request_id, IMAGE)
            return responses.progress(request, **_outlook(op, request))

    def status(self, request_id: str, base: str) -> Body:
        """GET generate/status/{id}, with new links. Raises RequestNotFound."""
        with self._reading() as op:
            return _status(op, queue.find(op, request_id, IMAGE), base)

    def cancel(self, request_id: str, base: str) -> Body:
        """DELETE generate/status/{id}: forget the request. Its last status, with base64 of images.

        Links would lead nowhere: the images go with the request. Raises RequestNotFound.
        """
        with self._changing() as op:
            request = queue.find_locked(op, request_id, IMAGE)
            request.needs = {**request.needs, "r2": False}
            body = _status(op, request, base)
            queue.forget(op, request)
            return body

    # The routes for workers.

    def pop(self, api_key: str, body: Any, address: str, base: str) -> Body:
        """POST generate/pop: up to `amount` images of one request; `id` is null without one."""
        fields = schema.read(image_schema.POP, body)
        call = WorkerCall(api_key, fields, _offer(fields), address)
        return self._horde.streams.pop(lambda: self._pop(call, base), fields["wait"])

    def _pop(self, call: WorkerCall, base: str) -> Body:
        taken = popping.pop(self._changing, call)
        with self._reading() as op:
            return image_responses.popped(op, taken, base)

    def submit_generation(self, api_key: str, body: Any) -> Body:
        """POST generate/submit: {"reward": kudos}, 0 for a job that the worker faulted.

        A job whose picture cannot be read is given to another worker. Raises BadRequest for it and
        where no picture was uploaded, InvalidJobID, WrongCredentials, DuplicateGen and AbortedGen.
        """
        fields = schema.read(image_schema.GENERATION, body)
        if fields["censored"] and fields["state"] == "ok":
            fields["state"] = "censored"
        picture = None
        if fields["state"] != "faulted" and fields["generation"] != UPLOADED:
            self._check_job(api_key, fields["id"])
            try:
                picture = _read(decoded(fields["generation"], most_bytes=MOST_UPLOAD_BYTES))
            except BadPicture as exc:
                self._hand_in(api_key, {**fields, "state": "faulted"}, None)
                reason = f"{exc} The job was given back, for another worker."
                raise refusal("BadRequest", reason=reason) from exc
        return {"reward": self._hand_in(api_key, fields, picture)}

    def _check_job(self, api_key: str, job_id: str) -> None:
        """Refuse jobs of others before their pictures are read."""
        with self._reading() as op:
            account = accounts.require(op, api_key)
            if queue.find_job(op, job_id).owner_id != account.id:
                raise refusal("WrongCredentials")

    def _hand_in(self, api_key: str, fields: Body, picture: CheckedPicture | None) -> float:
        """The reward of a submitted job."""
        with self._changing() as op:
            account = accounts.require(op, api_key)
            job, request = delivery.find_job(op, fields["id"], account, IMAGE)
            # The worker gives the job back, and its image waits for another worker.
            if fields["state"] == "faulted":
                queue.fail(op, request, job, "faulted")
                return 0.0
            _keep(op, request, job, picture)
            reward = delivery.deliver(op, {**fields, "generation": ""}, job, request)
            webhooks.announce(op, request, job, reward)
        if request.webhook is not None:
            self._wake()
        return reward

    # Pictures. Whoever has a link may use it.

    def upload(
        self, picture_id: str, expires: str, signature: str, read: Callable[[], bytes]
    ) -> None:
        """PUT pictures/{id}: keep the picture of a running job.

        `read` gives the body, which is not read for a wrong link. A picture may be sent again after
        an answer was lost, but not changed. Raises Forbidden for a wrong link or another picture,
        InvalidJobID, and BadRequest for what is no picture.
        """
        with self._reading() as op:
            self._check_link(op, PUT, picture_id, expires, signature)
            _running_job(op, picture_id)
        try:
            picture = _read(read())
        except BadPicture as exc:
            raise refusal("BadRequest", reason=str(exc)) from exc
        with self._changing() as op:
            job = _running_job(op, picture_id)
            # Under its lock, no other upload and no submit changes anything.
            request = op.tx.lock(HordeRequest, job.request_id)
            if request is None or request.forgotten:
                return
            before = stored_pictures.data_of(op, picture_id)
            if before is None:
                owner = request.needs.get("group", request.id)
                stored_pictures.add(op, picture_id, owner, picture)
            elif before != picture.data:
                raise refusal("Forbidden", reason=_TAKEN)

    def picture(self, picture_id: str, expires: str, signature: str) -> tuple[str, bytes]:
        """GET pictures/{id}: (type, file). Raises Forbidden for a wrong link, and a 404."""
        with self._reading() as op:
            self._check_link(op, GET, picture_id, expires, signature)
            stored = op.tx.get(StoredPicture, picture_id)
            data = stored_pictures.data_of(op, picture_id)
        if stored is None or data is None:
            raise HordeError(404, "This picture is gone.")
        return stored.type, data

    def _check_link(
        self, op: Operation, use: str, picture_id: str, expires: str, signature: str
    ) -> None:
        if not op.rules.links.is_right(use, picture_id, expires, signature, op.now):
            raise refusal("Forbidden", reason=_BAD_LINK)


def _read(data: bytes) -> CheckedPicture:
    """A worker's picture. Raises BadPicture."""
    return stored_pictures.checked(Raster.read(data, most_bytes=MOST_UPLOAD_BYTES))


def _running_job(op: Operation, job_id: str) -> Job:
    job = queue.find_job(op, job_id)
    if job.state != "processing":
        raise refusal("InvalidJobID", id=job_id)
    return job


def _keep(op: Operation, request: HordeRequest, job: Job, picture: CheckedPicture | None) -> None:
    """Keep the picture of a job that is handed in. Raises BadRequest if there is none."""
    if request.forgotten:
        return
    stored = op.tx.get(StoredPicture, job.id)
    if picture is not None and stored is None:
        stored_pictures.add(op, job.id, request.id, picture)
    elif picture is None and stored is None:
        raise refusal("BadRequest", reason=_NOT_UPLOADED.format(id=job.id))


def _offer(fields: Body) -> WorkerOffer:
    return WorkerOffer(
        # Without duplicates, in the worker's order.
        models=tuple(dict.fromkeys(fields["models"])),
        max_length=0,
        max_context_length=0,
        threads=fields["threads"],
        nsfw=fields["nsfw"],
        bridge_agent=fields["bridge_agent"],
        blacklist=delivery.listed_words(fields["blacklist"]),
        kind=IMAGE,
        abilities={name: fields[name] for name in image_schema.ABILITIES},
    )


def _status(op: Operation, request: HordeRequest, base: str) -> Body:
    results = op.tx.find(StoredGeneration, request_id=request.id) if request.finished else []
    ordered = sorted(results, key=lambda result: result.number)[: request.finished]
    generations = [image_responses.generation(op, request, result, base) for result in ordered]
    return image_responses.status(request, generations, _outlook(op, request))


def _outlook(op: Operation, request: HordeRequest) -> Any:
    running = op.tx.find(Job, request_id=request.id) if request.processing else []
    return outlook(op, request, running)

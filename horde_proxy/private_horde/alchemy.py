"""The routes for alchemy: what clients want to know of a picture, or have done to it.

    client: async --> status, status, ... --> results, links to pictures
    alchemist: pop: forms, a link to the source --> upload (post-processors) --> submit

Bodies come in as parsed JSON, answers go out as plain dicts, refusals as HordeError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from horde_proxy.aihorde.image_kudos import tiles
from horde_proxy.aihorde.image_limits import MOST_TILES, POST_PROCESSORS
from horde_proxy.key_digest import key_digest
from horde_proxy.private_horde import (
    accounts,
    address_timeouts,
    alchemy_requests,
    alchemy_schema,
    delivery,
    image_sources,
    popping,
    queue,
    schema,
    stored_pictures,
    submission,
    webhooks,
)
from horde_proxy.private_horde.alchemy_requests import AlchemyRequest
from horde_proxy.private_horde.alchemy_submission import AlchemySubmission
from horde_proxy.private_horde.errors import HordeError, refusal
from horde_proxy.private_horde.images import UPLOADED
from horde_proxy.private_horde.operation import Begin, Operation
from horde_proxy.private_horde.picture_links import GET, PUT
from horde_proxy.private_horde.popping import TakenJobs, WorkerCall
from horde_proxy.private_horde.records import ALCHEMY, HordeRequest, Job, WorkerOffer
from horde_proxy.private_horde.stored_pictures import SOURCE, CheckedPicture, StoredPicture

if TYPE_CHECKING:
    from horde_proxy.private_horde.horde import PrivateHorde

Body = dict[str, Any]

_LONGEST_RESULT = 100_000
"""Characters of a result as JSON: an interrogation has some thousands, a vector drawing more."""
_TOO_LONG = f"A result has at most {_LONGEST_RESULT:,} characters."
_NO_RESULT = "The result of this form must be in its field '{form}'."
_NOT_UPLOADED = "There is no picture of form {id}. PUT it to its r2_upload, and say '{form}': 'R2'."
_TOO_LARGE = f"The image is too large: alchemy takes at most {MOST_TILES} tiles of 512x512 pixels."


class Alchemy:
    """The routes for alchemy of a private horde. Thread-safe. `wake` sends webhooks."""

    def __init__(
        self, horde: PrivateHorde, changing: Begin, reading: Begin, wake: Callable[[], None]
    ) -> None:
        self._horde, self._changing, self._reading, self._wake = horde, changing, reading, wake

    # The routes for clients. `base` is the root of the URL that they called.

    def submit(self, api_key: str, body: Any, address: str, base: str) -> Body:
        """POST interrogate/async: {"id"}. Raises ImageValidationFailed and what `admit` raises.

        A request without forms is taken, and faulted at once, as in the real horde.
        """
        fields = schema.read(alchemy_schema.SUBMIT, body)
        raster = image_sources.read_picture(fields["source_image"])
        if tiles(*raster.size) > MOST_TILES:
            raise refusal("ImageValidationFailed", reason=_TOO_LARGE)
        source = stored_pictures.checked(raster)
        new = AlchemySubmission(fields, size=raster.size, base=base)
        with self._changing() as op:
            payer = submission.admit(op, new, api_key)
            address_timeouts.check(op, address)
            group = self._group(op, new, payer.account.id)
            for number in range(new.n):
                form = new.of_form(number, group.id)
                request = submission.submit(op, form, payer, check_kudos=False)
                group.form_ids = (*group.form_ids, request.id)
                if fields["webhook"] is not None:
                    webhooks.subscribe(op, request, fields["webhook"], key_digest(api_key))
            _add_source(op, group, source)
            op.tx.add(group)
        return {"id": group.id}

    def _group(self, op: Operation, new: AlchemySubmission, account_id: int) -> AlchemyRequest:
        expires = op.now + op.rules.expiry
        return AlchemyRequest(op.rules.new_id(), account_id, op.now, expires, tuple(new.models))

    def status(self, request_id: str, base: str) -> Body:
        """GET interrogate/status/{id}. Raises RequestNotFound."""
        with self._reading() as op:
            return alchemy_requests.status(op, alchemy_requests.find(op, request_id), base)

    def cancel(self, request_id: str, base: str) -> Body:
        """DELETE interrogate/status/{id}: cancel the open forms. The status after that.

        Results stay. Raises RequestNotFound.
        """
        with self._changing() as op:
            group = alchemy_requests.find(op, request_id)
            alchemy_requests.cancel(op, group)
            return alchemy_requests.status(op, alchemy_requests.find(op, request_id), base)

    # The routes for workers.

    def pop(self, api_key: str, body: Any, address: str, base: str) -> Body:
        """POST interrogate/pop: up to `amount` forms; `forms` is null without any."""
        fields = schema.read(alchemy_schema.POP, body)
        call = WorkerCall(api_key, {**fields, "amount": 1}, _offer(fields), address)
        answer = self._horde.streams.pop(
            lambda: self._pop(call, fields["amount"], base), fields["wait"]
        )
        del answer["id"]
        return answer

    def _pop(self, call: WorkerCall, amount: int, base: str) -> Body:
        """The answer to a pop, with the id of its first form for those who wait for one."""
        forms: list[Body] = []
        # Each form is a request of its own, and may have another picture.
        for _ in range(amount):
            taken = popping.pop(self._changing, call) if not forms else self._next(call)
            if taken is None or not taken.jobs:
                break
            with self._changing() as op:
                forms.append(_popped(op, taken, base))
        skipped = {} if forms or taken is None else dict(taken.skipped)
        return {"forms": forms or None, "skipped": skipped, "id": forms[0]["id"] if forms else None}

    def _next(self, call: WorkerCall) -> TakenJobs | None:
        """A further form; None where the worker went into maintenance meanwhile."""
        try:
            return popping.pop(self._changing, call)
        except HordeError:
            return None

    def submit_result(self, api_key: str, body: Any) -> Body:
        """POST interrogate/submit: {"reward": kudos}, 0 for a form that the worker faulted.

        Raises BadRequest for a result that is no one of its form, InvalidJobID, WrongCredentials,
        DuplicateGen and AbortedGen.
        """
        fields = schema.read(alchemy_schema.RESULT, body)
        with self._changing() as op:
            account = accounts.require(op, api_key)
            job, request = delivery.find_job(op, fields["id"], account, ALCHEMY)
            if fields["state"] == "faulted":
                queue.fail(op, request, job, "faulted")
                return {"reward": 0.0}
            result = _result(op, job, request, fields["result"])
            alchemy_requests.finish(op, request, result)
            reward = delivery.deliver(op, _as_generation(result), job, request)
            webhooks.announce(op, request, job, reward)
        if request.webhook is not None:
            self._wake()
        return {"reward": reward}


def _add_source(op: Operation, group: AlchemyRequest, source: CheckedPicture) -> None:
    picture_id = stored_pictures.source_id(group.id, SOURCE)
    stored_pictures.add(op, picture_id, group.id, source)


def _popped(op: Operation, taken: TakenJobs, base: str) -> Body:
    """One form, an element of `forms` in the answer to a pop."""
    [job], request = taken.jobs, taken.request
    assert request is not None
    group_id = request.needs["group"]
    alchemy_requests.postpone(op, group_id)
    picture_id = stored_pictures.source_id(group_id, SOURCE)
    body = {"id": job.id, "form": job.model}
    if request.needs["payload"]:
        body["payload"] = request.needs["payload"]
    body["source_image"] = op.rules.links.link(GET, base, picture_id, "webp", op.now)
    if job.model in POST_PROCESSORS:
        body["r2_upload"] = op.rules.links.link(PUT, base, job.id, "webp", op.now)
    return body


def _result(op: Operation, job: Job, request: HordeRequest, result: Body) -> Body:
    """What is kept of a result: only its form's own field, for a picture its id."""
    form = job.model
    value = result.get(form)
    if value is None:
        raise refusal("BadRequest", reason=_NO_RESULT.format(form=form))
    if form not in POST_PROCESSORS:
        kept = {form: value}
        if len(alchemy_requests.as_text(kept)) > _LONGEST_RESULT:
            raise refusal("BadRequest", reason=_TOO_LONG)
        return kept
    has_picture = request.forgotten or op.tx.get(StoredPicture, job.id) is not None
    if value != UPLOADED or not has_picture:
        raise refusal("BadRequest", reason=_NOT_UPLOADED.format(id=job.id, form=form))
    return {form: job.id}


def _as_generation(result: Body) -> Body:
    return {
        "generation": alchemy_requests.as_text(result),
        "seed": 0,
        "gen_metadata": [],
        "state": "ok",
    }


def _offer(fields: Body) -> WorkerOffer:
    return WorkerOffer(
        models=tuple(dict.fromkeys(fields["forms"])),
        max_length=0,
        max_context_length=0,
        threads=fields["threads"],
        nsfw=False,
        bridge_agent=fields["bridge_agent"],
        kind=ALCHEMY,
        abilities={"max_tiles": fields["max_tiles"]},
    )

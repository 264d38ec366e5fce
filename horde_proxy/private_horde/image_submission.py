"""A request for images on its way into the queue. See `submission`."""

from __future__ import annotations

from typing import Any

from horde_proxy.aihorde import image_kudos
from horde_proxy.aihorde.baselines import CASCADE, FLUX, SDXL, SDXL_FAST, baseline_of, legal_size
from horde_proxy.aihorde.image_limits import MOST_STEPS_FREE, SECOND_ORDER, accurate_steps
from horde_proxy.private_horde import image_admission, image_needs, prompt_filters, stored_pictures
from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.image_needs import ImageNeeds
from horde_proxy.private_horde.image_sources import SourcePictures
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import IMAGE, HordeAccount, HordeRequest, Payload
from horde_proxy.private_horde.submission import Submission

_STEPS, _CONTROL_STEPS = 30, 20
"""Steps of an image where the client does not say."""
_LCM_FREE, _CONTROL_FREE = 10, 20
"""Steps that are free with the sampler lcm, and with a control type."""
_LEAST_SIDE_FREE, _SIDE_FREE = 576, 1024
"""Pixels: an image of at least the first square is always free, and of at most the second."""
_SIDE_OF_THREAD, _SIDE_OF_RESULT = 10, 0.9
"""By how many pixels a thread of a worker lengthens that side, and a waiting image shortens it
(stable/waiting_prompt.py:418-462)."""
_ALWAYS_LARGE = (SDXL, SDXL_FAST, CASCADE, FLUX)
"""Families whose images may have 1024x1024 pixels however long the queue is."""


class ImageSubmission(Submission):
    """A request for images. `fields` were read with `image_schema.SUBMIT`.

    `base` is the root of the URL that the client called, for links to its images.
    """

    kind = IMAGE

    def __init__(self, fields: dict[str, Any], sources: SourcePictures, base: str) -> None:
        super().__init__(fields)
        self._sources, self._base = sources, base
        params = fields["params"]
        if params["steps"] is None:
            params["steps"] = _CONTROL_STEPS if params["control_type"] is not None else _STEPS

    @property
    def n(self) -> int:
        return int(self.fields["params"]["n"])

    def clean(self, op: Operation) -> None:
        self.fields["prompt"] = prompt_filters.cleaned(op, self.fields["prompt"])

    def check(self, op: Operation, account: HordeAccount) -> None:
        image_admission.check_account(self.fields, account)

    def price(self, op: Operation) -> float:
        needs = image_needs.read(self.fields, "", self._base)
        return self._price(needs)

    def _price(self, needs: ImageNeeds) -> float:
        # The dearest of the models: which one makes it is not known yet.
        models = self.models or [""]
        return image_kudos.request(
            max(needs.kudos(model) for model in models),
            self.n,
            slow_workers=self.fields["slow_workers"],
            blacklist=self.fields["worker_blacklist"] and bool(self.fields["workers"]),
        )

    def upfront(self, op: Operation, account: HordeAccount) -> tuple[float, bool]:
        fields, params = self.fields, self.fields["params"]
        side, steps = self._free_side(op), self._free_steps()
        accurate = accurate_steps(params["steps"], params["sampler_name"])
        is_small = params["width"] * params["height"] <= side * side and accurate <= steps
        if is_small and fields["slow_workers"]:
            return 0.0, False
        required = round(self.price(op), 3)
        if account.spendable >= required:
            return required, False
        if not fields["allow_downgrade"]:
            raise refusal("ImageKudosUpfront", side=side, steps=MOST_STEPS_FREE, required=required)
        size = legal_size(params["width"], params["height"], side * side)
        params["width"], params["height"] = size
        is_double = params["sampler_name"] in SECOND_ORDER
        params["steps"] = min(params["steps"], steps // 2 if is_double else steps)
        fields["slow_workers"] = True
        return 0.0, True

    def _free_side(self, op: Operation) -> int:
        """The side of the square whose pixels are free."""
        families = [baseline_of(model) for model in self.models]
        if families and all(family in _ALWAYS_LARGE for family in families):
            return _SIDE_FREE
        queued, threads = op.view.load(IMAGE)
        side = _SIDE_FREE + _SIDE_OF_THREAD * threads - round(_SIDE_OF_RESULT * queued)
        return min(max(side, _LEAST_SIDE_FREE), _SIDE_FREE)

    def _free_steps(self) -> int:
        """The accurate steps that are free."""
        params = self.fields["params"]
        if params["sampler_name"] == "lcm":
            return _LCM_FREE
        return _CONTROL_FREE if params["control_type"] is not None else MOST_STEPS_FREE

    def details(self, request_id: str) -> dict[str, Any]:
        return {
            "max_length": 0,
            "max_context_length": 0,
            "prompt_length": len(self.fields["prompt"]),
            "validated_backends": False,
            "needs": image_needs.read(self.fields, request_id, self._base).as_dict,
        }

    def payload(self, request_id: str) -> Payload:
        # Beside the parameters, the types of the pictures that belong to it.
        params = {
            **self.fields["params"],
            **self._sources.types(),
            "source_processing": self.fields["source_processing"],
        }
        return Payload(request_id, self.fields["prompt"], params)

    def count(self, account: HordeAccount, request: HordeRequest) -> None:
        account.images_requested += request.n
        account.pixelsteps_requested += request.n * request.work

    def store(self, op: Operation, request: HordeRequest) -> None:
        super().store(op, request)
        for part, picture in self._sources.parts.items():
            picture_id = stored_pictures.source_id(request.id, part)
            stored_pictures.add(op, picture_id, request.id, picture)

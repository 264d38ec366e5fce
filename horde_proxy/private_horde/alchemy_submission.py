"""A request for alchemy on its way into the queue: admitted as a whole, then form by form."""

from __future__ import annotations

from typing import Any

from horde_proxy.aihorde import image_kudos
from horde_proxy.private_horde.alchemy_requests import form_needs
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.records import ALCHEMY, HordeAccount, HordeRequest, Payload
from horde_proxy.private_horde.submission import Submission

# What texts and images may say, and alchemy may not.
_FIXED: dict[str, Any] = {
    "style": None,
    "proxied_account": None,
    "workers": [],
    "worker_blacklist": False,
    "allow_downgrade": False,
    "dry_run": False,
}


class AlchemySubmission(Submission):
    """Some forms of one picture. `fields` were read with `alchemy_schema.SUBMIT`.

    `size` is that of the picture, `base` the root of the URL that was called, `group_id` the id of
    the whole request. With `is_taxed`, its account pays the tax: one for the whole request.
    """

    kind = ALCHEMY
    # An image takes a worker as long as ten forms.
    concurrency_factor = 10

    def __init__(
        self,
        fields: dict[str, Any],
        *,
        size: tuple[int, int],
        base: str,
        group_id: str = "",
        is_taxed: bool = True,
    ) -> None:
        super().__init__({**_FIXED, **fields})
        self._size, self._base = size, base
        self._group_id, self._is_taxed = group_id, is_taxed

    def of_form(self, number: int, group_id: str) -> AlchemySubmission:
        """The submission of one of the forms."""
        fields = {**self.fields, "forms": [self.fields["forms"][number]]}
        return AlchemySubmission(
            fields,
            size=self._size,
            base=self._base,
            group_id=group_id,
            is_taxed=number == 0,
        )

    @property
    def n(self) -> int:
        return len(self.fields["forms"])

    @property
    def models(self) -> list[str]:
        return [form["name"] for form in self.fields["forms"]]

    @property
    def tax(self) -> float:
        if not self._is_taxed:
            return 0.0
        # Who takes slow workers pays one more (horde-api-2.md, section 3).
        return image_kudos.TAX * (2 if self.fields["slow_workers"] else 1)

    def clean(self, op: Operation) -> None:
        """There is no prompt."""

    def check(self, op: Operation, account: HordeAccount) -> None:
        """Everybody may send what fits the schema."""

    def price(self, op: Operation) -> float:
        return self.tax + sum(image_kudos.alchemy(form, *self._size) for form in self.models)

    def upfront(self, op: Operation, account: HordeAccount) -> tuple[float, bool]:
        """Alchemy is open to accounts without kudos."""
        return 0.0, False

    def details(self, request_id: str) -> dict[str, Any]:
        [form] = self.fields["forms"]
        return {
            "max_length": 0,
            "max_context_length": 0,
            "prompt_length": 0,
            "validated_backends": False,
            "needs": form_needs(self._group_id, form, self._size, self._base),
        }

    def payload(self, request_id: str) -> Payload:
        [form] = self.fields["forms"]
        return Payload(request_id, "", form.get("payload") or {})

    def count(self, account: HordeAccount, request: HordeRequest) -> None:
        account.forms_requested += 1

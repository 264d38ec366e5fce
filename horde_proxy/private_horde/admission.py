"""May this request be taken? The checks of a submit that need no look at the queue's inside.

Each returns nothing or raises the horde's refusal; `asked` is a body read with `schema.SUBMIT`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from horde_proxy.private_horde.errors import refusal
from horde_proxy.private_horde.records import HordeAccount, TextRequest

_STOP_SEQUENCES = 128
_STOP_CHARACTERS = 2000
_SAMPLERS = 7
WORKERS_CONSIDERED = 5

Asked = dict[str, Any]


def check_before_account(asked: Asked, maintenance: bool) -> None:
    """Refuse what nobody may send: styles (there are none), plain http webhooks, maintenance."""
    if asked["style"] is not None:
        raise refusal("StyleNotFound", id=asked["style"])
    if maintenance:
        raise refusal("MaintenanceMode")
    if asked["webhook"] is not None and not asked["webhook"].startswith("https://"):
        raise refusal("BadRequest", reason="webhooks need to point to an https endpoint.")


def check_account(asked: Asked, account: HordeAccount) -> None:
    """Refuse what this account may not send, and an empty prompt."""
    if asked["proxied_account"] is not None and not account.service:
        raise refusal("OnlyServiceAccountProxy")
    if asked["prompt"] == "":
        raise refusal("MissingPrompt")


def check_concurrency(asked: Asked, account: HordeAccount) -> None:
    """Refuse more waiting jobs than the account may have (429, TooManyPrompts).

    The anonymous account is many people: there only jobs that name one of the same models count.
    """
    counted: Iterable[TextRequest] = account.open.values()
    models = set(asked["models"])
    if account.anonymous and models:
        counted = (request for request in counted if not models.isdisjoint(request.models))
    count = sum(request.waiting for request in counted) + asked["params"]["n"]
    if count > account.concurrency:
        raise refusal("TooManyPrompts", count=count, limit=account.concurrency)


def check_params(asked: Asked, account: HordeAccount) -> None:
    """Refuse settings that are each in range but do not go together."""
    params = asked["params"]
    if params["max_context_length"] < params["max_length"]:
        raise refusal("TokenOverflow")
    if params["sampler_order"] is not None and len(set(params["sampler_order"])) < _SAMPLERS:
        raise refusal("MissingFullSamplerOrder")
    stops = params["stop_sequence"] or []
    if len(stops) > _STOP_SEQUENCES:
        raise refusal("TooManyStopSequences", limit=_STOP_SEQUENCES)
    if sum(map(len, stops)) > _STOP_CHARACTERS:
        raise refusal("ExcessiveStopSequence", limit=_STOP_CHARACTERS)
    if asked["extra_source_images"] is not None:
        raise refusal("InvalidExtraSourceImages.")
    if asked["disable_batching"] and params["n"] > 1 and not account.trusted:
        raise refusal("RequiresTrust")

"""The checks of a submitted request that need only its body and its account.

Pure. Each check raises the horde's refusal or returns nothing. `fields` is a body that was read
with `schema.SUBMIT`. `submission` calls the checks in the real horde's order.
"""

from __future__ import annotations

from typing import Any

from horde_proxy.aihorde.limits import MOST_STOP_CHARACTERS, MOST_STOP_SEQUENCES, SAMPLERS
from horde_proxy.private_horde.errors import HordeError, refusal
from horde_proxy.private_horde.records import HordeAccount

Fields = dict[str, Any]


def check_before_account(fields: Fields, maintenance: bool) -> None:
    """Refuse styles (there are none), and everything in maintenance."""
    # The real horde looks at the style first, because a style replaces the other fields.
    if fields["style"] is not None:
        raise refusal("StyleNotFound", id=fields["style"])
    if maintenance:
        raise refusal("MaintenanceMode")


def check_account(fields: Fields, account: HordeAccount) -> None:
    """Refuse what this account may not send, and an empty prompt."""
    # A service may name the user that it acts for. The name has no effect on billing or limits.
    if fields["proxied_account"] is not None and not account.service:
        raise refusal("OnlyServiceAccountProxy")
    # Schemas of other bodies than those of texts demand what is needed.
    if fields.get("prompt") == "" and fields["chat"] is None:
        raise refusal("MissingPrompt")


def check_concurrency(n: int, account: HordeAccount, waiting: int, factor: int = 1) -> None:
    """Refuse more waiting results than the account may have (429, TooManyPrompts).

    `n` are new, `waiting` are those that count (see `counted_models`). Only waiting results do, not
    those being processed (contract: base.py:351-366). `factor` multiplies what it may have.
    """
    count, limit = waiting + n, account.concurrency * factor
    if count > limit:
        raise refusal("TooManyPrompts", count=count, limit=limit)


def counted_models(models: list[str], account: HordeAccount) -> set[str]:
    """The models whose waiting results count for the concurrency; empty: all results do.

    Many people share the anonymous account, so of its requests only those count that name one of
    the same models (contract: base.py:327-332).
    """
    return set(models) if account.anonymous else set()


def check_anonymous(fields: Fields, account: HordeAccount, most: int | None) -> None:
    """Refuse an anonymous request for more than `most` tokens, or cut it if it allows that."""
    params = fields["params"]
    if not account.anonymous or most is None or params["max_length"] <= most:
        return
    if not fields["allow_downgrade"]:
        # The code of the real horde's limit for accounts without kudos, which clients know.
        message = f"Anonymous requests may have at most {most} tokens here. Use a key of your own."
        raise HordeError(403, message, "KudosUpfront")
    params["max_length"] = most


def check_params(fields: Fields, account: HordeAccount) -> None:
    """Refuse parameters that fit the schema, but contradict each other or other rules."""
    params = fields["params"]
    if params["max_context_length"] < params["max_length"]:
        raise refusal("TokenOverflow")
    if params["sampler_order"] is not None and len(set(params["sampler_order"])) < SAMPLERS:
        raise refusal("MissingFullSamplerOrder")
    # Both limits are for the whole list; a single stop string may be long.
    stops = params["stop_sequence"] or []
    if len(stops) > MOST_STOP_SEQUENCES:
        raise refusal("TooManyStopSequences", limit=MOST_STOP_SEQUENCES)
    if sum(map(len, stops)) > MOST_STOP_CHARACTERS:
        raise refusal("ExcessiveStopSequence", limit=MOST_STOP_CHARACTERS)
    if fields["extra_source_images"] is not None:
        raise refusal("InvalidExtraSourceImages.")
    if fields["disable_batching"] and params["n"] > 1 and not account.trusted:
        raise refusal("RequiresTrust")

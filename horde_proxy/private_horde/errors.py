"""What a refusal of the private horde says: HTTP status, return code (rc) and sentence.

Four shapes leave this module: a horde error (message and rc), a schema error (errors, no rc), a
rate limit and an unreadable body (a message alone). It knows no Flask and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS: Mapping[str, tuple[int, str]] = {
    "BadRequest": (400, "{reason}"),
    "MissingPrompt": (400, "You cannot specify an empty prompt."),
    "TokenOverflow": (400, "You cannot request more tokens than your context length."),
    "MissingFullSamplerOrder": (
        400,
        "When sending a custom sampler order, "
        "you need to specify all possible samplers in the order",
    ),
    "TooManyStopSequences": (400, "You can send at most {limit} stop sequences."),
    "ExcessiveStopSequence": (
        400,
        "Your total stop sequence length exceeds the allowed limit ({limit} chars).",
    ),
    "InvalidExtraSourceImages.": (400, "This request type does not accept extra source images."),
    "OnlyServiceAccountProxy": (
        400,
        "Only service accounts can provide a proxied_account value.",
    ),
    "RequiresTrust": (400, "Only trusted users can disable batching for more than one result."),
    "MaintenanceMode": (400, "AI Horde has entered maintenance mode. Please try again later."),
    "NulByteInPayload": (400, "Request payload may not contain NUL (0x00) bytes."),
    "DuplicateGen": (400, "Processing Generation with ID {id} already submitted."),
    "AbortedGen": (
        400,
        "Processing Generation with ID {id} took too long to process and has been aborted! "
        "Please check your worker speed - generations must complete within {ttl:.0f} seconds "
        "(minimum ~1 it/s, higher for large requests)!",
    ),
    "InvalidAPIKey": (
        401,
        "No user matching sent API Key. "
        "Have you remembered to register at https://stablehorde.net/register ?",
    ),
    "KudosUpfront": (
        403,
        "Due to heavy demand, for requests over {limit} tokens, the client needs to already have "
        "the required kudos. This request requires {required:.10g} kudos to fulfil.",
    ),
    "AnonForbiddenWorker": (403, "Anonymous user is forbidden from performing this operation"),
    "WrongCredentials": (403, "Wrong credentials to submit as this worker."),
    "WorkerMaintenance": (403, "This worker has been put into maintenance mode by its owner"),
    "RequestNotFound": (404, "Text Waiting Prompt (Status) with ID '{id}' not found."),
    "WorkerNotFound": (404, "Worker with ID '{id}' not found."),
    "StyleNotFound": (404, "Style with ID '{id}' not found."),
    "UserNotFound": (404, "User with this api_key not found."),
    "InvalidJobID": (404, "Processing Job with ID {id} does not exist."),
    "TooManyPrompts": (
        429,
        "Parallel requests ({count}) exceeded user limit ({limit}). "
        "Please try again later or request to increase your concurrency.",
    ),
}


class HordeError(Exception):
    """A refusal: status, message, and either rc, errors (by field) or neither of them."""

    def __init__(
        self,
        status: int,
        message: str,
        rc: str | None = None,
        errors: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.rc = rc
        self.errors = errors

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the refusal, in one of the shapes of the real horde."""
        if self.errors is not None:
            return {"errors": dict(self.errors), "message": self.message}
        if self.rc is not None:
            return {"message": self.message, "rc": self.rc}
        return {"message": self.message}


def refusal(rc: str, **facts: object) -> HordeError:
    """Return the horde error of a return code; `facts` fill the blanks of its sentence."""
    status, sentence = _KINDS[rc]
    return HordeError(status, sentence.format(**facts), rc)


def invalid(errors: Mapping[str, str]) -> HordeError:
    """Return the schema error (400, no rc); `errors` are sentences by dotted field name."""
    return HordeError(400, "Input payload validation failed", errors=errors)


def unreadable() -> HordeError:
    """Return the error for a body that is no JSON, or is not declared as such (400, no rc)."""
    return HordeError(
        400, "The browser (or proxy) sent a request that this server could not understand."
    )


def too_fast(limit: object) -> HordeError:
    """Return the rate limit error (429, no rc); `limit` reads like "2 per 1 second"."""
    return HordeError(429, str(limit))

"""The refusals of the private horde: HTTP status, return code (rc) and message.

Four shapes leave this module: a horde error (message and rc), a schema error (errors, no rc), a
rate limit and an unreadable body (a message alone). It knows no Flask and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from horde_proxy.aihorde.refusals import STATUS

# The real horde's own words (tests/data/captures/err_*): some clients show them to their users.
# The dot in "InvalidExtraSourceImages." is the real horde's, too.
_SENTENCES: Mapping[str, str] = {
    "BadRequest": "{reason}",
    "MissingPrompt": "You cannot specify an empty prompt.",
    "TokenOverflow": "You cannot request more tokens than your context length.",
    "MissingFullSamplerOrder": (
        "When sending a custom sampler order, you need to specify all possible samplers "
        "in the order"
    ),
    "TooManyStopSequences": "You can send at most {limit} stop sequences.",
    "ExcessiveStopSequence": (
        "Your total stop sequence length exceeds the allowed limit ({limit} chars)."
    ),
    "InvalidExtraSourceImages.": "This request type does not accept extra source images.",
    "OnlyServiceAccountProxy": "Only service accounts can provide a proxied_account value.",
    "RequiresTrust": "Only trusted users can disable batching for more than one result.",
    "MaintenanceMode": "AI Horde has entered maintenance mode. Please try again later.",
    "NulByteInPayload": "Request payload may not contain NUL (0x00) bytes.",
    "DuplicateGen": "Processing Generation with ID {id} already submitted.",
    "AbortedGen": (
        "Processing Generation with ID {id} took too long to process and has been "
        "aborted! Please check your worker speed - generations must complete within "
        "{ttl:.0f} seconds (minimum ~1 it/s, higher for large requests)!"
    ),
    # The real horde's second sentence sends people to its own registration.
    "InvalidAPIKey": (
        "No user matching sent API Key. Use the key that you got when you joined this horde."
    ),
    "KudosUpfront": (
        "Due to heavy demand, for requests over {limit} tokens, the client needs to "
        "already have the required kudos. This request requires {required:.10g} kudos to "
        "fulfil."
    ),
    "ImageKudosUpfront": (
        "Due to heavy demand, for requests over {side}x{side} or over {steps} steps (10 steps for "
        "LCM work, 30 steps for Stable Cascade, and half those steps for k_heun, dpmpp_sde, and "
        "dpm_2*) the client needs to already have the required kudos. This request requires "
        "{required:.10g} kudos to fulfil."
    ),
    "BadCFGDecimals": "cfg_scale must be rounded to 2 decimal places",
    "BadLoraVersion": "explicit LoRa version requests have to be a version ID (i.e integer).",
    "ControlNetInpaintingMismatch": "ControlNet does not work with inpainting currently.",
    "ControlNetMismatch": "ControlNet does not work with {family} currently.",
    "ControlNetSourceMissing": "Controlnet Requires a source image.",
    "ControlNetUnsupported": "ControlNet does not work with SD2.x currently.",
    "HiResMismatch": "HiRes Fix does not work with {family} currently.",
    "ImageValidationFailed": "Image validation failed. {reason}",
    "InpaintingMissingMask": (
        "Image validation failed. Inpainting requests must either include a mask, or an alpha "
        "channel."
    ),
    "InvalidExtraTexts.": "This request type does not accept extra texts.",
    "InvalidRemix": "Image Remix is only available for Stable Cascade models.",
    "InvalidTransparencyCN": (
        "Generating Transparent images is not supported during controlnet workflows currently."
    ),
    "InvalidTransparencyImg2Img": (
        "Generating Transparent images is not supported with extra source images currently."
    ),
    "InvalidTransparencyModel": (
        "Generating Transparent images is only possible with Stable Diffusion 1 and SDXL, and not "
        "with {family}."
    ),
    "MissingExtraTexts.": (
        "This request requires you pass the required extra texts for this workflow."
    ),
    "SourceImageRequiredForModel": "The model {model} needs a source image.",
    "SourceImageUrlInvalid": "Image validation failed. Url does not contain a valid image.",
    "SourceMaskUnnecessary": (
        "Please do not pass a source_mask unless you are sending a source_image as well"
    ),
    "TooManyLoras": "You cannot request more than {most} loras per generation.",
    "TooManyTIs": "You cannot request more than {most} Textual Inversions per generation.",
    "TooManyUpscalers": "Cannot use more than 1 upscaler at a time.",
    "UnexpectedModelName": "{model} is a post-processor and no model. Name it in post_processing.",
    "AnonForbiddenWorker": "Anonymous user is forbidden from performing this operation",
    "AnonForbidden": "Anonymous user is forbidden from performing this operation",
    "BlockedUser": "This account is blocked. Ask a moderator of this horde.",
    "CannotDeleteMod": ("You cannot delete a user that is a moderator. Please contact an admin."),
    "CannotWipeActiveUser": (
        "You cannot permanently wipe a user that was active in the last 30 days. "
        "Try again after {until}"
    ),
    "DeletedUser": "This account has been scheduled for deletion and is disabled.",
    "Forbidden": "{reason}",
    "InvalidInvitation": (
        "This invitation does not work: it is unknown, used up or has expired. Ask for a new one."
    ),
    "InvalidKudosTransferAmount": "Transfer amount must be positive.",
    "InvalidTargetUsername": "Invalid target username.",
    "InvitationNotFound": "There is no invitation {id}.",
    "InvitationRequired": "This horde is joined by invitation. Ask a member for a link.",
    "KeyNotFound": "The account has no key with the fingerprint {id}.",
    "KudosTransferFromAnon": "You cannot transfer Kudos from Anonymous, smart-ass.",
    "KudosTransferNotEnough": "Not enough kudos.",
    "KudosTransferToAnon": (
        "Tried to burn kudos via sending to Anonymous. Assuming PEBKAC and aborting."
    ),
    "KudosTransferToSelf": "Cannot send kudos to yourself, ya monkey!",
    "NegativeKudosTransfer": "Nice try...",
    "NoSharedKeyModSelected": "No shared key modification selected!",
    "NoUserModSelected": "No usermod operations selected!",
    "NotAdmin": "You're not an admin. Sod off!",
    "NotAllowedAwards": (
        "Only special people can award kudos. Now you're very special as well, just not the right "
        "kind."
    ),
    "NotUserOrMod": "Only the user themselves or a moderator can delete a user",
    "RegistrationClosed": "This horde takes no new members.",
    "SharedKeyEmpty": "This shared key has run out of kudos.",
    "SharedKeyExpired": "This shared key has expired.",
    # The missing letter is the real horde's (capture err_403_SharedKeyInsufficientKudos).
    "SharedKeyInsufficientKudos": (
        "This shared key does not have enough remaining kudos ({left:.10g}) to fulfill this "
        "reques ({required:.10g})."
    ),
    "SharedKeyLimitExceeded": "{reason}",
    "TooFastKudosTransfers": (
        "This user transferred kudos to you very recently. Please wait at least 1 minute."
    ),
    "TooLongUserName": "The specified username is too long. Please stay below 30",
    "WrongCredentials": "Wrong credentials to submit as this worker.",
    "WorkerMaintenance": "{message}",
    "WorkerNameAlreadyExists": "The specified worker name '{name}' is already taken!",
    "NoWorkerModSelected": "No worker modification selected!",
    "NotOwner": "You're not an admin. Sod off!",
    "NotModerator": "You're not a mod. BTFO!",
    "Locked": (
        "Could not delete the worker at this point as it's referenced by a job it completed. "
        "Please try again after 20 mins."
    ),
    "TeamNotFound": "Team with ID '{id}' not found.",
    "TeamNameAlreadyExists": "The specified team name '{name}' is already taken!",
    "NoTeamModSelected": "No team modification selected!",
    "NoHordeModSelected": "No mod change selected!",
    "CorruptPrompt": (
        "This prompt contains words that a filter of this horde refuses. Please change it."
    ),
    "FilterNotFound": "Filter with ID '{id}' not found.",
    "MessageNotFound": "Message with ID '{id}' not found.",
    "NewsNotFound": "News with ID '{id}' not found.",
    "WorkerInviteOnly": (
        "This horde takes new workers by invitation only. Ask a moderator to invite yours."
    ),
    # The real horde's second sentence names its own place for help.
    "TimeoutIP": (
        "Due to abuse prevention, your IP address has been put into timeout for {seconds} more "
        "seconds. Please try again later, or ask a moderator of this horde if you think this was "
        "an error."
    ),
    "UntrustedTeamCreation": "Only Trusted users are allowed to perform this operation",
    "WorkerNotFound": "Worker with ID '{id}' not found.",
    "CollectionNotFound": "Collection with ID '{id}' not found.",
    "StyleNotFound": "Style with ID '{id}' not found.",
    "UserNotFound": "User with this api_key not found.",
    "InvalidJobID": "Processing Job with ID {id} does not exist.",
    "TooManyPrompts": (
        "Parallel requests ({count}) exceeded user limit ({limit}). Please try again "
        "later or request to increase your concurrency."
    ),
}
_IMAGE_UPFRONT = "ImageKudosUpfront"
"""Not a code of its own: KudosUpfront, of which the real horde says something else for images."""
MOST_ERRORS = 5
"""Errors of one body that are reported."""
_LONGEST = 500
"""Characters of a message. The real horde's longest has 250; more comes only from the body."""
_APIKEY_MISSING = (
    "The API Key corresponding to a registered user. Missing required parameter in the HTTP headers"
)


class HordeError(Exception):
    """A refusal: status and message, and possibly either an rc or errors by field.

    Messages repeat parts of a request, so they are cut to a line.
    """

    def __init__(
        self,
        status: int,
        message: str,
        rc: str | None = None,
        errors: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(_line(message))
        self.status = status
        self.message = _line(message)
        self.rc = rc
        self.errors = errors and {field: _line(text) for field, text in errors.items()}

    def body(self) -> dict[str, Any]:
        """The JSON object of the refusal, in one of the real horde's shapes."""
        # Without `rc`: that is how clients tell a schema error (capture err_400_validation_type).
        if self.errors is not None:
            return {"errors": dict(self.errors), "message": self.message}
        if self.rc is not None:
            return {"message": self.message, "rc": self.rc}
        return {"message": self.message}


def refusal(rc: str, **facts: object) -> HordeError:
    """The horde error of a return code; `facts` fill the placeholders in its message."""
    sentence = _SENTENCES[rc].format(**facts)
    code = "KudosUpfront" if rc == _IMAGE_UPFRONT else rc
    return HordeError(STATUS[code], sentence, code)


_REQUESTS = {
    "text": "Text Waiting Prompt (Status)",
    "image": "Image Waiting Prompt (Status)",
    "interrogation": "Interrogation",
}


def request_not_found(request_id: str, kind: str) -> HordeError:
    """The refusal for an unknown request of a kind (404)."""
    message = f"{_REQUESTS[kind]} with ID '{request_id}' not found."
    return HordeError(404, message, "RequestNotFound")


def user_not_found(user_id: str) -> HordeError:
    """The refusal of a route with an account's number, if there is none (404)."""
    return HordeError(404, f"User with ID '{user_id}' not found.", "UserNotFound")


def shared_key_not_found() -> HordeError:
    """The refusal for an unknown shared key (401; capture sharedkey_get_404)."""
    return HordeError(401, "No user matching sent Shared Key.", "InvalidAPIKey")


def invalid(errors: Mapping[str, str]) -> HordeError:
    """The schema error (400, no rc); `errors` are messages by dotted field name."""
    return HordeError(400, "Input payload validation failed", errors=errors)


def key_missing() -> HordeError:
    """The error for a call without a key (400, no rc; capture err_400_missing_apikey)."""
    return invalid({"apikey": _APIKEY_MISSING})


def unreadable() -> HordeError:
    """The error for a body that is not JSON or not declared as such (400, no rc)."""
    return HordeError(
        400, "The browser (or proxy) sent a request that this server could not understand."
    )


def too_fast(limit: object) -> HordeError:
    """The rate limit error (429, no rc); the str of `limit` is like "2 per 1 second"."""
    # Without `rc`, unlike TooManyPrompts: waiting helps here (capture err_429_ratelimit_async).
    return HordeError(429, str(limit))


def _line(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."

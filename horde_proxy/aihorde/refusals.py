"""The return codes (`rc`) of the horde's refusals, with their HTTP status.

Clients should read the code and never the message: messages change, and on 404 flask-restx appends
suggestions of other routes to them. Two refusals have no code: a body that breaks the schema (400,
with `errors`) and too many calls (429).
"""

from __future__ import annotations

from collections.abc import Mapping

# Contract: exceptions.py:10-171. The dot of InvalidExtraSourceImages. is the horde's own, and so
# is the 400 of MaintenanceMode, which its documentation calls a 503.
STATUS: Mapping[str, int] = {
    "AbortedGen": 400,
    "BadRequest": 400,
    "CorruptPrompt": 400,
    "DuplicateGen": 400,
    "ExcessiveStopSequence": 400,
    "InvalidKudosTransferAmount": 400,
    "InvalidTargetUsername": 400,
    "KudosTransferFromAnon": 400,
    "KudosTransferNotEnough": 400,
    "KudosTransferToAnon": 400,
    "KudosTransferToSelf": 400,
    "NegativeKudosTransfer": 400,
    "NoSharedKeyModSelected": 400,
    "NoUserModSelected": 400,
    "TooFastKudosTransfers": 400,
    "TooLongUserName": 400,
    "InvalidExtraSourceImages.": 400,
    "MaintenanceMode": 400,
    "MissingFullSamplerOrder": 400,
    "MissingPrompt": 400,
    "NoWorkerModSelected": 400,
    "NulByteInPayload": 400,
    "OnlyServiceAccountProxy": 400,
    "RequiresTrust": 400,
    "TeamNameAlreadyExists": 400,
    "TokenOverflow": 400,
    "TooManyStopSequences": 400,
    "WorkerNameAlreadyExists": 400,
    "InvalidAPIKey": 401,
    "AnonForbidden": 403,
    "AnonForbiddenWorker": 403,
    "BannedClientAgent": 403,
    "CannotDeleteMod": 403,
    "CannotWipeActiveUser": 403,
    "DeletedUser": 403,
    "Forbidden": 403,
    "KudosUpfront": 403,
    "NotAdmin": 403,
    "NotAllowedAwards": 403,
    "NotModerator": 403,
    "NotOwner": 403,
    "NotUserOrMod": 403,
    "SharedKeyAssignedStyles": 403,
    "SharedKeyEmpty": 403,
    "SharedKeyExpired": 403,
    "SharedKeyInsufficientKudos": 403,
    "TimeoutIP": 403,
    "UntrustedTeamCreation": 403,
    "WorkerInviteOnly": 403,
    "WorkerMaintenance": 403,
    "WrongCredentials": 403,
    "InvalidJobID": 404,
    "RequestNotFound": 404,
    "StyleNotFound": 404,
    "TeamNotFound": 404,
    "UserNotFound": 404,
    "WorkerNotFound": 404,
    "Locked": 423,
    "TooManyPrompts": 429,
    # The rest are the private horde's own. The real horde has no blocks and no invitations, and
    # answers with a plain 500 beyond a limit of a shared key.
    "BlockedUser": 403,
    "InvalidInvitation": 403,
    "InvitationRequired": 403,
    "RegistrationClosed": 403,
    "SharedKeyLimitExceeded": 403,
    "InvitationNotFound": 404,
    "KeyNotFound": 404,
}

"""What the private horde's pages say about a refusal: sentences for people, with labels of forms.

The messages of the API stay as they are: clients of the AI Horde know the real horde's words. Some
of these are rude, or are about JSON, so pages say something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from horde_proxy.private_horde.errors import HordeError

_SENTENCES: Mapping[str, str] = {
    "InvalidAPIKey": "Your key no longer works. Sign in with another one.",
    "KudosTransferFromAnon": "The anonymous account cannot send kudos.",
    "KudosTransferNotEnough": "You do not have so many kudos.",
    "KudosTransferToAnon": "The anonymous account cannot receive kudos.",
    "KudosTransferToSelf": "This is your own account. Name another one.",
    "InvalidKudosTransferAmount": "Send at least 1 kudos.",
    "NegativeKudosTransfer": "Send at least 1 kudos.",
    "InvalidTargetUsername": "There is no such account. Write its whole name, such as ann#3.",
    "Locked": "The worker has a job now. Put it into maintenance, and delete it when it is done.",
    "NoSharedKeyModSelected": "Fill in what is to be changed.",
    "NoUserModSelected": "Nothing was changed: the form is as it was.",
    "NoTeamModSelected": "Fill in what is to be changed.",
    "NotAdmin": "Only administrators of this horde may do this.",
    "NotModerator": "Only moderators of this horde may do this.",
    "NotOwner": "Only the worker's owner and moderators may do this.",
    "NotUserOrMod": "Only the account itself and moderators may do this.",
    "CannotDeleteMod": (
        "A moderator's account cannot be deleted. An administrator first takes the role away."
    ),
    "FilterNotFound": "There is no such filter. It may have been deleted meanwhile.",
    "MessageNotFound": "There is no such message. It may have expired, or been deleted meanwhile.",
    "NewsNotFound": "There is no such news. It may have been deleted meanwhile.",
    "RequestNotFound": "There is no such request. It may have ended meanwhile.",
    "TeamNotFound": "There is no such team. It may have been deleted meanwhile.",
    "WorkerNotFound": "There is no such worker. It may have been deleted meanwhile.",
    "Invalid IP Address": "Write an address such as 203.0.113.9, or a network, 198.51.100.0/24.",
    "UntrustedTeamCreation": "Only trusted members found teams. Ask a moderator to trust you.",
}
"""What pages say instead of the API's message, by its code (rc), or by the message itself."""

_LABELS: Mapping[str, str] = {
    "admin_comment": "Comment",
    "amount": "Kudos",
    "concurrency": "Results that may wait at a time",
    "days": "Days",
    "description": "What it is for",
    "expiry": "How long",
    "hours": "Hours",
    "importance": "Kind",
    "info": "Info",
    "invitation": "Invitation",
    "ipaddr": "Address",
    "kudos": "Kudos",
    "max_requests": "Requests",
    "max_text_tokens": "Tokens of a request",
    "message": "Message",
    "monthly_kudos": "Kudos of each month",
    "more_info_urls": "Links",
    "name": "Name",
    "newspiece": "Text",
    "note": "Note",
    "prompt": "Prompt",
    "regex": "Expression",
    "replacement": "Replacement",
    "tags": "Tags",
    "title": "Title",
    "username": "Name",
    "uses": "How many may join",
    "worker_id": "Worker",
    "worker_invited": "Workers it may have",
}
"""The labels of fields in forms, by the names of the API."""

# What the library jsonschema writes about a value, such as
#   'many' is not of type 'integer'      -1 is less than the minimum of 1
_FAULTS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"is not of type 'integer'$"), lambda _: "write a whole number"),
    (re.compile(r"is not of type 'number'$"), lambda _: "write a number"),
    (re.compile(r"is less than the minimum of (\S+)$"), lambda m: f"at least {m[1]}"),
    (re.compile(r"is greater than the maximum of (\S+)$"), lambda m: f"at most {m[1]}"),
    (re.compile(r"^'' (is too short|should be non-empty)$"), lambda _: "fill it in"),
    (re.compile(r"Missing required parameter"), lambda _: "fill it in"),
    (re.compile(r"is too short$"), lambda _: "this is too short"),
    # A refusal cuts what it repeats to 500 characters, so a long value has no end.
    (re.compile(r"(is too long|\.\.\.)$"), lambda _: "this is too long"),
)


def read_sentence(error: HordeError) -> str:
    """What a refusal says, with the labels of the fields that were wrong."""
    if error.errors:
        faults = "; ".join(_fault(field, text) for field, text in error.errors.items())
        return f"Please correct: {faults}."
    return _SENTENCES.get(error.rc or "") or _SENTENCES.get(error.message, error.message)


def _fault(field: str, text: str) -> str:
    """A fault with the label of its field: "Kudos: write a whole number"."""
    label = _LABELS.get(field.partition(".")[0], field)
    for pattern, phrase in _FAULTS:
        if match := pattern.search(text):
            return f"{label}: {phrase(match)}"
    return f"{label}: {text}"

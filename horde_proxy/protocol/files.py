"""OpenAI's files: what an upload says, and the objects that stand for files and lists. Pure.

What a file holds is neither read nor changed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from horde_proxy.errors import InvalidRequest, ProxyError

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
"""What an upload may be for (OpenAI's API reference, "Upload file")."""
BATCH_OUTPUT = "batch_output"
"""The purpose of the results of a batch, which the server writes."""
_LONGEST_NAME = 255
"""Characters of a file's name, as in most file systems."""
LEAST_SECONDS, MOST_SECONDS = 3600, 2_592_000
"""The bounds of `expires_after`: an hour and 30 days (OpenAI's API reference)."""


class UnknownFile(ProxyError):
    """The client has no file of this id, whether or not anybody else has."""

    status = 404
    type = "invalid_request_error"

    def __init__(self, file_id: str) -> None:
        # OpenAI's own words.
        super().__init__(f"No such File object: {file_id[:100]}", param="id")


@dataclass(frozen=True)
class FileFacts:
    """What is known of a stored file. Times are Unix seconds, `size` is in bytes."""

    id: str
    filename: str
    purpose: str
    size: int
    created: int
    expires: int | None


def file_object(facts: FileFacts) -> dict[str, Any]:
    """OpenAI's file object. Its `status` is deprecated, and required by the types of the SDKs."""
    return {
        "id": facts.id,
        "object": "file",
        "bytes": facts.size,
        "created_at": facts.created,
        "expires_at": facts.expires,
        "filename": facts.filename,
        "purpose": facts.purpose,
        "status": "processed",
        "status_details": None,
    }


def deleted_file(file_id: str) -> dict[str, Any]:
    """The answer to the deletion of a file."""
    return {"id": file_id, "object": "file", "deleted": True}


def list_object(objects: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list, in the shape by which OpenAI's SDKs find the next one."""
    return {
        "object": "list",
        "data": list(objects),
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
        "has_more": has_more,
    }


def read_purpose(value: Any) -> str:
    """The purpose that an upload names. Raises InvalidRequest."""
    if not value:
        raise InvalidRequest(
            "The form has no `purpose`: send one, `batch` for the input of a batch.",
            param="purpose",
            code="missing_required_parameter",
        )
    if value not in PURPOSES:
        raise InvalidRequest(
            f"`purpose` must be one of {', '.join(PURPOSES)}.",
            param="purpose",
            code="invalid_value",
        )
    return str(value)


def read_filename(value: str | None) -> str:
    """A name for people to read, without folders and control characters."""
    # Some browsers send the whole path, with either slash.
    last = (value or "").replace("\\", "/").rpartition("/")[2]
    plain = "".join(character for character in last if character.isprintable())
    return plain[:_LONGEST_NAME] or "file"


def read_expires_after(value: Any, param: str) -> int | None:
    """The seconds of {"anchor": "created_at", "seconds"}, or None. Raises InvalidRequest.

    A form has its numbers as texts.
    """
    if value in (None, "", {}):
        return None
    if not isinstance(value, Mapping) or value.get("anchor") != "created_at":
        raise InvalidRequest(
            f"`{param}` must be an object with `anchor`: `created_at` and `seconds`.",
            param=param,
            code="invalid_value",
        )
    seconds = _whole_number(value.get("seconds"))
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise InvalidRequest(
            f"`{param}` must have `seconds` from {LEAST_SECONDS} to {MOST_SECONDS}.",
            param=param,
            code="invalid_value",
        )
    return seconds


def _whole_number(value: Any) -> int:
    """A number, or the text of one, as forms have it; 0 for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0

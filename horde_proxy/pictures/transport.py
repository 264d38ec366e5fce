"""Pictures inside JSON: base64 text, with or without the head of a data URL."""

from __future__ import annotations

import base64
import binascii
import re

from horde_proxy.pictures.raster import MOST_BYTES, BadPicture, PictureType

# "data:image/png;base64," as browsers write it, and "data:;base64," of careless scripts.
_HEAD = re.compile(
    r"data:([\w.+-]{1,50}/[\w.+-]{1,50})?(?:;[\w=.+-]{1,100}){0,5};base64,", re.ASCII
)
_LONGEST_HEAD = 700
"""Characters: more than `_HEAD` can match."""


def decoded(text: str, *, most_bytes: int = MOST_BYTES) -> bytes:
    """The bytes of a picture in base64 or in a data URL. Raises BadPicture.

    What the head says of the type is not looked at: the bytes tell it.
    """
    head = _HEAD.match(text[:_LONGEST_HEAD])
    if head is None and text[:5].lower() == "data:":
        raise BadPicture("The data URL of the image must be base64: data:image/png;base64,...")
    body = text[head.end() if head else 0 :]
    # Before decoding: four characters are three bytes.
    if len(body) > most_bytes * 4 // 3 + 1000:
        raise BadPicture(f"The image has more than {most_bytes // 1_000_000} MB.")
    # Some encoders break lines at 76 characters, and some leave the padding out.
    body = "".join(body.split()).rstrip("=")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), altchars=None, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise BadPicture("The image is not valid base64.") from exc


def as_data_url(data: bytes, kind: PictureType) -> str:
    """The picture as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"

"""Pictures in the store: what workers delivered, and the sources that clients sent.

A picture was read and written anew by `pictures.Raster` before it comes here. It goes with its
request. All pictures together are bounded; beyond that, the oldest ones go.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from horde_proxy.pictures import Raster
from horde_proxy.private_horde.operation import Operation
from horde_proxy.private_horde.picture_links import SETTING
from horde_proxy.private_horde.records import HordeSetting

SOURCE, MASK = "src", "msk"
_MOST = 100
"""Old pictures that one new picture removes at most: more than it is ever as large as."""
_QUALITY = 95
"""Of a WebP that was a WebP before: a second loss that nobody sees."""


@dataclass(eq=False)
class StoredPicture:
    """What is known of a picture. `id` is that of the job that made it, or see `source_id`.

    `size` are its bytes, `type` is "webp" or "png".
    """

    id: str
    request_id: str
    type: str
    size: int
    width: int
    height: int
    created: float


@dataclass(eq=False)
class PictureBytes:
    """The file of a picture, by its id."""

    id: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class CheckedPicture:
    """A picture that was read and written anew, without its metadata."""

    type: str
    width: int
    height: int
    data: bytes = field(repr=False)


def checked(raster: Raster, *, exact: bool = False) -> CheckedPicture:
    """A picture as it is kept: WebP, as everywhere in AI-Horde; PNG if nothing may be lost."""
    data = raster.encoded("png") if exact else raster.encoded("webp", quality=_QUALITY)
    return CheckedPicture("png" if exact else "webp", *raster.size, data)


def source_id(request_id: str, part: str) -> str:
    """The id of what a client sent with a request: SOURCE, MASK, or "exsrc_0"."""
    return f"{request_id}_{part}"


def link_secret(op: Operation) -> str:
    """The secret that signs the links of this horde; made the first time."""
    setting = op.tx.get(HordeSetting, SETTING)
    if setting is None:
        setting = HordeSetting(SETTING, secrets.token_hex(32))
        op.tx.add(setting)
    return setting.value


def add(op: Operation, picture_id: str, request_id: str, picture: CheckedPicture) -> None:
    """Keep a picture. The oldest ones go where there are too many bytes."""
    size = len(picture.data)
    _make_room(op, size)
    stored = StoredPicture(
        picture_id,
        request_id,
        picture.type,
        size,
        picture.width,
        picture.height,
        op.now,
    )
    op.tx.add(stored)
    op.tx.add(PictureBytes(picture_id, picture.data))


def data_of(op: Operation, picture_id: str) -> bytes | None:
    """The file of a picture; None where it is gone."""
    record = op.tx.get(PictureBytes, picture_id)
    return None if record is None else record.data


def forget(op: Operation, request_id: str) -> None:
    """Delete all pictures of a request."""
    for picture in op.tx.find(StoredPicture, request_id=request_id):
        _delete(op, picture)


def _make_room(op: Operation, size: int) -> None:
    excess = op.tx.total(StoredPicture, "size") + size - op.rules.most_picture_bytes
    if excess <= 0:
        return
    for picture in op.tx.page(StoredPicture, "created", descending=False, offset=0, limit=_MOST):
        _delete(op, picture)
        excess -= picture.size
        if excess <= 0:
            return


def _delete(op: Operation, picture: StoredPicture) -> None:
    op.tx.delete(PictureBytes(picture.id, b""))
    op.tx.delete(picture)

"""Bodies that are too large for memory: kept in a temporary file, the model found on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO

from flask import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.sansio.multipart import (
    Data,
    Epilogue,
    Event,
    Field,
    File,
    MultipartDecoder,
    NeedData,
)

from horde_proxy.errors import InvalidRequest
from horde_proxy.upstreams.proxying import JsonBody

_IN_MEMORY = 1024 * 1024
_PIECE = 65_536
_LONGEST_NAME = 1000


class Upload:
    """A body in a file, of `length` bytes. `model` is what its form names, None for no name."""

    def __init__(self, file: IO[bytes], length: int, boundary: bytes | None) -> None:
        self._file, self._boundary = file, boundary
        self._files = [file]
        self.length = length
        self.model = self._named() if boundary else None

    def with_model(self, model: str | None) -> tuple[IO[bytes], int]:
        """See upstreams.proxying.Body. Where the model's name is another one, a form is copied."""
        if not model or self.model in (None, model) or not self._boundary:
            self._file.seek(0)
            return self._file, self.length
        return self._renamed(model.encode())

    def as_json(self) -> JsonBody | None:
        """The same in memory, where it is a JSON object; None where it is not."""
        self._file.seek(0)
        content = self._file.read()
        try:
            document = json.loads(content) if content.lstrip()[:1] == b"{" else None
        except (ValueError, RecursionError):
            return None
        return JsonBody(content, document) if document is not None else None

    def close(self) -> None:
        """The file is gone after this, with all copies."""
        for file in self._files:
            file.close()

    def _named(self) -> str | None:
        found, is_model, count, before = b"", False, 0, 0
        for event, position in self._events():
            if isinstance(event, Field | File):
                is_model = isinstance(event, Field) and event.name == "model"
                count += is_model
                before = position if is_model else before
            elif isinstance(event, Data) and is_model:
                found += event.data
            if len(found) > _LONGEST_NAME or count > 1:
                raise InvalidRequest("The form names two models, or one too long.", param="model")
        self._file.seek(before)
        start = before + (2 if self._file.read(2) == b"\r\n" else 1)
        self._place = start, start + len(found)
        return found.decode("utf-8", "replace").strip() or None

    def _renamed(self, model: bytes) -> tuple[IO[bytes], int]:
        """A copy in which nothing but the model's name is another: all else is the client's."""
        copy: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._files.append(copy)
        start, end = self._place
        self._file.seek(0)
        while self._file.tell() < start:
            copy.write(self._file.read(min(_PIECE, start - self._file.tell())))
        copy.write(model)
        self._file.seek(end)
        copyfileobj(self._file, copy, _PIECE)
        length = copy.tell()
        copy.seek(0)
        return copy, length

    def _events(self) -> Iterator[tuple[Event, int]]:
        """What the form has, each with the place of what follows it."""
        assert self._boundary is not None
        # What is looked at is not kept, so that nothing grows but a header without an end.
        decoder = MultipartDecoder(self._boundary, _IN_MEMORY, max_parts=1000)
        self._file.seek(0)
        read = 0
        try:
            while True:
                piece = self._file.read(_PIECE)
                read += len(piece)
                decoder.receive_data(piece or None)
                for event in _ready(decoder):
                    yield event, read - len(decoder.buffer)
                if not piece:
                    return
        except (ValueError, RequestEntityTooLarge) as exc:
            raise InvalidRequest("The form in the request's body cannot be read.") from exc


def read_upload(request: Request, most: int) -> Upload:
    """The body of a request. Raises InvalidRequest for a broken form, 413 for too many bytes."""
    request.max_content_length = most
    if request.content_length and request.content_length > most:
        raise RequestEntityTooLarge()
    is_form = request.mimetype == "multipart/form-data"
    boundary = request.mimetype_params.get("boundary", "").encode() if is_form else None
    file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        while piece := request.stream.read(_PIECE):
            file.write(piece)
        return Upload(file, file.tell(), boundary)
    except BaseException:
        file.close()
        raise


def _ready(decoder: MultipartDecoder) -> Iterator[Event]:
    while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
        yield event

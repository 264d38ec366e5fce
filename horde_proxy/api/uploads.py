"""Bodies that may be too large for memory: kept in a temporary file, with the model read from it.

Only what is proxied comes here: forms with audio or pictures, and files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO, Any

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
from horde_proxy.json_reading import parse_json
from horde_proxy.upstreams.proxying import JsonBody

_IN_MEMORY = 1024 * 1024
"""Bytes that stay in memory; a longer body goes to the disk."""
_PIECE = 65_536
"""Bytes that are read at a time."""
_LONGEST_NAME = 1000
"""Bytes of a model's name; a form may name anything, and names are logged."""
_MOST_IN_MEMORY = 100_000_000
"""Bytes of a form that is read here and not proxied: two of the largest pictures."""
_MOST_PARTS = 1000
"""Parts of a form: each costs time, and OpenAI's largest form has a dozen."""

# "post_processing[]", "horde[max_kudos]", "loras[][name]"; of all other names, none is a place.
_NESTED = re.compile(r"(?P<first>\w{1,50})(?P<list>\[\])?(?:\[(?P<key>\w{1,50})\])?")


class Upload:
    """A body in a file, of `length` bytes. `model` is the model that its form names, or None."""

    def __init__(self, file: IO[bytes], length: int, boundary: bytes | None) -> None:
        self._file, self._boundary = file, boundary
        self._files = [file]
        self.length = length
        self.model = self._find_model() if boundary else None

    def with_model(self, model: str | None) -> tuple[IO[bytes], int]:
        """See upstreams.proxying.Body. A form is copied when it names the model otherwise."""
        if not model or self.model in (None, model) or not self._boundary:
            self._file.seek(0)
            return self._file, self.length
        return self._copy_with(model.encode())

    def as_json(self) -> JsonBody | None:
        """The body in memory if it is a JSON object, otherwise None."""
        self._file.seek(0)
        content = self._file.read()
        try:
            document = parse_json(content) if content.lstrip()[:1] == b"{" else None
        except (ValueError, RecursionError):
            return None
        return JsonBody(content, document) if document is not None else None

    def read(self) -> tuple[Form, bytes]:
        """(the form, what tells it apart from others). It can be read once: its file is deleted.

        Raises InvalidRequest for another body.
        """
        try:
            return self._read()
        finally:
            self.close()

    def _read(self) -> tuple[Form, bytes]:
        if not self._boundary:
            raise InvalidRequest(
                "The request body must be a JSON object, or a form of the type multipart/form-data."
            )
        form = Form()
        for event, _ in self._events():
            form.add(event)
        return form, form.digest()

    def close(self) -> None:
        """Delete the file and its copies."""
        for file in self._files:
            file.close()

    def _find_model(self) -> str | None:
        """The value of the field `model`, whose place in the file is noted. Raises InvalidRequest.

        A form with two of them is refused: servers differ in which one they read.
        """
        name, is_model, count, before = b"", False, 0, 0
        for event, position in self._events():
            if isinstance(event, Field | File):
                is_model = isinstance(event, Field) and event.name == "model"
                count += is_model
                before = position if is_model else before
            elif isinstance(event, Data) and is_model:
                name += event.data
            if len(name) > _LONGEST_NAME or count > 1:
                raise InvalidRequest(
                    "The form names two models, or a model whose name is too long.", param="model"
                )
        self._file.seek(before)
        start = before + (2 if self._file.read(2) == b"\r\n" else 1)
        self._place = start, start + len(name)
        return name.decode("utf-8", "replace").strip() or None

    def _copy_with(self, model: bytes) -> tuple[IO[bytes], int]:
        """A copy with another model's name; all other bytes are the client's own."""
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
        """The parts of the form, each with the position in the file after it."""
        assert self._boundary is not None
        # The decoder gives data away as it comes; its bound is for a header without an end.
        decoder = MultipartDecoder(self._boundary, _IN_MEMORY, max_parts=_MOST_PARTS)
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
            raise InvalidRequest("The form in the request body is malformed.") from exc


class Form:
    """The parts of a multipart form in memory: texts, and files, which have a file's name."""

    def __init__(self) -> None:
        self._parts: list[tuple[str, bool, bytearray]] = []
        self._size = 0

    def add(self, event: Event) -> None:
        """Take in the next event of the form. Raises InvalidRequest for too much of it."""
        if isinstance(event, Field | File):
            self._parts.append((event.name, isinstance(event, File), bytearray()))
        elif isinstance(event, Data) and self._parts:
            self._size += len(event.data)
            if self._size > _MOST_IN_MEMORY:
                most = _MOST_IN_MEMORY // 1_000_000
                raise InvalidRequest(f"The form has more than {most} MB.", code="request_too_large")
            self._parts[-1][2].extend(event.data)

    @property
    def fields(self) -> dict[str, Any]:
        """The texts by name. A name with brackets is a place in an object or a list.

        OpenAI's SDKs write `extra_body` of a form so: "horde[max_kudos]", "post_processing[]",
        "loras[][name]".
        """
        fields: dict[str, Any] = {}
        for name, is_file, content in self._parts:
            if not is_file:
                _put(fields, name, content.decode("utf-8", "replace"))
        return fields

    def digest(self) -> bytes:
        """What tells this form apart from others: its parts without the boundary.

        Clients make up another boundary each time that they send the same form again.
        """
        digest = hashlib.sha256()
        for name, is_file, content in self._parts:
            head = json.dumps([name, is_file, len(content)])
            digest.update(head.encode())
            digest.update(content)
        return digest.digest()

    def files(self, name: str) -> tuple[bytes, ...]:
        """The files of a name. OpenAI's clients write `image` for one, and `image[]` for several.

        A text of that name may be a data URL: it is left to whoever reads the fields.
        """
        names = (name, f"{name}[]")
        return tuple(bytes(data) for own, is_file, data in self._parts if own in names and is_file)

    def file(self, name: str) -> bytes | None:
        """The only file of a name, or None. Raises InvalidRequest for several."""
        files = self.files(name)
        if len(files) > 1:
            raise InvalidRequest(f"The form has several files '{name}'.", param=name)
        return files[0] if files else None


def _put(fields: dict[str, Any], name: str, text: str) -> None:
    """Put a text where its name says. What else stands there already is replaced."""
    match = _NESTED.fullmatch(name)
    if match is None or name == match["first"]:
        fields[name] = text
        return
    first, key, is_list = match["first"], match["key"], match["list"] is not None
    # Within an object or a list, a text may be a number or a boolean, as in JSON.
    value = _scalar(text)
    if not is_list:
        target = fields.get(first)
        fields[first] = {**(target if isinstance(target, dict) else {}), key: value}
        return
    target = fields.get(first)
    items = target if isinstance(target, list) else []
    fields[first] = items
    if key is None:
        items.append(value)
    elif items and isinstance(items[-1], dict) and key not in items[-1]:
        items[-1][key] = value
    else:
        items.append({key: value})


def _scalar(text: str) -> Any:
    try:
        value = parse_json(text.encode())
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text


def read_upload(request: Request, most: int) -> Upload:
    """The body of a request, of at most `most` bytes.

    Raises InvalidRequest for a malformed form, RequestEntityTooLarge for a larger body.
    """
    request.max_content_length = most
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
    """The parts that are complete by now."""
    while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
        yield event

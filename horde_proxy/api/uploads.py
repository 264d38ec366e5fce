"""Bodies that may be too large for memory: kept in a temporary file, with the model read from it.

Only what is proxied or stored comes here: forms with audio or pictures, and files.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from shutil import copyfileobj
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NamedTuple

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

from horde_proxy.errors import BodyNotStored, InvalidRequest
from horde_proxy.json_reading import TooManyValues, parse_json
from horde_proxy.upstreams.proxying import JsonBody

_IN_MEMORY = 1024 * 1024
"""Bytes that stay in memory; a longer body goes to the disk."""
_PIECE = 65_536
"""Bytes that are read at a time."""
_LONGEST_NAME = 1000
"""Bytes of a model's name; a form may name anything, and names are logged."""
_LONGEST_COUNT = 4
"""Digits of `n` in a form."""
_MOST_IN_MEMORY = 100_000_000
"""Bytes of a form that is read here and not proxied: two of the largest pictures."""
_MOST_PARTS = 1000
"""Parts of a form: each costs time, and OpenAI's largest form has a dozen."""

# "post_processing[]", "horde[max_kudos]", "loras[][name]"; of all other names, none is a place.
_NESTED = re.compile(r"(?P<first>\w{1,50})(?P<list>\[\])?(?:\[(?P<key>\w{1,50})\])?")

log = logging.getLogger(__name__)


class FormOutline(NamedTuple):
    """The texts of a form by name, and the name and the bytes of its file; None without a file."""

    fields: dict[str, Any]
    filename: str | None
    size: int


class Upload:
    """A body in a file, of `length` bytes. `model` is the model that its form names, or None.

    `n` is the number of results that the form asks for, 1 where it names none. `is_stream`: it asks
    for a stream. `names` are those of its texts, `file_names` those of its files' fields.
    """

    def __init__(self, file: IO[bytes], length: int, boundary: bytes | None) -> None:
        self._file, self._boundary = file, boundary
        self._files = [file]
        self.length, self.n, self.is_stream = length, 1, False
        self.names, self.file_names = set[str](), set[str]()
        self.model = self._find_model() if boundary else None

    def with_model(self, model: str | None) -> tuple[IO[bytes], int]:
        """See upstreams.proxying.Body. A form is copied when it names the model otherwise."""
        if not model or self.model in (None, model) or not self._boundary:
            self._file.seek(0)
            return self._file, self.length
        return self._copy_with(model.encode())

    def as_json(self, most: int) -> JsonBody | None:
        """The body in memory if it is a JSON object of at most `most` bytes, otherwise None.

        A multipart form is none. Raises TooManyValues for an object that is too large to be read.
        """
        self._file.seek(0)
        if self._boundary or not _begins_object(self._file.read(_PIECE)):
            return None
        if self.length > most:
            raise TooManyValues(f"it has more than {most} bytes")
        self._file.seek(0)
        content = self._file.read()
        try:
            return JsonBody(content, parse_json(content))
        except TooManyValues:
            raise
        except (ValueError, RecursionError):
            return None

    def has_word(self, word: str) -> bool:
        """Whether the body has a word anywhere, in any case."""
        self._file.seek(0)
        sought, before = word.lower().encode(), b""
        while piece := self._file.read(_PIECE):
            text = before + piece.lower()
            if sought in text:
                return True
            before = text[-len(sought) :]
        return False

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

    @property
    def is_form(self) -> bool:
        """Whether it is a multipart form."""
        return bool(self._boundary)

    def outline(self, name: str) -> FormOutline:
        """What a form says of its file `name`, which may be too large for memory.

        Raises InvalidRequest for a malformed form, or one with several such files.
        """
        form, part, filename, size = Form(), "", None, 0
        for event, _ in self._events():
            if isinstance(event, File):
                part = "file" if event.name == name else ""
                if part and filename is not None:
                    raise InvalidRequest(f"The form has several files '{name}'.", param=name)
                filename = event.filename or "" if part else filename
            elif isinstance(event, Field):
                part = "text"
            if part == "text":
                form.add(event)
            elif part and isinstance(event, Data):
                size += len(event.data)
        return FormOutline(form.fields, filename, size)

    def file_pieces(self, name: str) -> Iterator[bytes]:
        """What the form's file `name` holds, piece by piece."""
        is_wanted = False
        for event, _ in self._events():
            if isinstance(event, Field | File):
                is_wanted = isinstance(event, File) and event.name == name
            elif isinstance(event, Data) and is_wanted:
                yield bytes(event.data)

    def close(self) -> None:
        """Delete the file and its copies."""
        for file in self._files:
            _delete(file)

    def _find_model(self) -> str | None:
        """The value of the field `model`, whose place in the file is noted. Raises InvalidRequest.

        A form with two of them is refused: servers differ in which one they read. `n` and `stream`
        are noted as well; of several `n`, the largest counts.
        """
        name, digits, field, count, before = b"", b"", "", 0, 0
        for event, position in self._events():
            if isinstance(event, Field | File):
                is_text = isinstance(event, Field)
                (self.names if is_text else self.file_names).add(event.name or "")
                field = event.name if is_text else ""
                is_model = field == "model"
                count += is_model
                before, digits = position if is_model else before, b""
            elif isinstance(event, Data) and field == "model":
                name += event.data
            elif isinstance(event, Data) and field == "n":
                # What is longer than any number of results is no such number.
                digits = (digits + event.data)[: _LONGEST_COUNT + 1]
                self.n = max(self.n, _count(digits))
            elif isinstance(event, Data) and field == "stream" and event.data:
                self.is_stream = event.data.strip().lower() == b"true"
            if len(name) > _LONGEST_NAME or count > 1:
                raise InvalidRequest(
                    "The form names two models, or a model whose name is too long.", param="model"
                )
        self._file.seek(before)
        start = before + (2 if self._file.read(2) == b"\r\n" else 1)
        self._place = start, start + len(name)
        return name.decode("utf-8", "replace").strip() or None

    def _copy_with(self, model: bytes) -> tuple[IO[bytes], int]:
        """A copy with another model's name; all other bytes are the client's own.

        Raises BodyNotStored.
        """
        copy: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._files.append(copy)
        start, end = self._place
        self._file.seek(0)
        with _stored():
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


def _count(digits: bytes) -> int:
    """A number of results; 1 for what is none."""
    text = digits.strip()
    return int(text) if text.isdigit() and len(text) <= _LONGEST_COUNT else 1


def _scalar(text: str) -> Any:
    try:
        value = parse_json(text.encode())
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text


def read_upload(request: Request, most: int) -> Upload:
    """The body of a request, of at most `most` bytes.

    Raises InvalidRequest for a malformed form, RequestEntityTooLarge for a larger body,
    BodyNotStored.
    """
    request.max_content_length = most
    is_form = request.mimetype == "multipart/form-data"
    boundary = request.mimetype_params.get("boundary", "").encode() if is_form else None
    file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
    try:
        while piece := request.stream.read(_PIECE):
            with _stored():
                file.write(piece)
        with _stored():
            file.flush()
        return Upload(file, file.tell(), boundary)
    except BaseException:
        _delete(file)
        raise


@contextmanager
def _stored() -> Iterator[None]:
    """Raise BodyNotStored where a temporary file cannot be written, and log the reason."""
    try:
        yield
    except OSError as exc:
        log.error("the body of a request could not be kept in a temporary file: %s", exc)
        raise BodyNotStored() from exc


def _delete(file: IO[bytes]) -> None:
    # On a full disk, closing fails for the bytes that are not written yet. The file goes anyway.
    with suppress(OSError):
        file.close()


def _begins_object(content: bytes) -> bool:
    """Whether JSON that begins so is an object; some editors put a byte order mark before it."""
    return content.removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"{"


def _ready(decoder: MultipartDecoder) -> Iterator[Event]:
    """The parts that are complete by now."""
    while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
        yield event

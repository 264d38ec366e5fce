"""Compressed bodies: decoded for every route, within the bounds that hold for others."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import BadRequest
from werkzeug.test import TestResponse

from horde_proxy import create_app
from horde_proxy.app.runtime import Runtime
from horde_proxy.bodies import Request
from horde_proxy.caching.background import inline
from horde_proxy.config import load
from horde_proxy.connections.framing import MalformedBody
from horde_proxy.content_codings import UnsupportedCoding, decoded
from tests.support import Scripted, World

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HOME = "http://home.invalid:1"
CHAT = {"model": "test/model", "messages": [{"role": "user", "content": "Hi"}]}
KEY = "key-of-ann-0123456789"


def gzipped(content: bytes) -> bytes:
    # Without the time, which would give tests other names in each process.
    return gzip.compress(content, mtime=0)


def raw_deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(content) + compressor.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzipped,
    "x-gzip": gzipped,
    "GZip": gzipped,
    "identity, gzip": gzipped,
    "deflate": zlib.compress,
    "deflate ": raw_deflate,
    "zstd": zstd.compress,
    "identity": bytes,
    "": bytes,
}
EVERY = pytest.mark.parametrize("coding", list(CODINGS))


class InPieces(io.RawIOBase):
    """A body that comes in small pieces."""

    def __init__(self, content: bytes, size: int) -> None:
        self._content, self._size = io.BytesIO(content), size

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._content.read(self._size if size < 0 else min(size, self._size))


@given(st.sampled_from(list(CODINGS)), st.binary(max_size=3000), st.integers(2, 400))
def test_a_body_comes_out_as_it_went_in(coding: str, content: bytes, size: int) -> None:
    body: Any = InPieces(CODINGS[coding](content), size)
    stream, pieces = decoded(body, coding), []
    while piece := stream.read(size):
        pieces.append(piece)
    assert b"".join(pieces) == content


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
def test_several_members_are_one_body(coding: str) -> None:
    compress = CODINGS[coding]
    assert decoded(io.BytesIO(compress(b"one ") + compress(b"two")), coding).read() == b"one two"
    assert decoded(io.BytesIO(gzipped(b"one") + b"\0" * 512), "gzip").read() == b"one"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", b"no gzip"),
        ("gzip", gzipped(b"x" * 1000)[:-1]),
        ("gzip", gzipped(b"x" * 1000)[:-9]),
        ("gzip", gzipped(b"x")[:-8] + b"\0" * 8),
        ("gzip", gzipped(b"x") + b"trailing"),
        ("gzip", gzipped(b"") * 101),
        ("deflate", zlib.compress(b"x" * 1000)[:-1]),
        ("deflate", b"\xff\xff\xff"),
        ("zstd", b"no zstd"),
        ("zstd", zstd.compress(b"x" * 1000)[:-1]),
        # Empty blocks: much work, and nothing comes out.
        ("deflate", b"\x78\x9c" + b"\x00\x00\x00\xff\xff" * 500_000),
    ],
)
def test_a_malformed_or_cut_body_is_refused(coding: str, body: bytes) -> None:
    with pytest.raises(BadRequest, match=f"is not valid {coding}, or it is cut off"):
        decoded(io.BytesIO(body), coding).read()


def test_a_body_may_not_ask_for_a_large_window() -> None:
    """RFC 9659: 8 MB at most."""
    options = {int(zstd.CompressionParameter.window_log): 27}
    body = zstd.compress(b"x" * 200_000_000, options=options)
    with pytest.raises(BadRequest):
        decoded(io.BytesIO(body), "zstd").read(10)


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "gzip, zstd", "nonsense"])
def test_other_codings_are_unsupported(coding: str) -> None:
    with pytest.raises(UnsupportedCoding):
        decoded(io.BytesIO(b""), coding)


# Every route


def sent(http: FlaskClient, path: str, document: Any, coding: str, **headers: str) -> TestResponse:
    """The answer to a document in this coding."""
    content = CODINGS[coding](json.dumps(document).encode())
    names = {"Content-Encoding": coding, "Content-Type": "application/json", **headers}
    return http.post(path, data=content, headers=names, buffered=True)


@EVERY
def test_a_chat_may_be_compressed(world: World, coding: str) -> None:
    world.employ(Scripted("Hello there.<|im_end|>"))
    answer = sent(world.http(), "/v1/chat/completions", CHAT, coding)
    assert answer.json is not None
    assert answer.json["choices"][0]["message"]["content"] == "Hello there."


@EVERY
def test_the_private_horde_takes_compressed_bodies(coding: str) -> None:
    http = private().test_client()
    answer = sent(http, "/api/v2/generate/text/async", {"prompt": "x"}, coding, apikey=KEY)
    assert answer.status_code == 202


def private() -> Flask:
    flags = {"private_horde": {"enabled": True, "api_key": KEY}, "stats": {"hydrate": False}}
    return create_app(load(environ={}, flags=flags), Runtime(run=inline))


@pytest.fixture
def servers() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(f"{HOME}/v1/models", json={"data": [{"id": "m"}, {"id": "other"}]})
        yield mock


def proxy(**settings: Any) -> Flask:
    flags = {
        "endpoints": [{"url": HOME, "name": "home"}],
        "stats": {"hydrate": False},
        **settings,
    }
    return create_app(load(environ={}, flags=flags), Runtime(run=inline))


@EVERY
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_an_endpoint_gets_a_body_decoded(
    servers: responses.RequestsMock, path: str, coding: str
) -> None:
    call = servers.post(HOME + path, json={})
    assert sent(proxy().test_client(), path, {"model": "m", "x": 1}, coding).status_code == 200
    request = call.calls[0].request
    assert json.loads(request.body) == {"model": "m", "x": 1}
    assert "Content-Encoding" not in request.headers
    assert request.headers["Content-Length"] == str(len(request.body))


@EVERY
def test_an_endpoint_gets_a_form_decoded(servers: responses.RequestsMock, coding: str) -> None:
    call = servers.post(f"{HOME}/v1/audio/transcriptions", json={})
    form = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'
    )
    answer = (
        proxy()
        .test_client()
        .post(
            "/v1/audio/transcriptions",
            data=CODINGS[coding](form),
            headers={"Content-Encoding": coding},
            content_type="multipart/form-data; boundary=x",
            buffered=True,
        )
    )
    assert (answer.status_code, call.calls[0].request.body) == (200, form)


@EVERY
def test_a_key_cannot_hide_a_model_in_a_compressed_body(
    servers: responses.RequestsMock, coding: str
) -> None:
    call = servers.post(f"{HOME}/v1/embeddings", json={})
    keys = {"ann": {"key": KEY, "models": ["m"]}}
    http = proxy(access={"mode": "keys", "keys": keys}).test_client()
    bearer = {"Authorization": f"Bearer {KEY}"}
    assert sent(http, "/v1/embeddings", {"model": "m"}, coding, **bearer).status_code == 200
    assert sent(http, "/v1/embeddings", {"model": "other"}, coding, **bearer).status_code == 404
    both = {"model": "m", "models": ["other"]}
    assert sent(http, "/v1/embeddings", both, coding, **bearer).status_code == 403
    assert len(call.calls) == 1


@EVERY
def test_the_page_takes_a_compressed_form(coding: str) -> None:
    http = proxy(access={"mode": "keys", "keys": {"ann": KEY}}).test_client()
    http.set_cookie("horde_proxy_form", "token")
    answer = http.post(
        "/page/login",
        data=CODINGS[coding](f"token=token&key={KEY}".encode()),
        headers={"Content-Encoding": coding},
        content_type="application/x-www-form-urlencoded",
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "../")


# Bounds

ROUTES = pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings", "/v1/files"])
BOMBS = {
    "gzip": gzipped(b" " * 2_000_000),
    "deflate": zlib.compress(b" " * 2_000_000),
    "zstd": zstd.compress(b" " * 2_000_000),
}


@ROUTES
@pytest.mark.parametrize("coding", list(BOMBS))
def test_a_bomb_is_too_large(servers: responses.RequestsMock, path: str, coding: str) -> None:
    http = proxy(server={"max_body": 100_000, "max_upload": 1_000_000}).test_client()
    kind = "application/octet-stream" if path == "/v1/files" else "application/json"
    headers = {"Content-Encoding": coding, "Content-Type": kind}
    answer = http.post(path, data=BOMBS[coding], headers=headers, buffered=True)
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("coding", list(BOMBS))
def test_a_bomb_is_too_large_for_the_private_horde(coding: str) -> None:
    app = private()
    http = app.test_client()
    headers = {"Content-Encoding": coding, "Content-Type": "application/json", "apikey": KEY}
    app.extensions["composition"].private.app.config["MAX_CONTENT_LENGTH"] = 100_000
    answer = http.post("/api/v2/generate/text/async", data=BOMBS[coding], headers=headers)
    assert answer.status_code == 413


@ROUTES
@pytest.mark.parametrize("coding", ["br", "gzip, gzip"])
def test_an_unsupported_coding_is_a_415_that_says_what_is_taken(
    servers: responses.RequestsMock, path: str, coding: str
) -> None:
    answer = proxy().test_client().post(path, data=b"{}", headers={"Content-Encoding": coding})
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "gzip, deflate, zstd")
    assert answer.json == {
        "error": {
            "message": f"The Content-Encoding {coding!r} is not supported. Send the body without "
            "one, or with one of these: gzip, deflate, zstd.",
            "type": "invalid_request_error",
            "param": None,
            "code": "unsupported_content_encoding",
        }
    }


def test_an_unsupported_coding_is_a_415_of_the_private_horde() -> None:
    headers = {"Content-Encoding": "br", "Content-Type": "application/json", "apikey": KEY}
    answer = private().test_client().post("/api/v2/generate/text/async", data=b"", headers=headers)
    assert (answer.status_code, answer.headers["Accept-Encoding"]) == (415, "gzip, deflate, zstd")
    assert answer.json == {
        "message": "The Content-Encoding 'br' is not supported. Send the body without one, or with "
        "one of these: gzip, deflate, zstd."
    }


@ROUTES
def test_a_cut_body_is_a_400(servers: responses.RequestsMock, path: str) -> None:
    body = gzipped(json.dumps({"model": "m"}).encode())[:-1]
    answer = proxy().test_client().post(path, data=body, headers={"Content-Encoding": "gzip"})
    assert answer.json is not None
    assert answer.status_code == 400
    assert answer.json["error"]["message"] == (
        "The request body is not valid gzip, or it is cut off."
    )


class Broken(io.RawIOBase):
    """A body whose reading fails, like one that a thread reads from a slow client."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        raise self._error


@ROUTES
@pytest.mark.parametrize("coding", ["", "gzip"])
@pytest.mark.parametrize(
    "error", [MalformedBody("no size"), TimeoutError("slow"), ConnectionError("gone")], ids=str
)
def test_a_body_that_does_not_arrive_is_a_400(
    servers: responses.RequestsMock,
    path: str,
    coding: str,
    error: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = (
        proxy()
        .test_client()
        .post(
            path,
            content_type="application/json" if path != "/v1/files" else "audio/wav",
            headers={"Content-Encoding": coding, "Transfer-Encoding": "chunked"},
            environ_overrides={
                "wsgi.input": io.BufferedReader(Broken(error)),
                "wsgi.input_terminated": True,
            },
        )
    )
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["message"]) == (
        400,
        "The request body did not arrive completely, or its framing is malformed.",
    )
    assert not [record for record in caplog.records if record.exc_info]


def test_a_key_is_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    http = proxy(access={"mode": "keys", "keys": {"ann": KEY}}).test_client()
    for coding in ("gzip", "br"):
        answer = http.post("/v1/chat/completions", data=b"x", headers={"Content-Encoding": coding})
        assert answer.status_code == 401


# Bodies without a coding


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413)])
@pytest.mark.parametrize("has_length", [True, False])
@pytest.mark.parametrize("reader", ["data", "stream", "form"])
def test_a_body_of_the_largest_size_is_taken_whole(
    size: int, status: int, has_length: bool, reader: str
) -> None:
    """A server such as gunicorn ends the body of a request without Content-Length itself."""
    app = Flask("test")
    app.request_class = Request
    app.config["MAX_CONTENT_LENGTH"] = 1000

    @app.post("/")
    def view() -> dict[str, int]:
        from flask import request

        if reader == "form":
            return {"size": 2 + len(request.form["a"])}
        content = request.get_data() if reader == "data" else b"".join(iter_stream(request.stream))
        return {"size": len(content)}

    answer = app.test_client().post(
        "/",
        input_stream=io.BytesIO(b"a=" + b"x" * (size - 2)),
        content_type="application/x-www-form-urlencoded",
        content_length=size if has_length else None,
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.status_code == status
    assert status == 413 or answer.json == {"size": size}


def iter_stream(stream: Any) -> Iterator[bytes]:
    while piece := stream.read(64):
        yield piece


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_json_may_be_in_any_unicode_encoding(world: World, encoding: str, coding: str) -> None:
    world.employ(Scripted("Hello there.<|im_end|>"))
    answer = world.http().post(
        "/v1/chat/completions",
        data=CODINGS[coding](json.dumps(CHAT).encode(encoding)),
        headers={"Content-Encoding": coding, "Content-Type": "application/json"},
    )
    assert answer.status_code == 200


MANY = b'{"model": "m", "messages": [' + b"1," * 250_000 + b"1]}"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
def test_json_of_too_many_values_is_too_large(servers: responses.RequestsMock, path: str) -> None:
    answer = proxy().test_client().post(path, data=MANY, content_type="application/json")
    assert answer.json is not None
    assert (answer.status_code, answer.json["error"]["code"]) == (413, "request_too_large")
    assert answer.json["error"]["message"] == (
        "The JSON of the request body is too large: it has more than 250,000 values."
    )


def test_json_of_too_many_values_is_unreadable_for_the_private_horde() -> None:
    answer = (
        private()
        .test_client()
        .post(
            "/api/v2/generate/text/async",
            data=MANY,
            content_type="application/json",
            headers={"apikey": "0000000000"},
        )
    )
    assert answer.status_code == 400


def test_a_long_text_of_few_values_is_no_large_json(servers: responses.RequestsMock) -> None:
    call = servers.post(f"{HOME}/v1/embeddings", json={"data": []})
    text = "a, b [c] {d} " * 20_000
    http = proxy().test_client()
    assert http.post("/v1/embeddings", json={"model": "m", "input": text}).status_code == 200
    assert call.call_count == 1

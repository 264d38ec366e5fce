"""The fronts POST /images/generations, /images/edits and /images/variations, and pictures by link.

A request whose model an endpoint serves itself is proxied there; every other one becomes a job of
an upstream that makes pictures, through the same pipeline as chats.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, request

from horde_proxy.api import image_models
from horde_proxy.api.addresses import public_base
from horde_proxy.api.context import AppContext, ServingOptions, current_context
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.api.uploads import Form
from horde_proxy.errors import ProxyError, Unavailable
from horde_proxy.protocol import images, sse
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.image_request import ImageKind, ImageRequest, Picture
from horde_proxy.router import Candidates, Router
from horde_proxy.upstreams.picture_upstream import picture_in

blueprint = Blueprint("images", __name__)
log = logging.getLogger(__name__)
pictures_blueprint = Blueprint("pictures", __name__)


@dataclass(frozen=True)
class _ImageQuestion:
    requests: tuple[ImageRequest]

    @property
    def request(self) -> ImageRequest:
        return self.requests[0]


def _read(kind: ImageKind, body: Any, serving: ServingOptions) -> _ImageQuestion:
    files = None
    if isinstance(body, Form):
        body, files = body.fields, images.ImageFiles(body.files("image"), body.file("mask"))
    # More than server.max_n is refused for chats; here OpenAI's own bound counts.
    with current_context().live.decoding:
        request = images.read_images(body, kind, files, strict=serving.strict)
    return _ImageQuestion((request,))


def _candidates(ctx: AppContext, request: ImageRequest) -> Candidates:
    """The candidates for a request. Raises ModelNotFound, which names some models."""
    router = ctx.image_router
    g.record.requested = request.model or None
    endpoint = _wanted_endpoint()
    if image_models.names_no_model(request.model):
        names = image_models.default_models(request, router.models(g.scope))
        if not names:
            raise Unavailable(
                "No image model is available right now. GET /v1/models lists image models with "
                "the type `image`.",
                retry_after=30,
            )
        candidates = router.candidates(names[0], g.scope, endpoint)
    else:
        candidates = router.candidates(request.model, g.scope, endpoint)
    g.record.requested = candidates.best
    return candidates


def _may_proxy(ctx: AppContext, name: str | None) -> bool:
    """Whether an endpoint may serve a body as it is: where nothing here makes pictures, or where
    it lists the model. A model that nobody has is refused there as well.
    """
    if not ctx.image_router.endpoints:
        return True
    if name is None:
        return False
    model = _model(ctx.router, name)
    if image_models.names_no_model(name):
        # "auto" and the like mean a text model to the other router.
        return model is not None and model["id"] == name
    return model is not None or _model(ctx.image_router, name) is None


def _model(router: Router, name: str) -> dict[str, Any] | None:
    """The model of a name that the client may use; None for none."""
    try:
        return router.model(name, g.scope)
    except ProxyError:
        return None


def _wanted_endpoint() -> str | None:
    return request.headers.get("X-Endpoint")


def _pictures(chunks: Sequence[Chunk]) -> list[Picture]:
    """The pictures of an answer, in their order."""
    found = dict(filter(None, map(picture_in, chunks)))
    return [found[index] for index in sorted(found)]


def _fold(question: _ImageQuestion, chunks: Sequence[Chunk]) -> dict[str, Any]:
    ctx, pictures = current_context(), _pictures(chunks)
    links = _links(ctx, _base(ctx), question, pictures)
    answer = images.answer(question.request, pictures, links, _now(ctx))
    usage = next((chunk for chunk in chunks if "horde" in chunk), None)
    return answer if usage is None else {**answer, "horde": _cost(usage, pictures)}


def _cost(chunk: Chunk, pictures: Sequence[Picture]) -> dict[str, Any]:
    """The `horde` object of an answer: who made the pictures, from which seeds, for how much."""
    return {**chunk["horde"], **images.makers(pictures)}


def _links(
    ctx: AppContext, base: str, question: _ImageQuestion, pictures: Sequence[Picture]
) -> Sequence[str]:
    """Links to pictures where those are wanted; "" for one that cannot be stored."""
    if question.request.response_format != "url":
        return ()
    names = [_stored(ctx, picture) for picture in pictures]
    return [f"{base}/v1/files/images/{name}" if name else "" for name in names]


def _base(ctx: AppContext) -> str:
    """The address under which the client of the current request knows this proxy."""
    return ctx.serving.public_url or public_base(
        request.remote_addr or "", request.headers, request.host_url, ctx.access.trusted_proxies
    )


def _stored(ctx: AppContext, picture: Picture) -> str:
    """The name of a stored picture; "" where the folder takes none, which is logged."""
    try:
        return ctx.pictures.add(picture.data, picture.kind)
    except OSError as exc:
        log.error("a picture cannot be stored and is sent in base64: %s", exc.strerror)
        return ""


def _now(ctx: AppContext) -> int:
    return int(ctx.now())


class ImageEvents:
    """Writes pictures as OpenAI's events, one for each picture; see api.front.EventWriter."""

    shows_progress = False

    def __init__(self, question: _ImageQuestion) -> None:
        # Events are written when Flask no longer knows the request.
        self._question, self._ctx = question, current_context()
        self._link = partial(_links, self._ctx, _base(self._ctx), question)
        self._count, self._has_ended = 0, False

    @property
    def is_open(self) -> bool:
        return not self._has_ended

    @property
    def is_complete(self) -> bool:
        return self._has_ended and self._count > 0

    def chunk(self, chunk: Chunk) -> Iterator[bytes]:
        """The event of a picture; nothing for the usage, which ends the stream."""
        self._has_ended = not chunk["choices"]
        indexed = picture_in(chunk)
        if indexed is None:
            return
        self._count += 1
        [url] = self._link([indexed[1]]) or [""]
        yield images.completed_event(self._question.request, indexed[1], url, _now(self._ctx))

    def keep_alive(self) -> bytes:
        """Nothing: OpenAI's streams of pictures have no such event, and comments do."""
        return b""

    def progress(self, text: str) -> bytes:
        """Nothing; see `shows_progress`."""
        return b""

    def error(self, error: ProxyError) -> bytes:
        """An `error` event, for which OpenAI's SDKs raise an APIError."""
        return sse.event({"type": "error", **error.envelope()}, "error")

    def end(self) -> bytes:
        """Nothing: the last picture's event ends OpenAI's stream."""
        return b""


def _front(kind: ImageKind) -> Front[_ImageQuestion]:
    return Front(
        partial(_read, kind),
        _fold,
        ImageEvents,
        proxied_to=f"images/{kind}s",
        takes_forms=True,
        candidates=_candidates,
        may_proxy=_may_proxy,
    )


_GENERATIONS, _EDITS, _VARIATIONS = _front("generation"), _front("edit"), _front("variation")


@blueprint.post("/images/generations")
def generations() -> Response:
    """Pictures from a prompt, as base64 or links, or as events."""
    return run_generation(_GENERATIONS)


@blueprint.post("/images/edits")
def edits() -> Response:
    """Pictures from a picture and a prompt; with a mask, its transparent parts are painted anew."""
    return run_generation(_EDITS)


@blueprint.post("/images/variations")
def variations() -> Response:
    """Pictures like a picture."""
    return run_generation(_VARIATIONS)


@pictures_blueprint.get("/files/images/<name>")
def picture(name: str) -> Response:
    """A picture by its link, which nobody can guess: browsers send no key with it."""
    stored = current_context().pictures.get(name)
    if stored is None:
        raise _PictureGone()
    data, kind = stored
    response = Response(data, mimetype=f"image/{kind}")
    response.headers.update(
        {
            "Cache-Control": "private, max-age=3600, immutable",
            "X-Content-Type-Options": "nosniff",
            "Access-Control-Allow-Origin": "*",
        }
    )
    return response


class _PictureGone(ProxyError):
    """A link to a picture that has expired, or that never was."""

    status = 404
    type = "invalid_request_error"
    code = "image_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such picture any more: links work for a few hours.")

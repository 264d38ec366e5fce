"""The fronts POST /images/generations, /images/edits and /images/variations, and pictures by link.

A request whose model an endpoint serves itself is proxied there; every other one, and one that all
such endpoints fail, becomes a request to an upstream that makes pictures, through the same pipeline
as chats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, request

from horde_proxy.api import image_models
from horde_proxy.api.context import AppContext, ServingOptions, current_context
from horde_proxy.api.front import Front
from horde_proxy.api.generation import run_generation
from horde_proxy.api.named_models import further_models, warn_of_missing
from horde_proxy.api.picture_links import linked, public_url
from horde_proxy.api.places import bind_to_aliases
from horde_proxy.api.uploads import Form
from horde_proxy.errors import ProxyError, Unavailable
from horde_proxy.protocol import images, sse
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.image_request import ImageKind, ImageRequest, Picture
from horde_proxy.protocol.models import makes_images
from horde_proxy.router import Candidates, Router
from horde_proxy.upstreams.picture_upstream import picture_in

blueprint = Blueprint("images", __name__)
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
    name, endpoint = request.model, _wanted_endpoint()
    g.record.requested = name or None
    bind_to_aliases(ctx.image_router, name, *further_models())
    if _leaves_choice(ctx, name):
        name = _default_model(ctx, request, endpoint)
    candidates = ctx.image_router.candidates(name, g.scope, endpoint, further_models())
    warn_of_missing(candidates)
    candidates.on_failure = g.record.note_failure
    g.record.requested = candidates.best
    return candidates


def _proxy_candidates(ctx: AppContext, name: str | None) -> Candidates | None:
    """The same by the name alone; None where a horde may answer and the body is to be read first.

    A horde has other models for a mask, and only a horde has styles.
    """
    has_horde = any(not endpoint.can_proxy for endpoint in ctx.image_router.endpoints)
    if has_horde and (name is None or _leaves_choice(ctx, name)):
        return None
    if name is None:
        # A server has a default of its own.
        return ctx.image_router.candidates(None, g.scope, _wanted_endpoint())
    if image_models.names_style(name):
        return None
    return _candidates(ctx, ImageRequest(name, ""))


def _leaves_choice(ctx: AppContext, name: str) -> bool:
    """Whether a name leaves the choice of the model to us, and no endpoint lists it."""
    target = _target(ctx, name)
    if not image_models.names_no_model(target):
        return False
    listed = _model(ctx.image_router, target)
    return listed is None or listed["id"] != target


def _default_model(ctx: AppContext, request: ImageRequest, endpoint: str | None) -> str:
    """The model for a request that names none. Raises Unavailable."""
    models = [
        model
        for model in ctx.image_router.models(g.scope)
        if endpoint in (None, *model["endpoints"])
    ]
    if names := image_models.default_models(request, models):
        return names[0]
    target = _target(ctx, request.model)
    # A server without a list may have what the client names.
    if target and any(known.may_serve(target) for known in ctx.image_router.endpoints):
        return target
    if excluded := _excluded_model(ctx, request):
        return excluded
    raise Unavailable(
        "No image model is available right now. GET /v1/models lists image models with the type "
        "`image`.",
        retry_after=30,
    )


def _excluded_model(ctx: AppContext, request: ImageRequest) -> str | None:
    """The model that would be the default if nothing were bound to places; None without one."""
    if not g.scope.bindings:
        return None
    models = ctx.image_router.models(g.scope.without_places())
    return next(iter(image_models.default_models(request, models)), None)


def _target(ctx: AppContext, name: str) -> str:
    """What a name leads to by the aliases of the settings, which go before all that it means here.

    An alias of "auto" that leads to no image model is one for texts.
    """
    target = ctx.image_router.alias_target(name)
    if not image_models.may_mean_texts(name):
        return target
    model = _model(ctx.image_router, target)
    return target if model is not None and makes_images(model) else name


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
    links = _links(ctx, public_url(ctx), question, pictures)
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
    return [linked(ctx.pictures, base, picture) for picture in pictures]


def _now(ctx: AppContext) -> int:
    return int(ctx.now())


class ImageEvents:
    """Writes pictures as OpenAI's events, one for each picture; see api.front.EventWriter."""

    shows_progress = False

    def __init__(self, question: _ImageQuestion) -> None:
        # Events are written when Flask no longer knows the request.
        self._question, self._ctx = question, current_context()
        self._link = partial(_links, self._ctx, public_url(self._ctx), question)
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

    def begin(self) -> Iterator[bytes]:
        """Nothing: the events of pictures say nothing of an acceptance."""
        return iter(())

    def comment(self, text: str) -> bytes:
        """A comment of server-sent events."""
        return sse.comment(text)

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
        proxy_candidates=_proxy_candidates,
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

"""The function generate_image for text models: offered in a chat, and run by the proxy itself.

    offered()  adds the function to a chat whose `horde.images` is true, or as the settings say
    answered() wraps the text's items, within the shared answer:

    router.stream (text) --> calls of the function taken out --> to the client
       the text has ended --> image_router.stream for each call --> links, ends, usage

The model gets no further turn. It cannot see the picture, and small models copy links wrongly;
another turn on a horde would cost kudos and a wait in the queue. So the picture is put below the
text, where chat fronts show it. It is in the history of the client, so that "make it blue" works.

Items are made when Flask may no longer know the request: PictureMaker has what is needed of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, cast

from flask import Response, g

from horde_proxy.api import image_models
from horde_proxy.api.context import AppContext
from horde_proxy.api.picture_links import linked, public_url
from horde_proxy.errors import (
    ClientGone,
    InsufficientKudos,
    InvalidRequest,
    ProxyError,
    ShuttingDown,
    Unavailable,
    UpstreamFailed,
)
from horde_proxy.numbers import finite
from horde_proxy.protocol.chunks import Chunk
from horde_proxy.protocol.generation_request import GenerationRequest
from horde_proxy.protocol.image_function import (
    MOST_PICTURES,
    CallSeparator,
    ImageCall,
    conflict,
    failure_text,
    has_function,
    picture_delta,
    picture_text,
    with_function,
    without_function,
)
from horde_proxy.protocol.image_request import ImageRequest, Picture
from horde_proxy.protocol.images import makers
from horde_proxy.protocol.leniency import Leniency, warnings_header
from horde_proxy.router import Candidates, Router, Scope
from horde_proxy.store import PictureStore
from horde_proxy.upstreams.base import Accepted, Caller, LateKudos, Spent, StreamItem, Waiting
from horde_proxy.upstreams.interleave import AT_ONCE, AllLateKudos, take_turns, total_spent
from horde_proxy.upstreams.picture_upstream import picture_in

_TEXT = 0
"""The position of the text among the costs of an answer; its pictures follow from 1."""
_NOT_FOR_PICTURES = frozenset({"images", "progress"})
"""Parameters of a chat that say nothing about pictures."""
Items = Generator[StreamItem, None, None]


def offered(ctx: AppContext, request: Any, candidates: Candidates) -> Any:
    """The request, with the function where it is wanted and can be run.

    A client that wants it and cannot have it gets a warning. Raises InvalidRequest in strict mode.
    """
    if not isinstance(request, GenerationRequest):
        return request
    if request.image_tool is not None:
        return _with_image_tool(ctx, request, candidates)
    given = request.horde.get("images")
    if not (ctx.serving.offers_images if given is None else given):
        return request
    leniency, reason = Leniency(strict=ctx.serving.strict), conflict(request)
    if reason and given:
        error = InvalidRequest(
            f"'horde.images' cannot be used here: {reason}.",
            param="horde.images",
            code="unsupported_parameter",
        )
        leniency.tolerate(error, f"images not offered, {reason}")
    if reason:
        return replace(request, warnings=(*request.warnings, *leniency.warnings()))
    if _can_be_run(ctx, candidates):
        return with_function(request)
    if not given:
        return request
    warning = "horde: images not offered, no image model is available"
    return replace(request, warnings=(*request.warnings, warning))


def _can_be_run(ctx: AppContext, candidates: Candidates) -> bool:
    """Whether one of those who may answer has pictures made."""
    maker = picture_maker(ctx)
    return any(maker.models(name) for name in candidates.endpoint_names)


def _with_image_tool(
    ctx: AppContext, request: GenerationRequest, candidates: Candidates
) -> GenerationRequest:
    """The request of a client that offers the function itself, without it where it cannot be run.

    Raises InvalidRequest where the client forces it.
    """
    if _can_be_run(ctx, candidates):
        return request
    left = without_function(request)
    error = InvalidRequest(
        "No image model is available right now, so that 'image_generation' cannot be used.",
        param="tools",
        code="unsupported_value",
    )
    if left is None:
        raise error
    leniency = Leniency(strict=ctx.serving.strict)
    leniency.tolerate(error, "type 'image_generation' left out, no image model is available")
    return replace(left, warnings=(*left.warnings, *leniency.warnings()))


def warn_of_proxying(response: Response, document: Any) -> None:
    """Say in the response that its chat was proxied, if the client wants pictures in it."""
    horde = document.get("horde") if isinstance(document, dict) else None
    if isinstance(horde, dict) and horde.get("images") is True:
        warnings = [*response.headers.getlist("X-Horde-Warnings")]
        warnings.append("horde: images not offered, the chat was proxied")
        response.headers["X-Horde-Warnings"] = warnings_header(warnings)


@dataclass(frozen=True)
class PictureMaker:
    """What makes the pictures of one client's chat. `base` is the address for links.

    `check_day` is called with the number of pictures that the chat will have had; it raises
    DailyLimitReached where the client's key may not have so many.
    """

    router: Router
    scope: Scope
    store: PictureStore
    base: str
    check_day: Callable[[int], None]

    def models(self, endpoint: str) -> list[str]:
        """The image models for a chat that this endpoint answers, the best first.

        A horde makes the pictures of its chats itself: who writes with a horde at home would not
        expect strangers to get the prompt. Any horde makes them for a server of texts.
        """
        try:
            models = self.router.models(self.scope)
        # The list of the only horde could not be loaded.
        except ProxyError:
            return []
        if (maker := self._maker(endpoint)) is not None:
            models = [model for model in models if maker in model["endpoints"]]
        return image_models.default_models(ImageRequest("", ""), models)

    def candidates(self, endpoint: str, wanted: str = "") -> Candidates:
        """Who may make a picture for a chat that this endpoint answered. Raises Unavailable.

        `wanted` is the model that the client names; the best one, where it is none of ours.
        """
        models = self.models(endpoint)
        if not models:
            raise Unavailable("No image model is available right now.")
        model = wanted if wanted in models else models[0]
        return self.router.candidates(model, self.scope, self._maker(endpoint))

    def link(self, picture: Picture) -> str:
        """The link to a picture. Raises Unavailable where it cannot be stored."""
        link = linked(self.store, self.base, picture)
        if not link:
            raise Unavailable("This proxy cannot store pictures right now.")
        return link

    def _maker(self, endpoint: str) -> str | None:
        """The only endpoint that may make the pictures of this endpoint's chats; None: any may."""
        names = [maker.name for maker in self.router.endpoints if not maker.can_proxy]
        return endpoint if endpoint in names else None


def picture_maker(ctx: AppContext) -> PictureMaker:
    """The maker of pictures for the current request."""
    key, limits = g.key, ctx.access.limits

    def check_day(count: int) -> None:
        if key is not None:
            limits.check_day(key, images=count)

    return PictureMaker(ctx.image_router, g.scope, ctx.pictures, public_url(ctx), check_day)


def answered(items: Items, request: Any, caller: Caller, maker: PictureMaker) -> Items:
    """The items of a text, with the pictures that it calls for. Closing it cancels all of them."""
    if not isinstance(request, GenerationRequest) or not has_function(request):
        return items
    return _AnswerWithPictures(request, caller, maker).items(items)


class _AnswerWithPictures:
    """One answer of a model that may call the function. One thread at a time drives it."""

    def __init__(self, request: GenerationRequest, caller: Caller, maker: PictureMaker) -> None:
        self._caller, self._maker, self._image_tool = caller, maker, request.image_tool
        self._horde = {
            name: value for name, value in request.horde.items() if name not in _NOT_FOR_PICTURES
        }
        self._separator = CallSeparator()
        self._endpoint = ""
        self._costs: dict[int, Callable[[], Spent]] = {}
        self._late: dict[int, LateKudos | None] = {}
        self._request_ids: dict[int, str] = {}
        self._makers: list[Mapping[str, Any]] = []
        self._too_expensive: list[ImageCall] = []

    def items(self, text: Items) -> Items:
        """The items of the text without its calls, then the pictures, and the usage of all."""
        usages: list[Chunk] = []
        with closing(text):
            for item in text:
                if isinstance(item, Accepted):
                    yield self._accepted(item)
                elif isinstance(item, Waiting):
                    yield item
                elif item["choices"]:
                    if (chunk := self._separator.chunk(item)) is not None:
                        yield chunk
                else:
                    usages.append(item)
        yield from self._pictures()
        yield from self._separator.ends()
        yield from map(self._with_costs, usages)

    def _accepted(self, item: Accepted) -> Accepted:
        """The Accepted of the text, which counts the pictures as well."""
        self._endpoint = item.upstream or ""
        self._costs[_TEXT], self._late[_TEXT] = item.spent, item.late_kudos
        return replace(
            item,
            spent=lambda: total_spent([*self._costs.values()]),
            late_kudos=AllLateKudos(self._late),
        )

    def _pictures(self) -> Items:
        """Waitings, and a chunk for each call. Pictures are made side by side.

        Where a part of the kudos does not suffice for one, it gets what the others have left.
        """
        calls = self._separator.calls
        caller = self._caller_of(min(max(len(calls), 1), MOST_PICTURES))
        streams = [self._picture(call, at, caller) for at, call in enumerate(calls, 1)]
        with closing(take_turns(streams, AT_ONCE)) as turns:
            for _, item in turns:
                yield item
        for at, call in enumerate(calls, 1):
            if call in self._too_expensive:
                yield from self._picture(call, at, self._caller_of(1))

    def _caller_of(self, parts: int) -> Caller:
        """The caller of so many pictures that are made at once, after all that there is."""
        spent = total_spent([*self._costs.values()]).kudos
        return replace(self._caller, spent_kudos=spent, parts=parts)

    def _picture(self, call: ImageCall, position: int, caller: Caller) -> Items:
        """Waitings, and the chunk with the picture or with a sentence instead of it."""
        maker: dict[str, Any] | None = None
        try:
            if position > MOST_PICTURES:
                raise InvalidRequest(f"An answer has {MOST_PICTURES} pictures at most.")
            self._maker.check_day(position)
            request = call.request(self._horde, self._image_tool)
            picture = yield from self._made(request, position, caller)
            # It cost its kudos, whether it can be stored or not.
            maker = makers([picture])
            self._makers.append(maker)
            if self._image_tool is not None:
                yield self._separator.beside(call, picture_delta(request, picture), maker)
                return
            text = picture_text(request.prompt, self._maker.link(picture))
        except (ClientGone, ShuttingDown):
            raise
        except InsufficientKudos as exc:
            if caller.parts > 1:
                self._too_expensive.append(call)
                return
            text = failure_text(exc)
        # The text is an answer without its picture, too.
        except ProxyError as exc:
            text = failure_text(exc)
        yield self._separator.shown(call, text, maker)

    def _made(
        self, request: ImageRequest, position: int, caller: Caller
    ) -> Generator[StreamItem, None, Picture]:
        """Waitings; what comes back is the picture. Raises the ProxyError of whoever makes it."""
        candidates = self._maker.candidates(self._endpoint, request.model)
        picture: Picture | None = None
        # The router takes requests of both kinds.
        stream = self._maker.router.stream(cast(Any, request), candidates, caller)
        with closing(stream) as items:
            for item in items:
                if isinstance(item, Waiting):
                    yield item
                elif isinstance(item, Accepted):
                    self._costs[position], self._late[position] = item.spent, item.late_kudos
                    self._request_ids[position] = item.headers.get("X-Horde-Request-Id", "")
                elif (indexed := picture_in(item)) is not None:
                    picture = indexed[1]
        if picture is None:
            raise UpstreamFailed("The horde made no picture.")
        return picture

    def _with_costs(self, usage: Chunk) -> Chunk:
        """The usage of the text, with what the pictures cost and who made them."""
        if not self._separator.calls:
            return usage
        horde = dict(usage.get("horde") or {})
        spent = sum(cost().kudos for at, cost in self._costs.items() if at != _TEXT)
        horde["kudos"] = round((finite(horde.get("kudos")) or 0.0) + spent, 2)
        # The object is another server's where that wrote the text, and may hold anything.
        ids = horde.get("request_ids")
        new_ids = [request_id for request_id in self._request_ids.values() if request_id]
        horde["request_ids"] = [*(ids if isinstance(ids, list) else ()), *new_ids]
        horde["images"] = self._makers
        return {**usage, "horde": horde}

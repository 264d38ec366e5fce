"""Pictures of a server with OpenAI's images API, for requests that were not proxied.

Most requests are: bodies pass unchanged. These come after a horde that failed, or name no model of
their own. What a request looks like is protocol/image_body.py's matter.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from urllib3.filepost import encode_multipart_formdata

from horde_proxy.caching.derived import Derived
from horde_proxy.errors import ProxyError, UpstreamFailed
from horde_proxy.json_reading import parse_json
from horde_proxy.protocol.image_body import ImageBody, image_body, images_in, tokens_in
from horde_proxy.protocol.image_request import ImageRequest, Picture
from horde_proxy.protocol.leniency import warnings_header
from horde_proxy.protocol.models import may_make_images
from horde_proxy.upstreams.base import Accepted, Caller, ImageItem, Spent
from horde_proxy.upstreams.picture_formats import in_format
from horde_proxy.upstreams.picture_links import PictureLinks, PictureLost
from horde_proxy.upstreams.proxying import JsonBody, ProxyRequest, ProxyResponse

if TYPE_CHECKING:
    from horde_proxy.upstreams.openai.upstream import OpenAIUpstream

_MOST_BYTES = 150_000_000
"""Of an answer: ten PNG of 8 megapixels each, in base64, have about as many."""


class OpenAIImages:
    """The pictures of one server: those of the models that may make some. See ImageSource."""

    def __init__(self, server: OpenAIUpstream, links: PictureLinks) -> None:
        self._server, self._links = server, links
        self._models: Derived[tuple[Sequence[dict[str, Any]]], list[dict[str, Any]]]
        self._models = Derived(lambda: (server.models(),), _making_images)

    def models(self) -> Sequence[dict[str, Any]]:
        """The model objects of all that is not known to make something else."""
        return self._models.get()

    def refresh(self) -> None:
        """See ImageSource."""
        self._server.refresh()

    def error(self) -> ProxyError | None:
        """See ImageSource."""
        return self._server.error()

    def stream(
        self, request: ImageRequest, model: str, caller: Caller
    ) -> Generator[ImageItem, None, None]:
        """Accepted once the pictures are there, and the pictures; Waitings before."""
        body = image_body(request, model, is_strict=self._server.is_strict)
        spent, count = list[Spent](), 0
        warnings = [f"{name}: not sent" for name in body.left_out]

        def read(response: ProxyResponse) -> Iterator[Picture]:
            document = _document(response)
            spent.append(Spent(*tokens_in(document)))
            yield from self._pictures(images_in(document)[: request.n], request, model)

        def accepted() -> Accepted:
            headers = {
                "X-Endpoint": self._server.name,
                "X-Horde-Warnings": warnings_header(warnings),
            }
            return Accepted(
                {name: value for name, value in headers.items() if value},
                self._server.name,
                lambda: spent[0] if spent else Spent(),
            )

        call = replace(_call(body), inspection=caller.inspection)
        for item in self._server.answered(call, accepted(), read):
            count += isinstance(item, Picture)
            yield item
        if count < request.n:
            warnings.append(f"n: {count} of {request.n} pictures came")
            yield accepted()

    def _pictures(
        self, images: Sequence[str], request: ImageRequest, model: str
    ) -> Iterator[Picture]:
        """The pictures, in the format of the request. Raises a ProxyError where there is none."""
        count, error = 0, None
        for image in images:
            try:
                data, raster = self._links.fetch(image)
            except PictureLost as exc:
                error = error or exc
                continue
            width, height = raster.size
            content = in_format(data, raster, request)
            yield Picture(content, request.output_format, width, height, model=model)
            count += 1
        if not count:
            raise error or UpstreamFailed("it answered without a picture")


def _making_images(source: tuple[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [model for model in source[0] if may_make_images(model)]


def _call(body: ImageBody) -> ProxyRequest:
    """The call with a body: as a form if it has files."""
    if not body.files:
        content, kind = json.dumps(body.fields).encode(), "application/json"
    else:
        parts = [*body.form_fields().items()]
        files = [(file.name, (f"{at}.png", file.data)) for at, file in enumerate(body.files)]
        content, kind = encode_multipart_formdata([*parts, *files])
    return ProxyRequest("POST", body.path, {"Content-Type": kind}, JsonBody(content))


def _document(response: ProxyResponse) -> Any:
    """The JSON of an answer. Raises UpstreamFailed."""
    content = bytearray()
    for piece in response:
        content += piece
        if len(content) > _MOST_BYTES:
            raise UpstreamFailed(f"it sent an answer of more than {_MOST_BYTES // 1_000_000} MB")
    try:
        return parse_json(bytes(content))
    except (ValueError, RecursionError) as exc:
        raise UpstreamFailed("its answer is not JSON") from exc

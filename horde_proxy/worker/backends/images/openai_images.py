"""Servers with OpenAI's images API: stable-diffusion.cpp's server, LocalAI, and others.

A picture is POST /v1/images/generations, one with a source POST /v1/images/edits. OpenAI's API has
no seed, steps or negative prompt; servers that know them read them as fields of the body.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import requests

from horde_proxy.pictures import Raster
from horde_proxy.protocol.models import as_mapping
from horde_proxy.worker.backends.base import JobRefused
from horde_proxy.worker.backends.images.answers import MOST_BYTES, picture_in
from horde_proxy.worker.backends.images.base import (
    IMG2IMG,
    PAINTING,
    ImageOptions,
    MadePicture,
    PictureJob,
)
from horde_proxy.worker.backends.images.checkpoints import Checkpoint
from horde_proxy.worker.backends.images.listing_server import ListingServer, listed

_SD_CPP = "sd-cpp"
"""What the only model of stable-diffusion.cpp's server begins with: "sd-cpp-local"."""


class OpenAIImagesServer(ListingServer):
    """A server that makes pictures by OpenAI's API."""

    features = frozenset({IMG2IMG, PAINTING})
    post_processors: frozenset[str] = frozenset()

    def __init__(
        self,
        url: str,
        session: requests.Session,
        models: Sequence[Checkpoint],
        options: ImageOptions,
    ) -> None:
        super().__init__(url, session)
        self._titles = {model.name: model.title for model in models}
        self.models = tuple(self._titles)
        self.max_pixels = options.max_pixels
        # Set once, when the server refuses fields that OpenAI's API does not have. Two threads that
        # both learn it do no harm.
        self._takes_more = True

    @classmethod
    def open(cls, name: str, options: ImageOptions) -> OpenAIImagesServer | None:
        """The server at a URL; None where there is none. Raises BackendError."""
        opened = listed(name, options)
        if opened is None:
            return None
        server = cls(*opened, options)
        options.report(f"Server with OpenAI's images API at {server.shown_url}")
        return server

    def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
        """The picture. Raises BackendError."""
        if self._takes_more:
            try:
                return MadePicture(self._made(job, _more(job), cancelled), job.seed)
            except JobRefused:
                raster = self._made(job, {}, cancelled)
                # Without them it works, so the server does not know them.
                self._takes_more = False
                self.note_left_out(_more(job))
                return MadePicture(raster, job.seed)
        return MadePicture(self._made(job, {}, cancelled), job.seed)

    def _made(
        self, job: PictureJob, more: Mapping[str, Any], cancelled: Callable[[], bool]
    ) -> Raster:
        title = self._titles[job.model]
        prompt = job.prompt
        if title.startswith(_SD_CPP) and more:
            # Its own way to say them (stable-diffusion.cpp, issue 1658).
            prompt += f"<sd_cpp_extra_args>{json.dumps(more)}</sd_cpp_extra_args>"
            more = {}
        fields = {
            "model": title,
            "prompt": prompt,
            "n": 1,
            "size": f"{job.width}x{job.height}",
            "response_format": "b64_json",
            **more,
        }
        if job.source is None:
            response = self.send("/v1/images/generations", cancelled, most=MOST_BYTES, json=fields)
        else:
            response = self.send(
                "/v1/images/edits",
                cancelled,
                most=MOST_BYTES,
                data={name: str(value) for name, value in fields.items()},
                files=_files(job),
            )
        data = as_mapping(self.json_of(response)).get("data")
        image = as_mapping(data[0]).get("b64_json") if isinstance(data, list) and data else None
        # Some make the size nearest to it that they know.
        return picture_in(image).covering(job.width, job.height)


def _more(job: PictureJob) -> dict[str, Any]:
    """What OpenAI's API does not have, in the words that these servers share."""
    more: dict[str, Any] = {"seed": job.seed, "steps": job.steps, "cfg_scale": job.cfg_scale}
    if job.negative:
        more["negative_prompt"] = job.negative
    if job.source is not None:
        more["strength"] = job.strength
    return more


def _files(job: PictureJob) -> dict[str, tuple[str, bytes, str]]:
    """The source, and the mask, whose transparent pixels are painted anew in OpenAI's API."""
    assert job.source is not None
    files = {"image": ("image.png", job.source.encoded("png"), "image/png")}
    if job.mask is not None:
        mask = job.source.with_repaint_mask(job.mask)
        files["mask"] = ("mask.png", mask.encoded("png"), "image/png")
    return files

"""The contract of a backend for images: it makes one picture for each job. It knows no horde."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from horde_proxy.aihorde.image_limits import MOST_PIXELS_FREE
from horde_proxy.pictures import Raster
from horde_proxy.worker.backends.base import say_nothing

IMG2IMG, PAINTING, TRANSPARENT = "img2img", "painting", "transparent"
"""What a backend can do besides making pictures of words: change a source, paint within a mask,
leave the background out. The horde's flags of a pop are the first two after "allow_"."""
TILING, HIRES_FIX = "tiling", "hires_fix"
"""Likewise: edges that fit together, and a second pass for large pictures. A backend without them
makes the picture all the same, and the requester is told."""


@dataclass(frozen=True)
class PictureJob:
    """One picture to make: the payload of a horde's job, checked (`aihorde.image_limits`).

    `source` has the size of the job. `mask` has it, too: white is painted anew, black stays.
    `strength` is how much of the source may change, `hires_strength` the same for the second pass
    of `hires_fix`; both from 0 to 1. `censors`: the requester wants no NSFW picture.
    """

    id: str
    model: str
    prompt: str
    width: int
    height: int
    seed: int
    negative: str = ""
    steps: int = 30
    cfg_scale: float = 5.0
    sampler: str = "k_euler_a"
    karras: bool = True
    clip_skip: int = 1
    tiling: bool = False
    transparent: bool = False
    hires_fix: bool = False
    hires_strength: float = 0.65
    strength: float = 0.75
    source: Raster | None = None
    mask: Raster | None = None
    post_processing: tuple[str, ...] = ()
    facefixer_strength: float = 0.75
    censors: bool = False


@dataclass(frozen=True)
class MadePicture:
    """A picture, the seed that it was made with, and sentences for the requester."""

    raster: Raster
    seed: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageOptions:
    """The user's options; each backend uses those that apply to it.

    `kind` is a word of `registry.image_kinds`; None finds it out. `models` are globs of a server's
    models, of which `denied_models` are never offered; `names` are the names under which they are
    advertised, by the server's own. `max_pixels` is the largest picture. `workflow` is a file of
    ComfyUI. `censor`: whether the backend's own filter is used. `report` is called with sentences
    for the user.
    """

    kind: str | None = None
    api_key: str | None = field(default=None, repr=False)
    models: Sequence[str] = ()
    denied_models: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    max_pixels: int = MOST_PIXELS_FREE
    workflow: Path | None = None
    censor: bool = False
    report: Callable[[str], None] = say_nothing


class ImageBackend(Protocol):
    """Makes pictures. `models` are advertised to the horde, `features` are words as `IMG2IMG`.

    `post_processors` are those of the horde that it has: upscalers, fixers of faces.
    """

    @property
    def models(self) -> Sequence[str]: ...

    @property
    def features(self) -> frozenset[str]: ...

    @property
    def post_processors(self) -> frozenset[str]: ...

    @property
    def max_pixels(self) -> int: ...

    def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
        """The picture. Raises BackendError.

        `cancelled` returns True once it is not needed any more. A backend then ends within a
        second; what it returns or raises does not matter.
        """


OpenImages = Callable[[str, ImageOptions], ImageBackend | None]
"""Opens the backend of a name or URL; returns None if it belongs to another kind."""

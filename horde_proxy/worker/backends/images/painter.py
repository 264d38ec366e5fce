"""A painter that is built in: it draws the words of the prompt on a coloured background.

It is no model, and says so in each picture and in its metadata: a placeholder for demos and tests.
The same job gives the same picture. Pillow draws, with its built-in font.
"""

from __future__ import annotations

import colorsys
import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from horde_proxy.aihorde.image_limits import MOST_SIDE, POST_PROCESSORS, STRIP_BACKGROUND, UPSCALERS
from horde_proxy.pictures import BadPicture, Raster
from horde_proxy.worker.backends.base import BackendError, JobRefused
from horde_proxy.worker.backends.images.base import (
    IMG2IMG,
    PAINTING,
    TRANSPARENT,
    ImageOptions,
    MadePicture,
    PictureJob,
)
from horde_proxy.worker.backends.offered_model import matches

_NAME = "painter"
_MODEL = "horde-proxy/painter"
_NOTE = f"This is a placeholder: {_MODEL} draws the words of the prompt and is no image model."
_PATCHES = 5
"""Colours of the background along each side, between which it is smooth."""
_SHAPES = 6
_LEAST_FONT, _FONT_SHARE = 10, 6
"""Pixels of the smallest letters that can be read, and the part of a side that the largest have."""
_LONGEST_WORDS = 600
"""Characters that are drawn: more cannot be read in any size."""
_FOOT_SHARE = 24
"""The part of the shorter side that the line at the bottom is high."""
_WHITE, _BLACK = (255, 255, 255, 255), (0, 0, 0, 200)

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def open_painter(name: str, options: ImageOptions) -> Painter | None:
    """The painter for "painter", else None. Raises BackendError where it is denied."""
    if name != _NAME:
        return None
    if any(matches(_MODEL, glob) for glob in options.denied_models):
        raise BackendError(f"filters.denied_models leaves no model of {name}: {_MODEL}")
    return Painter()


class Painter:
    """Draws the prompt. It understands sources, masks, transparency and upscalers, simply."""

    models = (_MODEL,)
    features = frozenset({IMG2IMG, PAINTING, TRANSPARENT})
    post_processors = frozenset(POST_PROCESSORS)
    max_pixels = MOST_SIDE * MOST_SIDE

    def paint(self, job: PictureJob, cancelled: Callable[[], bool]) -> MadePicture:
        """The picture. Raises JobRefused where it would become too large."""
        image = _drawn(job)
        if job.source is not None:
            image = _over(job.source, job.mask, image, job.strength)
        raster = Raster(image, "png")
        for name in job.post_processing:
            raster = _enlarged(raster, UPSCALERS.get(name, 1))
        return MadePicture(raster, job.seed, (_NOTE,))


def _drawn(job: PictureJob) -> Image.Image:
    """The words before their background, or before none in a transparent picture."""
    # A text as the seed gives the same numbers on each machine and in each process.
    numbers = random.Random(f"{job.seed} {job.prompt}")  # noqa: S311
    image = _background(numbers, job.width, job.height)
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(_SHAPES):
        draw.ellipse(_somewhere(numbers, image.size), fill=(*_colour(numbers), 70))
    is_transparent = job.transparent or STRIP_BACKGROUND in job.post_processing
    if is_transparent:
        image = Image.new("RGBA", image.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(image, "RGBA")
    area = _changed_area(job)
    _write(draw, job.prompt[:_LONGEST_WORDS], area)
    if job.mask is None:
        _sign(draw, f"placeholder, seed {job.seed}", area)
    return image


def _background(numbers: random.Random, width: int, height: int) -> Image.Image:
    """A few colours that run into each other, whatever the size."""
    patches = Image.new("RGB", (_PATCHES, _PATCHES))
    for x in range(_PATCHES):
        for y in range(_PATCHES):
            patches.putpixel((x, y), _colour(numbers))
    return patches.resize((width, height), Image.Resampling.BICUBIC)


def _colour(numbers: random.Random) -> tuple[int, int, int]:
    """A colour that is neither grey nor so bright that white words cannot be read on it."""
    red, green, blue = colorsys.hsv_to_rgb(
        numbers.random(), numbers.uniform(0.45, 0.8), numbers.uniform(0.35, 0.75)
    )
    return round(red * 255), round(green * 255), round(blue * 255)


def _somewhere(numbers: random.Random, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box for an ellipse, which may reach beyond the picture."""
    width, height = size
    radius = numbers.uniform(0.08, 0.3) * min(size)
    x, y = numbers.uniform(0, width), numbers.uniform(0, height)
    return x - radius, y - radius, x + radius, y + radius


def _changed_area(job: PictureJob) -> Box:
    """Where the words belong: what the mask has painted anew, else the whole picture."""
    whole = (0, 0, job.width, job.height)
    return (_mask_image(job.mask).getbbox() or whole) if job.mask else whole


def _write(draw: ImageDraw.ImageDraw, text: str, area: Box) -> None:
    """Draw the words in the middle of an area, as large as they fit."""
    left, top, right, bottom = area
    width, height = round((right - left) * 0.9), round((bottom - top) * 0.8)
    size = max(min(right - left, bottom - top) // _FONT_SHARE, _LEAST_FONT)
    while True:
        font: Any = ImageFont.load_default(size)
        words = "\n".join(_lines(text, font, width))
        box = draw.multiline_textbbox((0, 0), words, font=font, align="center")
        is_fitting = box[2] - box[0] <= width and box[3] - box[1] <= height
        if is_fitting or size <= _LEAST_FONT:
            break
        size = max(size * 9 // 10, _LEAST_FONT)
    middle = ((left + right) / 2, (top + bottom) / 2)
    draw.multiline_text(
        middle,
        words,
        font=font,
        anchor="mm",
        align="center",
        fill=_WHITE,
        stroke_width=max(size // 16, 1),
        stroke_fill=_BLACK,
    )


def _lines(text: str, font: Any, width: int) -> list[str]:
    """The words in lines of at most a width; a word that is longer has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _sign(draw: ImageDraw.ImageDraw, text: str, area: Box) -> None:
    """Say in the picture's last line what it is."""
    left, _, right, bottom = area
    size = max(min(right - left, bottom) // _FOOT_SHARE, _LEAST_FONT)
    font: Any = ImageFont.load_default(size)
    draw.text(
        ((left + right) / 2, bottom - size // 2),
        text,
        font=font,
        anchor="ms",
        fill=_WHITE,
        stroke_width=1,
        stroke_fill=_BLACK,
    )


def _over(source: Raster, mask: Raster | None, image: Image.Image, strength: float) -> Image.Image:
    """The drawing over a source, the more of it the greater the strength, where the mask is white.

    What the mask has black is the source's, pixel by pixel.
    """
    below = Image.frombytes("RGB", source.size, source.pixels())
    drawing = Image.alpha_composite(below.convert("RGBA"), image.convert("RGBA")).convert("RGB")
    blended = Image.blend(below, drawing, strength)
    return Image.composite(blended, below, _mask_image(mask)) if mask else blended


def _mask_image(mask: Raster) -> Image.Image:
    return Image.frombytes("RGB", mask.size, mask.pixels()).convert("L")


def _enlarged(raster: Raster, factor: int) -> Raster:
    """The picture so many times as large. Raises JobRefused."""
    width, height = raster.size
    try:
        return raster.resized(width * factor, height * factor)
    except BadPicture as exc:
        raise JobRefused("too large a picture", "the enlarged picture would be too large") from exc

"""One picture in memory: read from bytes that nobody may trust, changed, and written again.

    bytes --> type by its first bytes --> size by its header --> bounds --> pixels --> Raster

Only after the bounds are pixels decoded: a file of a few hundred bytes can claim a billion of them.
Metadata (place, camera, comments) never leaves: a picture is written from its pixels alone.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

PictureType = Literal["png", "jpeg", "webp", "gif"]
MOST_BYTES = 50_000_000
"""Of a file. OpenAI's API takes as many."""
MOST_PIXELS = 7680 * 4320
"""Of a picture: 8K, and the photo of nearly any phone. Decoded, it has 130 MB."""
_MOST_SIDE = 16_383
"""Pixels; WebP cannot have more."""
_MOST_SCANS = 100
"""Of a progressive JPEG, which has about ten."""
_MOST_SCANNED = 12 * MOST_PIXELS
"""Pixels of a progressive JPEG times its scans. Each scan is decoded over all pixels: 100 of them,
of a few bytes each, would keep a processor busy for three seconds with 8K."""
_JPEG_SCAN = b"\xff\xda"
_FORMATS: dict[PictureType, str] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP", "gif": "GIF"}
_QUALITY = 90
"""Of JPEG and WebP where the client does not say: no loss is seen, at a fifth of PNG's bytes."""


class BadPicture(ValueError):
    """Bytes that are no picture, or one beyond a bound. The message is a sentence for clients."""


def sniffed_type(data: bytes) -> PictureType | None:
    """The type by the first bytes; None for anything that is not taken, as SVG, TIFF or BMP.

    Names and declared types are not looked at: clients send "blob" and application/octet-stream.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return None


class Raster:
    """The pixels of a picture, RGB or RGBA. Rasters never change; methods make new ones.

    `kind` is the type that it was read from, `is_animated` whether only its first frame was read.
    """

    def __init__(self, image: Image.Image, kind: PictureType, *, is_animated: bool = False) -> None:
        self._image, self.kind, self.is_animated = image, kind, is_animated

    @classmethod
    def read(
        cls, data: bytes, *, most_bytes: int = MOST_BYTES, most_pixels: int = MOST_PIXELS
    ) -> Raster:
        """The picture that the bytes are, upright. Raises BadPicture."""
        if len(data) > most_bytes:
            raise BadPicture(f"The image has more than {most_bytes // 1_000_000} MB.")
        kind = sniffed_type(data)
        if kind is None:
            raise BadPicture("The image is not a PNG, JPEG, WebP or GIF.")
        with _foreign_errors():
            # Nothing is decoded yet: this reads the header only.
            image = Image.open(io.BytesIO(data), formats=[_FORMATS[kind]])
            _check_size(image.size, most_pixels)
            if kind == "jpeg":
                _check_scans(data.count(_JPEG_SCAN), image.width * image.height)
            is_animated = getattr(image, "is_animated", False)
            image.load()
            return cls(_upright(image), kind, is_animated=is_animated)

    @classmethod
    def plain(cls, width: int, height: int, colour: tuple[int, int, int]) -> Raster:
        """A picture of one colour. Raises BadPicture for a size beyond the bounds."""
        _check_size((width, height), MOST_PIXELS)
        return cls(Image.new("RGB", (width, height), colour), "png")

    @classmethod
    def of_pixels(cls, width: int, height: int, pixels: bytes) -> Raster:
        """A picture of RGB pixels, row by row. Raises ValueError where they do not fit the size."""
        _check_size((width, height), MOST_PIXELS)
        return cls(Image.frombytes("RGB", (width, height), pixels), "png")

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self._image.size

    @property
    def has_alpha(self) -> bool:
        """Whether it has pixels that are not opaque."""
        if self._image.mode != "RGBA":
            return False
        return min(self.alpha()) < 255

    def pixels(self) -> bytes:
        """The RGB pixels row by row, without their transparency."""
        return self._image.convert("RGB").tobytes()

    def alpha(self) -> bytes:
        """The opacity of each pixel row by row, 255 for opaque."""
        if self._image.mode != "RGBA":
            return b"\xff" * (self._image.width * self._image.height)
        return self._image.getchannel("A").tobytes()

    def resized(self, width: int, height: int) -> Raster:
        """The picture stretched or shrunk to a size. Raises BadPicture beyond the bounds."""
        _check_size((width, height), MOST_PIXELS)
        if (width, height) == self.size:
            return self
        image = self._image.resize((width, height), Image.Resampling.LANCZOS)
        return Raster(image, self.kind, is_animated=self.is_animated)

    def covering(self, width: int, height: int) -> Raster:
        """The picture in a size, cut at its edges where it has another ratio, never distorted."""
        _check_size((width, height), MOST_PIXELS)
        image = ImageOps.fit(self._image, (width, height), Image.Resampling.LANCZOS)
        return Raster(image, self.kind, is_animated=self.is_animated)

    def within(self, most_pixels: int) -> Raster:
        """The picture with at most so many pixels, in the same ratio."""
        width, height = self.size
        if width * height <= most_pixels:
            return self
        scale = math.sqrt(most_pixels / (width * height))
        return self.resized(max(int(width * scale), 1), max(int(height * scale), 1))

    def repaint_mask(self) -> Raster:
        """The horde's mask of an image whose transparent pixels are to be painted anew.

        OpenAI: alpha 0 is changed. The horde: white is changed, black stays. What is half
        transparent becomes grey. It is opaque.
        """
        alpha = Image.frombytes("L", self.size, self.alpha())
        return Raster(ImageChops.invert(alpha).convert("RGB"), "png")

    def with_repaint_mask(self, mask: Raster) -> Raster:
        """The picture, transparent where the horde's mask is white: OpenAI's mask.

        Raises BadPicture for a mask of another size.
        """
        if mask.size != self.size:
            raise BadPicture("The mask must have the same size as the image.")
        white = Image.frombytes("RGB", self.size, mask.pixels()).convert("L")
        image = self._image.convert("RGB")
        image.putalpha(ImageChops.invert(white))
        return Raster(image, "png")

    def with_alpha_of(self, mask: Raster) -> Raster:
        """The picture with the transparency of a mask of the same size, as OpenAI's masks have.

        Raises BadPicture for another size.
        """
        if mask.size != self.size:
            raise BadPicture("The mask must have the same size as the image.")
        image = self._image.convert("RGB")
        image.putalpha(Image.frombytes("L", self.size, mask.alpha()))
        return Raster(image, "png")

    def opaque(self, background: tuple[int, int, int] = (255, 255, 255)) -> Raster:
        """The picture before a background."""
        if self._image.mode != "RGBA":
            return self
        ground = Image.new("RGBA", self.size, (*background, 255))
        return Raster(Image.alpha_composite(ground, self._image).convert("RGB"), self.kind)

    def encoded(self, kind: PictureType, *, quality: int | None = None) -> bytes:
        """The picture as a file, without metadata; transparency before white where JPEG has none.

        `quality` from 0 to 100 is that of JPEG and WebP; others lose nothing.
        """
        image = self.opaque()._image if kind == "jpeg" else self._image
        file = io.BytesIO()
        if kind == "jpeg":
            # Beyond 95, files grow and pictures do not change (Pillow's documentation).
            least_loss = min(_QUALITY if quality is None else max(quality, 1), 95)
            image.save(file, "JPEG", quality=least_loss)
        elif kind == "webp":
            # Method 2 takes half the time of 4, for files a few percent larger.
            image.save(file, "WEBP", quality=_QUALITY if quality is None else quality, method=2)
        elif kind == "gif":
            image.save(file, "GIF")
        else:
            # Level 3 takes a third of the time of 6, for files a few percent larger.
            image.save(file, "PNG", compress_level=3)
        return file.getvalue()


def _check_size(size: tuple[int, int], most_pixels: int) -> None:
    width, height = size
    if min(width, height) < 1 or max(width, height) > _MOST_SIDE or width * height > most_pixels:
        raise BadPicture(
            f"The image has {width} x {height} pixels; at most {most_pixels:,} pixels, "
            f"and {_MOST_SIDE:,} a side, are taken."
        )


def _check_scans(scans: int, pixels: int) -> None:
    if scans > _MOST_SCANS or scans * pixels > _MOST_SCANNED:
        raise BadPicture("The JPEG has too many scans: save it as one that is not progressive.")


def _upright(image: Image.Image) -> Image.Image:
    """The image as RGB or RGBA, turned as its camera was held; it may be the same object.

    Copies are made only where something changes: a large picture has more than 100 MB.
    """
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits a pixel: converting cuts off everything above 255.
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    is_transparent = image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (
        "transparency" in image.info
    )
    mode = "RGBA" if is_transparent else "RGB"
    pixels = image if image.mode == mode else image.convert(mode)
    # Pillow would write the comment, the colour profile and the like of a file into the next one.
    pixels.info = {}
    return pixels


@contextmanager
def _foreign_errors() -> Iterator[None]:
    """Raises BadPicture for whatever Pillow raises at files that are broken or hostile."""
    try:
        yield
    except BadPicture:
        raise
    # The warning is an error where Python is run so.
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise BadPicture("The image has too many pixels.") from exc
    except UnidentifiedImageError as exc:
        raise BadPicture("The image cannot be read: its file is damaged.") from exc
    # Its decoders let these out of broken files; none of them is a fault of ours.
    except (
        OSError,
        ValueError,
        TypeError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        AttributeError,
        OverflowError,
        struct.error,
        zlib.error,
    ) as exc:
        raise BadPicture("The image cannot be read: its file is damaged.") from exc

"""Pictures: hostile files refused before they cost anything, masks exact to the pixel, formats."""

from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from horde_proxy.pictures import (
    BadPicture,
    PictureType,
    Raster,
    as_data_url,
    decoded,
    sniffed_type,
)

TYPES: tuple[PictureType, ...] = ("png", "jpeg", "webp", "gif")


def file(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a size, with zeros to decompress for it."""

    def part(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    zeros = zlib.compress(b"\0" * 10_000_000)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zeros) + part(b"IEND", b"")


def gif_of_claimed_size(width: int, height: int) -> bytes:
    small = bytearray(file(Image.new("P", (2, 2)), "GIF"))
    small[6:10] = struct.pack("<HH", width, height)
    return bytes(small)


def jpeg_of_claimed_size(width: int, height: int) -> bytes:
    small = bytearray(file(Image.new("RGB", (16, 16)), "JPEG"))
    at = small.index(b"\xff\xc0") + 5
    small[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(small)


def webp_of_claimed_size(width: int, height: int) -> bytes:
    small = bytearray(file(Image.new("RGB", (16, 16)), "WEBP", lossless=True))
    at = small.index(b"VP8L") + 9
    small[at : at + 4] = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return bytes(small)


@pytest.mark.parametrize(
    "bomb",
    [
        png_of_claimed_size(60_000, 60_000),
        png_of_claimed_size(12_000, 12_000),
        png_of_claimed_size(8_000, 6_000),
        gif_of_claimed_size(60_000, 60_000),
        jpeg_of_claimed_size(60_000, 60_000),
        webp_of_claimed_size(16_000, 16_000),
    ],
    ids=["png", "large png", "png just too large", "gif", "jpeg", "webp"],
)
def test_a_bomb_is_refused_before_its_pixels_are_decoded(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadPicture):
            Raster.read(bomb)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_size_beyond_the_bound_is_named() -> None:
    with pytest.raises(BadPicture, match=r"^The image has 8000 x 6000 pixels; at most 33,177,600"):
        Raster.read(png_of_claimed_size(8_000, 6_000))


def test_a_jpeg_of_many_scans_is_refused() -> None:
    scans = file(Image.new("RGB", (16, 16)), "JPEG", progressive=True)
    assert Raster.read(scans).size == (16, 16)
    with pytest.raises(BadPicture, match="too many scans"):
        Raster.read(scans[:-2] + b"\xff\xda\x00\x02" * 101 + scans[-2:])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7",
        file(Image.new("RGB", (4, 4)), "TIFF"),
        file(Image.new("RGB", (4, 4)), "BMP"),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
        b"GIF89a",
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(BadPicture):
        Raster.read(data)


@pytest.mark.parametrize("kind", TYPES)
def test_a_truncated_file_is_refused(kind: PictureType) -> None:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    with pytest.raises(BadPicture):
        Raster.read(file(noise, kind)[:-400])


@given(st.binary(max_size=300), st.sampled_from(TYPES), st.integers(0, 200))
def test_damaged_files_raise_nothing_else(junk: bytes, kind: PictureType, at: int) -> None:
    data = bytearray(file(Image.new("RGB", (8, 8), (200, 10, 10)), kind))
    data[at : at + len(junk)] = junk
    try:
        Raster.read(bytes(data))
    except BadPicture as exc:
        assert str(exc).endswith(".")


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_is_known_by_its_bytes(kind: PictureType) -> None:
    data = Raster.plain(8, 8, (1, 2, 3)).encoded(kind)
    assert sniffed_type(data) == kind
    assert Raster.read(data).kind == kind
    assert Raster.read(data).size == (8, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_every_mode_of_pixels_becomes_rgb(mode: str) -> None:
    image = Image.new(mode, (4, 4))
    data = file(image, "JPEG" if mode == "CMYK" else "PNG")
    assert len(Raster.read(data).pixels()) == 4 * 4 * 3


def test_sixteen_bits_a_pixel_keep_their_brightness() -> None:
    data = file(Image.new("I;16", (1, 1), 0x8000), "PNG")
    assert Raster.read(data).pixels() == bytes([128, 128, 128])


def test_a_photo_is_turned_as_the_camera_was_held_and_loses_its_place() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "at home"
    data = file(Image.new("RGB", (4, 2)), "JPEG", exif=exif)
    assert b"at home" in data
    picture = Raster.read(data)
    assert picture.size == (2, 4)
    assert b"at home" not in picture.encoded("jpeg")


def test_only_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    picture = Raster.read(data)
    assert picture.is_animated
    assert picture.pixels()[:3] == b"\xff\0\0"


def test_transparency_is_kept_and_jpeg_gets_white_behind_it() -> None:
    data = file(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG")
    picture = Raster.read(data)
    assert picture.has_alpha
    assert Raster.read(picture.encoded("webp")).has_alpha
    jpeg = Raster.read(picture.encoded("jpeg"))
    assert not jpeg.has_alpha
    assert min(jpeg.pixels()) > 250


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
def test_nothing_that_a_file_says_beside_its_pixels_is_written_again(kind: PictureType) -> None:
    fields = {"comment": b"secret", "icc_profile": b"profile" * 30}
    picture = Raster.read(file(Image.new("RGB", (64, 64)), "JPEG", **fields))
    written = picture.encoded(kind)
    assert b"secret" not in written
    assert b"iCCP" not in written
    assert b"ICC_PROFILE" not in written


def test_a_jpeg_may_have_fewer_scans_the_larger_it_is() -> None:
    large = file(Image.new("RGB", (4000, 2000)), "JPEG", progressive=True)
    last = large[large.rfind(b"\xff\xda") : -2]
    assert Raster.read(large[:-2] + last * 30 + large[-2:]).size == (4000, 2000)
    with pytest.raises(BadPicture, match="too many scans"):
        Raster.read(large[:-2] + last * 60 + large[-2:])


@given(st.binary(min_size=12, max_size=12))
def test_a_mask_is_inverted_to_the_pixel(alpha: bytes) -> None:
    image = Image.new("RGBA", (4, 3))
    image.putalpha(Image.frombytes("L", (4, 3), alpha))
    mask = Raster.read(file(image, "PNG")).repaint_mask()
    assert mask.pixels() == bytes(value for a in alpha for value in [255 - a] * 3)
    assert not mask.has_alpha


def test_an_opaque_mask_keeps_everything() -> None:
    mask = Raster.plain(2, 1, (255, 255, 255)).repaint_mask()
    assert mask.pixels() == bytes(6)


def test_a_picture_takes_the_transparency_of_its_mask() -> None:
    image = Image.new("RGBA", (2, 1), (9, 9, 9, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    mask = Raster.read(file(image, "PNG"))
    assert Raster.plain(2, 1, (5, 6, 7)).with_alpha_of(mask).alpha() == b"\xff\0"
    with pytest.raises(BadPicture, match="same size"):
        Raster.plain(3, 1, (5, 6, 7)).with_alpha_of(mask)


def test_sizes_are_changed_by_stretching_or_by_cutting() -> None:
    picture = Raster.plain(100, 50, (1, 2, 3))
    assert picture.resized(64, 64).size == (64, 64)
    assert picture.covering(64, 64).size == (64, 64)
    assert picture.within(1250).size == (50, 25)
    assert picture.within(5000) is picture
    with pytest.raises(BadPicture):
        picture.resized(20_000, 20_000)


def test_a_lower_quality_has_fewer_bytes() -> None:
    noise = Raster.read(file(Image.effect_noise((64, 64), 80), "PNG"))
    for kind in ("jpeg", "webp"):
        assert len(noise.encoded(kind, quality=10)) < len(noise.encoded(kind, quality=100))


PNG = Raster.plain(2, 2, (1, 2, 3)).encoded("png")
BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "text",
    [
        BASE64,
        BASE64.rstrip("="),
        "\n".join(BASE64[at : at + 76] for at in range(0, len(BASE64), 76)),
        f"data:image/png;base64,{BASE64}",
        f"data:image/jpeg;charset=utf-8;base64,{BASE64}",
        f"data:;base64,{BASE64}",
    ],
)
def test_base64_is_read_however_it_is_written(text: str) -> None:
    assert decoded(text) == PNG


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data:image/png,%89PNG", "must be base64"),
        ("not base64!", "not valid base64"),
        ("A" * 2_000_000, "more than 1 MB"),
    ],
)
def test_what_is_no_base64_says_so(text: str, reason: str) -> None:
    with pytest.raises(BadPicture, match=reason):
        decoded(text, most_bytes=1_000_000)


def test_a_data_url_comes_back_as_it_was() -> None:
    assert decoded(as_data_url(PNG, "png")) == PNG


def test_a_mask_of_the_horde_becomes_openais_and_back_again() -> None:
    image = Image.new("RGB", (8, 1))
    image.paste((255, 255, 255), (4, 0, 8, 1))
    source, mask = Raster.plain(8, 1, (1, 2, 3)), Raster(image, "png")
    turned = source.with_repaint_mask(mask)
    assert turned.alpha() == b"\xff" * 4 + b"\0" * 4
    assert turned.repaint_mask().pixels() == mask.pixels()
    with pytest.raises(BadPicture, match="same size"):
        source.with_repaint_mask(Raster.plain(9, 1, (0, 0, 0)))

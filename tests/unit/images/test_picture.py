"""A header is all that is looked at, and nothing that it hides gets further."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from PIL import Image

from tgi_core.errors import ValidationError
from tgi_core.images.picture import look_at

MANY = 36_000_000


def png_header(width: int, height: int) -> bytes:
    """A PNG that says so of itself, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF"])
def test_sizes_are_those_of_the_file(new_image, form):
    picture = look_at(new_image(70, 30, form), MANY)
    assert (picture.width, picture.height, picture.orientation) == (70, 30, 1)


def test_equal_files_have_one_digest_and_others_another(new_image):
    one, same, other = (look_at(new_image(w, 3), MANY) for w in (5, 5, 6))
    assert one.digest == same.digest != other.digest


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8, 99])
def test_a_picture_that_lies_on_its_side_is_measured_upright(new_image, form, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = look_at(new_image(70, 30, form, exif=exif), MANY)
    known = orientation if orientation <= 8 else 1
    assert picture.orientation == known
    assert (picture.width, picture.height) == ((30, 70) if known >= 5 else (70, 30))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"GIF89a",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.4",
        b"BM" + bytes(60),
        b"\x89PNG\r\n\x1a\n" + b"\0" * 40,
        png_header(0, 7),
        b"RIFF\x24\0\0\0WEBPVP8 " + bytes(24),
    ],
    ids=repr,
)
def test_what_is_no_image_is_refused_in_our_words(data):
    with pytest.raises(ValidationError) as refusal:
        look_at(data, MANY)
    assert "0x" not in str(refusal.value) and "BytesIO" not in str(refusal.value)


@pytest.mark.parametrize(
    "size", [(40_000, 40_000), (2**31 - 1, 1), (10_000, 10_000), (6000, 6001)], ids=str
)
def test_a_bomb_is_refused_by_its_header(size):
    with pytest.raises(ValidationError, match=r"pixels|invalid image"):
        look_at(png_header(*size), MANY)


def test_other_formats_that_pillow_knows_are_refused():
    for form in ("TIFF", "BMP", "ICO", "PPM"):
        buffer = BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, form)
        with pytest.raises(ValidationError):
            look_at(buffer.getvalue(), MANY)


def test_the_file_is_not_in_what_is_logged(new_image):
    assert "PNG" not in repr(look_at(new_image(), MANY))

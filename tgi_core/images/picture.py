"""Looks at the header of an image, so that nothing is decoded that is no image, or too large."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from hashlib import blake2b
from io import BytesIO
from threading import Lock

from PIL import Image

from tgi_core.errors import ValidationError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
"""Of an animation the first picture counts."""

_ORIENTATION = 0x0112
"""Exif's tag."""
_SIDEWAYS = 5
"""From here on width and height change places when the picture is turned."""
_warnings = Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image whose header makes sense."""

    data: bytes = field(repr=False)
    digest: str
    width: int
    """In pixels, when the picture stands upright."""
    height: int
    orientation: int = 1
    """Exif's: how it has to be turned to stand upright."""


def look_at(data: bytes, max_pixels: int) -> Picture:
    """The size of an image, from its header. May take a moment: call it in a thread.

    Raises:
        ValidationError: it is no image of a format that is taken, or holds too many pixels.
    """
    try:
        # the catalogue of warnings is shared by all threads
        with _warnings, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                # without the tag among the header's, Pillow would decode a PNG to look for it
                exif = image.getexif() if "exif" in image.info else {}
                orientation = exif.get(_ORIENTATION, 1)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _too_large(max_pixels) from error
    except Exception as error:  # a parser of strangers' files raises what it likes; it may leak
        raise ValidationError(
            f"invalid image: it is none of {', '.join(FORMATS)}, or it is damaged"
        ) from error
    if width * height > max_pixels:
        raise _too_large(max_pixels)
    if width < 1 or height < 1:
        raise ValidationError("invalid image: it holds no pixel")
    if orientation not in range(1, 9):
        orientation = 1
    if orientation >= _SIDEWAYS:
        width, height = height, width
    return Picture(
        data=data,
        digest=blake2b(data, digest_size=20).hexdigest(),
        width=width,
        height=height,
        orientation=orientation,
    )


def _too_large(max_pixels: int) -> ValidationError:
    return ValidationError(f"invalid image: it holds more than {max_pixels} pixels")

"""From the file of an image to the pixels that a model takes: decoded, upright, and prepared by the
image processor that comes with the model. Knows no model.

Pixels are arrays of the host, which any rank of a model can be given.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from tgi_core.contract import Image
from tgi_core.errors import BadImage, BadModel, UnsupportedModel

logger = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[Any]]
"""What a processor made of an image, by the names of a model's arguments."""

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""What undoes each of Exif's orientations."""


class ImageReader:
    """Reads images for one model."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            BadModel: the folder does not say how images are prepared.
            UnsupportedModel: this release of transformers needs a library for it that is not here.
        """
        try:
            self.processor: Any = transformers.AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, backend="pil"
            )
        except ImportError as error:
            raise UnsupportedModel(
                f"transformers {transformers.__version__} cannot prepare images for it without "
                "torchvision: install that, or transformers 5.23, which can."
            ) from error
        except Exception as error:  # transformers has no error class for it
            raise BadModel(
                f"{folder} does not say how images are prepared: its preprocessor_config.json is "
                f"damaged ({error})."
            ) from error

    def read(self, image: Image) -> Arrays:
        """What the processor makes of an image.

        Raises:
            BadImage: it cannot be decoded, or the model cannot take it.
        """
        picture = _upright(image)
        try:
            return self.prepared(picture)
        except Exception as error:  # processors raise whatever their arithmetic raises
            logger.warning("an image of %s pixels cannot be prepared", picture.size, exc_info=error)
            raise BadImage("invalid image: the model cannot take one of its size") from error

    def prepared(self, picture: PIL.Image.Image) -> Arrays:
        """The same, of a picture."""
        found = self.processor(images=[picture], return_tensors="pt")
        if isinstance(found, Tensor):  # Idefics1's processor returns nothing else
            return {"pixel_values": found.numpy()}
        return {name: value.numpy() for name, value in found.items() if isinstance(value, Tensor)}


def placed(inputs: Arrays, model: Any) -> dict[str, Tensor]:
    """Tensors of them where a model is, in its dtype."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in tensors.items()
    }


def _upright(image: Image) -> PIL.Image.Image:
    """The first picture of a file, in RGB, as it should be looked at.

    Raises:
        BadImage: it cannot be decoded.
    """
    try:
        with PIL.Image.open(BytesIO(image.data), formats=_FORMATS) as picture:
            upright = picture.convert("RGB")
    except Exception as error:  # a decoder of strangers' files raises what it likes; it may leak
        raise BadImage("invalid image: it is damaged, and cannot be decoded") from error
    turn = _UPRIGHT.get(image.orientation)
    return upright if turn is None else upright.transpose(turn)

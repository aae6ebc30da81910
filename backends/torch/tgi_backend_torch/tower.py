"""What makes something of images that a model can see, whatever its family."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from tgi_backend_torch.cross_attention import cross_attention_of
from tgi_backend_torch.cross_sight import CrossTower
from tgi_backend_torch.pixels import ImageReader
from tgi_backend_torch.vision import ImageTower
from tgi_core.contract import Image, ReadImage


class Tower(Protocol):
    """The part of a model that looks at pictures."""

    def read(self, image: Image) -> ReadImage:
        """Decodes and prepares; see `EncodesImages.read_image`."""
        ...

    def encode(self, pixels: Any) -> Any:
        """Looks at it; see `EncodesImages.encode_image`."""
        ...

    def try_out(self) -> list[Tensor]:
        """The vectors of blank pictures, of the forms that are known ahead: a picture that takes no
        more memory than these has room then.
        """
        ...


def tower_of(model: PreTrainedModel, folder: Path) -> Tower:
    """The tower of a model that takes images.

    Raises:
        BadModel: the folder does not say how images are prepared.
    """
    reader = ImageReader(folder)
    cross = cross_attention_of(model)
    return ImageTower(model, reader) if cross is None else CrossTower(model, cross, reader)

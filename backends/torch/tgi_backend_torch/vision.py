"""Images for the models that take them: transformers' processor makes pixels, the model's own tower
vectors.

Knows no cache and no family by more than its name.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PretrainedConfig, PreTrainedModel

from tgi_backend_torch.attention import IMPLEMENTATION
from tgi_backend_torch.forward import gradless
from tgi_core.contract import Image, ReadImage, TwoWay
from tgi_core.errors import BadImage, BadModel, UnsupportedModel

logger = logging.getLogger(__name__)

FAMILIES = {
    "gemma3": TwoWay.IMAGES,
    "idefics2": TwoWay.NONE,
    "idefics3": TwoWay.NONE,
    "llava_next": TwoWay.NONE,
    "paligemma": TwoWay.PROMPTS,
    "qwen2_5_vl": TwoWay.NONE,
    "qwen2_vl": TwoWay.NONE,
    "smolvlm": TwoWay.NONE,
}
"""Types of models whose text sees an image as vectors among those of its tokens, and which of them
see what comes after them."""

_CROSS_ATTENTION = ("idefics", "mllama")
_SQUARE = (1024, 1024)
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
_NEEDS_TRANSFORMERS = 5
"""Before it, towers gave their vectors in other shapes."""

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


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the processor made of an image."""

    inputs: Mapping[str, Tensor]
    """Arguments of the model's `get_image_features`."""
    num_vectors: int
    """How many are wanted."""


def seeing_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class of a model that takes images; None if it is of no such family.

    Raises:
        UnsupportedModel: this transformers is too old for it, or the model looks at images in a way
            that is not known here.
    """
    if config.model_type in _CROSS_ATTENTION:
        raise UnsupportedModel(
            f"{config.model_type} looks at images from layers of their own (cross-attention); the "
            "torch backend serves models that see an image among their tokens."
        )
    if config.model_type not in FAMILIES:
        return None
    if int(transformers.__version__.split(".")[0]) < _NEEDS_TRANSFORMERS:
        raise UnsupportedModel(
            f"models of the type {config.model_type} need transformers {_NEEDS_TRANSFORMERS}, and "
            f"{transformers.__version__} is installed."
        )
    classes: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    cls: type[PreTrainedModel] = classes[type(config)]
    return cls


def sees(config: PretrainedConfig, folder: Path) -> bool:
    """Whether the model in a folder takes images: of some only the text was published."""
    names = ("preprocessor_config.json", "processor_config.json")
    if config.model_type in FAMILIES and not any((folder / name).is_file() for name in names):
        logger.warning("%s has no preprocessor_config.json: it is served for text alone", folder)
        return False
    return config.model_type in FAMILIES


def two_way_of(config: PretrainedConfig) -> TwoWay:
    """Which tokens of a model see those that come after them."""
    return FAMILIES.get(config.model_type, TwoWay.NONE)


def num_axes(config: PretrainedConfig) -> int:
    """Of a model's rotary positions: three if it tells time, row and column."""
    rope: Any = getattr(config.get_text_config(), "rope_parameters", None) or {}
    return 3 if "mrope_section" in rope else 1


def make_causal(config: PretrainedConfig) -> None:
    """Has the layers of a model that sees both ways ask for causal attention: `Step.two_way` tells
    ours what sees more than that.
    """
    text: Any = config.get_text_config()
    if two_way_of(config) is TwoWay.PROMPTS:
        text.use_bidirectional_attention = False


def attention_of(config: PretrainedConfig) -> str | dict[str, str]:
    """Which part of a model computes attention how: over our cache, or over an image alone."""
    if config.model_type not in FAMILIES:
        return IMPLEMENTATION
    parts = {name: "sdpa" for name in config.sub_configs}
    return {**parts, "": "sdpa", "text_config": IMPLEMENTATION}


class ImageTower:
    """What one model does with images."""

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        """
        Raises:
            BadModel: the folder does not say how images are prepared.
        """
        self._model: Any = model
        self._processor = _processor(folder)
        wanted = inspect.signature(self._model.get_image_features).parameters
        self._names = tuple(name for name in self._processor.model_input_names if name in wanted)

    def read(self, image: Image) -> ReadImage:
        """Decodes and prepares; see `EncodesImages.read_image`."""
        picture = _upright(image)
        try:
            inputs = self._prepared(picture)
        except Exception as error:  # processors raise whatever their arithmetic raises
            logger.warning("an image of %s pixels cannot be prepared", picture.size, exc_info=error)
            raise BadImage("invalid image: the model cannot take one of its size") from error
        grid = inputs.get("image_grid_thw")
        return ReadImage(
            pixels=Pixels(inputs, image.num_placeholders),
            positions=None if grid is None else self._positions(grid[0].tolist()),
        )

    def encode(self, pixels: Pixels) -> Tensor:
        """(K, hidden): the vectors, on the device; see `EncodesImages.encode_image`."""
        vectors = self._vectors(pixels.inputs)
        if len(vectors) != pixels.num_vectors:
            raise BadImage(
                f"the model makes {len(vectors)} vectors of an image, and {pixels.num_vectors} "
                "tokens of the prompt stand for it"
            )
        return vectors

    def try_out(self) -> list[Tensor]:
        """The vectors of blank pictures: one of each form that the model cuts pictures to, if it
        has a list of them, else a square one. What takes no more memory has room then.
        """
        forms = getattr(self._model.config, "image_grid_pinpoints", None) or [_SQUARE]
        blank = (PIL.Image.new("RGB", (width, height)) for height, width in forms)
        return [self._vectors(self._prepared(picture)) for picture in blank]

    def _prepared(self, picture: PIL.Image.Image) -> dict[str, Tensor]:
        found = self._processor(images=[picture], return_tensors="pt")
        return {name: found[name] for name in self._names}

    def _vectors(self, pixels: Mapping[str, Tensor]) -> Tensor:
        """(K, hidden)."""
        device, dtype = self._model.device, self._model.dtype
        inputs = {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in pixels.items()
        }
        with gradless(device)():
            found = self._model.get_image_features(**inputs, return_dict=True).pooler_output
            vectors: Tensor = found if isinstance(found, Tensor) else torch.cat(tuple(found))
        return vectors.reshape(-1, vectors.shape[-1])

    def _positions(self, grid: list[int]) -> NDArray[np.int32]:
        """int32 (3, K): time, row and column of each vector of a grid of patches."""
        merged = self._processor.merge_size
        frames, rows, columns = grid[0], grid[1] // merged, grid[2] // merged
        places = np.indices((frames, rows, columns), np.int32)
        return places.reshape(3, -1)


def _processor(folder: Path) -> Any:
    try:
        return transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, backend="pil"
        )
    except Exception as error:  # transformers has no error class for it
        raise BadModel(
            f"{folder} does not say how images are prepared: its preprocessor_config.json is "
            f"damaged ({error})."
        ) from error


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

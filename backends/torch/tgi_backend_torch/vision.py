"""The families of models that take images, and the tower of most of them: what it makes takes the
places of tokens.

Knows no cache and no family by more than its name.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
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
from tgi_backend_torch.pixels import Arrays, ImageReader, placed
from tgi_core.contract import Image, ReadImage, TwoWay
from tgi_core.errors import BadImage, UnsupportedModel

logger = logging.getLogger(__name__)

FAMILIES = {
    "gemma3": TwoWay.IMAGES,
    "idefics": TwoWay.NONE,
    "idefics2": TwoWay.NONE,
    "idefics3": TwoWay.NONE,
    "llava_next": TwoWay.NONE,
    "mllama": TwoWay.NONE,
    "paligemma": TwoWay.PROMPTS,
    "qwen2_5_vl": TwoWay.NONE,
    "qwen2_vl": TwoWay.NONE,
    "smolvlm": TwoWay.NONE,
}
"""Types of models that take images, and which of their tokens see what comes after them."""

SQUARE = (1024, 1024)
"""A picture that devices keep memory free for."""
_NEEDS_TRANSFORMERS = 5
"""Before it, towers gave their vectors in other shapes."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What the processor made of an image."""

    inputs: Arrays
    """Arguments of the model's `get_image_features`."""
    num_vectors: int
    """How many are wanted."""


def seeing_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class of a model that takes images; None if it is of no such family.

    Raises:
        UnsupportedModel: this transformers is too old for it.
    """
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
    # Idefics1's has no part of its own
    text = "text_config" if "text_config" in parts else ""
    return {**parts, "": "sdpa", text: IMPLEMENTATION}


class ImageTower:
    """Satisfies `Tower`, for models that see an image as vectors among those of their tokens."""

    def __init__(self, model: PreTrainedModel, reader: ImageReader) -> None:
        self._model: Any = model
        self._reader = reader
        self._wanted = inspect.signature(self._model.get_image_features).parameters

    def read(self, image: Image) -> ReadImage:
        """See `Tower.read`."""
        inputs = self._chosen(self._reader.read(image))
        grid = inputs.get("image_grid_thw")
        return ReadImage(
            pixels=Pixels(inputs, image.num_placeholders),
            positions=None if grid is None else self._positions(grid[0].tolist()),
        )

    def encode(self, pixels: Pixels) -> Tensor:
        """(K, hidden): the vectors, on the device; see `Tower.encode`."""
        vectors = self._vectors(pixels.inputs)
        if len(vectors) != pixels.num_vectors:
            raise BadImage(
                f"the model makes {len(vectors)} vectors of an image, and {pixels.num_vectors} "
                "tokens of the prompt stand for it"
            )
        return vectors

    def try_out(self) -> list[Tensor]:
        """Of one picture of each form that the model cuts pictures to, if it has a list of them."""
        forms = getattr(self._model.config, "image_grid_pinpoints", None) or [SQUARE]
        blank = (PIL.Image.new("RGB", (width, height)) for height, width in forms)
        return [self._vectors(self._chosen(self._reader.prepared(one))) for one in blank]

    def _chosen(self, found: Arrays) -> Arrays:
        return {name: found[name] for name in found if name in self._wanted}

    def _vectors(self, pixels: Arrays) -> Tensor:
        """(K, hidden)."""
        inputs = placed(pixels, self._model)
        with gradless(self._model.device)():
            found = self._model.get_image_features(**inputs, return_dict=True).pooler_output
            vectors: Tensor = found if isinstance(found, Tensor) else torch.cat(tuple(found))
        return vectors.reshape(-1, vectors.shape[-1])

    def _positions(self, grid: list[int]) -> NDArray[np.int32]:
        """int32 (3, K): time, row and column of each vector of a grid of patches."""
        merged = self._reader.processor.merge_size
        frames, rows, columns = grid[0], grid[1] // merged, grid[2] // merged
        places = np.indices((frames, rows, columns), np.int32)
        return places.reshape(3, -1)

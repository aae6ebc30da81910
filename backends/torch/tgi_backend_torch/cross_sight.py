"""Images for models whose layers look at them from outside the text: nothing takes a token's place,
and a sequence keeps its images for as long as it keeps the tokens that stand for them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import PIL.Image
from torch import Tensor
from transformers import PreTrainedModel

from tgi_backend_torch.cross_attention import CrossAttention
from tgi_backend_torch.forward import gradless
from tgi_backend_torch.image_pages import KeptImage
from tgi_backend_torch.image_tables import ImageTables
from tgi_backend_torch.pixels import Arrays, ImageReader, placed
from tgi_backend_torch.vision import SQUARE
from tgi_core.contract import Image, ReadImage, Step
from tgi_core.errors import BadImage


class CrossTower:
    """Satisfies `Tower`."""

    def __init__(self, model: PreTrainedModel, cross: CrossAttention, reader: ImageReader) -> None:
        self._model = model
        self._cross = cross
        self._reader = reader

    def read(self, image: Image) -> ReadImage:
        """See `Tower.read`."""
        if image.num_placeholders != 1:
            raise BadImage(
                f"one token of a prompt stands for an image of this model, and "
                f"{image.num_placeholders} were given"
            )
        return ReadImage(pixels=self._reader.read(image))

    def encode(self, pixels: Arrays) -> KeptImage:
        """See `Tower.encode`."""
        with gradless(self._model.device)():
            return self._cross.keep(placed(pixels, self._model))

    def try_out(self) -> list[Tensor]:
        """Of a square picture: these models bring all to the same size."""
        blank = placed(self._reader.prepared(PIL.Image.new("RGB", SQUARE)), self._model)
        with gradless(self._model.device)():
            return [self._cross.family.vectors(self._model, blank)]


class CrossSplice:
    """Satisfies `Splice`."""

    def __init__(self, cross: CrossAttention, tables: ImageTables) -> None:
        self._cross = cross
        self._tables = tables

    def begin(self, step: Step) -> None:
        """See `Splice.begin`."""
        show_images(step, self._tables)
        self._cross.begin(step, self._tables)


def show_images(step: Step, tables: ImageTables) -> None:
    """Notes which images a step shows, and where."""
    new: dict[int, dict[int, Any]] = defaultdict(dict)
    positions = step.token_positions()
    row_of = np.repeat(np.arange(step.num_rows), step.n)
    for image in step.images:
        for at in image.at.tolist():
            new[int(row_of[at])][int(positions[at])] = image.encoded
    for row, (seq, past) in enumerate(zip(step.seq.tolist(), step.past.tolist(), strict=True)):
        tables.show(seq, past, new.get(row, {}))

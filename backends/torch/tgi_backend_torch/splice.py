"""Puts the vectors of images in the places of their tokens. Knows no tower."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_core.contract import Step, StepImage


class Splice(Protocol):
    """What brings images into steps."""

    def begin(self, step: Step) -> None:
        """Takes the images of the step that follows."""
        ...


class EagerSplice:
    """Satisfies `Splice`: writes them over what the embedding has given."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._images: tuple[StepImage, ...] = ()
        embedding: nn.Module = model.get_input_embeddings()
        embedding.register_forward_hook(self._splice)

    def begin(self, step: Step) -> None:
        """See `Splice.begin`."""
        self._images = step.images

    def _splice(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Runs after the embedding; output (1, T, hidden)."""
        for image in self._images:
            at = torch.from_numpy(image.at.astype(np.int64)).to(output.device)
            vectors: Tensor = image.encoded[image.skip : image.skip + len(image.at)]
            output[0, at] = vectors.to(output.dtype)

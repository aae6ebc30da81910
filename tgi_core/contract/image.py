"""Images in prompts, and what a backend does for them.

A prompt holds, for each vector that the model makes of an image, one token that stands for it: its
placeholder. Core knows where placeholders are and which image they belong to; what an image looks
like, and what a vector is, is the backend's business.

A model whose layers look at images from outside the text has one placeholder for a whole image. Its
backend keeps what it needs of the image for as long as the sequence holds that token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in a prompt."""

    data: bytes = field(repr=False)
    """A PNG, JPEG, WebP or GIF file, as the client sent it. Its header was looked at, no more."""
    digest: str
    """Of `data`. Only images of one digest share what is computed of them."""
    orientation: int = 1
    """Exif's: how the picture has to be turned to stand upright; 1 is as it is."""
    spans: tuple[tuple[int, int], ...]
    """Where its placeholders are in the prompt: begin and end of each run, ascending."""

    @property
    def num_placeholders(self) -> int:
        """Vectors that the model must make of it."""
        return sum(end - begin for begin, end in self.spans)

    def places(self) -> NDArray[np.int32]:
        """int32 (K,), ascending: the positions of its placeholders in the prompt."""
        if not self.spans:
            return np.zeros(0, np.int32)
        return np.concatenate([np.arange(begin, end, dtype=np.int32) for begin, end in self.spans])


def most_adjacent(images: Sequence[Image]) -> int:
    """How many of a prompt's images, in its order, stand side by side with nothing between them."""
    longest = run = min(len(images), 1)
    for before, image in pairwise(images):
        run = run + 1 if before.spans[-1][1] == image.spans[0][0] else 1
        longest = max(longest, run)
    return longest


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadImage:
    """An image, decoded and brought into the form that the model takes."""

    pixels: Any
    """The backend's own; core hands it to `encode_image`."""
    positions: NDArray[np.int32] | None = None
    """int32 (A, K): where its vectors stand on the axes of a model whose rotary positions have
    several, counted from the first of them; the token behind stands one after the largest. None:
    one after the other."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepImage:
    """The part of an image that a step computes."""

    encoded: Any
    """What `encode_image` returned. Core lets go of it behind the last placeholder."""
    skip: int
    """Vectors of it that earlier steps had."""
    at: NDArray[np.int32]
    """int32 (K,), ascending indices into `Step.tokens`: the vectors from `skip` on take the places
    of these tokens."""


@runtime_checkable
class EncodesImages(Protocol):
    """A backend whose `Capabilities.modalities` has IMAGE has this too."""

    def read_image(self, image: Image) -> ReadImage:
        """Decodes an image and brings it into the model's form.

        Called from another thread, beside steps, so that nobody waits for it.

        Raises:
            BadImage: it cannot be decoded, or the model makes more vectors of it, or fewer, than
                `image.num_placeholders`.
        """
        ...

    def encode_image(self, pixels: Any) -> Any:
        """Makes vectors of `ReadImage.pixels`. Called between steps.

        They stay where the device wants them, and are freed when nothing refers to them any more.

        Raises:
            BadImage: if it is found out only now.
            OutOfMemory: it does not fit now. Core gives up what is parked, and asks again; if that
                does not help, the sequence waits until others have ended.
        """
        ...

"""What a family's layout has to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Size:
    """Of a picture that stands upright, in pixels."""

    width: int
    height: int


class ImageLayout(Protocol):
    """How an image is written in the prompts of one model."""

    @property
    def placeholder(self) -> str:
        """The special token that stands for one vector of an image, or for the image."""
        ...

    @property
    def marker(self) -> str:
        """What the model's chat template writes where an image stands."""
        ...

    @property
    def bare(self) -> str:
        """What stands for an image in a prompt that no template made; the marker is in it."""
        ...

    @property
    def tail(self) -> str:
        """What ends a prompt with images, if the template does not."""
        ...

    @property
    def trimmed(self) -> str:
        """Characters that are cut off both ends of the texts around images in such a prompt."""
        ...

    @property
    def special_texts(self) -> frozenset[str]:
        """Texts that mean something beside images; clients' texts are kept from spelling them."""
        ...

    @property
    def is_whole(self) -> bool:
        """Whether a prompt with images has all its special tokens already."""
        ...

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """What takes the place of the marker of each image.

        Args:
            texts: what stands around the images; one more than there are.
            sizes: of the images, at least one.

        Raises:
            ValidationError: the model cannot take an image of such a size.
        """
        ...

    def num_vectors(self, size: Size) -> int:
        """How many placeholders the expansion of an image holds."""
        ...

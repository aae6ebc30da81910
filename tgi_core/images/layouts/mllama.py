"""Llama 3.2 Vision: a token for each image, however large; layers of their own look at the image.

See arXiv 2407.21783, section 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.images.layouts.facts import Facts
from tgi_core.images.layouts.layout import Size

_IMAGE = "<|image|>"


@dataclass(frozen=True, slots=True)
class MllamaLayout:
    """Satisfies `ImageLayout`."""

    placeholder: str = _IMAGE
    marker: str = _IMAGE
    bare: str = _IMAGE
    tail: str = ""
    trimmed: str = ""
    special_texts: frozenset[str] = frozenset({_IMAGE})
    is_whole: bool = False

    @classmethod
    def of(cls, facts: Facts) -> MllamaLayout:
        """Nothing differs between the models."""
        return cls()

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """See `ImageLayout.expansions`."""
        return [_IMAGE] * len(sizes)

    def num_vectors(self, size: Size) -> int:
        """See `ImageLayout.num_vectors`."""
        return 1

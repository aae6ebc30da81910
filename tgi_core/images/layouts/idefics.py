"""Idefics1: a token for each image, between tokens that neighbours share; layers of their own look
at the image.

See arXiv 2306.16527, section 4.2, for the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.images.layouts.facts import Facts
from tgi_core.images.layouts.layout import Size

_FAKE = "<fake_token_around_image>"
_IMAGE = "<image>"


@dataclass(frozen=True, slots=True)
class IdeficsLayout:
    """Satisfies `ImageLayout`."""

    placeholder: str = _IMAGE
    marker: str = _IMAGE
    bare: str = _IMAGE
    tail: str = ""
    trimmed: str = " "
    special_texts: frozenset[str] = frozenset({_FAKE, _IMAGE})
    is_whole: bool = False

    @classmethod
    def of(cls, facts: Facts) -> IdeficsLayout:
        """Nothing differs between the models."""
        return cls()

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """See `ImageLayout.expansions`."""
        neighbours = [not text for text in texts[1:-1]] + [False]
        return [_FAKE + _IMAGE + ("" if shared else _FAKE) for shared in neighbours]

    def num_vectors(self, size: Size) -> int:
        """See `ImageLayout.num_vectors`."""
        return 1

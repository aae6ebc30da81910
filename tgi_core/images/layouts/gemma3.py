"""Gemma 3: equally many vectors for every image, between tokens that say where it begins and ends.

See arXiv 2503.19786, section 2.1. Nothing is cut out of large images ("pan and scan").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.images.layouts.facts import Facts
from tgi_core.images.layouts.layout import Size

_BEGIN, _VECTOR, _END = "<start_of_image>", "<image_soft_token>", "<end_of_image>"


@dataclass(frozen=True, slots=True)
class Gemma3Layout:
    """Satisfies `ImageLayout`."""

    vectors: int
    placeholder: str = _VECTOR
    marker: str = _BEGIN
    bare: str = _BEGIN
    tail: str = ""
    trimmed: str = ""
    special_texts: frozenset[str] = frozenset({_BEGIN, _VECTOR, _END})
    is_whole: bool = False

    @classmethod
    def of(cls, facts: Facts) -> Gemma3Layout:
        """From the model's files."""
        return cls(vectors=int(facts.config.get("mm_tokens_per_image", 256)))

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """See `ImageLayout.expansions`."""
        return [f"\n\n{_BEGIN}{_VECTOR * self.vectors}{_END}\n\n"] * len(sizes)

    def num_vectors(self, size: Size) -> int:
        """See `ImageLayout.num_vectors`."""
        return self.vectors

"""PaliGemma: equally many vectors for every image, all before the text, which ends with a new line.

See arXiv 2407.07726, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.images.layouts.facts import Facts
from tgi_core.images.layouts.layout import Size


@dataclass(frozen=True, slots=True)
class PaliGemmaLayout:
    """Satisfies `ImageLayout`."""

    vectors: int
    bos_token: str
    """Stands behind the last image."""
    placeholder: str = "<image>"
    marker: str = "<image>"
    bare: str = "<image>"
    tail: str = "\n"
    trimmed: str = ""
    special_texts: frozenset[str] = frozenset({"<image>"})
    is_whole: bool = True

    @classmethod
    def of(cls, facts: Facts) -> PaliGemmaLayout:
        """From the model's files."""
        patches = int(facts.vision.get("image_size", 224)) // int(facts.vision["patch_size"])
        vectors = int(facts.image_processor.get("image_seq_length") or patches**2)
        return cls(vectors=vectors, bos_token=facts.bos_token)

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """See `ImageLayout.expansions`."""
        image = self.placeholder * self.vectors
        return [image] * (len(sizes) - 1) + [image + self.bos_token]

    def num_vectors(self, size: Size) -> int:
        """See `ImageLayout.num_vectors`."""
        return self.vectors

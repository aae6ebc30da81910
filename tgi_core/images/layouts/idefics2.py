"""Idefics2: as many vectors for each image, small or large; if it is split, four quarters and all.

See arXiv 2405.02246.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.images.layouts.facts import Facts
from tgi_core.images.layouts.layout import Size

_FAKE = "<fake_token_around_image>"
_IMAGE = "<image>"
_PARTS = 5


@dataclass(frozen=True, slots=True)
class Idefics2Layout:
    """Satisfies `ImageLayout`."""

    vectors: int
    """Of an image, or of a part of it."""
    splits: bool
    placeholder: str = _IMAGE
    marker: str = _IMAGE
    bare: str = _IMAGE
    tail: str = ""
    trimmed: str = ""
    special_texts: frozenset[str] = frozenset({_FAKE, _IMAGE})
    is_whole: bool = False

    @classmethod
    def of(cls, facts: Facts) -> Idefics2Layout:
        """From the model's files."""
        perceiver = facts.config.get("perceiver_config") or {}
        return cls(
            vectors=int(perceiver.get("resampler_n_latents", 64)),
            splits=bool(facts.image_processor.get("do_image_splitting", False)),
        )

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """See `ImageLayout.expansions`. Neighbours share the token between them."""
        whole = (_FAKE + _IMAGE * self.vectors) * (_PARTS if self.splits else 1)
        last = len(sizes) - 1
        found = []
        for i in range(len(sizes)):
            behind = texts[i + 1]
            if i < last and not behind:
                found.append(whole)
                continue
            # a word right behind it is tokenized as if it stood apart
            is_word = behind[:1].strip() not in ("", "<")
            found.append(whole + _FAKE + (" " if is_word else ""))
        return found

    def num_vectors(self, size: Size) -> int:
        """See `ImageLayout.num_vectors`."""
        return self.vectors * (_PARTS if self.splits else 1)

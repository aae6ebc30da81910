"""Qwen2-VL and Qwen2.5-VL: the image at about its own size, one vector for four patches.

See arXiv 2409.12191, section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.errors import ValidationError
from tgi_core.images.layouts.facts import Facts
from tgi_core.images.layouts.layout import Size

_IMAGE = "<|image_pad|>"
_MOST_UNEQUAL = 200
"""Largest proportion of the edges."""


@dataclass(frozen=True, slots=True)
class Qwen2VLLayout:
    """Satisfies `ImageLayout`."""

    cell: int
    """Edge of what one vector stands for, in pixels."""
    min_pixels: int
    max_pixels: int
    placeholder: str = _IMAGE
    marker: str = _IMAGE
    bare: str = f"<|vision_start|>{_IMAGE}<|vision_end|>"
    tail: str = ""
    trimmed: str = ""
    special_texts: frozenset[str] = frozenset(
        {_IMAGE, "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"}
    )
    is_whole: bool = False

    @classmethod
    def of(cls, facts: Facts) -> Qwen2VLLayout:
        """From the model's files."""
        processor = facts.image_processor
        size = processor.get("size") or {}
        return cls(
            cell=int(processor.get("patch_size", 14)) * int(processor.get("merge_size", 2)),
            # the older names win, as in transformers
            min_pixels=int(processor.get("min_pixels") or size.get("shortest_edge", 56 * 56)),
            max_pixels=int(processor.get("max_pixels") or size.get("longest_edge", 28 * 28 * 1280)),
        )

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """See `ImageLayout.expansions`."""
        return [_IMAGE * self.num_vectors(size) for size in sizes]

    def num_vectors(self, size: Size) -> int:
        """See `ImageLayout.num_vectors`."""
        width, height = size.width, size.height
        if max(width, height) > _MOST_UNEQUAL * min(width, height):
            raise ValidationError(
                f"invalid image: one edge is more than {_MOST_UNEQUAL} times as long as the other"
            )
        columns, rows = (round(edge / self.cell) for edge in (width, height))
        pixels = columns * rows * self.cell**2
        if pixels > self.max_pixels:
            scale = math.sqrt(width * height / self.max_pixels)
            columns, rows = (
                max(1, math.floor(edge / scale / self.cell)) for edge in (width, height)
            )
        elif pixels < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (width * height))
            columns, rows = (math.ceil(edge * scale / self.cell) for edge in (width, height))
        return columns * rows

"""LLaVA-NeXT: the whole image small, then its tiles without padding, with a vector after each row.

See arXiv 2310.03744 and the post "LLaVA-NeXT" of January 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.images.layouts.facts import Facts
from tgi_core.images.layouts.layout import Size

_GRID = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Of models whose config.json does not say."""


@dataclass(frozen=True, slots=True)
class LlavaNextLayout:
    """Satisfies `ImageLayout`."""

    tile: int
    """Edge of what the vision tower sees at once, in pixels."""
    patches: int
    """Vectors along an edge of a tile."""
    resolutions: tuple[tuple[int, int], ...]
    """Heights and widths that an image may be scaled to."""
    placeholder: str = "<image>"
    marker: str = "<image>"
    bare: str = "<image>"
    tail: str = ""
    trimmed: str = ""
    special_texts: frozenset[str] = frozenset({"<image>"})
    is_whole: bool = False

    @classmethod
    def of(cls, facts: Facts) -> LlavaNextLayout:
        """From the model's files."""
        tile = int(facts.vision["image_size"])
        grid = facts.config.get("image_grid_pinpoints") or _GRID
        return cls(
            tile=tile,
            patches=tile // int(facts.vision["patch_size"]),
            resolutions=tuple((int(height), int(width)) for height, width in grid),
        )

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """See `ImageLayout.expansions`."""
        return [self.placeholder * self.num_vectors(size) for size in sizes]

    def num_vectors(self, size: Size) -> int:
        """See `ImageLayout.num_vectors`."""
        height, width = self._resolution(size)
        rows, columns = (self.patches * (edge // self.tile) for edge in (height, width))
        # what was added to keep the proportions is left out again
        if size.width / size.height > columns / rows:
            scaled = int(round(size.height * (columns / size.width), 7))
            rows -= (rows - scaled) // 2 * 2
        else:
            scaled = int(round(size.width * (rows / size.height), 7))
            columns -= (columns - scaled) // 2 * 2
        return self.patches**2 + rows * columns + rows

    def _resolution(self, size: Size) -> tuple[int, int]:
        """The one that keeps most of the image; of equals, the one that wastes least."""

        def merit(resolution: tuple[int, int]) -> tuple[int, int]:
            height, width = resolution
            scale = min(width / size.width, height / size.height)
            scaled = int(size.width * scale) * int(size.height * scale)
            kept = min(scaled, size.width * size.height)
            return kept, kept - height * width

        return max(self.resolutions, key=merit)

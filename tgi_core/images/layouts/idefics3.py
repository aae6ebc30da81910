"""Idefics3 and SmolVLM: tiles of the image, row by row, each named, then the whole image small.

See arXiv 2408.12637, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tgi_core.images.layouts.facts import Facts
from tgi_core.images.layouts.layout import Size

_FAKE = "<fake_token_around_image>"
_IMAGE = "<image>"
_WHOLE = "<global-img>"
_LONGEST_EDGE = 4096
_ROWS = _COLUMNS = 6
"""As many names there are in the vocabulary."""


@dataclass(frozen=True, slots=True)
class Idefics3Layout:
    """Satisfies `ImageLayout`."""

    longest_edge: int
    """What the longer edge of an image is scaled to, in pixels."""
    tile: int
    """Edge of a tile."""
    vectors: int
    """Of a tile."""
    splits: bool
    """Whether there are tiles at all."""
    placeholder: str = _IMAGE
    marker: str = _IMAGE
    bare: str = _IMAGE
    tail: str = ""
    trimmed: str = ""
    special_texts: frozenset[str] = frozenset(
        {_FAKE, _IMAGE, _WHOLE}
        | {
            f"<row_{row + 1}_col_{column + 1}>"
            for row in range(_ROWS)
            for column in range(_COLUMNS)
        }
    )
    is_whole: bool = False

    @classmethod
    def of(cls, facts: Facts) -> Idefics3Layout:
        """From the model's files."""
        patches = int(facts.vision["image_size"]) // int(facts.vision["patch_size"])
        processor = facts.image_processor
        largest = processor.get("max_image_size") or {"longest_edge": 364}
        size = processor.get("size") or {"longest_edge": 4 * 364}
        return cls(
            longest_edge=int(size["longest_edge"]),
            tile=int(largest["longest_edge"]),
            vectors=int(patches**2 / int(facts.config.get("scale_factor", 2)) ** 2),
            splits=bool(processor.get("do_image_splitting", True)),
        )

    def expansions(self, texts: Sequence[str], sizes: Sequence[Size]) -> list[str]:
        """See `ImageLayout.expansions`."""
        return [self._expansion(size) for size in sizes]

    def num_vectors(self, size: Size) -> int:
        """See `ImageLayout.num_vectors`."""
        rows, columns = self._grid(size)
        return (rows * columns + 1) * self.vectors

    def _expansion(self, size: Size) -> str:
        rows, columns = self._grid(size)
        vectors = _IMAGE * self.vectors
        tiles = "".join(
            "".join(
                f"{_FAKE}<row_{row + 1}_col_{column + 1}>{vectors}" for column in range(columns)
            )
            + "\n"
            for row in range(rows)
        )
        return f"{tiles}{chr(10) if tiles else ''}{_FAKE}{_WHOLE}{vectors}{_FAKE}"

    def _grid(self, size: Size) -> tuple[int, int]:
        """Rows and columns of tiles; none if the whole image is one."""
        if not self.splits:
            return 0, 0
        width, height = self._scaled(size)
        aspect = width / height
        if width >= height:
            columns = math.ceil(width / self.tile)
            rows = math.ceil(int(columns * self.tile / aspect) / self.tile)
        else:
            rows = math.ceil(height / self.tile)
            columns = math.ceil(int(rows * self.tile * aspect) / self.tile)
        return (rows, columns) if rows > 1 or columns > 1 else (0, 0)

    def _scaled(self, size: Size) -> tuple[int, int]:
        """Width and height with the longer edge as it should be, the shorter one even."""
        width, height = size.width, size.height
        aspect = width / height
        if width >= height:
            width = self.longest_edge
            height = int(width / aspect)
            height += height % 2
        else:
            height = self.longest_edge
            width = int(height * aspect)
            width += width % 2
        width, height = max(width, 1), max(height, 1)
        aspect = width / height
        if width >= height and width > _LONGEST_EDGE:
            width, height = _LONGEST_EDGE, int(_LONGEST_EDGE / aspect)
        elif height > width and height > _LONGEST_EDGE:
            width, height = int(_LONGEST_EDGE * aspect), _LONGEST_EDGE
        return max(width, 1), max(height, 1)

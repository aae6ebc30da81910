"""Block tables of sequences that may see images: which ones, and from which of their tokens on.

Only for models whose layers look at images from outside the text; for others there are none. Knows
no attention, and not what an image is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tgi_core.contract import BlockPool, BlockTables


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """An image in a sequence."""

    position: int
    """Of the token that stands for it."""
    image: Any
    """Whatever is kept of it; it is kept for as long as a sequence shows it."""


class ImageTables(BlockTables):
    """What is forked, cut off and released with a sequence's tokens are its images too."""

    def __init__(
        self, pool: BlockPool, block_tokens: int, max_sequences: int, max_sequence_tokens: int
    ) -> None:
        super().__init__(pool, block_tokens, max_sequences, max_sequence_tokens)
        self._shown: dict[int, tuple[Shown, ...]] = {}

    def fork(self, src: int, dst: int, length: int) -> None:
        """See `BlockTables.fork`."""
        super().fork(src, dst, length)
        self._set(dst, _before(self.shown(src), length))

    def truncate(self, seq: int, length: int) -> None:
        """See `BlockTables.truncate`."""
        super().truncate(seq, length)
        self._set(seq, _before(self.shown(seq), length))

    def show(self, seq: int, past: int, images: Mapping[int, Any]) -> None:
        """Notes what a step shows behind the first `past` tokens, by position; it takes the place
        of what a step that failed had shown there.
        """
        new = tuple(Shown(position, images[position]) for position in sorted(images))
        self._set(seq, _before(self.shown(seq), past) + new)

    def shown(self, seq: int) -> tuple[Shown, ...]:
        """The images of a sequence, in their order."""
        return self._shown.get(seq, ())

    def _set(self, seq: int, shown: tuple[Shown, ...]) -> None:
        if shown:
            self._shown[seq] = shown
        else:
            self._shown.pop(seq, None)


def _before(shown: tuple[Shown, ...], length: int) -> tuple[Shown, ...]:
    return tuple(one for one in shown if one.position < length)

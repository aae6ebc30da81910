"""Counts the cells of a unified KV cache: which sequence holds or has reserved which.

llama.cpp hands out cells by itself; this ledger mirrors how many it will need, shared ones
counted once, so that a step whose rows are reserved always finds room. Knows nothing of llama.cpp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class CellLedger:
    """Cells are numbered, and reference-counted where forks share them.

    Invariant: a cell is free, or in the list of at least one sequence; a sequence's list covers
    all tokens that it holds and all room that it has reserved.
    """

    def __init__(self, num_cells: int, max_sequences: int, max_sequence_tokens: int) -> None:
        self.max_sequence_tokens = max_sequence_tokens
        self._free = np.arange(num_cells, dtype=np.int32)
        self._num_free = num_cells
        # untouched pages of this array cost no memory
        self._cells = np.empty((max_sequences, max_sequence_tokens), np.int32)
        self._reserved = np.zeros(max_sequences, np.int32)
        self._held = np.zeros(max_sequences, np.int32)
        self._sharers = np.zeros(num_cells, np.int32)  # holders beyond the first

    @property
    def num_used(self) -> int:
        """Cells that some sequence holds or has reserved."""
        return len(self._free) - self._num_free

    @property
    def held(self) -> NDArray[np.int32]:
        """int32 (max_sequences,): tokens in each sequence. Not to be written."""
        return self._held

    @property
    def reserved(self) -> NDArray[np.int32]:
        """int32 (max_sequences,): tokens that each has room for. Not to be written."""
        return self._reserved

    def reserve(self, seq: int, length: int) -> bool:
        """Makes room for `length` tokens; False, with nothing changed, if cells are too few.

        Raises:
            ValueError: `length` is more than a sequence may hold.
        """
        if length > self.max_sequence_tokens:
            raise ValueError(f"{length} tokens are more than a sequence may hold")
        have = int(self._reserved[seq])
        more = length - have
        if more > self._num_free:
            return False
        if more > 0:
            left = self._num_free - more
            self._cells[seq, have:length] = self._free[left : self._num_free]
            self._num_free = left
            self._reserved[seq] = length
        return True

    def advance(self, seq: NDArray[np.int32], n: NDArray[np.int32]) -> None:
        """Notes that a step has appended `n` tokens each to sequences with room reserved."""
        self._held[seq] += n

    def fork(self, src: int, dst: int, length: int) -> None:
        """Makes the empty `dst` share the first `length` tokens of `src`; needs no free cell.

        Raises:
            ValueError: `dst` is not empty, or `src` holds fewer tokens.
        """
        if self._reserved[dst]:
            raise ValueError(f"sequence {dst} is not empty")
        if length > self._held[src]:
            raise ValueError(f"sequence {src} holds {self._held[src]} tokens, not {length}")
        shared = self._cells[src, :length]
        self._cells[dst, :length] = shared
        self._sharers[shared] += 1
        self._reserved[dst] = length
        self._held[dst] = length

    def truncate(self, seq: int, length: int) -> None:
        """Keeps the first `length` tokens and gives back all room beyond them.

        Raises:
            ValueError: the sequence holds fewer tokens.
        """
        if length > self._held[seq]:
            raise ValueError(f"sequence {seq} holds {self._held[seq]} tokens, not {length}")
        dropped = self._cells[seq, length : self._reserved[seq]]
        shared = self._sharers[dropped] > 0
        self._sharers[dropped[shared]] -= 1
        freed = dropped[~shared]
        self._free[self._num_free : self._num_free + len(freed)] = freed
        self._num_free += len(freed)
        self._reserved[seq] = length
        self._held[seq] = length

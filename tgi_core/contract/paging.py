"""Reference-counted blocks and block tables, for backends that page their cache.

Knows nothing of what lies in a block: a backend does the copying that `reserve` asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class BlockPool:
    """Hands out block numbers 0 .. num_blocks - 1 and counts who holds them."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._references = [0] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free)

    def allocate(self) -> int:
        """A free block, now held once.

        Raises:
            IndexError: none is free; look at `num_free` first.
        """
        block = self._free.pop()
        self._references[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more holder of a block that is held already."""
        if self._references[block] < 1:
            raise ValueError(f"block {block} is free and cannot be shared")
        self._references[block] += 1

    def release(self, block: int) -> None:
        """One holder less; the last one frees the block."""
        if self._references[block] < 1:
            raise ValueError(f"block {block} is free already")
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free.append(block)

    def is_shared(self, block: int) -> bool:
        """Whether more than one holds it."""
        return self._references[block] > 1


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """Contents of one block that must be copied to another before the next step."""

    src: int
    dst: int


class BlockTables:
    """Which blocks hold each sequence: implements reserve, fork, truncate and release.

    A fork shares every block, a partly filled last one too. The sequence that wants to go on in
    a shared block gets a copy when it reserves, so nobody ever writes where another one reads.
    """

    def __init__(
        self, pool: BlockPool, block_tokens: int, max_sequences: int, max_sequence_tokens: int
    ) -> None:
        self.block_tokens = block_tokens
        self._max_sequence_tokens = max_sequence_tokens
        self._pool = pool
        self._rows = np.full(
            (max_sequences, -(-max_sequence_tokens // block_tokens)), -1, dtype=np.int32
        )
        self._num_blocks = [0] * max_sequences
        self._held = np.zeros(max_sequences, np.int32)

    def held(self, seq: int) -> int:
        """Tokens in the sequence."""
        return int(self._held[seq])

    def held_by(self, seq: NDArray[np.int32]) -> NDArray[np.int32]:
        """Tokens in each of several sequences, int32 (len(seq),)."""
        return self._held[seq]

    def num_blocks(self, seq: int) -> int:
        """Blocks of the sequence, reserved ones included."""
        return self._num_blocks[seq]

    @property
    def used_blocks(self) -> int:
        """Blocks that some sequence holds."""
        return self._pool.num_blocks - self._pool.num_free

    def rows(self, seq: NDArray[np.int32], length: int | None = None) -> NDArray[np.int32]:
        """Block tables of the first `length` tokens, int32 (len(seq), blocks); -1 pads.

        Without `length` they are as wide as the longest sequence could be.
        """
        width = None if length is None else -(-length // self.block_tokens)
        return self._rows[:, :width][seq]

    def reserve(self, seq: int, length: int) -> list[BlockCopy] | None:
        """Makes room for `length` tokens.

        Returns:
            What must be copied, or None, with nothing changed, if there are too few free blocks.

        Raises:
            ValueError: `length` is more than `max_sequence_tokens`.
        """
        have = self._num_blocks[seq]
        need = -(-length // self.block_tokens)
        if length > self._max_sequence_tokens:
            raise ValueError(f"{length} tokens are more than a sequence may hold")
        held = self.held(seq)
        last = held // self.block_tokens
        row = self._rows[seq]
        goes_on = held % self.block_tokens != 0 and length > held
        copy_last = goes_on and self._pool.is_shared(int(row[last]))
        if max(0, need - have) + copy_last > self._pool.num_free:
            return None
        copies = []
        if copy_last:
            old, new = int(row[last]), self._pool.allocate()
            self._pool.release(old)
            row[last] = new
            copies.append(BlockCopy(old, new))
        for i in range(have, need):
            row[i] = self._pool.allocate()
        self._num_blocks[seq] = max(have, need)
        return copies

    def fork(self, src: int, dst: int, length: int) -> None:
        """Makes the empty `dst` share the first `length` tokens of `src`; needs no free block."""
        if self._num_blocks[dst]:
            raise ValueError(f"sequence {dst} is not empty")
        if length > self._held[src]:
            raise ValueError(f"sequence {src} holds {self.held(src)} tokens, not {length}")
        num = -(-length // self.block_tokens)
        for block in self._rows[src, :num]:
            self._pool.share(int(block))
        self._rows[dst, :num] = self._rows[src, :num]
        self._num_blocks[dst], self._held[dst] = num, length

    def advance(self, seq: int | NDArray[np.int32], n: int | NDArray[np.int32]) -> None:
        """Notes that a step has appended `n` tokens; to each of several sequences, no two alike, if
        both are arrays.
        """
        self._held[seq] += n

    def truncate(self, seq: int, length: int) -> None:
        """Keeps the first `length` tokens; gives back every block beyond, reserved ones too."""
        if length > self._held[seq]:
            raise ValueError(f"sequence {seq} holds {self._held[seq]} tokens, not {length}")
        keep = -(-length // self.block_tokens)
        row = self._rows[seq]
        for i in range(self._num_blocks[seq] - 1, keep - 1, -1):
            self._pool.release(int(row[i]))
            row[i] = -1
        self._num_blocks[seq], self._held[seq] = keep, length

    def release(self, seq: int) -> None:
        """Empties the sequence."""
        self.truncate(seq, 0)

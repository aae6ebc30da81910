"""One pool of cells for all sequences, which can share beginnings in it.

A fork takes no memory, and a sequence may be as long as the pool. But each row looks at every cell
of the pool, its own or not (decision 6).
"""

from __future__ import annotations

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from tgi_backend_llamacpp.cells import CellLedger
from tgi_backend_llamacpp.memory import cut
from tgi_core.contract import Step
from tgi_core.errors import UnsupportedModel

_PARKED_TOKENS = 512
"""2,000 parked tokens make a decode step of SmolLM2 10 % longer. The last sequence is kept in any
case."""


class Pool:
    """Satisfies `Memory`."""

    parked_tokens = _PARKED_TOKENS

    def __init__(
        self,
        context: llama.llama_context_p,
        *,
        max_sequences: int,
        max_sequence_tokens: int,
        shadow: int,
    ) -> None:
        """With a `shadow` above 0 llama.cpp's sequence `seq + shadow` holds each token too."""
        self.max_sequences = max_sequences
        self._memory = llama.llama_get_memory(context)
        self._shadow = shadow
        self._ledger = CellLedger(llama.llama_n_ctx(context), max_sequences, max_sequence_tokens)

    @property
    def num_used(self) -> int:
        """Shared cells count once."""
        return self._ledger.num_used

    @property
    def held(self) -> NDArray[np.int32]:
        """See `Memory.held`."""
        return self._ledger.held

    @property
    def reserved(self) -> NDArray[np.int32]:
        """See `Memory.reserved`."""
        return self._ledger.reserved

    def reserve(self, seq: int, length: int) -> bool:
        """Counts cells; llama.cpp takes them when the tokens come."""
        return self._ledger.reserve(seq, length)

    def fork(self, src: int, dst: int, length: int) -> None:
        """Shares cells; takes none."""
        self._ledger.fork(src, dst, length)
        if length:
            for to in self._both(dst):
                llama.llama_memory_seq_cp(self._memory, src, to, 0, length)

    def truncate(self, seq: int, length: int) -> None:
        """Frees the cells that no other sequence shares."""
        held = int(self._ledger.held[seq])
        self._ledger.truncate(seq, length)
        if length < held:
            self.undo(seq, length)

    def advance(self, seq: NDArray[np.int32], n: NDArray[np.int32]) -> None:
        """See `Memory.advance`."""
        self._ledger.advance(seq, n)

    def undo(self, seq: int, length: int) -> None:
        """See `Memory.undo`."""
        for one in self._both(seq):
            cut(self._memory, one, length)

    def portions(self, step: Step) -> list[NDArray[np.intp]]:
        """Decoding rows, then longer ones.

        Together they take longer: 256 tokens of a prompt beside 8 decoding rows 570 ms, one after
        the other 400 ms (SmolLM2 in bfloat16 on Zen 4).
        """
        is_long = np.repeat(step.n > 1, step.n)
        return [np.flatnonzero(~is_long), np.flatnonzero(is_long)]

    def ids(self, seq: NDArray[np.int32]) -> NDArray[np.int32]:
        """The same numbers."""
        return seq

    def prove(self) -> None:
        """Some caches cannot drop a tail."""
        if not llama.llama_memory_seq_rm(self._memory, 0, 1, -1):
            raise UnsupportedModel("the cache of this architecture cannot drop its last tokens.")

    def _both(self, seq: int) -> tuple[int, ...]:
        """llama.cpp's sequences that hold the tokens of one of ours."""
        return (seq, seq + self._shadow) if self._shadow else (seq,)

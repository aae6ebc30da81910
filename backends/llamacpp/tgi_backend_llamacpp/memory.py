"""What the backend needs of the place where keys and values are. Knows no kind of it."""

from __future__ import annotations

from typing import Protocol

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import Step
from tgi_core.errors import BackendDead


class Memory(Protocol):
    """Sequences and their room. Each call leaves llama.cpp's sequences in step with ours."""

    @property
    def max_sequences(self) -> int:
        """Sequence ids are below this."""
        ...

    @property
    def parked_tokens(self) -> int | None:
        """See `Capabilities.parked_tokens`."""
        ...

    @property
    def num_used(self) -> int:
        """Cells that some sequence holds or has reserved."""
        ...

    @property
    def held(self) -> NDArray[np.int32]:
        """int32 (max_sequences,): tokens in each sequence. Not to be written."""
        ...

    @property
    def reserved(self) -> NDArray[np.int32]:
        """int32 (max_sequences,): tokens that each has room for. Not to be written."""
        ...

    def reserve(self, seq: int, length: int) -> bool:
        """Makes room for `length` tokens; False, with nothing changed, if there is too little.

        Raises:
            ValueError: `length` is more than a sequence may hold.
        """
        ...

    def fork(self, src: int, dst: int, length: int) -> None:
        """Makes the empty `dst` hold the first `length` tokens of `src`.

        Raises:
            ValueError: `dst` is not empty, or `src` holds fewer tokens.
        """
        ...

    def truncate(self, seq: int, length: int) -> None:
        """Keeps the first `length` tokens and gives back all room beyond them.

        Raises:
            ValueError: the sequence holds fewer tokens.
        """
        ...

    def advance(self, seq: NDArray[np.int32], n: NDArray[np.int32]) -> None:
        """Notes that a step has appended `n` tokens each to sequences with room reserved."""
        ...

    def undo(self, seq: int, length: int) -> None:
        """Drops what llama.cpp holds beyond `length` tokens; room stays reserved.

        Raises:
            BackendDead: llama.cpp could not.
        """
        ...

    def portions(self, step: Step) -> list[NDArray[np.intp]]:
        """Which tokens of a step are computed in one `llama_decode`, and in which order."""
        ...

    def ids(self, seq: NDArray[np.int32]) -> NDArray[np.int32]:
        """llama.cpp's numbers of sequences, until the next call of `portions`."""
        ...

    def prove(self) -> None:
        """Tries, on tokens in sequence 0, what only some architectures' caches can do.

        Raises:
            UnsupportedModel: this one cannot.
        """
        ...


def cut(memory: llama.llama_memory_t, seq: int, length: int) -> None:
    """Drops what llama.cpp's sequence holds beyond `length` tokens.

    Raises:
        BackendDead: it could not.
    """
    if not llama.llama_memory_seq_rm(memory, seq, length, -1):
        raise BackendDead(f"llama.cpp could not cut sequence {seq} to {length} tokens")

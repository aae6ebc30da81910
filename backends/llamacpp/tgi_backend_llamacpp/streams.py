"""A stream of cells for each sequence, so that a row looks at no cell but its own.

llama.cpp computes rows together only if their streams are neighbours; others cost another pass over
the weights. So sequences are moved to where they are neighbours, which is seldom needed: when one
of many has ended. A fork is a copy. Copying 300 tokens of SmolLM2 takes 13 ms (AMX).
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from tgi_backend_llamacpp.memory import cut
from tgi_core.contract import Step
from tgi_core.errors import BackendDead, UnsupportedModel

_SHORT_TOKENS = 16
"""Rows of at most this many tokens, drafts among them, are computed together. Longer ones have a
`llama_decode` each: of rows side by side llama.cpp takes equally many tokens at a time."""


class Streams:
    """Satisfies `Memory`. A sequence is in one stream; which one changes in `portions` alone."""

    parked_tokens = None

    def __init__(self, context: llama.llama_context_p, *, num: int, tokens: int) -> None:
        """`num` streams, of `tokens` cells at least."""
        self.max_sequences = num
        self._context = context
        self._memory = llama.llama_get_memory(context)
        self._tokens = tokens
        self._held = np.zeros(num, np.int32)
        self._reserved = np.zeros(num, np.int32)
        self._stream_of = np.arange(num, dtype=np.int32)
        self._sequence_in = np.arange(num, dtype=np.int32)

    @property
    def num_used(self) -> int:
        """Nothing is shared."""
        return int(self._reserved.sum())

    @property
    def held(self) -> NDArray[np.int32]:
        """See `Memory.held`."""
        return self._held

    @property
    def reserved(self) -> NDArray[np.int32]:
        """See `Memory.reserved`."""
        return self._reserved

    def reserve(self, seq: int, length: int) -> bool:
        """Each sequence has its room anyway."""
        if length > self._tokens:
            raise ValueError(f"{length} tokens are more than a sequence may hold")
        self._reserved[seq] = max(length, self._reserved[seq])
        return True

    def fork(self, src: int, dst: int, length: int) -> None:
        """Copies all of `src`, then cuts it."""
        if self._reserved[dst]:
            raise ValueError(f"sequence {dst} is not empty")
        self._check_holds(src, length)
        if length:
            self._write(int(self._stream_of[dst]), self._read(int(self._stream_of[src])))
            self.undo(dst, length)
        self._reserved[dst] = self._held[dst] = length

    def truncate(self, seq: int, length: int) -> None:
        """See `Memory.truncate`."""
        self._check_holds(seq, length)
        if length < self._held[seq]:
            self.undo(seq, length)
        self._reserved[seq] = self._held[seq] = length

    def advance(self, seq: NDArray[np.int32], n: NDArray[np.int32]) -> None:
        """See `Memory.advance`."""
        self._held[seq] += n

    def undo(self, seq: int, length: int) -> None:
        """See `Memory.undo`."""
        cut(self._memory, int(self._stream_of[seq]), length)

    def portions(self, step: Step) -> list[NDArray[np.intp]]:
        """Short rows, brought side by side and in the order of their streams; each longer one."""
        if step.num_rows == 1:
            return [np.arange(step.num_tokens)]
        short = np.flatnonzero(step.n <= _SHORT_TOKENS)
        self._bring_together(step.seq[short])
        short = short[np.argsort(self._stream_of[step.seq[short]])]
        rows = np.split(np.arange(step.num_tokens), step.row_begins()[1:-1])
        together = [np.concatenate([rows[row] for row in short])] if len(short) else []
        return together + [rows[row] for row in np.flatnonzero(step.n > _SHORT_TOKENS)]

    def ids(self, seq: NDArray[np.int32]) -> NDArray[np.int32]:
        """The streams."""
        return self._stream_of[seq]

    def prove(self) -> None:
        """Some caches cannot drop a tail, or be read and written."""
        try:
            self._swap(0, 1 % self.max_sequences)
            self._swap(0, 1 % self.max_sequences)
            self.undo(0, 1)
        except BackendDead as error:
            raise UnsupportedModel(f"this architecture's cache: {error}.") from error

    def _check_holds(self, seq: int, length: int) -> None:
        if length > self._held[seq]:
            raise ValueError(f"sequence {seq} holds {self._held[seq]} tokens, not {length}")

    def _bring_together(self, seqs: NDArray[np.int32]) -> None:
        is_wanted = np.zeros(self.max_sequences, bool)
        is_wanted[self._stream_of[seqs]] = True
        for a, b in exchanges(is_wanted, self._held[self._sequence_in]):
            self._swap(a, b)

    def _swap(self, a: int, b: int) -> None:
        """Exchanges what is in two streams."""
        states = self._read(a), self._read(b)
        for stream, state in ((b, states[0]), (a, states[1])):
            cut(self._memory, stream, 0)
            self._write(stream, state)
        pair, swapped = np.array([a, b]), np.array([b, a])
        self._sequence_in[pair] = self._sequence_in[swapped]
        self._stream_of[self._sequence_in[pair]] = pair

    def _read(self, stream: int) -> NDArray[np.uint8]:
        """What is in a stream, in llama.cpp's own format."""
        state = np.empty(llama.llama_state_seq_get_size(self._context, stream), np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if llama.llama_state_seq_get_data(self._context, pointer, len(state), stream) == 0:
            raise BackendDead("llama.cpp could not read a sequence")
        return state

    def _write(self, stream: int, state: NDArray[np.uint8]) -> None:
        """Puts it into an empty stream."""
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if llama.llama_state_seq_set_data(self._context, pointer, len(state), stream) == 0:
            raise BackendDead("llama.cpp could not write a sequence")


def exchanges(is_wanted: NDArray[np.bool_], held: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Pairs of streams to exchange so that the wanted ones become neighbours.

    Args:
        is_wanted: (streams,).
        held: (streams,), tokens in each; as few as can be are moved.
    """
    num = int(is_wanted.sum())
    if num < 2:
        return []
    gain = np.convolve(np.where(is_wanted, held, -held), np.ones(num, np.int32), "valid")
    is_inside = np.zeros(len(held), bool)
    is_inside[gain.argmax() :][:num] = True
    outside, holes = np.flatnonzero(is_wanted & ~is_inside), np.flatnonzero(is_inside & ~is_wanted)
    return list(zip(outside.tolist(), holes.tolist(), strict=True))

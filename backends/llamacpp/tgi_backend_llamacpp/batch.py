"""A llama_batch over numpy arrays, filled without a loop over tokens, and its logits.

Checks nothing: llama.cpp aborts the process on a bad batch, so callers check first.
"""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray


class DecodeBatch:
    """Input of `llama_decode` for at most `capacity` tokens; used again for each step.

    With a `shadow` above 0 each token goes into its sequence and into that number plus `shadow`.
    """

    def __init__(self, capacity: int, shadow: int = 0) -> None:
        self.capacity = capacity
        self._token = np.zeros(capacity, np.int32)
        self._position = np.zeros(capacity, np.int32)
        self._shadow = shadow
        self._seq = np.zeros((capacity, 2 if shadow else 1), np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        self._num_seq = np.full(capacity, self._seq.shape[1], np.int32)
        # llama.cpp wants a list of sequences per token: each list is one row of `_seq`
        addresses = self._seq.ctypes.data + self._seq.strides[0] * np.arange(capacity)
        self._lists = addresses.astype(np.uintp)
        self._batch = llama.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, llama.llama_token),
            pos=_pointer(self._position, llama.llama_pos),
            n_seq_id=_pointer(self._num_seq, ctypes.c_int32),
            seq_id=_pointer(self._lists, ctypes.POINTER(llama.llama_seq_id)),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )

    def decode(
        self,
        context: llama.llama_context_p,
        token: NDArray[np.int32],
        position: NDArray[np.int32],
        seq: NDArray[np.int32],
        wanted: NDArray[np.int8],
    ) -> int:
        """Runs one `llama_decode` over arrays of one length and gives its return code."""
        n = len(token)
        self._token[:n] = token
        self._position[:n] = position
        self._seq[:n, 0] = seq
        self._seq[:n, -1] = seq + self._shadow
        self._wanted[:n] = wanted
        self._batch.n_tokens = n
        return int(llama.llama_decode(context, self._batch))


class Computed:
    """What the last `llama_decode` of a context gave, in llama.cpp's own memory.

    Arrays are read as they are and may be written; the next decode overwrites them. Asking for one
    waits until it is computed.
    """

    def __init__(self, context: llama.llama_context_p, vocab: int, hidden: int) -> None:
        self._context = context
        self._vocab = vocab
        self._hidden = hidden
        self._address: int | None = None
        self._view = np.empty((0, vocab), np.float32)

    def logits(self, num: int) -> NDArray[np.float32]:
        """float32 (num, vocab), in the order of the batch; `num` tokens of it were wanted."""
        pointer = llama.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        if address != self._address or num > len(self._view):
            # making a view takes 50 us between two decodes, and the array seldom moves
            self._view = np.ctypeslib.as_array(pointer, shape=(num, self._vocab))
            self._address = address
        return self._view[:num]

    def vectors(self, num: int) -> NDArray[np.float32]:
        """float32 (num, hidden size): the last hidden states, in the same order."""
        pointer = llama.llama_get_embeddings(self._context)
        return np.ctypeslib.as_array(pointer, shape=(num, self._hidden))


def _pointer(array: NDArray[np.generic], kind: type) -> object:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

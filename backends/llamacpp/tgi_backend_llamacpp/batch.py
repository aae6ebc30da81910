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


def copy_logits(
    context: llama.llama_context_p, target: NDArray[np.float32], rows: NDArray[np.intp]
) -> None:
    """Copies the logits of the last decode, in the order of its batch, to rows of `target`.

    Computing them may still be under way; this waits.

    Args:
        context: that decoded.
        target: float32 (any, vocab).
        rows: where each row of logits goes.
    """
    if len(rows):
        shape = (len(rows), target.shape[1])
        target[rows] = np.ctypeslib.as_array(llama.llama_get_logits(context), shape=shape)


def copy_vectors(
    context: llama.llama_context_p, target: NDArray[np.float32], rows: NDArray[np.intp]
) -> None:
    """Copies the hidden states of the last decode, like `copy_logits`.

    Args:
        context: that decoded, while it was set to give embeddings.
        target: float32 (any, size).
        rows: where each row goes.
    """
    if len(rows):
        shape = (len(rows), target.shape[1])
        target[rows] = np.ctypeslib.as_array(llama.llama_get_embeddings(context), shape=shape)


def _pointer(array: NDArray[np.generic], kind: type) -> object:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))

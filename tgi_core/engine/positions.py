"""Rotary positions of prompts with images, for models that have several axes of them.

Text stands on the diagonal: a token is one further than the one before it on every axis. An image
stands as its backend says, counted from where it begins; what follows it is one further than the
furthest of its vectors. See Qwen2-VL, arXiv 2409.12191, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tgi_core.scheduler.sequence import Positions

IntArray = NDArray[np.int32]


def prompt_positions(num_prompt: int, images: Sequence[tuple[IntArray, IntArray]]) -> Positions:
    """Where the tokens of a prompt stand, and those that follow it.

    Args:
        num_prompt: tokens in the prompt.
        images: for each, in order, its placeholders (K,), which stand side by side, and their
            positions (A, K) from the first of them.
    """
    axes = len(images[0][1])
    on_axes = np.empty((axes, num_prompt), np.int32)
    done = at = 0
    for places, relative in images:
        begin, end = int(places[0]), int(places[-1]) + 1
        on_axes[:, done:begin] = np.arange(at, at + begin - done)
        at += begin - done
        on_axes[:, begin:end] = relative + at
        at += int(relative.max()) + 1
        done = end
    on_axes[:, done:] = np.arange(at, at + num_prompt - done)
    return Positions(on_axes, at - done)

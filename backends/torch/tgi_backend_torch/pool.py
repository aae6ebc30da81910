"""Hidden states of rows to one vector a row. Knows no model."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_core.contract import Pooling


def pool_rows(hidden: Tensor, lengths: list[int], pooling: Pooling) -> NDArray[np.float32]:
    """Pools rows that lie side by side.

    Args:
        hidden: (T, size), of any dtype, on any device.
        lengths: tokens of each row; they add up to T.
        pooling: what makes the vector of a row.

    Returns:
        float32 (len(lengths), size).
    """
    rows = hidden.split(lengths)
    match pooling:
        case Pooling.FIRST:
            vectors = [row[0] for row in rows]
        case Pooling.LAST:
            vectors = [row[-1] for row in rows]
        case Pooling.MEAN:
            vectors = [row.float().mean(0) for row in rows]
    array: NDArray[np.float32] = torch.stack(vectors).float().cpu().numpy()
    return array

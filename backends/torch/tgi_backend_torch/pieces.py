"""What one rank has of a parameter, and the names of parameters in plans.

Which pieces those are is not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pieces:
    """What one rank has of a parameter."""

    dim: int
    ranges: tuple[tuple[int, int], ...]
    """From and to, along `dim`."""
    width: int
    """Of the whole parameter, along `dim`."""

    def of(self, tensor: Tensor) -> Tensor:
        """A view if there is one range, else a copy."""
        parts = [tensor.narrow(self.dim, begin, end - begin) for begin, end in self.ranges]
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.dim)


def pattern_of(name: str) -> str:
    """The name with numbers of layers left out, as in plans."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)

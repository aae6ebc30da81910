"""What `tgi quantize` asks of a backend: a checkpoint whose weights are of fewer bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tgi_core.contract.backend import ModelFiles, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeWish:
    """How weights are to be rounded. The words are GPTQ's, which is what is made."""

    bits: int = 4
    group_size: int | None = None
    """Inputs that share a scale; -1: all; None: what suits the model."""
    symmetric: bool = True
    """Whether zero is the middle of the range, always: what fast kernels want."""
    orders: bool = False
    """Whether inputs are taken by their size, the largest first ("activation order")."""
    damping: float = 0.01
    """What is added to the diagonal of the inputs' products, of its mean."""
    texts: tuple[Path, ...] = ()
    """What the model computes meanwhile; none: the backend's own choice."""
    num_windows: int = 64
    """Most pieces of the texts."""


class Quantizer(Protocol):
    """Makes a quantized checkpoint."""

    def __call__(
        self, model: ModelFiles, target: Path, wish: QuantizeWish, progress: Progress
    ) -> None:
        """Writes the folder `target`, which may not exist yet.

        Raises:
            SetupError: the model cannot be quantized so, or the target not be written; then there
                is no target.
        """
        ...

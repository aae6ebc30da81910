"""When two rows of logits count as the same. Knows nothing of backends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Compares logits that were computed in two ways."""

    atol: float
    rtol: float
    exact: bool = False
    """Every bit counts, since the backend claims `batch_invariant`."""

    def same(self, got: ArrayLike, want: ArrayLike, what: str = "logits") -> None:
        """Fails unless both are alike.

        Raises:
            AssertionError: naming the largest difference.
        """
        got, want = np.asarray(got), np.asarray(want)
        assert got.shape == want.shape, f"{what}: shape {got.shape} instead of {want.shape}"
        if not self._alike(got, want):
            largest = float(np.abs(got.astype(np.float64) - want).max())
            allowed = "none, for batch_invariant is claimed" if self.exact else f"atol {self.atol}"
            raise AssertionError(f"{what}: differ by up to {largest:.3g} (allowed: {allowed})")

    def different(self, one: ArrayLike, other: ArrayLike, what: str) -> None:
        """Fails if both are alike.

        Raises:
            AssertionError: with what may be the matter.
        """
        if self._alike(np.asarray(one), np.asarray(other)):
            raise AssertionError(
                f"{what}: the logits are the same. If the backend is right, the model may be too "
                "dull: with small random weights every context looks alike; draw them wider."
            )

    def _alike(self, one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
        if self.exact:
            return np.array_equal(one, other)
        return np.allclose(one, other, rtol=self.rtol, atol=self.atol)
